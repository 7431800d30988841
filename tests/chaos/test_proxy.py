"""Each kind of fault really happens, and outside of a phase nothing does."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.chaos.faults import Kind, Phase
from tests.chaos.proxy import Proxy, running_proxy

SOON_S = 10.0
ANSWER = {"event_id": "$event", "of": "the homeserver"}


class Upstream:
    """What is behind the proxy. `taken`: path and body of what came in; it answers while `open` is set."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.hung_up = asyncio.Event()
        self.arrived = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.status = 200

    async def handle(self, request: web.Request) -> web.Response:
        self.taken.append((f"{request.method} {request.raw_path}", (await request.read()).decode()))
        self.arrived.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        return web.json_response(ANSWER, status=self.status, headers={"Retry-After": "7", "X-Had": "yes"})


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncIterator[Proxy]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    async with TestServer(app) as server, running_proxy(str(server.make_url("")).rstrip("/")) as running:
        yield running
        upstream.open.set()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SOON_S)) as session:
        yield session


def phase(kind: Kind, *, seed: int = 1) -> Phase:
    return Phase(kind, "requests", 1.0, 1.0, seed)


async def post(http: aiohttp.ClientSession, proxy: Proxy, body: str = "{}", path: str = "/a") -> tuple[int, bytes]:
    """POST, which aiohttp never repeats by itself."""
    async with http.post(proxy.url + path, data=body) as response:
        return response.status, await response.read()


async def until_taken(upstream: Upstream, count: int) -> None:
    async with asyncio.timeout(SOON_S):
        while True:
            if len(upstream.taken) >= count:
                return
            await asyncio.sleep(0.01)


async def test_without_a_phase_all_is_passed_on_as_it_is(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    path = "/rooms/%21a%2Fb%3Ac?filter=%7B%22x%22%3A1%7D&user_id=%40a%3Ab"
    upstream.status = 418
    async with http.put(URL(proxy.url + path, encoded=True), data='{"body": "ä"}') as response:
        assert (response.status, await response.json()) == (418, ANSWER)
        assert (response.headers["X-Had"], response.headers["Retry-After"]) == ("yes", "7")
    assert upstream.taken == [(f"PUT {path}", '{"body": "ä"}')]
    assert proxy.hits.total() == 0


async def test_a_client_that_hangs_up_on_a_long_poll_is_passed_on(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    upstream.open.clear()
    poll = asyncio.create_task(post(http, proxy))
    await upstream.arrived.wait()
    poll.cancel()
    async with asyncio.timeout(SOON_S):
        await upstream.hung_up.wait()


async def test_an_upstream_that_is_not_there_is_a_cut(http: aiohttp.ClientSession) -> None:
    async with running_proxy("http://127.0.0.1:1") as proxy:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(http, proxy)


@pytest.mark.parametrize(("kind", "taken"), [(Kind.CUT_BEFORE, 0), (Kind.CUT_AFTER, 1), (Kind.TRUNCATED, 1)])
async def test_a_connection_is_cut(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession, kind: Kind, taken: int
) -> None:
    with proxy.failing(phase(kind)):
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await post(http, proxy)
        assert (len(upstream.taken), proxy.hits) == (taken, {kind: 1})
        assert proxy.struck.is_set()
    assert (await post(http, proxy))[0] == 200


async def test_a_cut_in_the_answer_comes_after_half_of_it(proxy: Proxy, http: aiohttp.ClientSession) -> None:
    with proxy.failing(phase(Kind.TRUNCATED)):
        async with http.post(proxy.url) as response:
            assert response.status == 200
            assert await response.content.readany() == json.dumps(ANSWER).encode()[: len(json.dumps(ANSWER)) // 2]
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_an_answer_is_no_json(proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession) -> None:
    seen = set()
    with proxy.failing(phase(Kind.MALFORMED)):
        for _ in range(20):
            status, body = await post(http, proxy)
            assert status == 200
            with pytest.raises(ValueError, match=r"."):
                json.loads(body)
            seen.add(body)
    assert (len(seen), len(upstream.taken)) == (2, 20)


@pytest.mark.parametrize(
    ("kind", "in_body", "in_header"),
    [(Kind.LIMITED_BODY, True, False), (Kind.LIMITED_HEADER, False, True), (Kind.LIMITED_BARE, False, False)],
)
async def test_the_rate_is_limited(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession, kind: Kind, in_body: bool, in_header: bool
) -> None:
    with proxy.failing(phase(kind)):
        async with http.post(proxy.url) as response:
            answer = await response.json()
    assert (response.status, answer["errcode"], upstream.taken) == (429, "M_LIMIT_EXCEEDED", [])
    assert ("retry_after_ms" in answer, "Retry-After" in response.headers) == (in_body, in_header)


@pytest.mark.parametrize(("kind", "taken"), [(Kind.ERROR_BEFORE, 0), (Kind.ERROR_AFTER, 20)])
async def test_the_server_fails(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession, kind: Kind, taken: int
) -> None:
    with proxy.failing(phase(kind)):
        statuses = {(await post(http, proxy))[0] for _ in range(20)}
    assert (statuses, len(upstream.taken)) == ({500, 502, 503, 504}, taken)


async def test_a_request_is_late(proxy: Proxy, http: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with proxy.failing(phase(Kind.DELAY)):
        assert (await post(http, proxy))[0] == 200
    assert loop.time() - began > 0.19


async def test_a_half_open_connection_says_nothing_until_the_phase_is_over_also_where_it_stood_before(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    upstream.open.clear()
    before = asyncio.create_task(post(http, proxy))
    await upstream.arrived.wait()
    with proxy.failing(phase(Kind.HALF_OPEN)):
        during = asyncio.create_task(post(http, proxy))
        await proxy.struck.wait()
        upstream.open.set()
        done, _ = await asyncio.wait([before, during], timeout=0.3)
        assert not done
    for ended in await asyncio.gather(before, during, return_exceptions=True):
        assert isinstance(ended, aiohttp.ServerDisconnectedError)
    assert len(upstream.taken) == 1


async def test_a_transaction_is_delivered_twice(proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession) -> None:
    with proxy.failing(phase(Kind.DUPLICATED)):
        assert (await post(http, proxy, "one"))[0] == 200
    assert [body for _, body in upstream.taken] == ["one", "one"]


async def test_a_transaction_is_delivered_after_later_ones(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    with proxy.failing(phase(Kind.REORDERED)):
        assert await post(http, proxy, "held") == (200, b"{}")
        assert (upstream.taken, proxy.owed) == ([], 1)
        later = 0
        while proxy._held is not None:
            await post(http, proxy, "later")
            later += 1
        await until_taken(upstream, later + 1)
    assert [body for _, body in upstream.taken] == ["later"] * later + ["held"]
    assert 1 <= later <= 6


async def test_a_transaction_that_is_held_is_delivered_in_the_end_and_until_it_is_taken(
    proxy: Proxy, upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    upstream.status = 503
    with proxy.failing(phase(Kind.REORDERED)):
        await post(http, proxy, "one")
    await until_taken(upstream, 2)
    assert proxy.owed == 1
    upstream.status = 200
    async with asyncio.timeout(SOON_S):
        while True:
            if not proxy.owed:
                break
            await asyncio.sleep(0.01)
    assert {body for _, body in upstream.taken} == {"one"}
