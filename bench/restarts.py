"""A daemon that ends and is started again, and its gateway asked by the operator on connections that are kept."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from bench.system import Bench

_POLL_S = 0.02
_START_S = 60.0


class Operator:
    """The operator's client of a gateway. `session`: with connections to its socket."""

    def __init__(self, session: aiohttp.ClientSession, token: str) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"}

    async def call(self, method: str, path: str, *, agent: str = "", **how: Any) -> bytes:
        """Return the body of an answer that is 200, as it came. `agent`: in whose name."""
        headers = self._headers | ({"AIAgentChat-As": agent} if agent else {})
        async with self._session.request(method, f"http://localhost{path}", headers=headers, **how) as response:
            body = await response.read()
            assert response.status == 200, body
            return body

    async def attach(self, name: str) -> None:
        """Attach an agent."""
        await self.call("POST", "/agents", json={"name": name})

    async def online(self) -> frozenset[str]:
        """Return who is online, as `GET /who` says."""
        answer = json.loads(await self.call("GET", "/who"))
        return frozenset(agent["name"] for agent in answer["agents"] if agent["status"] == "online")

    async def wait_up(self) -> None:
        """Return when the daemon has its Space, without having it ask the homeserver anything."""
        async with asyncio.timeout(_START_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    if not json.loads(await self.call("GET", "/who"))["unavailable"]:
                        return
                await asyncio.sleep(_POLL_S)

    async def wait_online(self, names: frozenset[str]) -> None:
        """Return when these are online."""
        async with asyncio.timeout(_START_S):
            while not names <= await self.online():  # noqa: ASYNC110 - another process knows it
                await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def asking(bench: Bench) -> AsyncIterator[Operator]:
    """Give a client of the daemon's gateway, which outlives its restarts."""
    connector = aiohttp.UnixConnector(str(bench.api.socket))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=90)) as session:
        yield Operator(session, bench.api.token)
