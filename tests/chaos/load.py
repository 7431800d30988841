"""The load of a soak: everything that clients do, at a steady rate, with no fault but restarts of the homeserver."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from typing import Any

import aiohttp

from tests.chaos.actors import BROKEN, Agent, Person, Reader, Sender
from tests.chaos.ledger import Ledger
from tests.integration.systems import Api

_SENDERS = 4
_BROADCASTS = 0.05
_LONGEST = 4_000
_READS_S = 30.0
_LOOKS_EVERY_S = 1.0
_VISITS_EVERY_S = 6.0
_PERSON_EVERY_S = 5.0
_ASKS_S = 2.0


class Load:
    """Agents that write to each other, read, look around, come and go; and a person who writes.

    Args:
        rate: messages of the agents in a second, now. visitors: names that those who come and go take in turn; none of
            them: each has a new one. counts: what was done, by kind.
    """

    def __init__(
        self,
        operator: Api,
        agents: Sequence[Agent],
        visitors: Sequence[str],
        person: Person,
        *,
        broadcast_id: str,
        rate: Callable[[], float],
        seed: int,
    ) -> None:
        self._operator = operator
        self._agents = agents
        self._visitors = visitors
        self._person = person
        self._broadcast_id = broadcast_id
        self._rate = rate
        self._seed = seed
        self.ledger = Ledger(time.monotonic())
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, agent in enumerate(self._agents):
                group.create_task(self._keep_reading(agent, streams=number % 2 == 0))
            for number in range(_SENDERS):
                group.create_task(self._keep_sending(number))
            for work in (self._keep_looking, self._keep_visiting, self._keep_saying):
                group.create_task(work())

    def _random(self, who: str) -> Random:
        return Random(f"{self._seed} {who}")

    async def _keep_reading(self, agent: Agent, *, streams: bool) -> None:
        """Read, and now and then disconnect and come back."""
        random = self._random(f"reader {agent.name}")
        reader = Reader(agent, self.ledger, random, streams=streams)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.run(), random.uniform(1.0, _READS_S))
            self.counts["readers that disconnected"] += 1

    async def _keep_sending(self, sender: int) -> None:
        random = self._random(f"sender {sender}")
        async for number in _now_and_then(random, lambda: _SENDERS / self._rate()):
            agent, other = random.sample(self._agents, 2)
            to = None if random.random() < _BROADCASTS else other.name
            key = f"{sender} {number}"
            await Sender(agent, self.ledger, random).send(key, to, body=_body(random, key))

    async def _keep_saying(self) -> None:
        random = self._random("person")
        async for number in _now_and_then(random, lambda: _PERSON_EVERY_S):
            await self._person.say(self.ledger, f"person {number}", self._some_room(random))

    def _some_room(self, random: Random) -> str:
        is_to_all = random.random() < _BROADCASTS
        return self._broadcast_id if is_to_all else random.choice(self._agents).room_id

    async def _keep_looking(self) -> None:
        """Ask for what `cchat who`, `status` and `sent` show, look into an inbox, say what one does."""
        random = self._random("onlooker")
        async for number in _now_and_then(random, lambda: _LOOKS_EVERY_S):
            api = random.choice(self._agents).api
            method, path, query = random.choice(
                (
                    ("GET", "/who", {}),
                    ("GET", "/health", {}),
                    ("GET", "/sent", {}),
                    ("GET", "/read", {"peek": "true"}),
                    ("PUT", "/status", {}),
                )
            )
            body = {"line": f"at work on {number}"} if method == "PUT" else None
            with contextlib.suppress(*BROKEN):
                await api.call(method, path, body, query=query)
            self.counts["looks"] += 1

    async def _keep_visiting(self) -> None:
        random = self._random("visitor")
        async for number in _now_and_then(random, lambda: _VISITS_EVERY_S):
            named = {"name": self._visitors[number % len(self._visitors)]} if self._visitors else {}
            with contextlib.suppress(*BROKEN):
                await self._visit(random, named)

    async def _visit(self, random: Random, named: dict[str, str]) -> None:
        """Join as an ephemeral agent, in a timed session or a held one, ask somebody, read and leave."""
        wish = {"kind": "ephemeral", **named}
        if random.random() < 0.5:
            answer = await self._operator.call("POST", "/agents", wish)
            if answer.status == 200:
                await self._ask_around(random, answer.data["token"])
                await self._leave(answer.data["name"])
            return
        socket = str(self._operator.socket)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as session,
            session.post(
                "http://localhost/agents", json=wish | {"session": "held"}, headers=self._operator.headers()
            ) as stream,
        ):
            if stream.status != 200:
                return
            attached = await _first_data(stream)
            await self._ask_around(random, attached["token"])
        await self._leave(attached["name"])

    async def _ask_around(self, random: Random, token: str) -> None:
        api = Api(self._operator.socket, token)
        asked = await api.call("POST", "/send", {"body": "who knows?", "to": random.choice(self._agents).name})
        if asked.status == 200:
            until = random.choice(("read", "answered"))
            query = {"event_id": asked.data["event_id"], "wait": f"{_ASKS_S:g}", "until": until}
            await api.call("GET", "/sent", query=query)
            self.counts["asked"] += 1
        await api.call("GET", "/read", query={"wait": "0.5"})

    async def _leave(self, name: str) -> None:
        """Leave, however often it takes: who does not stays in the directory."""
        while True:
            if (await self._operator.call("DELETE", f"/agents/{name}")).status == 200:
                self.counts["agents that came and left"] += 1
                return
            await asyncio.sleep(1.0)


async def _first_data(stream: aiohttp.ClientResponse) -> Any:
    async for line in stream.content:
        if line.startswith(b"data: "):
            return json.loads(line.removeprefix(b"data: "))
    raise aiohttp.ClientPayloadError("the stream ended before it said anything")


def _body(random: Random, key: str) -> str:
    return key.ljust(random.randrange(_LONGEST), ".")


async def _now_and_then(random: Random, mean_s: Callable[[], float]) -> AsyncIterator[int]:
    """Count on, for ever, at random times, which are so far apart on average."""
    number = 0
    while True:
        await asyncio.sleep(random.expovariate(1 / mean_s()))
        yield number
        number += 1
