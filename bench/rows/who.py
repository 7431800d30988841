"""Who is there: the gateway's answer from its cache and anew, beside bare requests for the same."""

import asyncio
import json
import time
from typing import Any
from urllib.parse import quote

import aiohttp

from aiagentchat.model import RoomId
from bench.asked import ask
from bench.figures import Goal, Row, ratio_of
from bench.restarts import Caller, asking
from bench.sizes import Size
from bench.system import Bench, Note, names_of, prepare, running, some_at_once
from bench.usage import wait_calm

CACHED, COLD = "`GET /who` from the daemon's cache", "`GET /who`, the Space's state read anew"
RAW, PARSED = "a bare `GET /state` of the Space", "the same, and its JSON parsed"
EACH, PAGES = "the Space's children, then the name of each", "`GET /hierarchy`, page by page"
TTL_S = 2.0
_AT_A_TIME = 10
_OTHER_WAYS = 3
_SERVLET = "RoomStateRestServlet"


async def measure(size: Size, note: Note) -> Row:
    """Ask anew, then from the cache, then barely, in turns."""
    turns = max(_OTHER_WAYS, size.times // _AT_A_TIME)
    row = Row(
        "who",
        "Who is there",
        f"{size.agents:,} agents are online. The daemon is told to trust its directory for {TTL_S:g} s, so that one"
        f" request after that is asked of the homeserver, and the next {_AT_A_TIME} are from the cache; a bare client"
        " asks as the daemon's user, in turns with it. All on kept connections, until the last byte has come.",
    )
    async with (
        running(prepared=await prepare(size.agents, note), AIAGENTCHAT_DIRECTORY_TTL=f"{TTL_S:g}") as bench,
        asking(bench) as operator,
        aiohttp.ClientSession() as http,
    ):
        await some_at_once(names_of(size.agents), operator.attach, note)
        await operator.wait_online(frozenset(names_of(size.agents)))
        await wait_calm(bench)
        bare = _Bare(bench, http, await bench.space_id())
        took: dict[str, list[float]] = {what: [] for what in (CACHED, COLD, RAW, PARSED, PAGES, EACH)}
        before = await bench.requests()
        for number in range(turns):
            if number % 10 == 0:
                note(f"{number} of {turns}")
            await _turn(operator, bare, took)
        read = (await bench.requests() - before)[_SERVLET]
        if read != 2 * turns:  # else what was taken for cold was not, or what was taken for cached
            raise RuntimeError(f"the Space's state was read {read} times in {turns} turns")
        for _ in range(_OTHER_WAYS):
            took[PAGES].append(await bare.read_pages(size.agents))
            took[EACH].append(await bare.read_each(size.agents))
            note(f"page by page in {took[PAGES][-1]:,.0f} ms, one by one in {took[EACH][-1]:,.0f} ms")
    series = {what: row.add(what, "ms", values) for what, values in took.items()}
    row.goals += [
        Goal(f"`GET /who` of {size.agents:,} agents from the cache", series[CACHED].median, 5, "ms"),
        Goal(
            "`GET /who` anew beside a bare read of the Space's state",
            ratio_of(series[COLD], series[RAW]),
            1.2,
            why="Of what the bare read gets, the daemon makes a directory, and answers with it: the parts are below.",
        ),
    ]
    against = ratio_of(series[COLD], series[PARSED])
    row.notes += [
        f"To a bare read that parses its JSON, without which it knows nobody, `GET /who` anew is {against:.2f} times."
        " What the daemon does besides: it checks each event, makes the directory of them, and writes its answer.",
        "The last two are the operator's requests, who is in all rooms: a read of the Space's children and a request"
        " for each room's name, 8 at a time, or `/hierarchy` with the 50 rooms a page that the homeserver allows.",
    ]
    return row


async def _turn(operator: Caller, bare: "_Bare", took: dict[str, list[float]]) -> None:
    raw, parsed = await bare.read()
    took[RAW].append(raw)
    took[PARSED].append(parsed)
    await asyncio.sleep(TTL_S)
    took[COLD].append(await _time(operator))
    begun = time.monotonic()
    for _ in range(_AT_A_TIME):
        if time.monotonic() - begun < TTL_S / 2:
            took[CACHED].append(await _time(operator))


async def _time(operator: Caller) -> float:
    begun = time.perf_counter()
    await operator.call("GET", "/who")
    return (time.perf_counter() - begun) * 1000


class _Bare:
    """Bare reads of the Space, in ms."""

    def __init__(self, bench: Bench, http: aiohttp.ClientSession, space_id: RoomId) -> None:
        self._client = f"{bench.synapse.config.base_url}/_matrix/client"
        self._http = http
        self._daemon, self._operator = bench.synapse.registration.as_token, bench.synapse.operator.access_token
        self._space_id = space_id

    async def read(self) -> tuple[float, float]:
        """Return how long it took, without and with the parsing of what came."""
        begun = time.perf_counter()
        body = await self._get(f"{self._room(self._space_id)}/state", self._daemon)
        read = time.perf_counter()
        assert json.loads(body)
        return (read - begun) * 1000, (time.perf_counter() - begun) * 1000

    async def read_each(self, least: int) -> float:
        """Return how long it took to read the name of each room of the Space."""
        begun = time.perf_counter()
        state = json.loads(await self._get(f"{self._room(self._space_id)}/state", self._operator))
        rooms = [event["state_key"] for event in state if event["type"] == "m.space.child" and event["content"]]
        names = await some_at_once(rooms, self._name)
        assert len(names) >= least
        return (time.perf_counter() - begun) * 1000

    async def read_pages(self, least: int) -> float:
        """Return how long it took to read the Space's rooms as clients do."""
        begun, rooms, more = time.perf_counter(), 0, ""
        while True:
            path = f"/v1/rooms/{quote(self._space_id, safe='')}/hierarchy?limit=50&max_depth=1{more}"
            page = json.loads(await self._get(path, self._operator))
            rooms += len(page["rooms"])
            if "next_batch" not in page:
                break
            more = f"&from={quote(page['next_batch'])}"
        assert rooms >= least
        return (time.perf_counter() - begun) * 1000

    async def _name(self, room_id: str) -> Any:
        return json.loads(await self._get(f"{self._room(room_id)}/state/m.room.name", self._operator))

    def _room(self, room_id: str) -> str:
        return f"/v3/rooms/{quote(room_id, safe='')}"

    async def _get(self, path: str, token: str) -> bytes:
        return await ask(self._http, "GET", f"{self._client}{path}", {"Authorization": f"Bearer {token}"})
