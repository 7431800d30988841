"""What it takes to bring new agents online, beside the same requests without a daemon."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from aiagentchat.model import AgentName, RoomAlias, RoomId
from aiagentchat.space.content import CARD, ROSTER
from aiagentchat.space.layout import Layout, broadcast_spec, space_spec
from aiagentchat.space.names import DEVICE_ID
from aiagentchat.space.rooms import ensure_room
from bench.between import Exchange, standing_before
from bench.figures import Goal, Row, ratio_of
from bench.machine import cpu_s
from bench.peers import receiving
from bench.replay import Replayer, label_of, text_of, writes_of
from bench.restarts import Caller, asking
from bench.sizes import Size
from bench.system import AT_ONCE, SERVER_NAME, Bench, Note, running, some_at_once
from bench.usage import wait_calm

ROUNDS = 3
OURS = "through the daemon: `POST /agents` until it is online"
WRITES, ALL = "the same writes, bare", "all the same requests, bare"
RECORDED = AgentName("agent-that-was-recorded")
_ROSTER_POLL_S = 0.05

Act = Callable[[list[str]], Awaitable[float]]
"""Brings agents of these names online; returns when they were, by the clock of `time.perf_counter`."""

WHY = {
    "daemon: POST /register": "its account: who writes in a room has to be a user of the homeserver.",
    f"agent: PUT /devices/{DEVICE_ID}": "its device, by which the homeserver knows over its restarts what was sent"
    " before, so that nothing sent again is stored twice.",
    "agent: PUT /profile/{agent}/displayname": "its name as people see it.",
    "agent: GET /profile/{agent}/avatar_url": "whether the account has a picture, which is then kept: an account"
    " outlives a card, as of an ephemeral agent that comes back.",
    "agent: POST /upload": "its picture.",
    "agent: PUT /profile/{agent}/avatar_url": "has the account show that picture, before it is in any room: later,"
    " each of its rooms would get an event.",
    "agent: GET /directory/room/{alias}": "whether it has its room already, which is then joined: the alias is what"
    " keeps two makers from making two.",
    "agent: POST /createRoom": "its room, with alias, power levels, parent and picture in the one request.",
    "agent: GET /rooms/{room}/state": "whether the room is as it was to be, and whether the homeserver encrypts all"
    " rooms, of which the answer to the request before says nothing.",
    "agent: POST /rooms/{room}/invite of operator": "the operator; within `createRoom`, one who cannot be invited"
    " would fail the whole.",
    "operator: POST /join/{room}": "the operator is in it without a click.",
    "operator: GET /rooms/{room}/state/m.room.member/{operator}": "up to where the operator has to have read, for the"
    " next.",
    "operator: POST /rooms/{room}/receipt/m.read/{event}": "an invite counts as a message to the operator; so it is"
    " read.",
    "daemon: POST /rooms/{Space}/invite of agent": "nobody comes into the Space without one.",
    "agent: POST /join/{Space}": "who is in the Space can write its card there, and may join what is open to it.",
    "agent: POST /join/{broadcast room}": "it hears what is said to all; of the invite that would take, being in the"
    " Space is in place.",
    f"agent: PUT /rooms/{{Space}}/state/{CARD}/{{agent}}": "its card, by which others find it.",
    "agent: PUT /rooms/{Space}/state/m.space.child/{room}": "its room is listed in the Space.",
    "operator: GET /user/{operator}/rooms/{room}/tags": "whether it is shown as offline in the operator's list of rooms"
    " from before. Afterwards, at most four a second.",
}
"""Why each request is made for a new agent, in the order of the daemon's."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What was asked for one agent, until it was attached and afterwards. `labels`: what each request was."""

    until_attached: Sequence[Exchange]
    afterwards: Sequence[Exchange]
    labels: Sequence[str]


@dataclass
class _Taken:
    """What rounds took, by the agent: time and the homeserver's processor, in ms, and requests that it counted."""

    wall_ms: list[float] = field(default_factory=list)
    homeserver_ms: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)


async def measure(size: Size, note: Note) -> Row:
    """Bring new agents online in rounds, in turns with a bare client that does the same."""
    agents = max(5, size.agents // 20)
    row = Row(
        "cold_start",
        "New agents",
        f"A daemon that runs is asked for {agents} agents that have never been, {AT_ONCE} at a time on kept"
        " connections, until `GET /who` says that all are online. In turns with it a bare client makes the same"
        f" requests for as many others, {AT_ONCE} agents at a time, under a Space of its own: those that the daemon was"
        " seen to make for an agent until that was attached, with other names; the writes alone, with what has to be"
        f" read for them, and all of them. {ROUNDS} rounds of each, in alternating order. Of each round its time, and"
        " the homeserver's processor with what follows, divided by the agents.",
    )
    async with running() as bench, asking(bench) as operator, receiving(bench), aiohttp.ClientSession() as http:
        recorded = await _record(bench, operator)
        note(f"an agent is {len(recorded.until_attached)} requests until it is attached")
        replayer = await _make_replayer(bench, http)
        rounds = _Rounds(bench, operator, replayer, http, await bench.space_id())
        await wait_calm(bench)
        ways = {
            OURS: rounds.attach,
            WRITES: rounds.replaying(writes_of(recorded.until_attached)),
            ALL: rounds.replaying(recorded.until_attached),
        }
        taken = {what: _Taken() for what in ways}
        for number in range(ROUNDS):
            for turn, (what, act) in list(enumerate(ways.items()))[:: -1 if number % 2 else 1]:
                await rounds.take(act, [f"new-{turn}-{number}-{each}" for each in range(agents)], taken[what])
                note(f"round {number + 1} of {ROUNDS}, {what}: {taken[what].wall_ms[-1]:.0f} ms an agent")
    series = {what: row.add(what, "ms an agent", each.wall_ms) for what, each in taken.items()}
    for what, each in taken.items():
        row.add(f"{what}: homeserver", "ms of CPU an agent", each.homeserver_ms)
    row.add("counted by the homeserver, with its part of what is for all", "requests an agent", taken[OURS].requests)
    row.add("until the roster in the Space has all, after `GET /who`", "s", rounds.rosters_s)
    row.goals.append(Goal(f"{OURS}, beside {WRITES}", ratio_of(series[OURS], series[WRITES]), 1.1))
    row.notes += _notes(recorded)
    return row


def _notes(recorded: _Recorded) -> list[str]:
    notes = [
        f"{len(recorded.until_attached)} requests are an agent's own until it is attached, and"
        f" {len(recorded.afterwards)} afterwards, in this order, each with its reason. The roster is written for all"
        " agents together, every 2 s at most."
    ]
    for label, count in Counter(recorded.labels).items():
        times = f", {count} times" if count > 1 else ""
        notes.append(f"`{label}`{times}: {WHY.get(label, 'no reason is known.')}")
    return notes


class _Rounds:
    """Rounds with new agents. `rosters_s`: after each round through the daemon, how long the roster took."""

    def __init__(
        self, bench: Bench, operator: Caller, replayer: Replayer, http: aiohttp.ClientSession, space_id: RoomId
    ) -> None:
        self._bench = bench
        self._operator = operator
        self._replayer = replayer
        self._daemon = bench.synapse.appservice(http)
        self._space_id = space_id
        self._polls = 0
        self.rosters_s: list[float] = []

    async def take(self, act: Act, names: list[str], taken: _Taken) -> None:
        """Measure one round, with what follows; what was before is over."""
        self._polls, asked = 0, await self._bench.requests()
        before, begun = cpu_s(self._bench.homeserver_pid), time.perf_counter()
        taken.wall_ms.append((await act(names) - begun) / len(names) * 1000)
        await wait_calm(self._bench)
        taken.homeserver_ms.append((cpu_s(self._bench.homeserver_pid) - before) / len(names) * 1000)
        made = (await self._bench.requests() - asked).total() - self._polls
        taken.requests.append(made / len(names))

    async def attach(self, names: list[str]) -> float:
        """Bring agents online through the daemon; return when they were."""
        await some_at_once(names, self._operator.attach)
        await self._operator.wait_online(frozenset(names))
        online = time.perf_counter()
        self._polls = await self._wait_roster(names)
        self.rosters_s.append(time.perf_counter() - online)
        return online

    def replaying(self, exchanges: Sequence[Exchange]) -> Act:
        """Return what makes these requests for agents, and returns when all were answered."""

        async def replay(names: list[str]) -> float:
            await some_at_once(names, lambda name: self._replayer.replay(exchanges, name))
            return time.perf_counter()

        return replay

    async def _wait_roster(self, names: list[str]) -> int:
        """Return when the homeserver has the roster with these, and how often it was asked."""
        asked, me = 1, self._bench.daemon_user
        while not set(names) <= set((await self._daemon.get_state(self._space_id, ROSTER, me))["online"]):
            asked += 1
            await asyncio.sleep(_ROSTER_POLL_S)
        return asked


async def _record(bench: Bench, operator: Caller) -> _Recorded:
    """Have the daemon make an agent, alone, while somebody looks on at what it asks the homeserver."""
    seen: list[Exchange] = []
    base_url, space_id = bench.synapse.config.base_url, await bench.space_id()
    async with standing_before(base_url, seen.append) as here:
        await bench.restart_daemon(here)
        await operator.attach("agent-before")  # what a daemon asks once it has asked for that one
        await wait_calm(bench)
        seen.clear()
        attached = await operator.attach(RECORDED)
        until = len(seen)
        await wait_calm(bench)
        asked = tuple(seen)  # when it stops, it shows its agents as offline
        await bench.daemon.stop()
    await bench.restart_daemon(base_url)
    room_id, broadcast_id = attached["room_id"], await bench.broadcast_id()
    until_attached, afterwards = (
        [each for each in part if _is_of_agent(each, room_id)] for part in (asked[:until], asked[until:])
    )
    account = bench.synapse.operator
    known = {
        space_id: "{Space}",
        broadcast_id: "{broadcast room}",
        room_id: "{room}",
        account.user_id: "{operator}",
        account.access_token: "operator",
        bench.synapse.registration.as_token: "daemon",
        attached["user_id"]: "{agent}",
    }
    labels = [label_of(each, known) for each in (*until_attached, *afterwards)]
    return _Recorded(until_attached, afterwards, labels)


def _is_of_agent(exchange: Exchange, room_id: str) -> bool:
    text = text_of(exchange)
    return (RECORDED in text or room_id in text) and f"/state/{ROSTER}/" not in text


async def _make_replayer(bench: Bench, http: aiohttp.ClientSession) -> Replayer:
    """Make the bare application service's own Space and broadcast room; return who asks again there."""
    account, ours = bench.synapse.operator, bench.synapse.registration
    keeper, client = await bench.bare_user(http, "keeper")
    operator, layout = bench.synapse.operator_client(http), Layout(operator=account.user_id)
    space = space_spec(RoomAlias(f"#bare-space:{SERVER_NAME}"), keeper, layout)
    version = await client.default_room_version()
    space_id = (await ensure_room(client, space, room_version=version, server_name=SERVER_NAME)).room_id
    everybody = broadcast_spec(RoomAlias(f"#bare-everybody:{SERVER_NAME}"), keeper, layout, space_id)
    broadcast_id = (await ensure_room(client, everybody, room_version=version, server_name=SERVER_NAME)).room_id
    for room_id in (space_id, broadcast_id):
        await operator.join_room(room_id)
    names = {
        await bench.space_id(): space_id,
        await bench.broadcast_id(): broadcast_id,
        bench.daemon_user: keeper,
    }
    return Replayer(
        bench.synapse.config.base_url,
        http,
        lambda name: names | {RECORDED: name, f"{ours.sender_localpart}-{RECORDED}": f"bare-{name}"},
        {ours.as_token: (bench.bare.as_token, keeper), account.access_token: (account.access_token, "")},
    )
