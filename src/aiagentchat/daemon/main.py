"""The daemon's wiring, in one place: builds every layer, runs the loops, and shuts down in order.

Appservice mode. The commands `cchat daemon` and `cchat up` call `run_daemon`.
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from aiagentchat.agents.heartbeat import Heartbeat
from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.mail import Mail, Speaker
from aiagentchat.agents.service import AgentService
from aiagentchat.agents.sessions import Sessions
from aiagentchat.config import Settings, read_private
from aiagentchat.daemon.health import Health, SystemInfo
from aiagentchat.errors import (
    AiAgentChatError,
    AlreadyRunningError,
    InvalidRequestError,
)
from aiagentchat.gateway.api import Gateway
from aiagentchat.gateway.credentials import Credentials
from aiagentchat.matrix.appservice import AppserviceReceiver, Registration, read_registration
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import EventSource
from aiagentchat.model import AgentName, RoomAlias, UserId
from aiagentchat.space.directory import Directory
from aiagentchat.space.manager import SpaceManager, SpaceSettings
from aiagentchat.space.names import Naming

log = logging.getLogger(__name__)

_PROBE_DEADLINE_S = 2.0
_GOODBYE_S = 2.0
_LONGEST_RETRY_S = 15.0


@dataclass(frozen=True, slots=True)
class Homeserver:
    """Where the homeserver is, and how the daemon is registered with it. `public_url` "": the same as `url`."""

    url: str
    server_name: str
    registration: Registration
    public_url: str = ""

    @property
    def shown_url(self) -> str:
        """What a person points Element to."""
        return self.public_url or self.url


@dataclass(frozen=True, slots=True)
class _Parts:
    """One daemon's layers, wired."""

    registration: Registration
    receiver: AppserviceReceiver
    client: MatrixClient
    manager: SpaceManager
    sessions: Sessions
    heartbeat: Heartbeat
    host: AgentHost
    health: Health
    gateway: Gateway


def find_homeserver(settings: Settings) -> Homeserver:
    """Return the configured homeserver: its URL, and the registration file.

    Raises:
        InvalidRequestError: something is missing; the hint says what to set.
    """
    path = settings.paths.homeserver / "registration.yaml"
    registration = read_registration(Path(settings.registration).expanduser() if settings.registration else path)
    if not settings.homeserver_url:
        raise InvalidRequestError(
            "no homeserver is configured", hint="'cchat up' starts one; for your own, set AIAGENTCHAT_HOMESERVER_URL"
        )
    if not _is_http_url(settings.homeserver_url):
        raise InvalidRequestError(
            f"{settings.homeserver_url!r} is no address of a homeserver",
            hint="AIAGENTCHAT_HOMESERVER_URL is like https://matrix.example.org",
        )
    return Homeserver(settings.homeserver_url, settings.server_name, registration)


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # no port, or no IPv6 address
        return False


async def run_daemon(
    settings: Settings,
    homeserver: Homeserver,
    *,
    stop: asyncio.Event,
    agents: tuple[AgentName, ...] = (),
    on_ready: Callable[[], Awaitable[None]] | None = None,
    on_waiting: Callable[[str], None] | None = None,
) -> None:
    """Run until `stop` is set, then shut down within 5 s. The caller holds the home's `DaemonLock`.

    Args:
        agents: online as long as the daemon runs. on_ready: called once, when the Space is there. on_waiting: told
            why it is not, before that, whenever the reason is another.

    The homeserver may be down, at the start or later: the daemon stays up, says so, and recovers by itself.

    Raises:
        InvalidRequestError: the configuration cannot be used. AlreadyRunningError: its place is taken.
    """
    async with _wired(settings, homeserver) as parts:
        work = asyncio.create_task(_run_loops(parts, agents, on_ready, on_waiting))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            await _shut_down(parts)
        finally:  # also when this task itself is cancelled: no loop outlives what it works on
            stopping.cancel()
            work.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
        if not work.cancelled() and (fault := work.exception()) is not None:
            raise fault


@asynccontextmanager
async def _wired(settings: Settings, homeserver: Homeserver) -> AsyncIterator[_Parts]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64), cookie_jar=aiohttp.DummyCookieJar())
        )
        naming = Naming(homeserver.server_name, homeserver.registration.sender_localpart)
        request_s = settings.deadline_s * 0.9  # so that the reason arrives before the gateway's own deadline
        client = MatrixClient(homeserver.url, homeserver.registration.as_token, session, timeout_s=request_s)
        probe = MatrixClient(homeserver.url, "", session, timeout_s=min(_PROBE_DEADLINE_S, request_s / 2))
        operator_id, operator_token = _operator(settings)
        operator = None if operator_id is None else client.with_token(operator_token)
        manager = SpaceManager(
            client,
            operator,
            naming,
            SpaceSettings(
                alias=RoomAlias(settings.space_alias),
                policy=settings.space_policy,
                operator=operator_id,
                people=tuple(UserId(person) for person in settings.people),
            ),
            Directory(naming, ttl_s=settings.directory_ttl_s),
        )
        sessions = Sessions(ttl_s=settings.session_ttl_s, server_now_ms=client.server_now_ms)
        host = AgentHost(manager, sessions, naming)
        heartbeat = Heartbeat(client, naming.daemon, sessions, lambda: manager.space_id, host.lost_track)
        receiver = AppserviceReceiver(homeserver.registration)
        info = SystemInfo(homeserver.shown_url, homeserver.server_name, str(operator_id or ""), "appservice")
        operator_probe = None if operator_id is None else probe.with_token(operator_token)
        health = Health(settings, info, host, heartbeat, receiver, probe, operator_probe)
        speaker = None if operator_id is None or operator is None else Speaker(operator_id, operator, None)
        gateway = Gateway(
            AgentService(host, Mail(host, speaker)),
            Credentials(settings.paths),
            health=health.report,
            metrics=health.metrics,
            deadline_s=settings.deadline_s,
        )
        stack.push_async_callback(receiver.stop)
        stack.push_async_callback(gateway.stop)
        health.listening = await _listen(receiver, gateway, settings, homeserver.registration)
        yield _Parts(
            homeserver.registration,
            receiver,
            client,
            manager,
            sessions,
            heartbeat,
            host,
            health,
            gateway,
        )


async def _listen(
    receiver: AppserviceReceiver, gateway: Gateway, settings: Settings, registration: Registration
) -> str:
    """Take events and requests from now on; return the gateway's TCP address, or ""."""
    try:
        await receiver.start()
    except OSError as error:
        raise AlreadyRunningError(
            f"{registration.url}, where the homeserver sends events, cannot be listened on: {error.strerror}",
            hint="one registration is for one daemon: does another run with it?",
        ) from None
    try:
        return await gateway.start(settings.paths.socket, settings.listen)
    except OSError as error:
        where = " and ".join(filter(None, (str(settings.paths.socket), settings.listen)))
        raise AlreadyRunningError(f"the gateway cannot listen on {where}: {error.strerror}") from None


def _operator(settings: Settings) -> tuple[UserId | None, str]:
    """Return the operator and the token of their device, where this home has one."""
    text = read_private(settings.paths.operator_device)
    if text is None:
        return None, ""
    try:
        device = json.loads(text)
        user_id, token = UserId(device["user_id"]), str(device["access_token"])
    except (ValueError, KeyError, TypeError):
        raise InvalidRequestError(
            f"{settings.paths.operator_device} cannot be read", hint="remove it; 'cchat up' makes it anew"
        ) from None
    return user_id, token


async def _run_loops(
    parts: _Parts,
    agents: tuple[AgentName, ...],
    on_ready: Callable[[], Awaitable[None]] | None,
    on_waiting: Callable[[str], None] | None,
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_take_events(parts.receiver, parts.host), name="events")
        group.create_task(parts.heartbeat.run_lease(), name="lease")
        group.create_task(parts.heartbeat.run_roster(), name="roster")
        group.create_task(_ping_until_answered(parts), name="ping")
        group.create_task(_keep_registered(parts, on_ready, on_waiting), name="registration")
        for agent in agents:
            parts.sessions.hold(agent)
            group.create_task(_boot_until_it_holds(parts, agent), name=f"boot {agent}")


async def _take_events(source: EventSource, host: AgentHost) -> None:
    async with aclosing(source.batches()) as batches:
        async for batch in batches:
            try:
                await host.take(batch)
            except Exception:  # the supervisor of events: one that we cannot handle must not stop all that follow
                log.exception("events could not be taken in")


async def _ping_until_answered(parts: _Parts) -> None:
    """Have the homeserver flush what it held back while the receiver was down; it would wait up to 512 s by itself."""
    async for _ in _retries():
        try:
            await parts.client.ping_appservice(parts.registration.id)
        except AiAgentChatError as error:
            parts.health.ping_failure = error.message
        else:
            parts.health.ping_failure = ""
            return


async def _keep_registered(
    parts: _Parts, on_ready: Callable[[], Awaitable[None]] | None, on_waiting: Callable[[str], None] | None
) -> None:
    """Find or create the Space, then list whoever could not be listed; each until it holds."""
    told = ""
    async for _ in _retries():
        if await _ensure_space(parts):
            break
        if on_waiting is not None and parts.manager.unavailable != told:
            told = parts.manager.unavailable
            on_waiting(told)
    if on_ready is not None:
        await on_ready()
    while True:
        await parts.host.pending_changed.wait()
        parts.host.pending_changed.clear()
        async for _ in _retries():
            if await parts.host.register_pending():
                break


async def _ensure_space(parts: _Parts) -> bool:
    try:
        await parts.manager.find_or_create_space()
        await parts.host.add_broadcast()
    except AiAgentChatError as error:
        log.warning("the Space is not to be had: %s", error.message)
    else:
        parts.sessions.changed.set()  # a roster from before a crash is replaced, even by an empty one
        await parts.host.register_pending()
        return True
    return False


async def _boot_until_it_holds(parts: _Parts, agent: AgentName) -> None:
    parts.health.boot_failures[agent] = "it is being booted"
    async for _ in _retries():
        try:
            await parts.host.boot(agent)
        except AiAgentChatError as error:
            log.warning("%s is not up: %s", agent, error.message)
            parts.health.boot_failures[agent] = error.message
        else:
            parts.health.boot_failures.pop(agent, None)
            return


async def _retries() -> AsyncIterator[None]:
    """Yield at once, and then after growing waits, for as long as the caller goes on."""
    wait_s = 0.5
    while True:
        yield
        await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
        wait_s = min(_LONGEST_RETRY_S, wait_s * 2)


async def _shut_down(parts: _Parts) -> None:
    """End streams and sessions, and say goodbye on the homeserver if it answers soon."""
    await parts.gateway.stop()
    try:
        async with asyncio.timeout(_GOODBYE_S):
            await parts.heartbeat.resign()
    except (TimeoutError, AiAgentChatError):
        log.warning("the homeserver did not take the goodbye; the lease lapses by itself")
