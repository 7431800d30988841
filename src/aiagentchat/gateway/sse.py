"""Server-sent events: one stream to one client, with pings, ended by either side or by the gateway's closing."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from aiagentchat.errors import AiAgentChatError
from aiagentchat.gateway.schemas import Problem
from aiagentchat.model import Message

log = logging.getLogger(__name__)

PING_S = 30.0
"""A comment is sent this often, so that both sides see a connection that is dead."""
_PING = ": ping\n\n"
_AT_ONCE = 50
"""Streams that are pinged before others are answered."""


def message_data(message: Message) -> str:
    """Return a message as its one line of JSON."""
    return json.dumps(asdict(message), ensure_ascii=False, separators=(",", ":"))


def internal_error() -> AiAgentChatError:
    """Return what a client is told of a fault of ours."""
    return AiAgentChatError("something went wrong inside the daemon", hint="see daemon.log")


class Streams:
    """The streams of a gateway that stand: one task pings them all, and they end when the gateway closes."""

    def __init__(self) -> None:
        self._standing: set[EventStream] = set()
        self._is_closed = False

    @contextlib.contextmanager
    def standing(self, stream: "EventStream") -> Iterator[None]:
        """Within it a stream is pinged, and stopped when the gateway closes."""
        self._standing.add(stream)
        if self._is_closed:
            stream.stop()
        try:
            yield
        finally:
            self._standing.discard(stream)

    async def ping(self) -> None:
        """Ping all, again and again."""
        while True:
            await asyncio.sleep(PING_S)
            for number, stream in enumerate(list(self._standing), 1):
                if stream in self._standing:
                    await stream.ping()
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # nobody else is to wait for all of them

    def close(self) -> None:
        """Stop all, and each that comes."""
        self._is_closed = True
        for stream in self._standing:
            stream.stop()


class EventStream:
    """The response side of a stream. Use as a context manager; `response` is what the handler returns.

    An error that ends the stream is its last event, `error`, with the problem that a response would have.

    Args:
        streams: the gateway's. check: asked before anything is sent; raises where the client may have no more.
    """

    def __init__(self, request: web.Request, streams: Streams, check: Callable[[], object]) -> None:
        self._request = request
        self._streams = streams
        self._check = check
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: Exception | None = None
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    async def __aenter__(self) -> Self:
        await self.response.prepare(self._request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, ConnectionResetError):
            return False
        if not isinstance(error, AiAgentChatError):
            log.error("a stream failed: %s", self._request.path, exc_info=error)
            error = internal_error()
        with contextlib.suppress(ConnectionResetError):
            await self.end("error", Problem.of(error).model_dump_json())
        return True

    async def end(self, event: str, data: str) -> None:
        """Send the last event, which says why it is the last, whether or not the client may have more."""
        await self._write(f"event: {event}\ndata: {data}\n\n")

    async def send(self, event: str, data: str, *, event_id: str = "") -> None:
        """Send one event; `data` is a single line."""
        self._check()
        identity = f"id: {event_id}\n" if event_id else ""
        await self._write(f"{identity}event: {event}\ndata: {data}\n\n")

    async def run(self, *endings: asyncio.Future[None], work: Coroutine[Any, Any, None] | None = None) -> None:
        """Do `work` while the stream is pinged, until it is done, one of `endings` is, or the gateway closes. Once.

        Raises:
            AiAgentChatError: the work, or the check, has failed; not where the client is gone.
        """
        tasks = [] if work is None else [asyncio.create_task(work)]
        for each in (*endings, *tasks):
            each.add_done_callback(self.stop)
        try:
            with self._streams.standing(self):
                await self.ping()
                await self._over
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for failure in (*results, self._failure):
            if isinstance(failure, Exception) and not isinstance(failure, ConnectionResetError):
                raise failure

    def stop(self, _: object = None) -> None:
        """Have `run` end."""
        if not self._over.done():
            self._over.set_result(None)

    async def ping(self) -> None:
        """Ask whether the client may have more, and send a comment; a failure ends the stream, and is not raised.

        Nothing is sent while a client is yet to take what was sent before. So a ping never waits, and who pings all is
        not kept by one.
        """
        transport = self._request.transport
        try:
            self._check()
            if transport is None or transport.is_closing() or not transport.get_write_buffer_size():
                await self._write(_PING)
        except Exception as failure:  # noqa: BLE001 - `run` raises it, for this stream; the others are pinged on
            if not self._over.done():
                self._failure = failure
                self.stop()

    async def _write(self, text: str) -> None:
        await self.response.write(text.encode())  # a chunk as a whole, whoever else writes: nothing is compressed
