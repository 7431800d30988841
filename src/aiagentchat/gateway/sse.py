"""Server-sent events: one stream to one client, with pings, ended by either side or by the gateway's closing."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine
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


def message_data(message: Message) -> str:
    """Return a message as its one line of JSON."""
    return json.dumps(asdict(message), ensure_ascii=False, separators=(",", ":"))


def internal_error() -> AiAgentChatError:
    """Return what a client is told of a fault of ours."""
    return AiAgentChatError("something went wrong inside the daemon", hint="see daemon.log")


class EventStream:
    """The response side of a stream. Use as a context manager; `response` is what the handler returns.

    An error that ends the stream is its last event, `error`, with the problem that a response would have.

    Args:
        check: asked before anything is sent; raises where the client may have no more.
    """

    def __init__(self, request: web.Request, closing: asyncio.Event, check: Callable[[], object]) -> None:
        self._request = request
        self._closing = closing
        self._check = check
        self._writing = asyncio.Lock()
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

    async def run(self, *work: Coroutine[Any, Any, Any]) -> None:
        """Do all `work`, with pings beside it, until some of it ends, the client goes, or the gateway closes."""
        tasks = [
            *(asyncio.create_task(part) for part in work),
            asyncio.create_task(self._ping()),
            asyncio.create_task(self._closing.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(
                result, asyncio.CancelledError | ConnectionResetError
            ):
                raise result

    async def _ping(self) -> None:
        while True:
            self._check()
            await self._write(": ping\n\n")
            await asyncio.sleep(PING_S)

    async def _write(self, text: str) -> None:
        async with self._writing:
            await self.response.write(text.encode())
