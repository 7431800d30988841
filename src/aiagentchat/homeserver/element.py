"""Serves Element Web on loopback, configured for one homeserver, with a page that signs its operator in.

Element takes a login token from `?loginToken=` only where its storage names the homeserver (`mx_sso_hs_url`), as after
a single sign-on. So the link leads to a page of ours on the same origin, which puts that there and passes the token on.
The token stands in the link's fragment, which no browser sends. Called by `cchat up --element`.
"""

import html
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from aiohttp import web

from aiagentchat.config import ensure_private_dir, read_private, write_private
from aiagentchat.errors import AlreadyRunningError
from aiagentchat.homeserver.ports import any_free_port, choose_port, is_port_free

DEVICE_NAME = "Element (cchat up --element)"
HOST = "127.0.0.1"
"""Not `localhost`, for which a browser first asks `::1`, where another user of the machine could listen."""

_START = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Element</title>
<noscript>Element needs JavaScript.</noscript>
<script src="start.js"></script>
"""
# A browser that is signed in stays so: each further login would be another device.
_START_SCRIPT = """const homeserver = %s, user = %s, room = "#/room/" + %s;
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const stored = name => (localStorage.getItem(name) || "").replace(/\\/$/, "");
if (token && !(stored("mx_user_id") === user && stored("mx_hs_url") === homeserver)) {
  localStorage.setItem("mx_sso_hs_url", homeserver);
  location.replace("./?loginToken=" + encodeURIComponent(token) + room);
} else {
  location.replace("./" + room);
}
"""
_OPEN = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Element</title>
<meta http-equiv="refresh" content="0; url={link}">
<a href="{link}">Element</a>
"""
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
"""What a browser is not to guess, and what a machine's own table may not have."""


def render_config(homeserver_url: str, server_name: str) -> dict[str, Any]:
    """Return Element's `config.json`: this homeserver alone, and nothing that it has not.

    https://github.com/element-hq/element-web/blob/develop/docs/config.md
    """
    missing = ("feedback", "identityServer", "passwordReset", "registration", "voip", "widgets")
    return {
        "default_server_config": {"m.homeserver": {"base_url": homeserver_url, "server_name": server_name}},
        "default_device_display_name": DEVICE_NAME,
        "disable_3pid_login": True,
        "disable_custom_urls": True,
        "disable_guests": True,
        "setting_defaults": {f"UIFeature.{name}": False for name in missing},
    }


def render_headers(homeserver_url: str) -> dict[str, str]:
    """Return the headers of every answer: Element's own policy with nowhere to go but the homeserver.

    What Element asks for (https://github.com/element-hq/element-web/blob/develop/apps/web/README.md) and its page
    allows itself: styles of its own making, WebAssembly, and frames of its own, in which it shows files.
    """
    allowed: dict[str, Iterable[str]] = {
        "default-src": ["'none'"],
        "script-src": ["'self'", "'wasm-unsafe-eval'"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "font-src": ["'self'", "data:"],
        "img-src": ["'self'", "blob:", "data:", homeserver_url],
        "media-src": ["'self'", "blob:", "data:", homeserver_url],
        "connect-src": ["'self'", "blob:", "data:", homeserver_url],
        "worker-src": ["'self'", "blob:"],
        "frame-src": ["'self'", "blob:"],
        "manifest-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'self'"],
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {' '.join(sources)}" for name, sources in allowed.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }


class ElementServer:
    """Element Web on a loopback port that stays the same, since a browser keeps a login for an address.

    Args:
        directory: of the home, for this alone. files: as `ensure_element` unpacked them. homeserver_url: what the
            browser is to use. room: an alias, of what is shown first. taken: a port that will be another's.
    """

    def __init__(
        self,
        directory: Path,
        files: Path,
        *,
        homeserver_url: str,
        server_name: str,
        user_id: str,
        room: str,
        taken: int,
    ) -> None:
        self._directory = directory
        self._files = files
        self._headers = render_headers(homeserver_url)
        self._config = render_config(homeserver_url, server_name)
        self._start_script = _START_SCRIPT % tuple(map(json.dumps, (homeserver_url, user_id, room)))
        self._taken = taken
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen from now on.

        Raises:
            AlreadyRunningError: the port was taken just now. InvalidRequestError: the home cannot be used.
        """
        ensure_private_dir(self._directory)
        port = self._choose_port()
        application = web.Application()
        application.on_response_prepare.append(self._prepare)
        application.router.add_get("/", self._index)
        application.router.add_get("/start", self._start)
        application.router.add_get("/start.js", self._start_js)
        application.router.add_get(r"/config{domain:(\..+)?}.json", self._config_json)
        application.router.add_static("/", self._files)
        self._runner = web.AppRunner(application, access_log=None)  # its lines would hold tokens
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, port).start()
        except OSError as error:
            await self.stop()
            raise AlreadyRunningError(f"Element cannot be served on {HOST}:{port}: {error.strerror}") from None
        self.url = f"http://{HOST}:{port}/"

    async def stop(self) -> None:
        """Stop listening, and leave no link behind."""
        (self._directory / "open.html").unlink(missing_ok=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def link(self, token: str) -> str:
        """Return the address that signs its opener in with a login token. It is as secret as the token."""
        return f"{self.url}start#token={quote(token, safe='')}"

    def write_page(self, link: str) -> Path:
        """Return a page that leads to a link, for a browser: a link in its arguments every user here could read."""
        page = self._directory / "open.html"
        write_private(page, _OPEN.format(link=html.escape(link)))
        return page

    def _choose_port(self) -> int:
        file = self._directory / "port"
        text = read_private(file) or ""
        remembered = int(text) if text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536 else None

        def is_free(port: int) -> bool:
            return port != self._taken and is_port_free(port)

        port = choose_port(0, remembered, ours=False, is_free=is_free, any_free=any_free_port).port
        if port != remembered:
            write_private(file, f"{port}\n")
        return port

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._headers)
        kind = _KINDS.get(PurePosixPath(request.path).suffix)
        if kind is not None and response.status in (200, 206):
            response.headers["Content-Type"] = kind

    async def _index(self, _request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self._files / "index.html", headers={"Content-Type": _KINDS[".html"]})

    async def _start(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text=_START, content_type="text/html")

    async def _start_js(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._start_script, content_type="text/javascript")

    async def _config_json(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(self._config)
