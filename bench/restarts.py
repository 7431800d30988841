"""A daemon that ends and is started again, and its gateway asked on connections that are kept."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from bench.asked import ask
from bench.gateway import keeping
from bench.system import Bench

_POLL_S = 0.02
_START_S = 60.0


class Caller:
    """Somebody's client of a gateway. `session`: with connections to its socket. `token`: says whose."""

    def __init__(self, session: aiohttp.ClientSession, token: str) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"}

    async def call(self, method: str, path: str, **how: Any) -> bytes:
        """Return the body of an answer that is 200, as it came."""
        return await ask(self._session, method, f"http://localhost{path}", self._headers, **how)

    async def attach(self, name: str) -> dict[str, Any]:
        """Attach an agent; return what the gateway says of it."""
        attached: dict[str, Any] = json.loads(await self.call("POST", "/agents", json={"name": name}))
        return attached

    def with_token(self, token: str) -> "Caller":
        """Return the client of an agent."""
        return Caller(self._session, token)

    async def online(self) -> frozenset[str]:
        """Return who is online, as `GET /who` says."""
        answer = json.loads(await self.call("GET", "/who"))
        return frozenset(agent["name"] for agent in answer["agents"] if agent["status"] == "online")

    async def wait_answers(self, *, with_space: bool) -> None:
        """Return when the daemon answers, or has its Space, without having it ask the homeserver anything."""
        async with asyncio.timeout(_START_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    if not json.loads(await self.call("GET", "/who"))["unavailable"] or not with_space:
                        return
                await asyncio.sleep(_POLL_S)

    async def wait_online(self, names: frozenset[str]) -> None:
        """Return when these are online."""
        async with asyncio.timeout(_START_S):
            while not names <= await self.online():  # noqa: ASYNC110 - another process knows it
                await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def asking(bench: Bench) -> AsyncIterator[Caller]:
    """Give the operator's client of the daemon's gateway, which outlives its restarts."""
    async with keeping(bench) as session:
        yield Caller(session, bench.api.token)
