"""A relay between a daemon and a homeserver: it counts, and can withhold what the homeserver answers to a message."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

_HOP_BY_HOP = {"connection", "content-encoding", "content-length", "host", "transfer-encoding"}


class Relay:
    """Passes on all requests.

    Attributes:
        port: where it listens. taken: set once the homeserver has answered a message and that answer is withheld.
        withheld: that answer.
        asked: how often what was requested: method and path, `{}` in place of each id.
        answered: the bytes of all answers.
    """

    def __init__(self, target: str, session: aiohttp.ClientSession) -> None:
        self.port = 0
        self.taken = asyncio.Event()
        self.withheld = b""
        self.asked: Counter[str] = Counter()
        self.answered = 0
        self._target = target
        self._session = session
        self._withholding = False
        self._dropped = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def withhold(self) -> None:
        """Keep the answer back to the next message that is stored."""
        self._withholding = True
        self.taken.clear()
        self._dropped.clear()

    def drop(self) -> None:
        """Cut the connection that waits for the answer."""
        self._dropped.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked[_shape(request)] += 1
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = URL(f"{self._target}{request.raw_path}", encoded=True)
        try:
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                content = await answer.read()
        except aiohttp.ClientError:
            return _cut(request)
        if self._withholding and answer.status == 200 and "/send/m.room.message/" in request.raw_path:
            self._withholding = False
            self.withheld = content
            self.taken.set()
            await self._dropped.wait()
            return _cut(request)
        self.answered += len(content)
        passed_on = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        return web.Response(status=answer.status, body=content, headers=passed_on)


@contextlib.asynccontextmanager
async def relay_to(target: str) -> AsyncIterator[Relay]:
    """Run one on a free port, before the homeserver at the URL `target`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), auto_decompress=True) as session:
        relay = Relay(target, session)
        app = web.Application(client_max_size=2**20)
        app.router.add_route("*", "/{path:.*}", relay.handle)
        async with TestServer(app) as server:
            relay.port = server.port or 0
            yield relay
            relay.drop()


def _shape(request: web.Request) -> str:
    path = unquote(request.raw_path.partition("?")[0]).removeprefix("/_matrix/client/v3")
    path = re.sub(r"(/send/m.room.message/|/devices/|/login/)[^/]+", r"\1{}", path)
    return f"{request.method} {re.sub(r'/[!@#$][^/]*', '/{}', path)}"


def _cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.StreamResponse()
