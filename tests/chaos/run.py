"""One run: agents and a person send numbered messages while the plan is carried out; then the ledger is settled."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from aiagentchat.model import RoomId
from tests.chaos.actors import PERSON, Agent, Person, Reader, Sender
from tests.chaos.faults import Kind, Side, Step, make_plan
from tests.chaos.ledger import Ledger, Room, Said, Stored, Verdict
from tests.chaos.system import Battered, running_system
from tests.integration.systems import Api

BROADCASTS = 0.05
"""Share of messages that go to all."""
BY_PERSON = 0.15
_TURNS = 0.3
"""Share of messages before which a sender turns to somebody else: what goes to one reader in a row can be reordered."""
_HIT_WITHIN_S = 5.0
_LOOK_AGAIN_S = 0.5
_SENT = 100
"""Latest messages of each agent of which it is looked at who is said to have read them."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How large a run is. The rest of it comes from `seed`."""

    mode: str
    seed: int
    messages: int
    agents: int = 6
    rounds: int = 1
    daemon_kills: int = 1
    restarts: int = 1
    longest_s: float = 1.0
    settle_s: float = 30.0

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("requests", "transactions") if self.mode == "appservice" else ("requests",)

    @property
    def plan(self) -> tuple[Step, ...]:
        return make_plan(
            self.seed,
            self.sides,
            rounds=self.rounds,
            daemon_kills=self.daemon_kills,
            restarts=self.restarts,
            longest_s=self.longest_s,
        )


@dataclass
class Outcome:
    """What came of a run. `recovered_s`: seconds of each kind of step. `hits`: requests that were hit."""

    wish: Wish
    verdict: Verdict = field(default_factory=Verdict)
    recovered_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    hits: Counter[tuple[Side, Kind]] = field(default_factory=Counter)
    sent: int = 0
    left: int = 0
    stored: int = 0
    handed: int = 0
    deaths: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0


async def run(wish: Wish, home: Path, tell: Callable[[str], None] = print) -> Outcome:
    """Do one run in an empty directory. `tell` gets a line for each step."""
    began = time.monotonic()
    names = [f"agent-{number}" for number in range(wish.agents)]
    async with running_system(home, wish.mode, names) as battered, aiohttp.ClientSession() as session:
        api = await battered.daemon.wait_up()
        agents = [await attach(api, name) for name in names]
        tell(f"{wish.mode}, seed {wish.seed}: {len(agents)} agents are up after {time.monotonic() - began:.0f} s")
        outcome = await _Run(wish, battered, agents, session, tell, began).carry_out()
    outcome.took_s = time.monotonic() - began
    return outcome


async def attach(api: Api, name: str) -> Agent:
    """Attach an agent, through the gateway, in a timed session."""
    answer = await api.post("/agents", name=name)
    assert answer["registered"], answer
    return Agent(name, answer["user_id"], answer["room_id"], Api(api.socket, answer["token"]))


class _Run:
    def __init__(
        self,
        wish: Wish,
        battered: Battered,
        agents: list[Agent],
        session: aiohttp.ClientSession,
        tell: Callable[[str], None],
        began: float,
    ) -> None:
        self._wish = wish
        self._battered = battered
        self._agents = agents
        self._session = session
        self._tell = tell
        self._ledger = Ledger(began)
        self._outcome = Outcome(wish)
        self._random = Random(f"{wish.seed} actors")
        self._allowed = asyncio.Semaphore(0)
        self._broadcast_id = ""
        self._readers = [
            Reader(agent, self._ledger, Random(f"{wish.seed} {agent.name}"), streams=number % 2 == 0)
            for number, agent in enumerate(agents)
        ]

    async def carry_out(self) -> Outcome:
        synapse = self._battered.synapse
        health = await (await self._battered.daemon.wait_up()).get("/health")
        self._broadcast_id = health["system"]["broadcast_id"]
        person = Person(synapse.config.base_url, synapse.operator.access_token, self._session)
        async with ended(asyncio.create_task(reader.run()) for reader in self._readers):
            counts = self._shares()
            senders = [self._send_from(agent, count) for agent, count in zip(self._agents, counts[1:], strict=True)]
            async with asyncio.TaskGroup() as group:
                group.create_task(self._say(person, counts[0]))
                for sender in senders:
                    group.create_task(sender)
                await self._do_steps()
            rooms = await self._settle()
            said = [await self._told(agent) for agent in self._agents]
        self._outcome.verdict = self._ledger.settle(rooms, said)
        self._outcome.left = len(self._ledger.left)
        self._outcome.stored = len(self._ledger.stored)
        refused, stored = self._ledger.refused, self._ledger.stored
        self._outcome.refused = {key: reason for key, reason in refused.items() if key not in stored}
        self._outcome.handed = len(self._ledger.handed)
        self._outcome.deaths = sum(reader.deaths for reader in self._readers)
        return self._outcome

    def _shares(self) -> list[int]:
        """Return how many messages each sends, the person first."""
        by_person = int(self._wish.messages * BY_PERSON)
        each, rest = divmod(self._wish.messages - by_person, len(self._agents))
        return [by_person, *(each + (number < rest) for number in range(len(self._agents)))]

    # --- those who send

    async def _send_from(self, agent: Agent, count: int) -> None:
        random, to = Random(f"{self._wish.seed} from {agent.name}"), None
        sender = Sender(agent, self._ledger, random)
        others = [other.name for other in self._agents if other is not agent]
        for number in range(count):
            if number == 0 or random.random() < _TURNS:
                to = None if random.random() < BROADCASTS else random.choice(others)
            await self._allowed.acquire()
            self._outcome.sent += 1
            await sender.send(f"{agent.name} {number}", to)

    async def _say(self, person: Person, count: int) -> None:
        random, room_id = Random(f"{self._wish.seed} from {PERSON}"), ""
        rooms = [agent.room_id for agent in self._agents]
        for number in range(count):
            if number == 0 or random.random() < _TURNS:
                room_id = self._broadcast_id if random.random() < BROADCASTS else random.choice(rooms)
            await self._allowed.acquire()
            self._outcome.sent += 1
            await person.say(self._ledger, f"{PERSON} {number}", room_id)

    # --- the plan

    async def _do_steps(self) -> None:
        plan = self._wish.plan
        for number, step in enumerate(plan, 1):
            for _ in range(self._wish.messages * number // len(plan) - self._wish.messages * (number - 1) // len(plan)):
                self._allowed.release()
            await self._do(step)
            began = time.monotonic()
            await self._probe(f"probe {number}")
            recovered_s = time.monotonic() - began
            self._outcome.recovered_s[step.name].append(recovered_s)
            at_s = time.monotonic() - self._ledger.began
            done = f"at {at_s:.0f} s {len(self._ledger.stored)} stored, recovered in {recovered_s:.2f} s"
            self._tell(f"{self._wish.mode} {number}/{len(plan)}: {_described(step)} – {done}")
            await asyncio.sleep(step.calm_s)

    async def _do(self, step: Step) -> None:
        with contextlib.ExitStack() as stack:
            began = time.monotonic()
            proxy = None if step.phase is None else self._battered.proxies[step.phase.side]
            hits = 0 if proxy is None else proxy.hits.total()
            if proxy is not None and step.phase is not None:
                stack.enter_context(proxy.failing(step.phase))
            if step.kill is not None:
                await self._battered.kill(step.kill, step.down_s)
            if proxy is not None and step.phase is not None:
                await asyncio.sleep(max(0.0, began + step.phase.seconds - time.monotonic()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(proxy.struck.wait(), _HIT_WITHIN_S)
                self._outcome.hits[step.phase.side, step.phase.kind] += proxy.hits.total() - hits

    async def _probe(self, key: str) -> None:
        """Return when a fresh message was sent and read. A stream reads it, which asks for nothing by itself."""
        reader = self._random.choice([each for each in self._readers if each.streams])
        sender = self._random.choice([agent for agent in self._agents if agent is not reader.agent])
        await Sender(sender, self._ledger, self._random).send(key, reader.agent.name, must=True)
        event_id = next(iter(self._ledger.stored[key]))
        try:
            await asyncio.wait_for(reader.wait_handed(event_id), self._wish.settle_s * 2)
        except TimeoutError:
            raise AssertionError(f"{key} ({event_id}) is stored, and {reader.agent.name} does not get it") from None

    # --- the end

    async def _settle(self) -> list[Room]:
        """Return the rooms once all in them was read, or nothing more was for so long that it never will be."""
        rooms = await self._rooms()
        left, since = self._ledger.unread(rooms), time.monotonic()
        while left and time.monotonic() < since + self._wish.settle_s:
            self._tell(f"{self._wish.mode}: {len(left)} are still to be read")
            await asyncio.sleep(0.5)
            rooms = await self._rooms() if self._owed else rooms
            now = self._ledger.unread(rooms)
            since = time.monotonic() if len(now) != len(left) else since
            left = now
        return rooms

    async def _told(self, agent: Agent) -> Said:
        """Return what an agent is told, once its inbox is empty or should have been."""
        deadline, unread = time.monotonic() + self._wish.settle_s, [""]
        while unread and time.monotonic() < deadline:
            inbox = await agent.api.get("/read", peek="true")
            unread = [message["event_id"] for message in inbox["messages"]]
            await asyncio.sleep(_LOOK_AGAIN_S if unread else 0.0)
        sent = (await agent.api.get("/sent", limit=str(_SENT)))["messages"]
        return Said(agent.name, unread, {each["message"]["event_id"]: frozenset(each["read_by"]) for each in sent})

    @property
    def _owed(self) -> int:
        return sum(proxy.owed for proxy in self._battered.proxies.values())

    async def _rooms(self) -> list[Room]:
        everybody = frozenset(agent.name for agent in self._agents)
        found = [
            Room(f"the room of {agent.name}", frozenset({agent.name}), await self._messages_in(agent, agent.room_id))
            for agent in self._agents
        ]
        common = await self._messages_in(self._agents[0], self._broadcast_id)
        return [*found, Room("the broadcast room", everybody, common)]

    async def _messages_in(self, agent: Agent, room_id: str) -> list[Stored]:
        """Return the messages of a room in its order, as an agent sees them, from the homeserver itself."""
        client = self._battered.synapse.agent_client(self._session, agent.name)
        names = {each.user_id: each.name for each in self._agents}
        found: list[Stored] = []
        start: str | None = None
        while True:
            page = await client.get_messages(RoomId(room_id), direction="f", start=start, limit=500)
            found += [_stored(event, names) for event in page.chunk if event["type"] == "m.room.message"]
            if page.end is None:
                return found
            start = page.end


def _stored(event: Any, names: dict[str, str]) -> Stored:
    return Stored(event["event_id"], names.get(event["sender"], PERSON), event["content"].get("body", ""))


def _described(step: Step) -> str:
    phase = "" if step.phase is None else step.phase.name
    return " during ".join(each for each in (step.kill, phase) if each)


@contextlib.asynccontextmanager
async def ended(started: Iterable[asyncio.Task[None]]) -> AsyncIterator[None]:
    """Cancel tasks at the end of the context."""
    tasks = list(started)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
