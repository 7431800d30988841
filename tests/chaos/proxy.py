"""A reverse proxy that fails as a phase of the plan says. One stands on each way between daemon and homeserver.

Outside of a phase it passes everything on unchanged, long polls as well, and a client's hanging up.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.chaos.faults import Hit, Kind, Phase, Storm

_OF_ONE_CONNECTION = ("Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Host", "Expect")
_LIMITED = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests"}
_AGAIN_S = 0.2
_BODY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: CIMultiDict[str]
    body: bytes


class _CutError(Exception):
    """The connection to who asks is cut. `sent`: what of an answer goes out before."""

    def __init__(self, sent: _Answer | None = None) -> None:
        super().__init__()
        self.sent = sent


class Proxy:
    """Listens at `url`, asks `upstream`.

    `hits`: how often each kind of fault happened. `struck`: set once the phase has hit something.
    `owed`: transactions that were answered and not delivered yet.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self.upstream = upstream
        self.url = ""
        self.hits: Counter[Kind] = Counter()
        self.struck = asyncio.Event()
        self._session = session
        self._storm: Storm | None = None
        self._over = asyncio.Event()
        self._held: tuple[_Request, int] | None = None
        self._delivering: set[asyncio.Task[None]] = set()

    @property
    def owed(self) -> int:
        return len(self._delivering) + (self._held is not None)

    @contextlib.contextmanager
    def failing(self, phase: Phase) -> Iterator[None]:
        """Fail for as long as the context lasts."""
        self._over.clear()
        self.struck.clear()
        self._storm = Storm(phase)
        try:
            yield
        finally:
            self._storm = None
            self._over.set()
            self._deliver_held()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        try:
            answer = await self._answer(_received(request, await request.read()))
        except _CutError as cut:
            return await _cut(request, cut.sent)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    def _strike(self) -> Hit | None:
        hit = None if self._storm is None else self._storm.strike()
        if hit is not None:
            self.hits[hit.kind] += 1
            self.struck.set()
        return hit

    async def _answer(self, request: _Request) -> _Answer:
        if self._held is not None:
            return await self._overtake(request, *self._held)
        hit = self._strike()
        if hit is None:
            return await self._pass_on(request)
        match hit.kind:
            case Kind.DELAY:
                await asyncio.sleep(hit.wait_ms / 1000)
                return await self._pass_on(request)
            case Kind.CUT_BEFORE:
                raise _CutError
            case Kind.HALF_OPEN:
                await self._over.wait()
                raise _CutError
            case Kind.LIMITED_BODY | Kind.LIMITED_HEADER | Kind.LIMITED_BARE:
                return _limited(hit)
            case Kind.ERROR_BEFORE:
                return _json(hit.status, {"errcode": "M_UNKNOWN", "error": "made up"})
            case Kind.REORDERED:
                self._held = (request, hit.later)
                return _json(200, {})  # from now on it is ours to deliver
        return await self._spoil(hit, await self._pass_on(request), request)

    async def _spoil(self, hit: Hit, answer: _Answer, request: _Request) -> _Answer:
        """Do what is done to a request that was taken."""
        match hit.kind:
            case Kind.DUPLICATED:
                return await self._pass_on(request)
            case Kind.ERROR_AFTER:
                return _json(hit.status, {"errcode": "M_UNKNOWN", "error": "made up"})
            case Kind.TRUNCATED:
                raise _CutError(answer)
            case Kind.MALFORMED:
                half = answer.body[: len(answer.body) // 2]
                return _Answer(200, answer.headers, half if hit.chance < 0.5 else b"<html>It works!</html>")
        raise _CutError

    async def _pass_on(self, request: _Request) -> _Answer:
        answer = await self._ask(request)
        if self._storm is not None and self._storm.phase.kind is Kind.HALF_OPEN:  # it began while this was under way
            self._strike()
            await self._over.wait()
            raise _CutError
        return answer

    async def _ask(self, request: _Request) -> _Answer:
        url = URL(self.upstream + request.path, encoded=True)
        try:
            async with self._session.request(
                request.method, url, data=request.body or None, headers=request.headers, allow_redirects=False
            ) as response:
                return _Answer(response.status, _kept(response.headers), await response.read())
        except aiohttp.ClientError:
            raise _CutError from None

    # --- transactions in another order

    async def _overtake(self, request: _Request, held: _Request, left: int) -> _Answer:
        """Deliver a later one first, and then what is held, if this was the last that was to come before it."""
        self._held = (held, left - 1)
        try:
            return await self._pass_on(request)
        finally:
            if left == 1:
                self._deliver_held()

    def _deliver_held(self) -> None:
        if self._held is not None:
            task = asyncio.create_task(self._deliver(self._held[0]))
            self._held = None
            self._delivering.add(task)
            task.add_done_callback(self._delivering.discard)

    async def _deliver(self, request: _Request) -> None:
        while True:
            with contextlib.suppress(_CutError):
                if (await self._ask(request)).status == 200:
                    return
            await asyncio.sleep(_AGAIN_S)

    async def stop(self) -> None:
        """Deliver nothing more."""
        for task in self._delivering:
            task.cancel()
        await asyncio.gather(*self._delivering, return_exceptions=True)


@contextlib.asynccontextmanager
async def running_proxy(upstream: str) -> AsyncIterator[Proxy]:
    """Run one on a free port of loopback."""
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        proxy = Proxy(upstream, session)
        app = web.Application(client_max_size=_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy.url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
            yield proxy
        finally:
            await proxy.stop()
            await runner.cleanup()


def _received(request: web.Request, body: bytes) -> _Request:
    return _Request(request.method, request.raw_path, _kept(request.headers), body)


def _kept(headers: "aiohttp.typedefs.LooseHeaders") -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict(headers)
    for name in _OF_ONE_CONNECTION:
        kept.popall(name, None)
    return kept


def _json(status: int, content: object, **headers: str) -> _Answer:
    typed = CIMultiDict({"Content-Type": "application/json"} | headers)
    return _Answer(status, typed, json.dumps(content).encode())


def _limited(hit: Hit) -> _Answer:
    if hit.kind is Kind.LIMITED_BODY:
        return _json(429, _LIMITED | {"retry_after_ms": hit.wait_ms})
    return _json(429, _LIMITED, **({"Retry-After": "1"} if hit.kind is Kind.LIMITED_HEADER else {}))


async def _cut(request: web.Request, sent: _Answer | None) -> web.StreamResponse:
    response = web.StreamResponse()
    if sent is not None:
        response = web.StreamResponse(status=sent.status, headers=sent.headers)
        response.content_length = len(sent.body)
        await response.prepare(request)
        await response.write(sent.body[: len(sent.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
