"""`SpaceManager`: the lifecycle of the Space and its rooms, and the directory. Every method is idempotent.

Above it, `agents` decides when; below it, `space.rooms` makes one room and `matrix.client` does one request. What it
knows of others' daemons and agents it has from `space.others`.
"""

import asyncio
import contextlib
import difflib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from aiagentchat.errors import (
    AgentNotFoundError,
    AiAgentChatError,
    HomeserverUnavailableError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    RefusedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import RoomEvent, parse_events
from aiagentchat.model import AgentKind, AgentName, RoomAlias, RoomId, UserId, server_of
from aiagentchat.space.appearance import introduce, renew_topic
from aiagentchat.space.content import CARD, PEOPLE, Card, to_content
from aiagentchat.space.directory import STATE_TYPES, Directory, DirectoryView, Listed
from aiagentchat.space.identities import Identities
from aiagentchat.space.layout import (
    Layout,
    RoomSpec,
    SpaceSettings,
    agent_room_spec,
    broadcast_spec,
    digest_rooms,
    order_of,
    render_child,
    render_topic,
    space_spec,
)
from aiagentchat.space.names import broadcast_alias, broadcast_alias_of_accounts
from aiagentchat.space.others import Others
from aiagentchat.space.people import Person, merge_people, render_people
from aiagentchat.space.rooms import EnsuredRoom, accept_invite, ensure_room, try_to_invite

log = logging.getLogger(__name__)

_FAR_SPACE_LEARNS_S = (0.3, 1.0, 2.0)
"""Another homeserver learns a moment later who has come into the Space, and until then refuses what that allows."""
_CLOCK_KNOWN_TO_MS = 1_500
"""The homeserver's clock is known to the second: what somebody writes right after us must not seem older."""
_NOT_LOOKED_UP = "the Space has not been looked up yet"


class SpaceManager:
    """Makes, finds and mends the rooms of one Space.

    Args:
        identities: as whom the daemon acts.
        operator: acts as the operator through their own device, so that their invites need no click; None: nobody's.

    `on_lost` is called with a reason when the Space turns out to be gone.
    """

    def __init__(
        self, identities: Identities, operator: MatrixClient | None, settings: SpaceSettings, directory: Directory
    ) -> None:
        self.identities = identities
        self.names = identities.names
        self.settings = settings
        self.directory = directory
        self.others = Others(identities, directory)
        self.space_id: RoomId | None = None
        self.broadcast_id: RoomId | None = None
        self.broadcast_encrypted = False
        self._kept: tuple[Person, ...] = ()
        make_alias = broadcast_alias if self.names.has_own_daemon else broadcast_alias_of_accounts
        self._broadcast_alias = make_alias(settings.alias)
        self.unavailable = _NOT_LOOKED_UP
        self.is_passing = True  # and so comes back by itself
        self.on_lost: Callable[[str], None] = self.lose_space
        self.operator = operator
        self._room_version: str | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._parentless: set[RoomId] = set()

    def client_of(self, agent: AgentName) -> MatrixClient:
        """Return the client that acts as an agent."""
        return self.identities.client_of(agent)

    @property
    def client_of_daemon(self) -> MatrixClient:
        """The client that acts as the daemon's own user."""
        return self.identities.daemon

    @property
    def layout(self) -> Layout:
        """What the person decides about the rooms, with the people that the Space's state names."""
        layout, listed = self.settings.layout, self.directory.people()
        return replace(layout, people=merge_people(layout.people, self._kept if listed is None else listed))

    def rooms_are_for(self) -> str:
        """Return a digest of what agents' rooms follow from."""
        return digest_rooms(self.names, self.layout, self.space_id, self.settings.host)

    @property
    def people(self) -> frozenset[UserId]:
        """The operator and the people, those of single agents too: what they change, they meant."""
        people = frozenset(person.user_id for person in self.layout.people)
        return people if self.layout.operator is None else people | {self.layout.operator}

    @property
    def common_rooms(self) -> tuple[RoomAlias | RoomId, ...]:
        """The Space and the room for messages to all, whether they are to be had or not."""
        return self.settings.alias, self.settings.shared_room or self._broadcast_alias

    @property
    def has_rooms(self) -> bool:
        """Whether the Space and the room for messages to all are known."""
        return self.space_id is not None and self.broadcast_id is not None

    @property
    def is_looked_up(self) -> bool:
        """Whether the Space was looked up, be it in vain."""
        return self.unavailable != _NOT_LOOKED_UP

    def require_looked_up(self) -> None:
        """Raise `HomeserverUnavailableError` just after the start: what is not found may be there all the same."""
        if not self.is_looked_up:
            raise HomeserverUnavailableError("the daemon has just started and is looking up the Space")

    # --- the Space

    async def require_space(self) -> None:
        """Have the Space be known, and the directory loaded; see `find_or_create_space`."""
        if not self.has_rooms:
            await self.find_or_create_space(only_if_missing=True)

    async def find_or_create_space(self, *, only_if_missing: bool = False) -> RoomId:
        """Return the Space: it and the broadcast room are found, joined and mended, or created.

        A room that the person named in place of the broadcast room is joined, and works without the Space too.
        `only_if_missing`: unless somebody else has found both meanwhile.

        Raises:
            AiAgentChatError: something is not to be had now; `unavailable` says what until a later call succeeds.
        """
        async with self.one_at_a_time(self.settings.alias):
            if only_if_missing and self.has_rooms:
                return self._space()
            try:
                if self.settings.shared_room is not None:
                    await self._join_broadcast_of_others(self.settings.shared_room)
                space_id = await self._ensure_space()
            except AiAgentChatError as error:
                self.unavailable, self.is_passing = error.message, error.retryable
                raise
            self.unavailable = ""
            return space_id

    async def _ensure_space(self) -> RoomId:
        if await self._makes_space():
            made = await self._ensure_own_space()
        else:
            made = []
            self.space_id = await self._join_space_of_others()
            await self._read_directory()
            if self.settings.shared_room is None:
                await self._join_broadcast_of_others(await self._find_broadcast())
        space_id, broadcast_id = self._space(), self._broadcast()
        keeper = self.names.keeper
        if keeper is not None and self._kept and self.directory.people() is None:  # another Space than before
            with contextlib.suppress(MatrixForbiddenError):  # somebody else's, who does not let us
                await self.write_own(keeper, PEOPLE, to_content(render_people(self._kept)))
        if not self.directory.has_child(broadcast_id):
            await self._list_room(broadcast_id, order_of(None), *self._as_daemon)
        for room in made:
            await self._bring_operator(room)
        return space_id

    def _space(self) -> RoomId:
        """Return the Space. Raises `HomeserverUnavailableError` where it was lost meanwhile."""
        if self.space_id is None:
            raise HomeserverUnavailableError(f"the Space is not to be had: {self.unavailable}")
        return self.space_id

    def _broadcast(self) -> RoomId:
        if self.broadcast_id is None:
            raise HomeserverUnavailableError("the broadcast room is not to be had now")
        return self.broadcast_id

    async def _ensure_own_space(self) -> list[EnsuredRoom]:
        """Find or make the Space and, unless the person named another room, the broadcast room; return them."""
        client, daemon = self.client_of_daemon, self.names.daemon
        async with self.one_at_a_time("directory"):
            self.directory.begin_read()
            made = [await self._ensure(client, space_spec(self.settings.alias, daemon, self.layout))]
            self.space_id = space_id = made[0].room_id
            # before a room is made that who is in the Space can join: it says who watches
            self._load_directory(space_id, made[0].state)
        await self.others.check_claims()
        if self.settings.shared_room is None:
            spec = broadcast_spec(self._broadcast_alias, daemon, self.layout, space_id)
            made.append(await self._ensure(client, spec))
            self.broadcast_id, self.broadcast_encrypted = made[1].room_id, made[1].encrypted
        return made

    async def _find_broadcast(self) -> RoomAlias:
        """Return the alias of the broadcast room of somebody else's Space: the one that leads to a child of it."""
        for alias in (broadcast_alias(self.settings.alias), broadcast_alias_of_accounts(self.settings.alias)):
            with contextlib.suppress(MatrixNotFoundError):
                if self.directory.has_child(await self.client_of_daemon.resolve_room_alias(alias)):
                    return alias
        raise RefusedError(f"the Space {self.settings.alias} has no broadcast room yet")

    async def _makes_space(self) -> bool:
        """Whether the Space is this daemon's to make and to mend; else somebody else's, to be joined."""
        alias, names = self.settings.alias, self.names
        if not names.makes_space or server_of(alias) != names.server_name:
            return False
        if names.has_own_daemon:
            return True
        try:
            room_id = await self.client_of_daemon.resolve_room_alias(alias)
            state = parse_events(await self.client_of_daemon.get_full_state(room_id), room_id).events
        except MatrixNotFoundError:
            return True
        except MatrixForbiddenError:  # not in it
            return False
        return any(event.type == "m.room.create" and event.sender == names.daemon for event in state)

    async def _join_space_of_others(self) -> RoomId:
        client, alias, user = self.client_of_daemon, self.settings.alias, self.names.daemon
        try:
            return await client.join_room(alias)
        except MatrixNotFoundError:
            raise RefusedError(
                f"there is no Space {alias} yet", hint=f"start what makes it first, on {server_of(alias)}"
            ) from None
        except MatrixForbiddenError:
            if self.operator is not None:
                await try_to_invite(self.operator, await client.resolve_room_alias(alias), user)
        try:
            return await client.join_room(alias)
        except MatrixForbiddenError:
            raise RefusedError(
                f"{user} is not invited to the Space {alias}",
                hint=f"invite it there, or have the daemon that made the Space know it: AIAGENTCHAT_DAEMONS={user}",
            ) from None

    async def _join_broadcast_of_others(self, room: RoomAlias | RoomId) -> None:
        """Join a room that is not ours to change."""
        client = self.client_of_daemon
        try:
            room_id = await client.join_room(room)
        except (MatrixForbiddenError, MatrixNotFoundError) as error:
            raise RefusedError(
                f"{self.names.daemon} cannot join {room}: {error.error}", hint=f"invite {self.names.daemon} there"
            ) from None
        state = parse_events(await client.get_full_state(room_id), room_id).events
        self.broadcast_encrypted = any(event.type == "m.room.encryption" for event in state)
        self.broadcast_id = room_id

    def lose_space(self, reason: str) -> None:
        """The Space is not to be had any more, until `find_or_create_space` finds it again, or another."""
        self.space_id = None
        if self.settings.shared_room is None:
            self.broadcast_id = None
        self.unavailable, self.is_passing = reason, True
        if (listed := self.directory.people()) is not None:
            self._kept = listed
        self.directory.load(())
        self.directory.expire()

    async def _write(self, client: MatrixClient, sender: UserId, kind: str, key: str, content: dict[str, Any]) -> None:
        """Write state of the Space, and take it into the directory without waiting for it to come back."""
        space_id = self._space()
        event_id = await client.put_state(space_id, kind, key, content)
        written_ms = client.server_now_ms() - _CLOCK_KNOWN_TO_MS
        if space_id == self.space_id:
            event = RoomEvent(event_id, space_id, sender, kind, key, content, written_ms)
            self.directory.apply(event, is_ours=True)

    @property
    def _as_daemon(self) -> tuple[MatrixClient, UserId]:
        return self.client_of_daemon, self.names.daemon

    async def _list_room(self, room_id: RoomId, order: str, client: MatrixClient, sender: UserId) -> None:
        await self._write(client, sender, "m.space.child", room_id, render_child(self.names.server_name, order))

    async def _unlist(self, room_id: RoomId) -> None:
        if self.directory.has_child(room_id):
            await self._write(*self._as_daemon, "m.space.child", room_id, {})

    async def _default_room_version(self) -> str:
        if self._room_version is None:
            self._room_version = await self.client_of_daemon.default_room_version()
        return self._room_version

    async def _ensure(self, client: MatrixClient, spec: RoomSpec) -> EnsuredRoom:
        room_version = await self._default_room_version()
        return await ensure_room(client, spec, room_version=room_version, server_name=self.names.server_name)

    async def _bring_operator(self, room: EnsuredRoom) -> None:
        """Have the operator in the room without a click; who left it themselves has no invite, and stays out."""
        if self.operator is not None and self.layout.operator in room.invited:
            await accept_invite(self.operator, self.layout.operator, room.room_id)

    # --- agents

    async def find_or_create_agent_room(
        self, agent: AgentName, kind: AgentKind = "persistent", description: str | None = None
    ) -> EnsuredRoom:
        """Return the agent's room, and make the agent's account where there is none. Works without the Space.

        `kind`, `description`: for its topic, where it is made now and the agent has no card.
        """
        async with self.one_at_a_time(self.names.alias(agent)):
            client, card, picture = self.client_of(agent), self.directory.card(agent), ""
            if card is None:
                await self.identities.ensure_account(agent)
                picture = await introduce(client, self.names.user(agent), agent, with_picture=self.settings.pictures)
            else:
                kind, description = card.kind, card.description if description is None else description
            topic = render_topic(agent, kind, description or "", self.settings.host)
            shown: dict[str, Any] = {"topic": topic, "renews_topic": card is not None, "picture": picture}
            while True:
                layout = self.layout
                spec = agent_room_spec(agent, self.names, layout, self.space_id, **shown)
                room = await self._ensure(client, spec)
                if spec.parent is None:
                    self._parentless.add(room.room_id)
                await self._bring_operator(room)
                if layout == self.layout:  # else somebody was invited, or uninvited, meanwhile
                    return room

    async def register_in_space(self, card: Card) -> None:
        """List an agent: member of the Space and the broadcast room, child, and card, each only if it is not so yet.

        Where another's agent has the name, that one's room is taken off the list: who may do so was asked before.

        Raises:
            AiAgentChatError: the Space is not to be had; the agent's own room works all the same.
        """
        await self.require_space()
        client, user, present = self.client_of(card.name), self.names.user(card.name), self.directory.card(card.name)
        if present is None:
            await self._admit(client, user, self._space())
            await self.join_broadcast(card.name)
        try:
            await self._register_member(client, user, card, present)
        except MatrixForbiddenError as error:
            if present is None:
                raise
            raise RefusedError(
                f"{user} may not write in the Space any more: {error.error}",
                hint=f"invite it to the Space again and have {card.name} join",
            ) from None

    async def _register_member(self, client: MatrixClient, user: UserId, card: Card, present: Card | None) -> None:
        room_id = RoomId(card.room_id)
        lister = self._as_daemon if self.layout.policy == "strict" else (client, user)
        if present is not None and present != card:
            await client.join_room(self._space())  # it may have been removed, and invited again since
        other = self.directory.find(card.name)
        # Old child, card, new child; taken off in the reverse order. So a child of ours always has a card, by which it
        # is found and mended after a crash in between.
        if present is not None and present.room_id != room_id:  # its room was upgraded, or made anew
            await self._unlist(RoomId(present.room_id))
        if present != card:
            await self._write(client, user, CARD, user, to_content(card))
        if present is not None and present.description != card.description:
            await renew_topic(client, user, card, self.settings.host)
        if not self.directory.has_child(room_id):
            await self._list_room(room_id, order_of(card), *lister)
        if other is not None and other.user_id != user and self.directory.has_child(other.room_id):
            # Its daemon knows by the sender that the name was taken over.
            await self._write(*lister, "m.space.child", other.room_id, {})
        if room_id in self._parentless:
            await self._ensure(client, agent_room_spec(card.name, self.names, self.layout, self.space_id))
            self._parentless.discard(room_id)

    async def join_broadcast(self, agent: AgentName) -> None:
        """Have an agent be in the broadcast room."""
        client, broadcast_id = self.client_of(agent), self._broadcast()
        if self.settings.shared_room is not None:
            await self._admit(client, self.names.user(agent), broadcast_id)
            return
        is_near = server_of(self.settings.alias) == self.names.server_name
        for wait_s in () if is_near else _FAR_SPACE_LEARNS_S:
            try:
                await client.join_room(broadcast_id)
            except MatrixForbiddenError:
                await asyncio.sleep(wait_s)
            else:
                return
        await client.join_room(broadcast_id)

    async def _admit(self, client: MatrixClient, user: UserId, room_id: RoomId) -> None:
        """Have a user join a room by invite: the daemon's, or where that may not invite, the operator's."""
        for inviter in filter(None, (self.client_of_daemon, self.operator)):
            if await try_to_invite(inviter, room_id, user):
                break
        await client.join_room(room_id)

    async def unregister(self, agent: AgentName) -> None:
        """Take an agent off the list: its child and card are emptied; its room stays as it is."""
        card = self.directory.card(agent)
        if card is None or self.space_id is None:
            return
        await self._unlist(RoomId(card.room_id))
        user = self.names.user(agent)
        await self._write(self.client_of(agent), user, CARD, user, {})

    async def find_agent(self, agent: AgentName) -> Listed | None:
        """Return somebody else's agent of a name; None: it is this daemon's own.

        Raises:
            AgentNotFoundError: there is no such agent; the hint has the names near it.
        """
        listed = self.directory.find(agent)
        if listed is None:
            await self.others.check_claims()
            listed = self.directory.find(agent)
        if listed is not None:
            return None if listed.is_hosted else listed
        if ":" not in agent:
            try:
                self.names.user(agent)
                await self.client_of_daemon.resolve_room_alias(self.names.alias(agent))
            except (AgentNotFoundError, MatrixNotFoundError):
                pass
            else:
                return None
        self.require_looked_up()
        names = [entry.name for entry in (await self.list_agents()).entries]
        near = difflib.get_close_matches(agent, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see 'cchat who' for who is there"
        raise AgentNotFoundError(f"there is no agent {agent}", hint=hint)

    async def find_agent_room(self, agent: AgentName) -> RoomId:
        """Return the room of an agent, this daemon's or another's; see `find_agent`."""
        other = await self.find_agent(agent)
        if other is not None:
            return other.room_id
        return await self.client_of_daemon.resolve_room_alias(self.names.alias(agent))

    # --- the directory

    async def list_agents(self, own: frozenset[AgentName] = frozenset()) -> DirectoryView:
        """Return who is there. Without the Space: an empty list that says why; never raises for that.

        `own`: the agents that have a session with this daemon.
        """
        space_id = self.space_id
        if space_id is None:
            return DirectoryView((), unavailable=self.unavailable)
        try:
            await self._read_directory(only_if_stale=True)
        except (MatrixForbiddenError, MatrixNotFoundError) as error:
            if space_id == self.space_id:
                self.on_lost(error.message)
            return DirectoryView((), unavailable=self.unavailable)
        except AiAgentChatError as error:
            return DirectoryView((), unavailable=error.message)
        await self.others.check_claims()
        alive = await self.others.alive(self.directory.daemons()) | {self.names.daemon_of(agent) for agent in own}
        return self.directory.view(alive, own)

    async def _read_directory(self, *, only_if_stale: bool = False) -> None:
        if only_if_stale and not self.directory.is_stale():
            return
        async with self.one_at_a_time("directory"):
            if only_if_stale and not self.directory.is_stale():
                return
            self.directory.begin_read()
            space_id = self._space()
            self._load_directory(space_id, await self.client_of_daemon.get_full_state(space_id))
        await self.others.check_claims()

    def _load_directory(self, space_id: RoomId, state: object) -> None:
        batch = parse_events(state, space_id, kinds=STATE_TYPES)
        self.directory.load(batch.events, malformed=batch.skipped)

    async def write_own(self, user: UserId, kind: str, content: dict[str, Any]) -> None:
        """Write state of the Space that a user of ours alone can write: a roster, a lease, whom the rooms are for."""
        await self._write(self.identities.client_as(user), user, kind, user, content)

    @asynccontextmanager
    async def one_at_a_time(self, key: str) -> AsyncIterator[None]:
        """Within this process, one maker per alias; between processes, the alias itself is the lock."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield
