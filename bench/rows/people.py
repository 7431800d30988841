"""What a person costs the homeserver who looks on with a Matrix client."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
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
ALONE, LOOKED_AT = "a message that nobody looks at", f"the same with {AT_ONCE} people who do"
FILTER = quote(json.dumps({"room": {"state": {"lazy_load_members": True}}}))


async def measure(size: Size, note: Note) -> Row:
    """Look on while nothing happens and while messages are sent, without people and with some."""
    times, seconds = min(MOST, size.times), 2 * size.idle_s
    row = Row(
        "people",
        "People who look on",
        f"The homeserver's processor while nothing happens for {seconds:.0f} s, and while an agent sends another"
        f" {times} messages, one at a time, as bare PUTs, {ROUNDS} rounds of them: at first with nobody, then with"
        f" {AT_ONCE} people in Space, broadcast room and the agent's room, who each follow with `/sync` as Element"
        " does, with lazily loaded members. A person's part is the difference, divided by them.",
    )
    async with running() as bench, keeping(bench) as session, aiohttp.ClientSession() as http:
        writer, _ = await bench.attach(["writer", "reader"])
        room_id, content = await content_of(bench, KeptGateway(writer, session), "reader", "Is main green?")
        requests = requests_as(bench, http, "writer")

        async def look(what: str) -> tuple[list[float], list[float]]:
            await wait_calm(bench)
            idle = [(await usage_within(bench, seconds)).homeserver_percent]
            seen = [await _send(bench, requests, room_id, content, times) for _ in range(ROUNDS)]
            note(f"{what}: {idle[-1]:.2f} % of a core, and {seen[-1]:.1f} ms a message")
            return idle, seen

        before = await look("nobody")
        async with _people(bench, http, room_id):
            after = await look(f"{AT_ONCE} people")
    (idle_before, sent_before), (idle_after, sent_after) = before, after
    row.add(IDLE, "% of a core", _parts(idle_before, idle_after))
    row.add(ALONE, "ms of CPU", sent_before)
    row.add(LOOKED_AT, "ms of CPU", sent_after)
    row.add(SEEN, "ms of CPU", _parts(sent_before, sent_after))
    return row


def _parts(before: list[float], after: list[float]) -> list[float]:
    return [max(0.0, later - earlier) / AT_ONCE for earlier, later in zip(before, after, strict=True)]


async def _send(bench: Bench, requests: BareRequests, room_id: RoomId, content: Content, times: int) -> float:
    """Send messages; return the homeserver's processor of each, in ms."""
    before = cpu_s(bench.homeserver_pid)
    for _ in range(times):
        await requests.send(room_id, content)
        await asyncio.sleep(PAUSE_S)
    await asyncio.sleep(CALM_S)
    return (cpu_s(bench.homeserver_pid) - before) / times * 1000


@contextlib.asynccontextmanager
async def _people(bench: Bench, http: aiohttp.ClientSession, room_id: RoomId) -> AsyncIterator[None]:
    """Have people be in the rooms and follow them."""
    base_url, operator = bench.synapse.config.base_url, bench.synapse.operator_client(http)
    following = []
    try:
        for number in range(AT_ONCE):
            account = await make_account(bench, f"person-{number}")
            person = MatrixClient(base_url, account.access_token, http)
            for each in (await bench.space_id(), await bench.broadcast_id(), room_id):
                await operator.invite(each, account.user_id)
                await person.join_room(each)
            following.append(asyncio.create_task(_follow(base_url, account.access_token)))
        yield
        for task in following:
            if task.done():
                task.result()
    finally:
        for task in following:
            task.cancel()


async def _follow(base_url: str, token: str) -> None:
    url, since = f"{base_url}/_matrix/client/v3/sync?timeout={SYNC_MS}&filter={FILTER}", ""
    async with aiohttp.ClientSession() as session:
        while True:
            answer = await ask(session, "GET", url + since, {"Authorization": f"Bearer {token}"})
            since = f"&since={quote(json.loads(answer)['next_batch'])}"
