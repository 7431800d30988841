"""A client of the gateway that keeps its connections, and what is measured with it."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from aiagentchat.model import EventId, RoomId
from bench.exchange import Arrivals, Content, Way
from bench.system import Bench
from tests.integration.systems import Api

WAIT_S = 60


class KeptGateway:
    """One agent's client. `session`: with connections to the gateway's socket."""

    def __init__(self, api: Api, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {api.token}", "AIAgentChat-Reader": secrets.token_hex(4)}

    async def send(self, to: str, body: str) -> dict[str, Any]:
        """Return `event_id` and `room_id` of a message that is stored."""
        return await self._call("POST", "/send", json={"to": to, "body": body})

    async def read(self) -> list[str]:
        """Return the ids of what is unread, and wait for it."""
        answer = await self._call("GET", "/read", params={"wait": str(WAIT_S)})
        return [message["event_id"] for message in answer["messages"]]

    async def acknowledge(self, event_ids: list[str]) -> None:
        """Acknowledge what was read."""
        await self._call("POST", "/ack", json={"event_ids": event_ids})

    async def _call(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        async with self._session.request(method, f"http://localhost{path}", headers=self._headers, **how) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer


@contextlib.asynccontextmanager
async def keeping(bench: Bench) -> AsyncIterator[aiohttp.ClientSession]:
    """Give a session with connections to the gateway's socket, any number at once."""
    connector = aiohttp.UnixConnector(str(bench.api.socket), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def content_of(bench: Bench, writer: KeptGateway, reader: str, body: str) -> Content:
    """Return what the homeserver has of a message from one agent to another, which is sent for it."""
    stored = await writer.send(reader, body)
    async with aiohttp.ClientSession() as http:
        client = bench.synapse.agent_client(http, reader)
        event = await client.get_event(RoomId(stored["room_id"]), EventId(stored["event_id"]))
    content: Content = event["content"]
    return content


@contextlib.asynccontextmanager
async def through_gateway(bench: Bench, what: str) -> AsyncIterator[tuple[Way, Content]]:
    """Give the way from one agent to another, and the content of a message of it as the homeserver has it.

    The other waits with `GET /read`, acknowledges what came, and waits again.
    """
    arrivals, ready = Arrivals(), asyncio.Event()
    async with keeping(bench) as session:
        writer, reader = (KeptGateway(api, session) for api in await bench.attach(["writer", "reader"]))

        async def read() -> None:
            while True:
                ready.set()
                event_ids = await reader.read()
                ready.clear()
                for event_id in event_ids:
                    arrivals.note(event_id)
                if event_ids:
                    await reader.acknowledge(event_ids)

        async def send(content: Content) -> str:
            return str((await writer.send("reader", content["body"]))["event_id"])

        reading = asyncio.create_task(read())
        try:
            yield Way(what, send, arrivals, ready), await content_of(bench, writer, "reader", "Is main green?")
        finally:
            reading.cancel()
