"""`SpaceManager`: the lifecycle of the Space and its rooms, and the directory. Every method is idempotent.

Above it, `agents` decides when; below it, `space.rooms` makes one room and `matrix.client` does one request.
"""

import asyncio
import difflib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from aiagentchat.errors import (
    AgentNotFoundError,
    AiAgentChatError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    NameTakenError,
)
from aiagentchat.matrix.accounts import DEVICE_NAME
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import RoomEvent, parse_events
from aiagentchat.model import AgentName, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CARD, Card, to_content
from aiagentchat.space.directory import Directory, DirectoryView
from aiagentchat.space.layout import RoomSpec, agent_room_spec, broadcast_spec, render_child, render_parent, space_spec
from aiagentchat.space.names import DEVICE_ID, Naming
from aiagentchat.space.rooms import EnsuredRoom, ensure_room

log = logging.getLogger(__name__)

_LEASE_CACHED_S = 10.0
_NOT_LOOKED_UP = "the Space has not been looked up yet"


@dataclass(frozen=True, slots=True)
class SpaceSettings:
    """What the person decides about the Space. `operator` None: nobody is at 50."""

    alias: RoomAlias
    policy: str
    operator: UserId | None
    people: tuple[UserId, ...] = ()


class SpaceManager:
    """Makes, finds and mends the rooms of one Space.

    Args:
        daemon: acts as the daemon's own user; views of it act as agents.
        operator: acts as the operator through their own device, so that their invites need no click; None: nobody's.
    """

    def __init__(
        self,
        daemon: MatrixClient,
        operator: MatrixClient | None,
        naming: Naming,
        settings: SpaceSettings,
        directory: Directory,
    ) -> None:
        self._daemon = daemon
        self._operator = operator
        self._naming = naming
        self._settings = settings
        self.directory = directory
        self.space_id: RoomId | None = None
        self.broadcast_id: RoomId | None = None
        self.broadcast_encrypted = False
        self.unavailable = _NOT_LOOKED_UP
        self._room_version: str | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._leases: dict[UserId, tuple[float, bool]] = {}
        self._parentless: set[RoomId] = set()

    def client_of(self, agent: AgentName) -> MatrixClient:
        """Return the client that acts as an agent."""
        return self._daemon.as_user(self._naming.user(agent), DEVICE_ID)

    @property
    def client_of_daemon(self) -> MatrixClient:
        """The client that acts as the daemon's own user."""
        return self._daemon

    @property
    def people(self) -> frozenset[UserId]:
        """The operator and the configured people: what they change, they meant."""
        operator = self._settings.operator
        return frozenset(self._settings.people) | (frozenset() if operator is None else {operator})

    @property
    def daemon_user(self) -> UserId:
        """The daemon's own user."""
        return self._naming.daemon

    @property
    def space_alias(self) -> RoomAlias:
        """The alias of the Space, whether it is to be had or not."""
        return self._settings.alias

    @property
    def is_looked_up(self) -> bool:
        """Whether the Space was looked up, be it in vain."""
        return self.unavailable != _NOT_LOOKED_UP

    # --- the Space

    async def require_space(self) -> None:
        """Have the Space be known, and the directory loaded; see `find_or_create_space`."""
        if self.space_id is None or self.broadcast_id is None:
            await self.find_or_create_space()

    async def find_or_create_space(self) -> RoomId:
        """Return the Space: it and the broadcast room are found, joined and mended, or created.

        Raises:
            AiAgentChatError: something is not to be had now; `unavailable` says what until a later call succeeds.
        """
        async with self._one_at_a_time(self._settings.alias):
            try:
                space_id = await self._ensure_space()
            except AiAgentChatError as error:
                self.unavailable = error.message
                raise
            self.unavailable = ""
            return space_id

    async def _ensure_space(self) -> RoomId:
        settings, naming = self._settings, self._naming
        spec = space_spec(settings.alias, naming, settings.operator, settings.people, settings.policy)
        space = await self._ensure(self._daemon, spec)
        spec = broadcast_spec(naming, settings.operator, settings.people, space.room_id)
        broadcast = await self._ensure(self._daemon, spec)
        self.space_id, self.broadcast_id = space.room_id, broadcast.room_id
        self.broadcast_encrypted = broadcast.encrypted
        await self._read_directory()
        if not self.directory.has_child(broadcast.room_id):
            child = render_child(naming.server_name, "!")
            await self._write(self._daemon, naming.daemon, "m.space.child", broadcast.room_id, child)
        for room in (space, broadcast):
            await self._bring_operator(room)
        return space.room_id

    async def _write(self, client: MatrixClient, sender: UserId, kind: str, key: str, content: dict[str, Any]) -> None:
        """Write state of the Space, and take it into the directory without waiting for it to come back."""
        assert self.space_id is not None
        event_id = await client.put_state(self.space_id, kind, key, content)
        now_ms = self._daemon.server_now_ms()
        self.directory.apply(RoomEvent(event_id, self.space_id, sender, kind, key, content, now_ms))

    async def _default_room_version(self) -> str:
        if self._room_version is None:
            self._room_version = await self._daemon.default_room_version()
        return self._room_version

    async def _ensure(self, client: MatrixClient, spec: RoomSpec) -> EnsuredRoom:
        version = await self._default_room_version()
        return await ensure_room(client, spec, room_version=version, server_name=self._naming.server_name)

    async def _bring_operator(self, room: EnsuredRoom) -> None:
        """Have the operator in the room without a click; who left it themselves has no invite, and stays out."""
        if self._operator is not None and self._settings.operator in room.invited:
            try:
                await self._operator.join_room(room.room_id)
            except AiAgentChatError as error:  # their invite stands
                log.warning("the operator did not join: %s", error.message, extra={"room_id": room.room_id})

    # --- agents

    async def find_or_create_agent_room(self, agent: AgentName) -> EnsuredRoom:
        """Return the agent's room, and make the agent's account where there is none. Works without the Space."""
        alias = self._naming.alias(agent)
        async with self._one_at_a_time(alias):
            if self.directory.card(agent) is None:
                await self._ensure_account(agent)
            settings = self._settings
            spec = agent_room_spec(agent, self._naming, settings.operator, settings.people, self.space_id)
            room = await self._ensure(self.client_of(agent), spec)
            if spec.parent is None:
                self._parentless.add(room.room_id)
            await self._bring_operator(room)
            return room

    async def _ensure_account(self, agent: AgentName) -> None:
        await self._daemon.register_appservice_user(self._naming.user_localpart(agent))
        client = self.client_of(agent)
        try:
            await client.put_device(DEVICE_ID, DEVICE_NAME)
        except MatrixNotFoundError:  # an older Synapse makes a device at a login alone; the token is thrown away
            await self._daemon.log_in(
                {
                    "type": "m.login.application_service",
                    "identifier": {"type": "m.id.user", "user": self._naming.user(agent)},
                    "device_id": DEVICE_ID,
                    "initial_device_display_name": DEVICE_NAME,
                }
            )
        try:
            await client.set_displayname(self._naming.user(agent), agent)
        except MatrixError as error:  # Synapse 1.163 fails with 500 for some of several at once: one of them is enough
            log.warning("%s was not given its display name: %s", agent, error.message)

    async def register_in_space(self, card: Card) -> None:
        """List an agent: member of the Space and the broadcast room, child, and card, each only if it is not so yet.

        Raises:
            AiAgentChatError: the Space is not to be had; the agent's own room works all the same.
        """
        await self.require_space()
        assert self.space_id is not None
        assert self.broadcast_id is not None
        client, user = self.client_of(card.name), self._naming.user(card.name)
        room_id = RoomId(card.room_id)
        present = self.directory.card(card.name)
        if present is None:
            await self._admit(client, user, self.space_id)
            await client.join_room(self.broadcast_id)
        # Old child, card, new child; taken off in the reverse order. So a child of ours always has a card, by which it
        # is found and mended after a crash in between.
        if present is not None and present.room_id != room_id:  # its room was upgraded, or made anew
            await self._unlist(RoomId(present.room_id))
        if present != card:
            await self._write(client, user, CARD, user, to_content(card))
        if not self.directory.has_child(room_id):
            child = render_child(self._naming.server_name, card.name)
            if self._settings.policy == "strict":
                await self._write(self._daemon, self._naming.daemon, "m.space.child", room_id, child)
            else:
                await self._write(client, user, "m.space.child", room_id, child)
        if room_id in self._parentless:
            await client.put_state(room_id, "m.space.parent", self.space_id, render_parent(self._naming.server_name))
            self._parentless.discard(room_id)

    async def _unlist(self, room_id: RoomId) -> None:
        if self.directory.has_child(room_id):
            await self._write(self._daemon, self._naming.daemon, "m.space.child", room_id, {})

    async def _admit(self, client: MatrixClient, user: UserId, space: RoomId) -> None:
        try:
            await self._daemon.invite(space, user)
        except MatrixForbiddenError:  # inviting a member again is a 403; the join tells a real refusal apart
            log.debug("%s could not be invited; joining all the same", user)
        await client.join_room(space)

    async def unregister(self, agent: AgentName) -> None:
        """Take an agent off the list: its child and card are emptied; its room stays as it is."""
        card = self.directory.card(agent)
        if card is None or self.space_id is None:
            return
        await self._unlist(RoomId(card.room_id))
        user = self._naming.user(agent)
        await self._write(self.client_of(agent), user, CARD, user, {})

    async def find_agent_room(self, agent: AgentName) -> RoomId:
        """Return the room that the agent's alias names, asking the homeserver, which owns it.

        Raises:
            AgentNotFoundError: there is no such agent; the hint has the names near it.
        """
        try:
            return await self._daemon.resolve_room_alias(self._naming.alias(agent))
        except MatrixNotFoundError:
            names = [entry.name for entry in (await self.list_agents()).entries]
            near = difflib.get_close_matches(agent, names, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "see 'cchat who' for who is there"
            raise AgentNotFoundError(f"there is no agent {agent}", hint=hint) from None

    async def refuse_name_of_live_daemon(self, agent: AgentName) -> None:
        """Raise `NameTakenError` when another daemon that is alive hosts this name."""
        card = self.directory.card(agent)
        if card is None or card.daemon == self._naming.daemon:
            return
        if await self._is_alive(UserId(card.daemon)):
            raise NameTakenError(f"{agent} is hosted by {card.daemon}, which is running")

    # --- the directory

    async def list_agents(self, own: frozenset[AgentName] = frozenset()) -> DirectoryView:
        """Return who is there. Without the Space: an empty list that says why; never raises for that.

        `own`: the agents that have a session with this daemon.
        """
        if self.space_id is None:
            return DirectoryView((), unavailable=self.unavailable)
        try:
            await self._read_directory(only_if_stale=True)
        except AiAgentChatError as error:
            self.unavailable = error.message
            return DirectoryView((), unavailable=error.message)
        self.unavailable = ""
        return self.directory.view(await self._alive(self.directory.daemons()), own)

    async def _read_directory(self, *, only_if_stale: bool = False) -> None:
        assert self.space_id is not None
        if only_if_stale and not self.directory.is_stale():
            return
        async with self._one_at_a_time("directory"):
            if only_if_stale and not self.directory.is_stale():
                return
            self.directory.begin_read()
            batch = parse_events(await self._daemon.get_full_state(self.space_id), self.space_id)
            self.directory.load(batch.events, malformed=batch.skipped)

    async def _alive(self, daemons: frozenset[UserId]) -> frozenset[UserId]:
        alive = {self._naming.daemon}
        for daemon in daemons:
            try:
                if await self._is_alive(daemon):
                    alive.add(daemon)
            except MatrixError as error:
                log.warning("the lease of %s could not be read: %s", daemon, error.message)
            except AiAgentChatError as error:  # no answer in time: there would be none for the rest either
                log.warning("the leases of other daemons could not be read: %s", error.message)
                break
        return frozenset(alive)

    async def _is_alive(self, daemon: UserId) -> bool:
        """Whether a daemon's lease (the presence of its user) stands. Our own does while we answer.

        "unavailable" is what the homeserver makes of "online" after minutes without a new activity: it stands too.
        """
        if daemon == self._naming.daemon:
            return True
        read_at, alive = self._leases.get(daemon, (float("-inf"), False))
        if time.monotonic() - read_at > _LEASE_CACHED_S:
            try:
                alive = (await self._daemon.get_presence(daemon)).get("presence") in ("online", "unavailable")
            except (MatrixForbiddenError, MatrixNotFoundError):  # shares no room with us, or is no user at all
                alive = False
            if len(self._leases) >= 1000:
                self._leases.clear()
            self._leases[daemon] = (time.monotonic(), alive)
        return alive

    @asynccontextmanager
    async def _one_at_a_time(self, key: str) -> AsyncIterator[None]:
        """Within this process, one maker per alias; between processes, the alias itself is the lock."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield
