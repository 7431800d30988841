"""Headless Chromium over its DevTools protocol, as much as a picture of a page needs: `scripts/screenshots.py`.

https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

START_S = 30.0
CALL_S = 30.0
POLL_S = 0.1

Json = Any


class ChromiumError(Exception):
    """Chromium did not start, or a page is not as it should be."""


def find_chromium() -> str | None:
    """Return where Chromium is; None: nowhere."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.asynccontextmanager
async def open_page(program: str, *, width: int, height: int) -> AsyncIterator["Page"]:
    """Give an empty page in a Chromium with a profile of its own, which ends with the context.

    Raises:
        ChromiumError: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="aiagentchat-chromium-", ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        command += ["--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en", "--mute-audio"]
        command += [f"--window-size={width},{height}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []  # for root it has none
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, "about:blank", stdout=quiet, stderr=quiet)
        try:
            address = await _address(process, Path(profile))
            async with aiohttp.ClientSession() as http, http.ws_connect(address, max_msg_size=0) as connection:
                yield await Page.attach(connection, width=width, height=height)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _address(process: asyncio.subprocess.Process, profile: Path) -> str:
    """Wait for the file in which Chromium says where it listens."""
    file = profile / "DevToolsActivePort"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                lines = file.read_text().splitlines() if file.exists() else []
                if len(lines) == 2:
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
                await asyncio.sleep(POLL_S)
    raise ChromiumError(f"Chromium did not start within {START_S:g} s (exit code {process.returncode})")


class Page:
    """One page."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection
        self._session = ""
        self._calls = 0

    @classmethod
    async def attach(cls, connection: aiohttp.ClientWebSocketResponse, *, width: int, height: int) -> "Page":
        """Return a new page of this size."""
        page = cls(connection)
        target = await page.call("Target.createTarget", url="about:blank")
        attached = await page.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page._session = attached["sessionId"]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await page.call("Emulation.setDeviceMetricsOverride", **metrics)
        return page

    async def call(self, method: str, **params: Json) -> Json:
        """Call one method of the protocol, and return its result. One at a time.

        Raises:
            ChromiumError: it failed, or Chromium is gone.
        """
        self._calls += 1
        request = {"id": self._calls, "method": method, "params": params}
        await self._connection.send_json(request | ({"sessionId": self._session} if self._session else {}))
        while True:
            message = await self._connection.receive(CALL_S)
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise ChromiumError(f"{method}: Chromium is gone")
            answer = message.json()
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise ChromiumError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    async def open(self, url: str) -> None:
        """Go to an address."""
        result = await self.call("Page.navigate", url=url)
        if "errorText" in result:
            raise ChromiumError(f"the page does not load: {result['errorText']}")

    async def evaluate(self, expression: str) -> Json:
        """Return what JavaScript in the page gives; None also where it throws."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    async def wait_for(self, expression: str, *, timeout_s: float) -> None:
        """Wait until JavaScript in the page gives something true.

        Raises:
            ChromiumError: it did not; with the text of the page.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if await self.evaluate(expression):
                return
            await asyncio.sleep(POLL_S)
        text = await self.evaluate("document.body.innerText")
        raise ChromiumError(f"not so within {timeout_s:g} s: {expression}; the page says: {str(text)[:500]}")

    async def picture(self) -> bytes:
        """Return what is seen, as a PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
