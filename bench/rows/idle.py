"""What agents that do nothing cost: a daemon for all of them, beside a client for each."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median

import aiohttp

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from bench.figures import Goal, Row
from bench.gateway import listening
from bench.machine import memory_bytes
from bench.peers import make_account
from bench.sizes import Size
from bench.system import SERVER_NAME, Bench, Note, names_of, prepare, running, some_at_once
from bench.usage import Usage, usage_within, wait_calm

PART_S = 30.0
"""A part is as long as a sync waits, so that each has as many."""
LONG = 2
"""As many times longer the daemon is looked at whose requests are counted."""
OURS, NIO, ACCOUNTS = "a daemon", "`matrix-nio`, a client each", "a daemon with ordinary accounts"


@dataclass
class _Curve:
    """What was measured of one way, by the number of its agents."""

    name: str
    memory: dict[int, list[int]] = field(default_factory=dict)
    used: dict[int, list[Usage]] = field(default_factory=dict)

    async def take(self, bench: Bench, agents: int, pid: int, seconds: float, note: Note) -> None:
        """Watch for some seconds, in parts, once what was done before is over."""
        await wait_calm(bench)
        self.used[agents], self.memory[agents] = [], []
        parts = max(1, int(seconds / PART_S))
        for _ in range(parts):
            self.used[agents].append(await usage_within(bench, seconds / parts, pid))
            self.memory[agents].append(memory_bytes(pid))
        percent = median(used.client_percent for used in self.used[agents])
        note(f"{self.name}, {agents} agents: {self.memory_of(agents) / 1e6:.1f} MB, {percent:.2f} % of a core")

    def memory_of(self, agents: int) -> float:
        """In bytes, of so many."""
        return median(self.memory[agents])

    def requests_a_minute(self, agents: int) -> float:
        """In all the time: of few, how many fall into a part is chance."""
        return fmean(used.requests_a_minute for used in self.used[agents])

    @property
    def memory_per_agent(self) -> float:
        """In bytes, between the fewest and the most."""
        least, most = min(self.memory), max(self.memory)
        return (self.memory_of(most) - self.memory_of(least)) / (most - least)

    def add_to(self, row: Row) -> None:
        for agents, used in self.used.items():
            how_many = f"{agents:,} agent{'' if agents == 1 else 's'}"
            for what, unit, values in (
                ("memory", "MB", [each / 1e6 for each in self.memory[agents]]),
                ("processor", "% of a core", [each.client_percent for each in used]),
                ("the homeserver's processor", "% of a core", [each.homeserver_percent for each in used]),
                ("requests", "requests a minute", [self.requests_a_minute(agents)]),
            ):
                row.add(f"{self.name}: {what}, {how_many}", unit, values, x=agents)


async def measure(size: Size, note: Note) -> Row:
    """Attach more and more, and look on while nothing happens."""
    ours, nio, accounts = _Curve(OURS), _Curve(NIO), _Curve(ACCOUNTS)
    long_s = LONG * size.idle_s  # few requests are made, and how many fall into a short time is chance
    async with running() as bench, aiohttp.ClientSession() as http:
        async with listening(bench) as listen:
            for more, agents in _steps(size.some):
                await listen(await bench.attach(more))
                seconds = long_s if agents == size.some[0] else size.idle_s
                await ours.take(bench, agents, bench.daemon.pid, seconds, note)
        await bench.daemon.stop()
        peers = _Peers(bench, http)
        for more, agents in _steps(size.some):
            await peers.make(more)
            async with peers.running() as pid:
                await nio.take(bench, agents, pid, size.idle_s, note)
    async with running(prepared=await prepare(size.agents, note)) as bench, listening(bench) as listen:
        apis = await bench.attach(names_of(size.agents), note)
        await wait_calm(bench)
        unheard_bytes = memory_bytes(bench.daemon.pid)
        await listen(apis)
        await ours.take(bench, size.agents, bench.daemon.pid, long_s, note)
    async with running("accounts") as bench, listening(bench) as listen:
        for more, agents in _steps(size.some):
            await listen(await bench.attach(more))
            await accounts.take(bench, agents, bench.daemon.pid, size.idle_s, note)
    return _row(size, ours, nio, accounts, unheard_bytes)


def _steps(numbers: Sequence[int]) -> Iterator[tuple[list[str], int]]:
    """Give the names of those that come, and how many there are then."""
    before = 0
    for number in numbers:
        yield names_of(number)[before:], number
        before = number


def _row(size: Size, ours: _Curve, nio: _Curve, accounts: _Curve, unheard_bytes: int) -> Row:
    row = Row(
        "idle",
        "Agents that do nothing",
        f"Agents that are online, each in a room of its own under one Space, and nothing happens for"
        f" {size.idle_s:.0f} s and longer, measured in parts of {PART_S:.0f} s: what is used by who follows the rooms"
        " for them, and by the homeserver. Each agent of a daemon listens, with a `GET /events` on a connection of its"
        " own, as adapters do; who holds these connections is another process, and not counted. Memory is the process's"
        " own (its proportional set). Requests are those of all the time.",
    )
    for curve in (ours, nio, accounts):
        curve.add_to(row)
    few, many = size.some[0], size.agents
    more = ours.requests_a_minute(many) - ours.requests_a_minute(few)
    row.goals += [
        Goal(
            "memory of an agent that listens, beside a `matrix-nio` client",
            ours.memory_per_agent / nio.memory_per_agent,
            0.05,
            why="An agent that does not listen takes half of the goal, and a connection that waits takes more than the"
            " other half, [without a daemon](#what-was-tried), too; the rest is its stream, and the inbox that is read"
            " by it.",
        ),
        Goal(
            "memory of an agent that listens, beside one that has an account",
            ours.memory_per_agent / accounts.memory_per_agent,
            0.05,
            why="That one is an agent of a daemon, too, and listens as well: what is spared is its sync.",
        ),
        Goal(
            "memory of an agent that does not listen, beside a `matrix-nio` client",
            (unheard_bytes - ours.memory_of(few)) / (many - few) / nio.memory_per_agent,
            0.05,
        ),
        Goal(
            f"the daemon's processor with {many:,} agents",
            median(each.client_percent for each in ours.used[many]),
            1.0,
            "% of a core",
        ),
        Goal(f"requests with {many:,} agents more than with {few}", more, 1.0, "a minute"),
    ]
    row.notes += [
        f"An agent takes {ours.memory_per_agent / 1000:.1f} kB of the daemon's memory,"
        f" {nio.memory_per_agent / 1000:.0f} kB as a `matrix-nio` client, and"
        f" {accounts.memory_per_agent / 1000:.0f} kB of a daemon that has an ordinary account for each. Before they"
        f" listened, {many:,} agents took {unheard_bytes / 1e6:.1f} MB of the daemon, and then"
        f" {ours.memory_of(many) / 1e6:.1f} MB: the rest is what stands for a connection and an inbox.",
        "The clients of `matrix-nio` are in one process, `sync_forever(timeout=30000)` each, without encryption, with"
        " lazily loaded members; each is in its own room and in the Space, and no daemon runs then.",
        f"Of the daemon with {few} and with {many:,} agents {LONG * size.idle_s:.0f} s were taken: it makes so few"
        " requests that their number in a short time is chance.",
    ]
    return row


class _Peers:
    """Ordinary accounts, each with a room of its own under one Space."""

    def __init__(self, bench: Bench, http: aiohttp.ClientSession) -> None:
        self._bench = bench
        self._http = http
        self._accounts: list[dict[str, object]] = []
        self._space: tuple[RoomId, MatrixClient] | None = None

    async def make(self, names: list[str]) -> None:
        """Make more accounts."""
        if self._space is None:
            _, keeper = await self._bench.bare_user(self._http, "keeper")
            body = {"preset": "public_chat", "creation_content": {"type": "m.space"}}
            self._space = await keeper.create_room(body), keeper
        self._accounts += await some_at_once(names, self._make_one)

    async def _make_one(self, name: str) -> dict[str, object]:
        assert self._space is not None
        space_id, keeper = self._space
        account = await make_account(self._bench, f"peer-{name}")
        client = MatrixClient(self._bench.synapse.config.base_url, account.access_token, self._http)
        await client.join_room(space_id)
        room_id = await client.create_room({"preset": "private_chat", "name": name})
        await keeper.put_state(space_id, "m.space.child", room_id, {"via": [SERVER_NAME]})
        return asdict(account)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Run a client for each account; give the process's id once all have synced."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.nio_clients"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        given = {"homeserver": self._bench.synapse.config.base_url, "accounts": self._accounts}
        try:
            process.stdin.write(json.dumps(given).encode() + b"\n")
            await process.stdin.drain()
            async with asyncio.timeout(120):
                if await process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the clients of matrix-nio did not come up")
            yield process.pid
        finally:
            process.kill()
            await process.wait()
