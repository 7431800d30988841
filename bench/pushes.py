"""What a homeserver pushes to the daemon, counted on its way."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

_PASSED_ON = ("Authorization", "Content-Type")
_MOST_BYTES = 64 * 1024 * 1024


class PushCounter:
    """Stands between homeserver and daemon. `url`: of the daemon's receiver. `bytes`: of the transactions' bodies."""

    def __init__(self) -> None:
        self.url = ""
        self.bytes = 0

    @contextlib.asynccontextmanager
    async def beside(self, registration: Path) -> AsyncIterator[str]:
        """Listen; give the path of a registration for the homeserver, which leads here."""
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            app = web.Application(client_max_size=_MOST_BYTES)
            app.router.add_route("*", "/{path:.*}", lambda request: self._pass_on(request, session))
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield _write_beside(registration, "http://127.0.0.1:{1}".format(*runner.addresses[0]))
            finally:
                await runner.cleanup()

    async def _pass_on(self, request: web.Request, session: aiohttp.ClientSession) -> web.Response:
        body = await request.read()
        url = URL(self.url + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
        try:
            async with session.request(request.method, url, data=body, headers=headers) as answer:
                if "/transactions/" in request.path and answer.status == 200:
                    self.bytes += len(body)
                return web.Response(status=answer.status, body=await answer.read())
        except aiohttp.ClientError:  # the daemon is not there
            return web.Response(status=502)


def _write_beside(registration: Path, url: str) -> str:
    """Write a registration that is the same but for its url; return its path."""
    path = registration.with_name("registration-of-homeserver.yaml")
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(yaml.safe_load(registration.read_text()) | {"url": url}))
    return str(path)
