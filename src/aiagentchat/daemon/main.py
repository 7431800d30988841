"""The daemon's wiring, in one place: builds every layer, runs the loops, and shuts down in order.

With an application service or with ordinary accounts: above the wiring nothing knows. The commands `cchat daemon` and
`cchat up` call `run_daemon`.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp

from aiagentchat import __version__
from aiagentchat.agents.asides import Asides
from aiagentchat.agents.commands import Commands
from aiagentchat.agents.files import Files
from aiagentchat.agents.heartbeat import Heartbeat
from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.intake import Intake
from aiagentchat.agents.janitor import Janitor
from aiagentchat.agents.loops import LoopLimits, Loops
from aiagentchat.agents.mail import Mail
from aiagentchat.agents.onlooker import Onlooker
from aiagentchat.agents.overview import Overview
from aiagentchat.agents.past import Past, Speaker
from aiagentchat.agents.people import People
from aiagentchat.agents.room_check import RoomCheck
from aiagentchat.agents.room_order import RoomOrder
from aiagentchat.agents.service import AgentService
from aiagentchat.agents.sessions import Sessions
from aiagentchat.agents.sidebar import Sidebar
from aiagentchat.config import Paths, Settings
from aiagentchat.daemon.accounts import AccountClients, AccountStore
from aiagentchat.daemon.endpoints import missing_endpoints
from aiagentchat.daemon.health import Health, SystemInfo
from aiagentchat.daemon.metrics import Metrics
from aiagentchat.daemon.retries import retries
from aiagentchat.daemon.service_manager import ServiceManager
from aiagentchat.daemon.target import Homeserver
from aiagentchat.daemon.transports import AgentsInTurn, PollTransport, PushTransport, Transport
from aiagentchat.daemon.watch import Watch
from aiagentchat.errors import AiAgentChatError, AlreadyRunningError
from aiagentchat.gateway.api import Gateway
from aiagentchat.gateway.credentials import Credentials
from aiagentchat.gateway.pace import Pace
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import EventSource, RoomEvent
from aiagentchat.matrix.probe import Probe
from aiagentchat.matrix.sync import LatestMessages, Witness
from aiagentchat.model import AgentName, Message, RoomAlias, RoomId, UserId, one_line, server_of
from aiagentchat.space.directory import Directory
from aiagentchat.space.identities import AccountIdentities, AppserviceIdentities, Identities
from aiagentchat.space.layout import Layout, SpaceSettings
from aiagentchat.space.manager import SpaceManager
from aiagentchat.space.names import AccountNames, Naming
from aiagentchat.space.people import Person

log = logging.getLogger(__name__)

_PROBE_DEADLINE_S = 2.0
_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class _Parts:
    """One daemon's layers, wired."""

    transport: Transport
    manager: SpaceManager
    sessions: Sessions
    heartbeat: Heartbeat
    sidebar: Sidebar | None
    host: AgentHost
    intake: Intake
    watch: Watch
    health: Health
    gateway: Gateway
    probe: Probe
    janitor: Janitor
    room_check: RoomCheck
    service: ServiceManager


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
    settings = _on_server(settings, homeserver.server_name)
    async with _wired(settings, homeserver) as parts:
        parts.service.tell("READY=1")  # commands are answered, with or without a homeserver
        log.info("aiagentchat %s has begun, on %s", __version__, homeserver.url)
        work = asyncio.create_task(_run_loops(parts, agents, on_ready, on_waiting))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            await _shut_down(parts)
        finally:  # also when this task itself is cancelled: no loop outlives what it works on
            stopping.cancel()
            work.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
            log.info("it has ended")
        if not work.cancelled() and (fault := work.exception()) is not None:
            raise fault


def _on_server(settings: Settings, server_name: str) -> Settings:
    """Return the settings with what follows from the server's name where it was not chosen."""
    chosen = settings.sources.get("space_alias", "default") != "default"
    alias = settings.space_alias if chosen else f"#aiagentchat:{server_name}"
    return replace(settings, server_name=server_name, space_alias=alias)


@dataclass(frozen=True, slots=True)
class _Access:
    """As whom the daemon acts on the homeserver. `operator`: their user id and client; None: nobody is logged in."""

    identities: Identities
    operator: tuple[UserId, MatrixClient] | None


def _access(paths: Paths, homeserver: Homeserver, client: MatrixClient) -> _Access:
    """Return it; `client` is of the homeserver, with the application service's token or without one."""
    store = AccountStore(paths)
    account = store.operator()
    accounts = AccountClients(store, client.with_token(""))
    operator = None if account is None else (account.user_id, accounts.client_as(account.user_id))
    if homeserver.registration is not None:
        naming = Naming(homeserver.server_name, homeserver.registration.sender_localpart)
        return _Access(AppserviceIdentities(client, naming), operator)
    names = AccountNames(homeserver.server_name, None if operator is None else operator[0], store.users)
    return _Access(AccountIdentities(names, accounts.client_as), operator)


@asynccontextmanager
async def _wired(settings: Settings, homeserver: Homeserver) -> AsyncIterator[_Parts]:
    async with AsyncExitStack() as stack:
        registration = homeserver.registration
        limit = 64 if registration is not None else 0  # each account's sync has a connection of its own
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=limit), cookie_jar=aiohttp.DummyCookieJar())
        )
        request_s = settings.deadline_s * 0.9  # so that the reason arrives before the gateway's own deadline
        token = "" if registration is None else registration.as_token
        client = MatrixClient(homeserver.url, token, session, timeout_s=request_s)
        access = _access(settings.paths, homeserver, client)
        operator_id, operator = access.operator or (None, None)
        directory = Directory(access.identities.names, ttl_s=settings.directory_ttl_s)
        manager = SpaceManager(access.identities, operator, _space_settings(settings, homeserver, access), directory)
        sessions = Sessions(ttl_s=settings.session_ttl_s, server_now_ms=client.server_earliest_ms)
        order = RoomOrder(None if registration is None else settings.paths.rooms_checked)
        host = AgentHost(manager, sessions, order)
        sidebar = None
        if settings.sidebar != "off":
            with_pictures = settings.sidebar == "pictures"
            shown = settings.paths.rooms_shown
            sidebar = Sidebar(manager, sessions, access.operator, with_pictures=with_pictures, file=shown)
        on_written = (lambda: None) if sidebar is None else sidebar.changed.set
        heartbeat = Heartbeat(manager, sessions, on_written=on_written)
        loops = Loops(LoopLimits(settings.loop_hops, settings.loop_rate))
        speaker = None if operator_id is None or operator is None else Speaker(operator_id, operator, None)
        past = Past(host)
        onlooker = Onlooker(host, past, speaker)
        overview = Overview(host, None if operator is None else LatestMessages(operator), client.server_now_ms)

        def look_on(event: RoomEvent, message: Message | None, owner: AgentName) -> None:
            onlooker.tell(event.room_id, event)
            overview.note(event, message, owner)

        intake = Intake(host, on_person=loops.note_person, on_command=Commands(host).take, on_event=look_on)
        transport: Transport
        if registration is None:
            transport = PollTransport(host, access.operator, patience_s=request_s)
        else:
            witness = AgentsInTurn(host, client.server_now_ms) if operator is None else Witness(operator)
            transport = PushTransport(registration, client, host, intake, witness, events_host=settings.events_host)
        probe_s = min(_PROBE_DEADLINE_S, request_s / 2)
        probe = client.with_token("").with_deadline(probe_s)

        def begin_anew(reason: str) -> None:
            order.forget()
            if sidebar is not None:
                sidebar.doubt()
            host.begin_anew(reason)
            transport.begin_anew()

        watch = Watch(
            settings.paths.landmarks,
            access.identities,
            intake,
            probe,
            on_return=host.lost_track,
            on_restored=begin_anew,
        )
        health = Health(
            settings,
            SystemInfo(
                homeserver.shown_url,
                homeserver.server_name,
                str(operator_id or ""),
                transport.mode,
                homeserver.element_url,
            ),
            host,
            heartbeat,
            transport,
            watch,
            probe,
            None if operator is None else operator.with_deadline(probe_s),
            client.stats,
            Metrics(host, intake, transport, client.stats),
        )
        people = People(host, _deciding(settings, operator_id))
        janitor = Janitor(host, ttl_s=settings.ephemeral_ttl_s)
        asides = Asides(host, past, people.approvers, onlooker)
        files = Files(past, settings.file_limit)
        gateway = Gateway(
            AgentService(
                host, Mail(host, past, files, speaker, loops), past, files, asides, people, janitor, onlooker, overview
            ),
            Credentials(settings.paths),
            server_name=homeserver.server_name,
            health=health.report,
            stalled=lambda: transport.failure()[0],
            metrics=health.render_metrics,
            timings=health.metrics.timings,
            deadline_s=settings.deadline_s,
            file_limit_bytes=settings.file_limit,
            pace=Pace(settings.agent_rate),
        )
        stack.push_async_callback(transport.stop)
        stack.push_async_callback(gateway.stop)
        await transport.start()
        health.listening = await _listen(gateway, settings)
        asking = Probe(homeserver.url, session, timeout_s=request_s)
        yield _Parts(
            transport,
            manager,
            sessions,
            heartbeat,
            sidebar,
            host,
            intake,
            watch,
            health,
            gateway,
            asking,
            janitor,
            RoomCheck(host, operator),
            ServiceManager(os.environ),
        )


def _deciding(settings: Settings, operator_id: UserId | None) -> frozenset[UserId]:
    """Return who may approve what agents ask for: those who are configured, else the operator. Others are invited."""
    configured = frozenset(UserId(person) for person in settings.approvers)
    return configured or (frozenset() if operator_id is None else frozenset({operator_id}))


def _people_of(settings: Settings, operator: tuple[UserId, MatrixClient] | None) -> tuple[Person, ...]:
    """Return the people that are configured; the operator is none of them."""
    people = {UserId(user_id): Person(UserId(user_id), "talk") for user_id in settings.people}
    people |= {UserId(user_id): Person(UserId(user_id), "approve") for user_id in settings.approvers}
    return tuple(person for person in people.values() if operator is None or person.user_id != operator[0])


def _space_settings(settings: Settings, homeserver: Homeserver, access: _Access) -> SpaceSettings:
    names = access.identities.names
    daemons = tuple(UserId(daemon) for daemon in settings.daemons)
    is_alone = names.has_own_daemon and names.makes_space and not daemons
    is_on_server = server_of(settings.space_alias) == homeserver.server_name
    layout = Layout(
        operator=access.operator[0] if access.operator is not None else None,
        people=_people_of(settings, access.operator),
        policy=settings.space_policy,
        daemons=daemons,
        open_rooms=not (is_alone and is_on_server),
    )
    shared = settings.shared_room
    room = None if not shared else RoomId(shared) if shared.startswith("!") else RoomAlias(shared)
    pictures, machine = settings.sidebar != "off", socket.gethostname()
    return SpaceSettings(RoomAlias(settings.space_alias), layout, room, pictures=pictures, host=machine)


async def _listen(gateway: Gateway, settings: Settings) -> str:
    """Take requests from now on; return the gateway's TCP address, or ""."""
    try:
        return await gateway.start(settings.paths.socket, settings.listen)
    except OSError as error:
        where = " and ".join(filter(None, (str(settings.paths.socket), settings.listen)))
        raise AlreadyRunningError(f"the gateway cannot listen on {where}: {error.strerror}") from None


async def _run_loops(
    parts: _Parts,
    agents: tuple[AgentName, ...],
    on_ready: Callable[[], Awaitable[None]] | None,
    on_waiting: Callable[[str], None] | None,
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_take_events(parts.transport, parts.intake, parts.service), name="events")
        group.create_task(parts.service.watch(), name="watchdog")
        group.create_task(parts.transport.run(), name="transport")
        group.create_task(parts.gateway.streams.ping(), name="pings")
        group.create_task(parts.watch.run(), name="watch")
        if parts.manager.names.has_own_daemon:
            group.create_task(parts.heartbeat.run_lease(), name="lease")
        group.create_task(parts.heartbeat.run_lease_events(), name="lease events")
        group.create_task(_look_for_endpoints(parts), name="endpoints")
        group.create_task(parts.heartbeat.run_roster(), name="roster")
        if parts.sidebar is not None:
            group.create_task(parts.sidebar.run(), name="sidebar")
        group.create_task(parts.host.visits.run(), name="visits")
        group.create_task(parts.janitor.run(), name="janitor")
        group.create_task(_keep_registered(parts, group, on_ready, on_waiting), name="registration")
        for agent in agents:
            parts.sessions.hold(agent, lambda: None)
            group.create_task(_boot_until_it_holds(parts, agent), name=f"boot {agent}")


async def _look_for_endpoints(parts: _Parts) -> None:
    """Ask the homeserver once which of the endpoints that are needed it has."""
    async for _ in retries():
        try:
            missing = await missing_endpoints(parts.probe, is_appservice=parts.manager.names.has_own_daemon)
        except AiAgentChatError as error:
            log.info("the homeserver's endpoints were not looked for: %s", error.message)
        else:
            parts.health.missing_endpoints = missing
            return


async def _take_events(source: EventSource, intake: Intake, service: ServiceManager) -> None:
    async with aclosing(source.batches()) as batches:
        async for batch in batches:
            try:
                with service.progress():
                    await intake.take(batch)
            except Exception:  # the supervisor of events: one that we cannot handle must not stop all that follow
                log.exception("events could not be taken in")


async def _keep_registered(
    parts: _Parts,
    group: asyncio.TaskGroup,
    on_ready: Callable[[], Awaitable[None]] | None,
    on_waiting: Callable[[str], None] | None,
) -> None:
    """Find or create the Space, have rooms be looked after, and list whoever could not be listed; until it holds."""
    await _find_space(parts, on_waiting)
    group.create_task(parts.room_check.run(), name="room check")
    parts.service.tell(f"STATUS={parts.manager.settings.alias} is there")
    if on_ready is not None:
        await on_ready()
    while True:
        await parts.host.pending_changed.wait()
        async for _ in retries():
            parts.host.pending_changed.clear()
            if (parts.manager.has_rooms or await _ensure_space(parts)) and await parts.host.register_pending():
                break


async def _find_space(parts: _Parts, on_waiting: Callable[[str], None] | None) -> None:
    told = ""
    async for _ in retries():
        if await _ensure_space(parts):
            return
        if on_waiting is not None and parts.manager.unavailable != told:
            told = parts.manager.unavailable
            on_waiting(told)
            parts.service.tell(f"STATUS=the Space is not to be had yet: {one_line(told)}")


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
    async for _ in retries():
        try:
            await parts.host.boot(agent)
        except AiAgentChatError as error:
            log.warning("%s is not up: %s", agent, error.message, extra={"agent": agent})
            parts.health.boot_failures[agent] = error.message
        else:
            parts.health.boot_failures.pop(agent, None)
            return


async def _shut_down(parts: _Parts) -> None:
    """End streams and sessions, and say goodbye on the homeserver if it answers soon."""
    await parts.gateway.stop()
    try:
        async with asyncio.timeout(_GOODBYE_S):
            await asyncio.gather(_say_goodbye(parts), parts.host.visits.end_all())
    except (TimeoutError, AiAgentChatError):
        log.warning("the homeserver did not take the goodbye; the lease lapses by itself")


async def _say_goodbye(parts: _Parts) -> None:
    await parts.heartbeat.resign()
    if parts.sidebar is not None:
        await parts.sidebar.end()
