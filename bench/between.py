"""Stands between two that talk HTTP, passes on what they say, and tells of it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

_ASKED = ("Authorization", "Content-Type")
_ANSWERED = ("Content-Type", "Date", "Retry-After")
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer. `path`: with its query, as it was sent. `token`: whose request it is."""

    method: str
    path: str
    token: str
    body: bytes
    content_type: str
    status: int
    answer: bytes


@contextlib.asynccontextmanager
async def standing_before(url: str, note: Callable[[Exchange], None]) -> AsyncIterator[str]:
    """Listen; give the address that leads to `url` through here. `note` is called with each exchange that was one."""
    async with aiohttp.ClientSession(headers={"Accept-Encoding": "identity"}) as session:

        async def pass_on(request: web.Request) -> web.Response:
            body = await request.read()
            target = URL(url + request.raw_path, encoded=True)
            headers = {name: value for name, value in request.headers.items() if name in _ASKED}
            try:
                async with session.request(request.method, target, data=body, headers=headers) as answer:
                    content = await answer.read()
            except aiohttp.ClientError:  # who is asked is not there
                return web.Response(status=502)
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            what = request.method, request.raw_path, token, body, request.content_type
            note(Exchange(*what, answer.status, content))
            told = {name: value for name, value in answer.headers.items() if name in _ANSWERED}
            return web.Response(status=answer.status, body=content, headers=told)

        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield "http://127.0.0.1:{1}".format(*runner.addresses[0])
        finally:
            await runner.cleanup()
