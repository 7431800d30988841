"""A client of the gateway that keeps its connections, and what is measured with it."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp

from aiagentchat.model import AgentName, EventId, RoomId
from aiagentchat.space.names import DEVICE_ID, Naming
from bench.asked import ask
from bench.exchange import Arrivals, Content, Way
from bench.peers import BareRequests
from bench.system import Bench, some_at_once
from tests.integration.systems import Api

WAIT_S = 60
SILENCE_S = 60.0
"""On a stream there is a ping more often than that."""
OURS = "through the daemon: `POST /send` to `GET /read`"
ROOMS = (
    "Where ours is not the bare way: agents' rooms have the operator as a member besides the two, and each request"
    " names a device, so that what is sent again after a restart is stored once. A bare PUT as an agent, into the same"
    " room, has both."
)
SAME = "half through the daemon: a bare PUT as the agent to `GET /read`"


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

    async def listen(self) -> aiohttp.ClientResponse:
        """Return the agent's stream of what comes, once it is open: its first bytes are here."""
        url, timeout = "http://localhost/events", aiohttp.ClientTimeout(sock_read=SILENCE_S)
        response = await self._session.get(url, headers=self._headers, timeout=timeout)
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {await response.text()}")
        await response.content.readline()
        return response

    async def _call(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            await ask(self._session, method, f"http://localhost{path}", self._headers, **how)
        )
        return answer


@contextlib.asynccontextmanager
async def keeping(bench: Bench) -> AsyncIterator[aiohttp.ClientSession]:
    """Give a session with connections to the gateway's socket, any number at once."""
    connector = aiohttp.UnixConnector(str(bench.api.socket), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@contextlib.asynccontextmanager
async def listening(bench: Bench) -> AsyncIterator[Callable[[Sequence[Api]], Awaitable[None]]]:
    """Give what has agents listen, by a stream each, as adapters do, until this ends. One that ends is an error."""
    async with keeping(bench) as session, asyncio.TaskGroup() as group:
        tasks = []

        async def listen(api: Api) -> None:
            tasks.append(group.create_task(_follow(await KeptGateway(api, session).listen())))

        async def listen_all(apis: Sequence[Api]) -> None:
            await some_at_once(list(apis), listen)

        yield listen_all
        for task in tasks:
            task.cancel()


async def _follow(stream: aiohttp.ClientResponse) -> None:
    async with stream:
        async for _ in stream.content.iter_any():
            pass
    raise RuntimeError("the daemon has ended a stream")


async def content_of(bench: Bench, writer: KeptGateway, reader: str, body: str) -> tuple[RoomId, Content]:
    """Send a message from one agent to another; return in which room it is, and its content there."""
    stored = await writer.send(reader, body)
    async with aiohttp.ClientSession() as http:
        client = bench.synapse.agent_client(http, reader)
        room_id = RoomId(stored["room_id"])
        event = await client.get_event(room_id, EventId(stored["event_id"]))
    return room_id, event["content"]


def requests_as(bench: Bench, http: aiohttp.ClientSession, agent: str) -> BareRequests:
    """Return what makes the requests that the daemon makes as an agent, without the daemon."""
    synapse = bench.synapse
    base_url = synapse.config.base_url
    if synapse.mode == "accounts":
        return BareRequests(base_url, http, synapse.accounts[agent].access_token)
    user_id = Naming(synapse.config.server_name).user(AgentName(agent))
    return BareRequests(base_url, http, synapse.registration.as_token, acting_as=user_id, device_id=DEVICE_ID)


@contextlib.asynccontextmanager
async def through_gateway(bench: Bench) -> AsyncIterator[tuple[Way, Way, Content]]:
    """Give the way from one agent to another, with the same where a bare PUT sends, and the content of a message.

    The other waits with `GET /read`, acknowledges what came, and waits again.
    """
    arrivals, ready = Arrivals(), asyncio.Event()
    async with keeping(bench) as session, aiohttp.ClientSession() as http:
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

        async def put(content: Content) -> str:
            return await requests.send(room_id, content)

        reading = asyncio.create_task(read())
        try:
            room_id, content = await content_of(bench, writer, "reader", "Is main green?")
            requests = requests_as(bench, http, "writer")
            yield Way(OURS, send, arrivals, ready), Way(SAME, put, arrivals, ready), content
        finally:
            reading.cancel()
