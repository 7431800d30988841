"""Streams of server-sent events: pinged together, stopped together, and each with its own end."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import ClientSession, StreamReader, web
from aiohttp.test_utils import TestServer

from aiagentchat.errors import AiAgentChatError
from aiagentchat.gateway import sse
from aiagentchat.gateway.sse import EventStream, Streams

PING = b": ping\n"
Serve = Callable[[EventStream], Awaitable[None]]
Connect = Callable[..., Awaitable[StreamReader]]
refused = False


def check() -> None:
    if refused:
        raise AiAgentChatError("the credential has ended")


@pytest.fixture
async def streams(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Streams]:
    """Pinged often."""
    monkeypatch.setattr(sse, "PING_S", 0.02)
    monkeypatch.setitem(globals(), "refused", False)
    streams = Streams()
    pinging = asyncio.create_task(streams.ping())
    yield streams
    assert not pinging.done()
    pinging.cancel()


@asynccontextmanager
async def served(streams: Streams, serve: Serve) -> AsyncIterator[Connect]:
    """Give what opens a stream, which is served so; it stands as long as a stack, or as this."""

    async def handle(request: web.Request) -> web.StreamResponse:
        async with EventStream(request, streams, check) as stream:
            await serve(stream)
        return stream.response

    app = web.Application()
    app.router.add_get("/", handle)
    async with TestServer(app) as server, ClientSession() as session, AsyncExitStack() as standing:

        async def connect(stack: AsyncExitStack = standing) -> StreamReader:
            return (await stack.enter_async_context(session.get(server.make_url("/")))).content

        yield connect


async def lines_of(stream: StreamReader) -> list[bytes]:
    """Return all that comes until the stream ends, but pings and empty lines."""
    return [line.strip() async for line in stream if line.strip() and line != PING]


async def send_until(stream: EventStream, is_full: asyncio.Event) -> None:
    """Send for ever; `is_full` is set once the other end has taken nothing for a while."""
    while True:
        waits = asyncio.get_running_loop().call_later(0.1, is_full.set)
        await stream.send("message", "x" * 100_000)
        waits.cancel()


async def test_a_stream_where_nothing_happens_is_pinged_and_all_end_at_closing(streams: Streams) -> None:
    async with asyncio.timeout(10), served(streams, EventStream.run) as connect:
        standing = [await connect() for _ in range(3)]
        for _ in range(3):
            for stream in standing:
                assert (await stream.readline(), await stream.readline()) == (PING, b"\n")
        streams.close()
        assert [await lines_of(stream) for stream in [*standing, await connect()]] == [[]] * 4


async def test_a_stream_whose_credential_ends_says_so_with_the_next_ping(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(10), served(streams, EventStream.run) as connect:
        stream = await connect()
        assert await stream.readline() == PING
        monkeypatch.setitem(globals(), "refused", True)
        event, data = await lines_of(stream)
        assert (event, b"the credential has ended" in data) == (b"event: error", True)


async def test_who_takes_nothing_keeps_no_other_from_its_pings(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "_PING", ": " + "x" * 65_000 + "\n\n")  # one that would be waited with; else few are
    is_full = asyncio.Event()

    async def serve(stream: EventStream) -> None:
        await stream.run(work=None if is_full.is_set() else send_until(stream, is_full))

    async with asyncio.timeout(10), served(streams, serve) as connect:
        await connect()
        await is_full.wait()
        other = await connect()
        for _ in range(5):
            assert len(await other.readline() + await other.readline()) > 65_000


async def test_who_goes_while_it_is_sent_to_leaves_nothing_behind(
    streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    is_full, is_over = asyncio.Event(), asyncio.Event()

    async def serve(stream: EventStream) -> None:
        try:
            await stream.run(work=send_until(stream, is_full))
        finally:
            is_over.set()

    async with asyncio.timeout(10), served(streams, serve) as connect:
        async with AsyncExitStack() as leaving:
            await connect(leaving)
            await is_full.wait()
        await is_over.wait()
    gc.collect()
    assert (streams._standing, caplog.messages) == (set(), [])


async def test_a_stream_ends_with_its_work_with_what_fails_in_it_or_with_what_it_is_told_to(streams: Streams) -> None:
    ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work(stream: EventStream) -> None:
        await stream.send("message", "1", event_id="$1")

    async def fail(_: EventStream) -> None:
        raise AiAgentChatError("it does not work")

    async def wait(_: EventStream) -> None:
        await asyncio.sleep(60)

    works = iter([work, fail, wait])

    async def serve(stream: EventStream) -> None:
        await stream.run(ending, work=next(works)(stream))

    async with asyncio.timeout(10), served(streams, serve) as connect:
        assert await lines_of(await connect()) == [b"id: $1", b"event: message", b"data: 1"]
        assert (await lines_of(await connect()))[0] == b"event: error"
        asyncio.get_running_loop().call_later(0.1, ending.set_result, None)
        assert await lines_of(await connect()) == []
