"""How many messages a second come through, of eight agents at once, beside bare users without a daemon."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from aiagentchat.client import GatewayClient
from aiagentchat.model import RoomId
from bench.exchange import Content
from bench.figures import Goal, Row, compared, ratio_of
from bench.gateway import ROOMS, KeptGateway, content_of, keeping, requests_as
from bench.machine import cpu_s
from bench.peers import BareRequests, make_room, receiving
from bench.sizes import Size
from bench.system import AT_ONCE, Bench, Note, running
from tests.integration.systems import Api

RAW = "bare PUTs of eight bare users"
KEPT = "eight agents, by connections to the gateway that are kept"
ADAPTER = "eight agents, by the adapters' client"
SAME = "bare PUTs as the eight agents, into their rooms"
ROUNDS = 5
_CALM_S = 1.0
"""After a round its pushes are over, and their price is paid."""
_BODY = "Is main green?"

Speaker = Callable[[int], Coroutine[None, None, None]]
"""Sends so many messages, one after the other."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a round was: messages a second, and the processor for each, in ms."""

    rate: float
    homeserver_ms: float
    daemon_ms: float


_WHY = (
    "The homeserver has one process, which is busy, and an agent's message costs it more: a person is in the room, and"
    " the request names a device. Beside bare PUTs that have both, below, little is left for the daemon."
)


async def measure(size: Size, note: Note) -> Row:
    """Measure rounds of each in turns, in alternating order."""
    each = -(-size.times // AT_ONCE)
    row = Row(
        "throughput",
        "Eight at once",
        f"Eight agents each send {each} messages to one other, one after the other, into eight rooms; so do eight users"
        f" of a bare application service, with the same content. {ROUNDS} rounds of each, in turns. Nobody reads, but"
        " all is pushed to both application services. The processor is that of a round with the pushes that follow.",
    )
    async with running() as bench, AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        session = await stack.enter_async_context(keeping(bench))
        threads = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        await stack.enter_async_context(receiving(bench))
        numbers = range(AT_ONCE)
        writers = await bench.attach(f"writer-{number}" for number in numbers)
        await bench.attach(f"reader-{number}" for number in numbers)
        gateways = [KeptGateway(api, session) for api in writers]
        stored = [await content_of(bench, gateways[number], f"reader-{number}", _BODY) for number in numbers]
        content = stored[0][1]
        ways: dict[str, list[Speaker]] = {
            KEPT: [_kept(gateways[number], f"reader-{number}") for number in numbers],
            ADAPTER: [_adapter(writers[number], f"reader-{number}", threads) for number in numbers],
            RAW: [await _bare(bench, http, number, content) for number in numbers],
            SAME: [_put(requests_as(bench, http, f"writer-{number}"), *stored[number]) for number in numbers],
        }
        for speakers in ways.values():
            await _round(bench, speakers, 2)
        spent: dict[str, list[Spent]] = {what: [] for what in ways}
        for number in range(ROUNDS):
            note(f"round {number + 1} of {ROUNDS}")
            for what, speakers in list(ways.items())[:: -1 if number % 2 else 1]:
                spent[what].append(await _round(bench, speakers, each))
    rates = {what: row.add(what, "messages a second", [one.rate for one in rounds]) for what, rounds in spent.items()}
    for what, rounds in spent.items():
        row.add(f"{what}: homeserver", "ms of CPU a message", [one.homeserver_ms for one in rounds])
        if what in (KEPT, ADAPTER):
            row.add(f"{what}: daemon", "ms of CPU a message", [one.daemon_ms for one in rounds])
    row.goals += [
        Goal(f"{what}, beside {RAW}", ratio_of(rates[what], rates[RAW]), 0.95, is_least=True, why=_WHY)
        for what in (KEPT, ADAPTER)
    ]
    row.notes += [
        "The adapters' client (`aiagentchat.client`) opens a connection for each call, as commands do; here its eight"
        " threads are in one process, with what measures.",
        ROOMS,
        compared(rates, [(SAME, RAW), (KEPT, SAME), (ADAPTER, KEPT)]),
        "The homeserver, the daemon and what measures share the cores.",
    ]
    return row


async def _round(bench: Bench, speakers: Sequence[Speaker], each: int) -> Spent:
    before = cpu_s(bench.homeserver_pid), cpu_s(bench.daemon.pid)
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for speak in speakers:
            group.create_task(speak(each))
    took_s, messages = time.perf_counter() - begun, len(speakers) * each
    await asyncio.sleep(_CALM_S)
    homeserver, daemon = cpu_s(bench.homeserver_pid) - before[0], cpu_s(bench.daemon.pid) - before[1]
    return Spent(messages / took_s, homeserver / messages * 1000, daemon / messages * 1000)


def _kept(gateway: KeptGateway, reader: str) -> Speaker:
    async def speak(each: int) -> None:
        for _ in range(each):
            await gateway.send(reader, _BODY)

    return speak


def _adapter(api: Api, reader: str, threads: ThreadPoolExecutor) -> Speaker:
    client = GatewayClient(api.socket, api.token)

    def send(each: int) -> None:
        for _ in range(each):
            client.send(_BODY, to=reader)

    async def speak(each: int) -> None:
        await asyncio.get_running_loop().run_in_executor(threads, send, each)

    return speak


async def _bare(bench: Bench, http: aiohttp.ClientSession, number: int, content: Content) -> Speaker:
    """Return a bare user that sends this to one other."""
    (writer, owner), (reader, guest) = [
        await bench.bare_user(http, f"{role}-{number}") for role in ("writer", "reader")
    ]
    room_id = await make_room(owner, guest, reader)
    base_url = bench.synapse.config.base_url
    return _put(BareRequests(base_url, http, bench.bare.as_token, acting_as=writer), room_id, content)


def _put(requests: BareRequests, room_id: RoomId, content: Content) -> Speaker:
    async def speak(each: int) -> None:
        for _ in range(each):
            await requests.send(room_id, content)

    return speak
