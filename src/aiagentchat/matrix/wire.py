"""`Wire`: one request to a homeserver, until it succeeds, fails for good, or its deadline passes.

Retry lives here alone. `matrix.client` adds a method for each endpoint. Views of one client share connections, write
queues and statistics.
"""

import asyncio
import io
import json
import math
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, cast
from urllib.parse import quote, urlencode
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from aiagentchat.errors import (
    FileTooLargeError,
    HomeserverUnavailableError,
    InvalidRequestError,
    MatrixError,
    MatrixUnauthorizedError,
    RateLimitedError,
)
from aiagentchat.matrix.retry import Transient, backoff_s, classify, parse_http_date
from aiagentchat.matrix.server_clock import ServerClock
from aiagentchat.model import UserId

Json = Any
_DEVICE_PARAMETERS = ("device_id", "org.matrix.msc3202.device_id")  # an older Synapse has but the second

_AT_ONCE_BYTES = 512 * 1024
"""A larger body is written in parts, so that nothing else waits for it."""


@dataclass(slots=True)
class ClientStats:
    """What happened on the wire, for health and metrics. Times are of the local monotonic clock.

    `breaks`: requests that found no homeserver: no connection, one without an answer, or 502, 503 or 504. `limits`:
    answers that asked to wait, because the homeserver limits the rate. `writes_waiting`: now, for others to their room.
    """

    requests: int = 0
    retries: int = 0
    breaks: int = 0
    limits: int = 0
    writes_waiting: int = 0
    last_limit_at: float | None = None
    last_success_at: float | None = None
    last_failure: str = ""
    clock: ServerClock = field(default_factory=ServerClock)


@dataclass(slots=True)
class Shared:
    """What all views of one client have in common."""

    session: aiohttp.ClientSession
    jitter: random.Random
    stats: ClientStats = field(default_factory=ClientStats)
    writes: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)


@dataclass(frozen=True, slots=True)
class _Call:
    """One request as it goes out, the same at every attempt. `shape`: of the answer's JSON; bytes: it is none.

    `most_bytes`: of an answer that is no JSON.
    """

    method: str
    url: URL
    data: bytes | bytearray | None
    content_type: str
    what: str
    shape: type
    most_bytes: int


class AccessToken(Protocol):
    """An access token that may be renewed while it is in use."""

    @property
    def value(self) -> str:
        """The token as it is now."""
        ...

    async def renew(self, refused: str) -> bool:
        """Say whether there is another token now than the one that the homeserver refused, got if need be."""
        ...


@dataclass(frozen=True, slots=True)
class _FixedToken:
    value: str = field(repr=False)

    async def renew(self, refused: str) -> bool:
        return self.value != refused


class Wire:
    """One identity's requests to a homeserver.

    Args:
        base_url: the homeserver, `http://127.0.0.1:8008`.
        access_token: of an account, or an application service's `as_token`; "": for what needs none. One that can be
            renewed is, once a request, when it is refused.
        session: connections; the caller closes it.
        timeout_s: the deadline of each request, waits and retries included.
        user_id: with an `as_token`, whom to act as; None: the application service's own user.
        device_id: the fixed device of that user. Without it Synapse forgets transaction ids when it restarts.

    Every method raises `HomeserverUnavailableError` when the deadline passes (`RateLimitedError` when a 429 asks
    for more than is left), and a `MatrixError` for an answer that a retry does not mend.
    """

    def __init__(
        self,
        base_url: str,
        access_token: str | AccessToken,
        session: aiohttp.ClientSession,
        *,
        timeout_s: float = 30.0,
        user_id: UserId | None = None,
        device_id: str | None = None,
        jitter: random.Random | None = None,
        _shared: Shared | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._token = _FixedToken(access_token) if isinstance(access_token, str) else access_token
        self._timeout_s = timeout_s
        self._user_id = user_id
        self._device_id = device_id
        self._shared = _shared or Shared(session, jitter or random.Random())

    @property
    def stats(self) -> ClientStats:
        return self._shared.stats

    def server_now_ms(self) -> int:
        """Return the homeserver's clock in milliseconds, as its answers told it."""
        return int((time.time() + (self.stats.clock.offset_s or 0.0)) * 1000)

    def server_earliest_ms(self) -> int:
        """Return the earliest that the homeserver's clock can show now: what is stored from now on is not before it."""
        return int((time.time() + (self.stats.clock.least_offset_s or 0.0)) * 1000)

    @asynccontextmanager
    async def _turn(self, room: str | None, deadline: float, what: str) -> AsyncIterator[None]:
        """Writes to one room go one after the other: concurrent ones fork the room and slow it from then on."""
        if room is None:
            yield
            return
        lock = self._shared.writes.setdefault(room, asyncio.Lock())
        self.stats.writes_waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise HomeserverUnavailableError(
                f"{what} was not sent: earlier writes to the room took until the deadline", hint="try again later"
            ) from None
        finally:
            self.stats.writes_waiting -= 1
        try:
            yield
        finally:
            lock.release()

    def _url(self, path: tuple[str, ...], query: Mapping[str, str], *, with_device: bool) -> URL:
        identity = {}
        if self._user_id is not None:
            identity["user_id"] = str(self._user_id)
            if self._device_id is not None and with_device:
                identity |= dict.fromkeys(_DEVICE_PARAMETERS, self._device_id)
        encoded = "/".join(quote(segment, safe="") for segment in path)
        parameters = urlencode({**query, **identity})
        return URL(f"{self._base_url}/{encoded}" + (f"?{parameters}" if parameters else ""), encoded=True)

    async def _request(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Json] | bytes | bytearray | None = None,
        content_type: str = "application/json",
        extra_s: float = 0.0,
        with_device: bool = True,
        shape: type = dict,
        most_bytes: int = 0,
        writes_to: str | None = None,
    ) -> dict[str, Json]:
        """Do one request until it succeeds, fails for good, or the deadline passes.

        Args:
            body: JSON, or bytes of the `content_type`. extra_s: seconds beyond the deadline that the server was asked
            to take. shape: of the answer's JSON; bytes: it is none, and has at most `most_bytes`. writes_to: the room
            whose other writes have to wait.

        aiohttp by itself repeats a GET, PUT or DELETE once when a connection breaks: the same bytes to the same URL,
        within the deadline.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_s + extra_s
        what = f"{method} {'/'.join(path[3:] or path[-1:])}"
        try:
            url = self._url(path, query or {}, with_device=with_device)
            data = body if body is None or isinstance(body, bytes | bytearray) else _render(body)
        except UnicodeEncodeError:
            raise InvalidRequestError("half a surrogate pair is no text that can be sent") from None
        async with self._turn(writes_to, deadline, what):
            call = _Call(method, url, data, content_type, what, shape, most_bytes)
            answer = await self._until_answered(call, deadline)
        return cast("dict[str, Json]", answer)  # its shape was checked

    async def _until_answered(self, call: _Call, deadline: float) -> Json:
        loop = asyncio.get_running_loop()
        attempt = 0
        renewed = False
        while True:
            token = self._token.value
            verdict, answer = await self._attempt(call, token, deadline - loop.time())
            if isinstance(verdict, MatrixUnauthorizedError) and not renewed and await self._token.renew(token):
                renewed = True
                continue
            if not isinstance(verdict, Transient):
                self.stats.last_success_at = loop.time()
                self.stats.last_failure = ""
                if verdict is not None:
                    raise verdict
                return answer
            if verdict.limited:
                self.stats.limits += 1
                self.stats.last_limit_at = loop.time()
            wait_s = backoff_s(attempt, self._shared.jitter) if verdict.wait_s is None else verdict.wait_s
            if loop.time() + wait_s >= deadline:
                self._give_up(verdict, wait_s, call.what)
            self.stats.retries += 1
            attempt += 1
            await asyncio.sleep(wait_s)

    def _give_up(self, verdict: Transient, wait_s: float, what: str) -> NoReturn:
        if verdict.limited:
            raise RateLimitedError(
                f"the homeserver limits the rate of {what} and asks to wait {wait_s:.1f} s, past the deadline",
                hint="try again later, or raise the account's rate limit on the homeserver",
            )
        self.stats.last_failure = verdict.reason
        raise HomeserverUnavailableError(
            f"the homeserver at {self._base_url} did not answer {what} in time: {verdict.reason}",
            hint="see 'cchat status' for what is wrong",
        )

    async def _attempt(self, call: _Call, token: str, left_s: float) -> tuple[Transient | MatrixError | None, Json]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if call.data is not None:
            headers["Content-Type"] = call.content_type
        # to the instant: by itself it rounds what is over 5 s up to a whole second, behind the caller's own deadline
        timeout = aiohttp.ClientTimeout(total=max(left_s, 0.001), sock_connect=10, ceil_threshold=math.inf)
        self.stats.requests += 1
        asked_at_s = time.time()
        try:
            data = io.BytesIO(call.data) if call.data and len(call.data) > _AT_ONCE_BYTES else call.data
            async with self._shared.session.request(
                call.method, call.url, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await _read(response, call)
                status, answer_headers = response.status, response.headers
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.stats.breaks += 1
            return Transient(None, f"{type(error).__name__}: {error}".rstrip(": ")), None
        date_s = parse_http_date(answer_headers.get("Date", ""))
        if date_s is not None:
            self.stats.clock.note(date_s, asked_at_s=asked_at_s, answered_at_s=time.time())
        if call.shape is bytes and status == 200:
            return None, raw
        answer = _parse(raw)
        if not isinstance(answer, call.shape) and 200 <= status < 300:
            return Transient(None, f"HTTP {status} with a malformed body"), None
        verdict = classify(status, answer_headers, answer, request=call.what)
        if call.shape is bytes and isinstance(verdict, Transient) and not verdict.limited:
            return MatrixError(status, "M_UNKNOWN", verdict.reason, request=call.what), None  # of this file alone
        if isinstance(verdict, Transient) and not verdict.limited:
            self.stats.breaks += 1  # a proxy answers for a homeserver that is away
        return verdict, answer


async def _read(response: aiohttp.ClientResponse, call: _Call) -> bytes:
    """Return what an answer holds, unpacked. Raises `FileTooLargeError` as soon as it is more than may come."""
    if call.shape is not bytes or response.status != 200:
        return await response.read()
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > call.most_bytes:
            raise FileTooLargeError(
                f"the file is larger than {call.most_bytes:,} bytes, and was not fetched",
                hint="AIAGENTCHAT_FILE_LIMIT sets the limit",
            )
    return bytes(raw)


def _render(body: Mapping[str, Json]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _parse(raw: bytes) -> Json:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
