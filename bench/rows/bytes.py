"""What has to be transferred for an agent to know who is there: with our filter, with none, and pushed."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import SimpleNamespace
from urllib.parse import quote

import aiohttp

from aiagentchat.homeserver.operator import OperatorAccount
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.sync import POLL_S, SyncedRooms, SyncSource
from aiagentchat.model import UserId
from aiagentchat.space.directory import STATE_TYPES
from bench.asked import ask
from bench.figures import Goal, Row
from bench.peers import make_account
from bench.pushes import PushCounter
from bench.restarts import Caller, asking
from bench.sizes import Size
from bench.system import Bench, Note, names_of, prepare, running, some_at_once
from bench.usage import wait_calm

CHANGES = 20
GAP_S = 2.5
"""After each change: it arrives by itself, and the roster with it, which is written every 2 s at most."""
LEAST_PERCENT = 90
OWN, COMMON, UNFILTERED = "an agent's sync", "the operator's sync", "with no filter"


class ByteCounter:
    """Counts what comes through its session, in bytes. `packed`: with gzip. `asked`: of the requests' addresses."""

    def __init__(self) -> None:
        self.body = self.packed = self.asked = 0

    def read(self) -> tuple[int, int, int]:
        """Return the bytes of bodies, the same packed, and of addresses, until now."""
        return self.body, self.packed, self.asked

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Give a session that asks for bodies as they are, and counts."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._note_request)
        trace.on_response_chunk_received.append(self._note_answer)
        async with aiohttp.ClientSession(trace_configs=[trace], headers={"Accept-Encoding": "identity"}) as session:
            yield session

    async def _note_request(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, what: aiohttp.TraceRequestStartParams
    ) -> None:
        self.asked += len(str(what.url))

    async def _note_answer(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, what: aiohttp.TraceResponseChunkReceivedParams
    ) -> None:
        self.body += len(what.chunk)
        self.packed += len(gzip.compress(what.chunk))


@dataclass(frozen=True, slots=True)
class _Followed:
    """What came to one who follows: bytes of bodies, at first and with the changes; all of that packed; addresses."""

    first: int
    changes: int
    packed: int
    asked: int

    @property
    def body(self) -> int:
        return self.first + self.changes


@dataclass(frozen=True, slots=True)
class _Found:
    """What came in a Space of so many agents, all of one daemon.

    `own`: to one of them; `common`, `pushed`: for all of them. `state`: of the Space, read whole, once.
    """

    agents: int
    own: _Followed
    common: _Followed
    unfiltered: _Followed
    pushed: int
    state: int

    @property
    def of_agent(self) -> float:
        """With an account."""
        return self.own.body + (self.common.body + self.state) / self.agents

    @property
    def of_agent_alone(self) -> float:
        """With an account, and a daemon that has no other agent."""
        return self.own.body + self.common.body + self.state

    @property
    def of_pushed_agent(self) -> float:
        return (self.pushed + self.state) / self.agents

    def goals(self) -> list[Goal]:
        """Return what was to be reached: in all, and of the changes alone, of which there could be any number."""
        of, changes = f"{self.agents:,} rooms", self.own.changes + self.common.changes / self.agents
        return [
            Goal(
                f"fewer bytes than an unfiltered sync, {of}: {what}",
                _percent_fewer(these, than),
                LEAST_PERCENT,
                "%",
                is_least=True,
                why="What is said to all, and who comes into the room of all, comes to each agent's sync.",
            )
            for what, these, than in (
                ("an agent with an account", self.of_agent, self.unfiltered.body),
                ("an agent with an account, the changes alone", changes, self.unfiltered.changes),
                ("what is pushed", self.of_pushed_agent, self.unfiltered.body),
            )
        ]


def _percent_fewer(these: float, than: float) -> float:
    return (1 - these / than) * 100


async def measure(size: Size, note: Note) -> Row:
    """Follow a Space of fewer and of many rooms, in both ways at once, while something changes."""
    row = Row(
        "bytes",
        "What an agent has to be told",
        f"An ordinary account in the Space, in the broadcast room and in a room of its own follows them with `/sync` as"
        f" a daemon does whose agents have accounts, and at the same time with no filter, while {CHANGES} things"
        " happen, one after the other: a card says something else, an agent leaves, a message to all, a new agent. The"
        " daemon follows an agent's two rooms with a sync of that agent's, and the Space for all agents with the"
        " operator's. How many these things are is a choice; in all, the first sync counts too, with an agent's part of"
        " the operator's sync and of the one read of the Space's state. All agents are one daemon's. Bytes of the"
        " answers' bodies as they are, not compressed. With an application service nobody follows: what is pushed is of"
        " all agents at once.",
    )
    found = [await _measure(agents, note) for agents in (size.agents // 10, size.agents)]
    for each in found:
        _add(row, each)
    many = found[-1]
    row.goals += [goal for each in found for goal in each.goals()]
    alone = _percent_fewer(many.of_agent_alone, many.unfiltered.body)
    alone_changes = _percent_fewer(many.own.changes + many.common.changes, many.unfiltered.changes)
    row.notes += [
        f"Where a daemon has one agent alone, all that is for all is for it: with {many.agents:,} rooms it is"
        f" {alone:.0f} % fewer bytes in all, {alone_changes:.0f} % of the changes alone. A filter spares what is not"
        " wanted; cards, the roster and what is said to all are.",
        f"Compressed, as a proxy may do: {many.common.packed / 1000:,.0f} kB of the operator's sync, and"
        f" {many.unfiltered.packed / 1000:,.0f} kB with no filter. Not counted are the requests, whose addresses are"
        f" {many.common.asked / 1000:,.1f} kB and {many.unfiltered.asked / 1000:,.1f} kB: a filter is kept by the"
        " homeserver.",
        "Of a first sync with our filter nothing is wanted but where it stands. A daemon reads the state again when"
        " somebody asks who is there after `AIAGENTCHAT_DIRECTORY_TTL`, 300 s; none did here.",
    ]
    return row


def _add(row: Row, found: _Found) -> None:
    of = f"{found.agents:,} rooms"
    for how, each in ((OWN, found.own), (COMMON, found.common), (UNFILTERED, found.unfiltered)):
        row.add(f"{how}: first sync, {of}", "kB", [each.first / 1000], x=found.agents)
        row.add(f"{how}: {CHANGES} changes, {of}", "kB", [each.changes / 1000], x=found.agents)
    row.add(f"the Space's state, read whole, {of}", "kB", [found.state / 1000], x=found.agents)
    row.add(f"pushed for all agents: {CHANGES} changes, {of}", "kB", [found.pushed / 1000], x=found.agents)
    row.add(f"an agent with an account, in all, {of}", "kB", [found.of_agent / 1000], x=found.agents)
    row.add(f"an agent of an application service, in all, {of}", "kB", [found.of_pushed_agent / 1000], x=found.agents)


async def _measure(agents: int, note: Note) -> _Found:
    pushes, names = PushCounter(), names_of(agents)
    async with (
        running(prepared=await prepare(agents, note), pushes=pushes) as bench,
        asking(bench) as operator,
        aiohttp.ClientSession() as http,
    ):
        await some_at_once(names, operator.attach, note)
        await operator.wait_online(frozenset(names))
        account, rooms = await _make_onlooker(bench, http)
        counters = {how: ByteCounter() for how in (OWN, COMMON, UNFILTERED)}
        base_url, token, user_id = bench.synapse.config.base_url, account.access_token, account.user_id
        async with (
            counters[OWN].session() as own,
            counters[COMMON].session() as common,
            counters[UNFILTERED].session() as unfiltered,
        ):
            filtered = ((own, replace(rooms, space=None)), (common, replace(rooms, own=None)))
            following = [
                *(
                    asyncio.create_task(_follow_filtered(MatrixClient(base_url, token, session), user_id, followed))
                    for session, followed in filtered
                ),
                asyncio.create_task(_follow_unfiltered(base_url, token, unfiltered)),
            ]
            try:
                await wait_calm(bench)
                first, pushed = {how: each.read() for how, each in counters.items()}, pushes.bytes
                await _change_all(operator, names)
                for task in following:
                    if task.done():
                        task.result()
            finally:
                for task in following:
                    task.cancel()
        whole = ByteCounter()
        async with whole.session() as session:
            await bench.synapse.appservice(session).get_full_state(await bench.space_id())
        followed = {how: _followed(first[how], counters[how].read()) for how in counters}
        found = _Found(agents, followed[OWN], followed[COMMON], followed[UNFILTERED], pushes.bytes - pushed, whole.body)
        note(f"{agents} rooms: {found.of_agent / 1000:,.1f} kB, unfiltered {found.unfiltered.body / 1000:,.1f} kB")
        return found


def _followed(first: tuple[int, int, int], in_all: tuple[int, int, int]) -> _Followed:
    body, packed, asked = in_all
    return _Followed(first[0], body - first[0], packed, asked)


async def _make_onlooker(bench: Bench, http: aiohttp.ClientSession) -> tuple[OperatorAccount, SyncedRooms]:
    """Return an account and the rooms that it is in, as an agent's are."""
    account = await make_account(bench, "onlooker")
    client = MatrixClient(bench.synapse.config.base_url, account.access_token, http)
    space_id, broadcast_id = await bench.space_id(), await bench.broadcast_id()
    await bench.synapse.operator_client(http).invite(space_id, account.user_id)
    for room_id in (space_id, broadcast_id):
        await client.join_room(room_id)
    own = await client.create_room({"preset": "private_chat"})
    return account, SyncedRooms(own, space_id, broadcast_id)


async def _follow_filtered(client: MatrixClient, user_id: UserId, rooms: SyncedRooms) -> None:
    """Follow as the daemon does."""
    async with aclosing(SyncSource(client, user_id, lambda: rooms, state_types=STATE_TYPES).batches()) as batches:
        async for _ in batches:
            pass


async def _follow_unfiltered(base_url: str, token: str, session: aiohttp.ClientSession) -> None:
    url, since = f"{base_url}/_matrix/client/v3/sync?timeout={POLL_S * 1000:.0f}", ""
    while True:
        answer = await ask(session, "GET", url + since, {"Authorization": f"Bearer {token}"})
        since = f"&since={quote(json.loads(answer)['next_batch'])}"


async def _change_all(operator: Caller, names: list[str]) -> None:
    for number in range(CHANGES):
        turn, kind = divmod(number, 4)
        name = names[turn % len(names)]
        if kind == 0:
            await operator.call("POST", "/agents", json={"name": name, "description": f"works at issue {number}"})
        elif kind == 1:
            await operator.call("DELETE", f"/agents/{names[-1 - turn % len(names)]}")
        elif kind == 2:
            agent = operator.with_token((await operator.attach(name))["token"])
            await agent.call("POST", "/send", json={"body": f"Issue {number} is done: please pull main."})
        else:
            await operator.attach(f"new-{turn}")
        await asyncio.sleep(GAP_S)
