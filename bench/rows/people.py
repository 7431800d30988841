"""What it costs the homeserver that a message is read: by its agent, and by people with a Matrix client."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import aiohttp

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from bench.asked import ask
from bench.exchange import PAUSE_S, Content
from bench.figures import Row
from bench.gateway import KeptGateway, content_of, keeping, requests_as
from bench.machine import cpu_s
from bench.peers import SYNC_MS, BareRequests, make_account
from bench.sizes import Size
from bench.system import AT_ONCE, CALM_S, Bench, Note, running
from bench.usage import usage_within, wait_calm

MOST = 60
ROUNDS = 3
IDLE, SEEN = "a person, while nothing happens", "a person, for each message that comes"
READ, READ_DAEMON = "an agent, for each message that it reads and acknowledges", "the same: the daemon's"
ALONE, HANDED = "a message that nobody reads", "the same, and its agent reads and acknowledges it"
LOOKED_AT = f"the same, and {AT_ONCE} people look on"
FILTER = quote(json.dumps({"room": {"state": {"lazy_load_members": True}}}))


@dataclass
class _Spent:
    """What was used while something was done. `idle_percent`: of the homeserver. `_ms`: by the message."""

    idle_percent: float
    homeserver_ms: list[float] = field(default_factory=list)
    daemon_ms: list[float] = field(default_factory=list)


async def measure(size: Size, note: Note) -> Row:
    """Send messages, one at a time, that nobody reads, then those that an agent reads, then with people besides."""
    times, seconds = min(MOST, size.times), 2 * size.idle_s
    row = Row(
        "people",
        "Who reads",
        f"The homeserver's processor while an agent sends another {times} messages, one at a time, as bare PUTs:"
        " nobody reads them; the other has each handed out by the daemon, and acknowledges it; and besides"
        f" {AT_ONCE} people are in Space, broadcast room and the agent's room, who each follow with `/sync` as Element"
        f" does, with lazily loaded members. {ROUNDS} rounds each. Before that nothing happens for {seconds:.0f} s."
        " What the agent and each person cost is the difference.",
    )
    async with running() as bench, keeping(bench) as session, aiohttp.ClientSession() as http:
        writer, reader = await bench.attach(["writer", "reader"])
        room_id, content = await content_of(bench, KeptGateway(writer, session), "reader", "Is main green?")
        requests = requests_as(bench, http, "writer")

        async def look(what: str) -> _Spent:
            await wait_calm(bench)
            spent = _Spent((await usage_within(bench, seconds)).homeserver_percent)
            for _ in range(ROUNDS):
                await _send(bench, requests, room_id, content, times, spent)
            note(f"{what}: {spent.idle_percent:.2f} % of a core, and {spent.homeserver_ms[-1]:.1f} ms a message")
            return spent

        alone = await look("nobody")
        async with _following([_read(KeptGateway(reader, session))]):
            handed = await look("an agent")
            people = [await _make_person(bench, http, room_id, number) for number in range(AT_ONCE)]
            async with _following([_follow(bench.synapse.config.base_url, token) for token in people]):
                looked_at = await look(f"and {AT_ONCE} people")
    row.add(IDLE, "% of a core", [max(0.0, looked_at.idle_percent - handed.idle_percent) / AT_ONCE])
    for what, spent in ((ALONE, alone), (HANDED, handed), (LOOKED_AT, looked_at)):
        row.add(what, "ms of CPU", spent.homeserver_ms)
    row.add(READ, "ms of CPU", _more(alone.homeserver_ms, handed.homeserver_ms))
    row.add(READ_DAEMON, "ms of CPU", _more(alone.daemon_ms, handed.daemon_ms))
    row.add(SEEN, "ms of CPU", [each / AT_ONCE for each in _more(handed.homeserver_ms, looked_at.homeserver_ms)])
    return row


def _more(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [max(0.0, later - earlier) for earlier, later in zip(before, after, strict=True)]


async def _send(
    bench: Bench, requests: BareRequests, room_id: RoomId, content: Content, times: int, spent: _Spent
) -> None:
    """Send messages, and note what each took of homeserver and daemon."""
    before = cpu_s(bench.homeserver_pid), cpu_s(bench.daemon.pid)
    for _ in range(times):
        await requests.send(room_id, content)
        await asyncio.sleep(PAUSE_S)
    await asyncio.sleep(CALM_S)
    spent.homeserver_ms.append((cpu_s(bench.homeserver_pid) - before[0]) / times * 1000)
    spent.daemon_ms.append((cpu_s(bench.daemon.pid) - before[1]) / times * 1000)


@contextlib.asynccontextmanager
async def _following(loops: Sequence[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run what goes on for ever. Raises what one of them has raised."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _read(reader: KeptGateway) -> None:
    while True:
        if event_ids := await reader.read():
            await reader.acknowledge(event_ids)


async def _make_person(bench: Bench, http: aiohttp.ClientSession, room_id: RoomId, number: int) -> str:
    """Have a person be in the rooms; return their token."""
    operator, account = bench.synapse.operator_client(http), await make_account(bench, f"person-{number}")
    person = MatrixClient(bench.synapse.config.base_url, account.access_token, http)
    for each in (await bench.space_id(), await bench.broadcast_id(), room_id):
        await operator.invite(each, account.user_id)
        await person.join_room(each)
    return account.access_token


async def _follow(base_url: str, token: str) -> None:
    url, since = f"{base_url}/_matrix/client/v3/sync?timeout={SYNC_MS}&filter={FILTER}", ""
    async with aiohttp.ClientSession() as session:
        while True:
            answer = await ask(session, "GET", url + since, {"Authorization": f"Bearer {token}"})
            since = f"&since={quote(json.loads(answer)['next_batch'])}"
