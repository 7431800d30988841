"""A daemon that was killed is back with all its agents, beside the requests that this takes at least."""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from urllib.parse import quote

import aiohttp

from aiagentchat.model import RoomId
from aiagentchat.space.content import ROSTER
from bench.asked import ask
from bench.figures import Goal, Row, Series, ratio_of
from bench.restarts import Caller, asking
from bench.sizes import Size
from bench.system import Bench, Note, names_of, prepare, running, some_at_once
from bench.usage import Usage, usage, wait_calm

TIMES = 5
RAW_TIMES = 2
ONLINE = "until all are online"
LEAST = "a daemon that does the least"
REQUESTS = "the requests to the homeserver alone"
_POLL_S = 0.02
_START_S = 60.0


@dataclass
class _Starts:
    """Some starts with as many agents. In seconds from the start of the process on, but for `requests_s`.

    `used`: until all are online. `used_in_all`: until the homeserver is at rest again.
    """

    raw_s: list[float] = field(default_factory=list)
    requests_s: list[float] = field(default_factory=list)
    up_s: list[float] = field(default_factory=list)
    attached_s: list[float] = field(default_factory=list)
    online_s: list[float] = field(default_factory=list)
    used: list[Usage] = field(default_factory=list)
    used_in_all: list[Usage] = field(default_factory=list)


_WHY = (
    "Most of it is no request to the homeserver: the daemon's process and its modules, and then the agents, each by a"
    " request of its own to the gateway, which checks more than the least daemon does. And the roster waits a tenth of"
    " a second for whoever else may come."
)


async def measure(size: Size, note: Note) -> Row:
    """Start with few and with many, some times each."""
    few, many = size.agents // 10, size.agents
    starts = {agents: await _start_with(agents, note) for agents in (few, many)}
    row = Row(
        "warm_start",
        "A daemon starts again",
        "One agent leaves, so that the roster on the homeserver is another than at the end; the daemon is killed with"
        " all others online, is started again, and all are attached again, 8 at a time on kept connections: until"
        " `GET /who` says that all are online, and so does the roster. In turns with it, a daemon that does the least"
        " (`bench/least_daemon.py`): a process that reads the Space's state once, answers as many agents with nothing,"
        " and then writes one roster and one presence; and those requests alone.",
    )
    took = {agents: _add(row, agents, found) for agents, found in starts.items()}
    raw = row.add(_name(LEAST, many), "s", starts[many].raw_s, x=many)
    bare = row.add(_name(REQUESTS, many), "s", starts[many].requests_s, x=many)
    more = median(_totals(starts[many].used_in_all)) - median(_totals(starts[few].used_in_all))
    row.goals += [
        Goal(f"{many:,} agents online again beside {REQUESTS}", ratio_of(took[many], bare), 1.2, why=_WHY),
        Goal(f"{many:,} agents online again beside {LEAST}", ratio_of(took[many], raw), 1.2, why=_WHY),
        Goal(f"requests of a start with {many:,} agents more than with {few:,}", more, 5, "requests"),
    ]
    row.notes += [
        f"What was requested in a start with {agents:,} agents until all were online: {_all(found.used[-1].requests)}."
        for agents, found in starts.items()
    ]
    row.notes.append(
        "`ClientRestResource` is above all the daemon's look for endpoints that a homeserver may lack, once a start and"
        " beside all else."
    )
    row.notes.append(
        f"{REQUESTS.capitalize()} are of one that runs already and whose agents are there: a start is a process that"
        f" has to come up, too, and {many:,} requests of agents that it has to take. {LEAST.capitalize()} has both, and"
        f" takes {ratio_of(raw, bare):.1f} times as long as the requests."
    )
    row.notes.append(
        "Of the time, that until the daemon is up is the start of a process, the loading of its modules, and the"
        " reading of the Space. Each agent is a request of its own to the gateway. The roster is written when nobody"
        " has come for a tenth of a second, after 2 s at the latest."
    )
    return row


def _add(row: Row, agents: int, found: _Starts) -> Series:
    """Add what was found with so many agents; return how long it took."""
    for what, unit, values in (
        ("until the daemon is up", "s", found.up_s),
        ("until all are attached", "s", found.attached_s),
        ("the homeserver's processor", "s of CPU", [used.homeserver_s for used in found.used]),
        ("requests until all are online", "requests", _totals(found.used)),
        ("requests in all", "requests", _totals(found.used_in_all)),
    ):
        row.add(_name(what, agents), unit, values, x=agents)
    return row.add(_name(ONLINE, agents), "s", found.online_s, x=agents)


def _name(what: str, agents: int) -> str:
    return f"{what}, {agents:,} agents"


def _totals(used: Sequence[Usage]) -> list[int]:
    return [each.requests.total() for each in used]


def _all(requests: Counter[str]) -> str:
    return ", ".join(f"{count:,} `{servlet}`" for servlet, count in requests.most_common())


async def _start_with(agents: int, note: Note) -> _Starts:
    found, names = _Starts(), names_of(agents)
    async with (
        running(prepared=await prepare(agents, note)) as bench,
        asking(bench) as operator,
        aiohttp.ClientSession() as http,
    ):
        bare = _Bare(bench, http, await bench.space_id())
        await some_at_once(names, operator.attach, note)
        for _ in range(TIMES):
            await wait_calm(bench)
            found.raw_s += [await bare.start(names) for _ in range(RAW_TIMES)]
            found.requests_s += [await bare.requests(names) for _ in range(RAW_TIMES)]
            await operator.call("DELETE", f"/agents/{names[-1]}")
            await bare.wait_roster(names[:-1])
            await wait_calm(bench)
            await _start(bench, operator, bare, names, found)
            note(f"{agents} agents are online after {found.online_s[-1]:.2f} s, {found.raw_s[-1]:.2f} s with the least")
    return found


async def _start(bench: Bench, operator: Caller, bare: "_Bare", names: list[str], found: _Starts) -> None:
    """Kill it and start it again. The roster is to lack one of the agents."""
    await bench.daemon.kill()
    before, begun = await usage(bench), time.monotonic()
    await bench.daemon.start()
    await operator.wait_answers(with_space=True)
    found.up_s.append(time.monotonic() - begun)
    await some_at_once(names, operator.attach)
    found.attached_s.append(time.monotonic() - begun)
    await operator.wait_online(frozenset(names))
    of_ours = Counter({"RoomStateEventRestServlet": await bare.wait_roster(names)})
    found.online_s.append(time.monotonic() - begun)
    found.used.append(_without(await usage(bench) - before, of_ours))
    await wait_calm(bench)
    found.used_in_all.append(_without(await usage(bench) - before, of_ours))


def _without(used: Usage, requests: Counter[str]) -> Usage:
    """Return it without what was requested by those that look on."""
    return Usage(used.at_s, used.client_s, used.homeserver_s, used.requests - requests)


class _Bare:
    """The least: the daemon's user with requests of its own. Its roster is of another type, and the daemon's stays."""

    def __init__(self, bench: Bench, http: aiohttp.ClientSession, space_id: RoomId) -> None:
        base = f"{bench.synapse.config.base_url}/_matrix/client/v3"
        self._http = http
        self._token = bench.synapse.registration.as_token
        self._state = f"{base}/rooms/{quote(space_id, safe='')}/state"
        self._user = quote(bench.daemon_user, safe="")
        self._roster = f"{self._state}/io.example.roster/{self._user}"
        self._presence = f"{base}/presence/{self._user}/status"
        self._socket = bench.settings.paths.data_dir / "least.sock"

    async def start(self, names: list[str]) -> float:
        """Start the least daemon and attach all to it, as to ours; return after how many seconds they are online."""
        await self._call("PUT", self._roster, json={"online": []})  # what is written is another one each time
        begun = time.monotonic()
        what = [str(self._socket), self._state, self._roster, self._presence, str(len(names))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.least_daemon", *what),
            env=os.environ | {"TOKEN": self._token},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            connector = aiohttp.UnixConnector(str(self._socket), limit=0)
            async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(_START_S):
                while not self._socket.exists():  # noqa: ASYNC110 - another process makes it
                    await asyncio.sleep(_POLL_S / 5)
                await some_at_once(names, Caller(session, self._token).attach)
                assert process.stdout is not None
                assert await process.stdout.readline() == b"online\n"
                took_s = time.monotonic() - begun
        finally:
            self._socket.unlink(missing_ok=True)
            await end(process)
        return took_s

    async def requests(self, names: list[str]) -> float:
        """Make the requests of that alone; return how many seconds they took."""
        await self._call("PUT", self._roster, json={"online": []})
        begun = time.monotonic()
        assert await self._call("GET", self._state)
        await asyncio.gather(
            self._call("PUT", self._roster, json={"online": names}),
            self._call("PUT", self._presence, json={"presence": "online"}),
        )
        return time.monotonic() - begun

    async def wait_roster(self, names: list[str]) -> int:
        """Return when the homeserver has the roster of these, and how often it was asked."""
        asked, url = 1, f"{self._state}/{ROSTER}/{self._user}"
        async with asyncio.timeout(_START_S):
            while set((await self._call("GET", url))["online"]) != set(names):
                asked += 1
                await asyncio.sleep(_POLL_S)
        return asked

    async def _call(self, method: str, url: str, **how: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        return json.loads(await ask(self._http, method, url, headers, **how))


async def end(process: asyncio.subprocess.Process) -> None:
    """Have a process be over."""
    if process.returncode is None:
        process.kill()
    await process.wait()
