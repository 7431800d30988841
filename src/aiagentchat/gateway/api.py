"""The gateway as an aiohttp application: listens, checks every request, and turns errors into problems.

Every request carries a credential, on the unix socket too. An unexpected `Host`, or any `Origin`, is refused: a page
in the person's browser is no client.
"""

import asyncio
import ipaddress
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ValidationError

from aiagentchat.agents.service import AgentService
from aiagentchat.config import SOCKET_PATH_LIMIT, UNIX, ensure_private_dir
from aiagentchat.errors import (
    AiAgentChatError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    TooFastError,
    UnauthenticatedError,
)
from aiagentchat.figures import Histogram
from aiagentchat.gateway.credentials import Credentials
from aiagentchat.gateway.forms import BODY_LIMIT_BYTES, FORM, body_too_large, read_form, read_json
from aiagentchat.gateway.openapi import render_openapi
from aiagentchat.gateway.pace import Pace
from aiagentchat.gateway.routes import ROUTES
from aiagentchat.gateway.routing import Call, Caller, Route
from aiagentchat.gateway.schemas import HealthAnswer, Problem, ReadAnswer, SentAnswer
from aiagentchat.gateway.sse import Streams, internal_error
from aiagentchat.model import BYTES, AgentName, parse_agent_name, transfer_s, visible

log = logging.getLogger(__name__)

_FILES_AT_ONCE = 4
"""Files that are in memory at a time."""
_HOSTS_OF_SOCKET = frozenset({"localhost", "aiagentchat"})


class Gateway:
    """The local API of one daemon.

    Args:
        server_name: of the homeserver. deadline_s: seconds after which a request that does not wait on purpose fails.
        file_limit_bytes: for each file. health, metrics: what those two routes answer. timings: of
        requests that do not wait on purpose, by route. stalled: says why messages do
        not arrive, "" where they do. pace: how fast one agent may go.
    """

    def __init__(
        self,
        service: AgentService,
        credentials: Credentials,
        *,
        server_name: str,
        health: Callable[[], Awaitable[HealthAnswer]],
        metrics: Callable[[], Awaitable[str]],
        timings: defaultdict[str, Histogram],
        stalled: Callable[[], str],
        deadline_s: float,
        file_limit_bytes: int,
        pace: Pace,
    ) -> None:
        self.service = service
        self.server_name = server_name
        self.credentials = credentials
        self.health = health
        self.stalled = stalled
        self.metrics = metrics
        self._timings = timings
        self.deadline_s = deadline_s
        self._file_limit_bytes = file_limit_bytes
        self._pace = pace
        self._file_slots = asyncio.Semaphore(_FILES_AT_ONCE)
        self.streams = Streams()
        self.openapi = render_openapi(ROUTES)
        self._hosts = set(_HOSTS_OF_SOCKET)
        self._sockets: list[Path] = []
        app = web.Application(middlewares=[self._problems], client_max_size=BODY_LIMIT_BYTES)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._handler(route))
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)

    async def start(self, socket: Path, listen: str = "") -> str:
        """Listen on the socket (mode 0600), and where `listen` says, if anywhere; return that TCP address, or "".

        A second socket is for other users too: it has mode 0666, and its directory decides who comes to it.

        Raises:
            InvalidRequestError: `listen` is no loopback address. OSError: it is taken.
        """
        address = parse_listen(listen) if listen else None
        ensure_private_dir(socket.parent)
        await self._runner.setup()
        try:
            await self._listen_on_socket(socket, 0o600)
            if isinstance(address, Path):
                await self._listen_on_socket(address, 0o666)
                return listen
            return "" if address is None else await self._listen_on_tcp(*address)
        except BaseException:
            await self.stop()
            raise

    async def _listen_on_tcp(self, host: str, port: int) -> str:
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        assert site._server is not None  # noqa: SLF001 - aiohttp tells a port that was 0 nowhere else
        bound = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # noqa: SLF001
        self._hosts |= {f"{name}:{bound}" for name in ("localhost", "127.0.0.1", "[::1]")}
        return f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"

    async def _listen_on_socket(self, socket: Path, mode: int) -> None:
        # Bound under another name and moved into place: it is never there with other rights, nor refused while an
        # old one is replaced. That name is no longer than the socket's own, since paths of sockets are limited.
        temporary = socket.with_name(f".{os.getpid()}")
        temporary.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(temporary)).start()
        finally:
            os.umask(before)
        temporary.chmod(mode)
        temporary.rename(socket)
        self._sockets.append(socket)

    async def stop(self) -> None:
        """End the streams and stop listening."""
        self.streams.close()
        await self._runner.cleanup()
        for socket in self._sockets:
            socket.unlink(missing_ok=True)

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            caller = self.authenticate(request)
            query = _validate(route.query, dict(request.query)) if route.query is not None else None
            has_form = route.takes_file and request.content_type == FORM
            most = self._file_limit_bytes if has_form or route.media_type == BYTES else 0
            size = min(most, request.content_length or most) if has_form else most
            limit_s = self._limit_s(route, query, size)
            began = time.monotonic()
            try:
                turn = self._turn(route, query, caller)
                async with self.within(limit_s), turn, self._file_slots if size else nullcontext():
                    body, file = None, None
                    if has_form:
                        body, file = await read_form(request, self._file_limit_bytes)
                    elif route.body is not None:
                        body = await read_json(request)
                    checked = None if route.body is None else _validate(route.body, body)
                    if caller.agent is not None and route.path != "/agents":
                        await self._note_presence(caller, caller.agent)
                    call = Call(self, caller, request, query, checked, file)
                    answer = await route.handler(call)
                    if isinstance(answer, ReadAnswer | SentAnswer) and answer.messages:
                        self._authenticate_again(call)
            finally:
                if not (route.waits and getattr(query, "wait", None) != 0):
                    self._timings[f"{route.method} {route.path}"].observe(time.monotonic() - began)
            if isinstance(answer, BaseModel):
                return web.Response(
                    body=answer.__pydantic_serializer__.to_json(answer), content_type="application/json"
                )
            return answer

        return handle

    @asynccontextmanager
    async def within(self, limit_s: float | None) -> AsyncIterator[None]:
        """Bound what is done in it, by seconds; None: by none.

        Raises:
            DeadlineExceededError: it was not done in time.
        """
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise DeadlineExceededError(f"not done within {limit_s:g} s; it may still take effect") from None

    @asynccontextmanager
    async def _turn(self, route: Route, query: BaseModel | None, caller: Caller) -> AsyncIterator[None]:
        """Let an agent's request in as `Pace` does where the homeserver has to work for it."""
        if caller.agent is None or not (route.is_work or getattr(query, "before", None) is not None):
            yield
        elif getattr(query, "wait", 0.0):
            await self._pace.count(caller.agent)
            yield
        else:
            async with self._pace.turn(caller.agent):
                yield

    def _limit_s(self, route: Route, query: BaseModel | None, size: int) -> float | None:
        """Return seconds that the request may take, with so many bytes of a file; None: as long as it stands."""
        if not route.waits:
            return self.deadline_s + 2 * transfer_s(size)  # to here and on
        wait_s: float | None = getattr(query, "wait", None)
        return None if wait_s is None else self.deadline_s + wait_s

    def _authenticate_again(self, call: Call) -> None:
        """Refuse a call whose credential has ended while it waited: what came since is another's to read."""
        try:
            self.authenticate(call.request)
        except UnauthenticatedError:
            if call.caller.agent is not None:
                self.service.take_back(call.caller.agent, reader_id=call.reader_id)
            raise

    def authenticate(self, request: web.Request) -> Caller:
        """Return who calls.

        Raises:
            RefusedError, UnauthenticatedError: the request is not taken, or no more: its credential ended meanwhile.
        """
        if "Origin" in request.headers or request.headers.get("Host", "") not in self._hosts:
            raise RefusedError("requests with an Origin, or for another Host, are refused")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise UnauthenticatedError("a request needs a credential", hint="send it as 'Authorization: Bearer …'")
        holder = self.credentials.verify(token)
        acting_as = request.headers.get("AIAgentChat-As", "")
        if holder.agent is None:
            agent = parse_agent_name(acting_as) if acting_as else None
        elif acting_as not in ("", holder.agent):
            raise RefusedError(f"this credential is {holder.agent}'s and cannot act as {visible(acting_as)[:80]}")
        else:
            agent = holder.agent
        return Caller(agent, is_operator=holder.agent is None)

    async def _note_presence(self, caller: Caller, agent: AgentName) -> None:
        """The agent did something, which renews its timed session. The operator acts as no agent that is not there."""
        if caller.is_operator:
            await self.service.require_agent(agent)
        if self.credentials.is_detached(agent):
            self.service.touch(agent)

    @web.middleware
    async def _problems(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except AiAgentChatError as error:
            return _problem(error)
        except web.HTTPRequestEntityTooLarge:
            return _problem(body_too_large())
        except web.HTTPNotFound:
            return _problem(NotFoundError("there is no such route", hint="GET /openapi.json lists them"))
        except web.HTTPException as error:
            return _problem(InvalidRequestError(error.reason or "the request cannot be taken"), status=error.status)
        except ConnectionResetError:  # the client went away in the middle of an answer
            raise
        except Exception:  # the supervisor of handlers: a fault in one request must not end the daemon
            log.exception("a request failed: %s %s", request.method, request.path)
            return _problem(internal_error())


def parse_listen(listen: str) -> tuple[str, int] | Path:
    """Return host and port of `HOST:PORT`, or the path of `unix:PATH`.

    Raises:
        InvalidRequestError: it is something else, or not a loopback address.
    """
    if listen.startswith(UNIX):
        path = Path(listen.removeprefix(UNIX))
        if not path.is_absolute() or not path.parent.is_dir() or len(str(path).encode()) > SOCKET_PATH_LIMIT:
            raise InvalidRequestError(
                f"listen = {listen!r} is no socket in a directory that is there, or its path is too long",
                hint="for example unix:/run/aiagentchat/gateway.sock",
            )
        return path
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidRequestError(f"listen = {listen!r} is not HOST:PORT", hint="for example 127.0.0.1:7480")
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise InvalidRequestError(f"listen = {listen!r} is not a loopback address", hint="use 127.0.0.1:PORT")
    return host, int(port)


def _validate(model: type[BaseModel], data: Any) -> BaseModel:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise InvalidRequestError(f"{visible(where)[:100]}: {first['msg']}", hint="see GET /openapi.json") from None


def _problem(error: AiAgentChatError, *, status: int | None = None) -> web.Response:
    problem = Problem.of(error, status=status)
    headers = {"Retry-After": str(math.ceil(error.wait_s))} if isinstance(error, TooFastError) else {}
    return web.Response(
        body=problem.model_dump_json(),
        status=problem.status,
        content_type="application/problem+json",
        headers=headers,
    )
