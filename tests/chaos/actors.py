"""Who sends and who reads while things go wrong. Each goes on until its message is stored or given up."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.chaos.ledger import HandOut, Ledger
from tests.integration.systems import Api

PERSON = "the person"
_AGAIN_S = 0.1
_BATCH = 20
_WAIT_S = 5.0
_DEATHS = 0.02
"""Share of what is handed out after which a reader dies before it acknowledges."""
_AGAIN = 0.05
"""Share of messages that are sent again though they are stored."""
_HURRY = 0.05
"""Share of messages whose sender hangs up before it can have the answer, and sends again."""
_LEFT = 0.05
"""Share of messages whose sender gives up at the first error, whatever it is, and never knows."""
BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent, where its room is, and its own credential's client."""

    name: str
    user_id: str
    room_id: str
    api: Api


class Sender:
    """Sends through an agent's gateway. The body of a message is its key.

    What fails it sends again with the same key; after an error that is final it gives up half of the time, and now and
    then after any. Sometimes it hangs up at once and sends again, and sometimes it sends again what is stored.
    """

    def __init__(self, agent: Agent, ledger: Ledger, random: Random) -> None:
        self._agent = agent
        self._ledger = ledger
        self._random = random

    async def send(self, key: str, to: str | None, *, must: bool = False, body: str = "") -> None:
        """Send until it is stored, or given up, which with `must` it never is; to None: to all. `body`: not the key."""
        gives_up = not must and self._random.random() < 0.5
        leaves = not must and self._random.random() < _LEFT
        hurry_s = self._random.uniform(0.0, 0.1) if self._random.random() < _HURRY else None
        with contextlib.suppress(*BROKEN):
            async with asyncio.timeout(hurry_s):
                await self._try(key, to, body or key)
        while key not in self._ledger.stored and not (gives_up and key in self._ledger.refused):
            if leaves:
                self._ledger.left.add(key)
                return
            await asyncio.sleep(_AGAIN_S)
            with contextlib.suppress(*BROKEN):
                await self._try(key, to, body or key)
        if self._random.random() < _AGAIN:
            with contextlib.suppress(*BROKEN):
                await self._try(key, to, body or key)

    async def _try(self, key: str, to: str | None, body: str) -> None:
        message = {"body": body, "key": key} | ({} if to is None else {"to": to})
        answer = await self._agent.api.call("POST", "/send", message)
        if answer.status == 200:
            self._ledger.stored[key].add(answer.data["event_id"])
        elif not answer.data["retryable"]:
            self._ledger.refused[key] = f"{answer.code}: {answer.data['detail']}"


class Person:
    """The operator with a Matrix client, who asks the homeserver itself."""

    def __init__(self, base_url: str, access_token: str, session: aiohttp.ClientSession) -> None:
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {access_token}"}
        self._session = session

    async def say(self, ledger: Ledger, key: str, room_id: str) -> None:
        """Write into a room until it is stored."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/send/m.room.message/{quote(key, safe='')}"
        url, content = URL(self._base_url + path, encoded=True), {"msgtype": "m.text", "body": key}
        while True:
            with contextlib.suppress(*BROKEN):
                async with self._session.put(url, json=content, headers=self._headers) as response:
                    if response.status == 200:
                        ledger.stored[key].add((await response.json())["event_id"])
                        return
            await asyncio.sleep(_AGAIN_S)


class Reader:
    """Reads an agent's inbox as one reader (one id) that reconnects for ever, and sometimes dies with messages in hand.

    `streams`: it follows `GET /events` and acknowledges each message; else it asks `GET /read` and acknowledges all.
    """

    def __init__(self, agent: Agent, ledger: Ledger, random: Random, *, streams: bool) -> None:
        self.agent = agent
        self.streams = streams
        self.deaths = 0
        self._handed = asyncio.Condition()
        self._ledger = ledger
        self._random = random
        self._requests = 0

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            with contextlib.suppress(*BROKEN):
                await (self._follow() if self.streams else self._read())
            await asyncio.sleep(_AGAIN_S)

    async def wait_handed(self, event_id: str) -> None:
        """Return once a message was handed out."""
        async with self._handed:
            await self._handed.wait_for(lambda: self._ledger.was_handed(self.agent.name, event_id))

    def _dies(self) -> bool:
        dies = self._random.random() < _DEATHS
        self.deaths += dies
        return dies

    async def _read(self) -> None:
        while True:
            self._requests += 1
            asked_at = time.monotonic()
            answer = await self.agent.api.call("GET", "/read", query={"wait": f"{_WAIT_S:g}", "limit": str(_BATCH)})
            if answer.status != 200:
                return
            event_ids = [message["event_id"] for message in answer.data["messages"]]
            await self._note(event_ids, asked_at)
            if event_ids and not self._dies() and not await self._acknowledge(event_ids):
                return

    async def _follow(self) -> None:
        self._requests += 1
        asked_at, here = time.monotonic(), set[str]()
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self.agent.api.socket)), timeout=aiohttp.ClientTimeout(sock_read=60)
            ) as session,
            session.get("http://localhost/events", headers=self.agent.api.headers()) as response,
        ):
            if response.status != 200:
                return
            async for message in _messages(response):
                event_id = message["event_id"]
                await self._note([event_id], time.monotonic() if event_id in here else asked_at)
                here.add(event_id)
                if self._dies() or not await self._acknowledge([event_id]):
                    return

    async def _note(self, event_ids: Iterable[str], asked_at: float) -> None:
        for event_id in event_ids:
            self._ledger.note_handed(HandOut(self.agent.name, event_id, asked_at, time.monotonic(), self._requests))
        async with self._handed:
            self._handed.notify_all()

    async def _acknowledge(self, event_ids: list[str]) -> bool:
        self._ledger.note_tried(self.agent.name, event_ids)
        answer = await self.agent.api.call("POST", "/ack", {"event_ids": event_ids})
        if answer.status == 200:
            self._ledger.note_acknowledged(self.agent.name, event_ids, time.monotonic())
        return answer.status == 200


async def _messages(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    event = ""
    while line := await response.content.readline():
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event == "message":
            yield json.loads(value)
        elif name == "data":
            return
