"""`AgentHost`: the agents of one daemon. It is the one interface that the gateway reaches, and takes in all events.

Owns which agents are in use and what is pending; delegates rooms to `space.manager`, inboxes to `agents.inbox`,
sessions to `agents.sessions`. Nothing is kept, and nothing runs, for an agent that is not asked for.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiagentchat.agents.answers import Answers
from aiagentchat.agents.heartbeat import check_roster_has_room
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.messages import localpart_of, parse_message
from aiagentchat.agents.room_inbox import Reader, RoomInbox
from aiagentchat.agents.sessions import Sessions
from aiagentchat.errors import (
    AiAgentChatError,
    MatrixError,
    MatrixNotFoundError,
    NameTakenError,
    RefusedError,
    RoomEncryptedError,
)
from aiagentchat.matrix.events import EventBatch, RoomEvent
from aiagentchat.model import AgentKind, AgentName, DirectoryEntry, EventId, Reach, RoomAlias, RoomId, UserId
from aiagentchat.space.content import Card
from aiagentchat.space.directory import DirectoryView
from aiagentchat.space.manager import SpaceManager
from aiagentchat.space.names import Naming

log = logging.getLogger(__name__)

_SEEN_EVENTS = 10_000
_EPHEMERAL_JITTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Attached:
    """An agent after its boot. `registered` False: the Space is not to be had, and it is listed once it is."""

    name: AgentName
    user_id: UserId
    room_id: RoomId
    alias: RoomAlias
    registered: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants an agent's card to say. An agent that exists keeps its kind; `description` None: as it is."""

    kind: AgentKind = "persistent"
    description: str | None = None


class HostedAgent:
    """An agent in use: its room, once verified, and its inbox, once asked for."""

    def __init__(self, name: AgentName) -> None:
        self.name = name
        self.room_id: RoomId | None = None
        self.inbox: Inbox | None = None
        self.streams = 0
        self.status_line = ""
        self.lock = asyncio.Lock()


class AgentHost:
    """Boots agents, keeps their sessions and inboxes, and sorts every event that arrives.

    Args:
        jitter: seconds to wait before an ephemeral agent boots, a function for tests' sake.
    """

    def __init__(
        self,
        manager: SpaceManager,
        sessions: Sessions,
        naming: Naming,
        *,
        jitter: random.Random | None = None,
    ) -> None:
        self.manager = manager
        self.sessions = sessions
        self.naming = naming
        self.answers = Answers()
        self.encrypted: set[RoomId] = set()
        self.pending: dict[AgentName, Wish] = {}
        self.pending_changed = asyncio.Event()
        self.skipped_events = 0
        self._jitter = jitter or random.Random()
        self._agents: dict[AgentName, HostedAgent] = {}
        self._rooms: dict[RoomId, AgentName] = {}
        self._seen: dict[EventId, None] = {}
        self._expulsions: set[asyncio.Task[None]] = set()
        self._booting = 0

    # --- boot

    async def boot(self, name: AgentName, wish: Wish = Wish()) -> Attached:
        """Bring an agent into being or back: its room, its place in the Space. Idempotent; opens no session.

        Without the Space the agent's own room works, and it is listed later.

        Raises:
            NameTakenError: another live daemon hosts this name, or a person has it. AiAgentChatError: its own room is
                not to be had.
        """
        self._refuse_name_of_person(name)
        check_roster_has_room(self.sessions.online(), name)
        if not self.manager.is_looked_up:  # the directory says whose name it is
            with contextlib.suppress(MatrixError, RefusedError):
                await self.manager.require_space()
        await self.manager.refuse_name_of_live_daemon(name)
        if wish.kind == "ephemeral" and self.manager.directory.card(name) is None:
            await self._spread_out()
        async with self._booting_one():
            room_id = await self.ready(name)
        registered = await self._register(name, wish)
        return Attached(name, self.naming.user(name), room_id, self.naming.alias(name), registered)

    def _refuse_name_of_person(self, name: AgentName) -> None:
        """An agent named as the operator would be taken for them where only the name is shown."""
        if any(localpart_of(person) == name for person in self.manager.people):
            raise NameTakenError(
                f"{name} is a person here, and an agent of that name would be taken for them",
                hint="choose another name",
            )

    def _card(self, name: AgentName, room_id: RoomId, wish: Wish) -> Card:
        """Return the card to write, by what the directory has: it has to be loaded."""
        present = self.manager.directory.card(name)
        kept = "" if present is None else present.description
        return Card(
            name=name,
            room_id=room_id,
            alias=self.naming.alias(name),
            kind=wish.kind if present is None else present.kind,
            description=kept if wish.description is None else wish.description,
            reach="none",
            daemon=self.naming.daemon,
            encrypted=room_id in self.encrypted,
        )

    async def _spread_out(self) -> None:
        """Sleep a random 0–2 s, so that many that start at once do not arrive at once; not when booted alone."""
        if self._booting:
            await asyncio.sleep(self._jitter.uniform(0, _EPHEMERAL_JITTER_S))

    @asynccontextmanager
    async def _booting_one(self) -> AsyncIterator[None]:
        self._booting += 1
        try:
            yield
        finally:
            self._booting -= 1

    async def _register(self, name: AgentName, wish: Wish) -> bool:
        try:
            room_id = await self.ready(name)
            await self.manager.require_space()
            await self.manager.register_in_space(self._card(name, room_id, wish))
        except AiAgentChatError as error:
            log.warning("%s is not listed yet: %s", name, error.message)
            if name in self._agents:
                self._list_later(name, wish)
            return False
        self.pending.pop(name, None)
        agent = self._agents.get(name)
        if agent is None:  # it left meanwhile
            await self.retire(name)
        elif agent.inbox is not None:
            await self.inbox(name)  # whoever reads it gets the broadcast room as well
        return True

    def _list_later(self, name: AgentName, wish: Wish = Wish()) -> None:
        self.pending[name] = wish
        self.pending_changed.set()

    async def register_pending(self) -> bool:
        """List the agents that could not be listed before; return whether all are now."""
        for name, wish in list(self.pending.items()):
            await self._register(name, wish)
        return not self.pending

    async def add_broadcast(self) -> None:
        """Have every inbox that was opened before the broadcast room was known take it in."""
        for name, agent in list(self._agents.items()):
            if agent.inbox is not None:
                await self.inbox(name)

    async def ready(self, name: AgentName) -> RoomId:
        """Return the agent's room, verified and mended once in this daemon's life."""
        agent = self._agent(name)
        async with agent.lock:
            if agent.room_id is None:
                room = await self.manager.find_or_create_agent_room(name)
                self._rooms[room.room_id] = name
                agent.room_id = room.room_id
                if room.encrypted:
                    await self._mark_encrypted(room.room_id)
            return agent.room_id

    async def retire(self, name: AgentName) -> None:
        """Close an agent's sessions and drop what is held for it; an ephemeral one is taken off the list as well."""
        self.sessions.end(name)
        self.pending.pop(name, None)
        agent = self._agents.pop(name, None)
        if agent is not None and agent.inbox is not None:
            agent.inbox.close()
        card = self.manager.directory.card(name)
        if card is not None and card.kind == "ephemeral" and card.daemon == self.naming.daemon:
            await self.manager.unregister(name)

    # --- what the gateway asks

    def is_known(self, name: AgentName) -> bool:
        """Whether this daemon hosts an agent of this name, online or not."""
        card = self.manager.directory.card(name)
        return name in self._agents or (card is not None and card.daemon == self.naming.daemon)

    def owner_of(self, room_id: RoomId) -> AgentName | None:
        """Return the agent whose room this is."""
        return self._rooms.get(room_id) or self.manager.directory.agent_of_room(room_id)

    async def who(self) -> DirectoryView:
        """Return the directory, with what this daemon knows of its own agents besides."""
        view = await self.manager.list_agents(self.sessions.online())
        return replace(view, entries=tuple(self._with_local(entry) for entry in view.entries))

    def _with_local(self, entry: DirectoryEntry) -> DirectoryEntry:
        name = AgentName(entry.name)
        agent = self._agents.get(name)
        seen = self.sessions.last_seen_ms(name)
        encrypted = entry.encrypted or entry.room_id in self.encrypted
        if agent is None and seen is None and encrypted == entry.encrypted:
            return entry
        reach: Reach = entry.reach
        if entry.status == "online" and agent is not None:
            reach = "push" if agent.streams else "poll"
        status_line = agent.status_line if agent is not None and entry.status == "online" else ""
        return replace(entry, reach=reach, status_line=status_line, encrypted=encrypted, last_seen_ts=seen)

    async def inbox(self, name: AgentName) -> Inbox:
        """Return the agent's inbox, opened when it is first asked for."""
        room_id = await self.ready(name)
        agent = self._agent(name)
        async with agent.lock:
            user, client = self.naming.user(name), self.manager.client_of(name)
            if agent.inbox is None:
                agent.inbox = Inbox(RoomInbox(client, Reader(user, room_id, is_own_room=True), self.naming))
            broadcast = self.manager.broadcast_id
            if broadcast is not None and not agent.inbox.has_broadcast and self.manager.directory.card(name):
                reader = Reader(user, broadcast, is_own_room=False)
                agent.inbox.add_broadcast(RoomInbox(client, reader, self.naming))
            return agent.inbox

    @asynccontextmanager
    async def streaming(self, name: AgentName) -> AsyncIterator[None]:
        """Count a standing stream of the agent: it is how a message reaches it at once."""
        agent = self._agent(name)
        agent.streams += 1
        try:
            yield
        finally:
            agent.streams -= 1

    async def set_status(self, name: AgentName, line: str | None, typing_s: float | None) -> None:
        """Write the agent's presence line when it changed, and show or end its typing in its own room."""
        agent, user, client = self._agent(name), self.naming.user(name), self.manager.client_of(name)
        if typing_s is not None:
            await client.set_typing(await self.ready(name), user, typing_s)
        if line is not None and line != agent.status_line:
            await client.set_presence(user, "online", line)
            agent.status_line = line

    def encrypted_rooms(self) -> list[str]:
        """Return the encrypted rooms that this daemon knows of, by their agent where they have one."""
        listed = self.manager.directory.encrypted_agents()
        named = {str(self.owner_of(room_id) or room_id) for room_id in self._encrypted_rooms()}
        return sorted(named | set(listed))

    def _encrypted_rooms(self) -> frozenset[RoomId]:
        broadcast = self.manager.broadcast_id if self.manager.broadcast_encrypted else None
        return frozenset(self.encrypted) | (frozenset() if broadcast is None else {broadcast})

    def lost_anchors(self) -> list[str]:
        """Return the agents whose cursor named an event that is gone."""
        return sorted(name for name, agent in self._agents.items() if agent.inbox and agent.inbox.anchor_lost)

    def require_clear(self, room_id: RoomId) -> None:
        """Raise `RoomEncryptedError` where a room is encrypted."""
        if room_id in self._encrypted_rooms():
            raise RoomEncryptedError(
                f"the room {room_id} is encrypted, and nothing is sent in clear into it",
                hint="end-to-end encryption is not supported: make a new room ('cchat status' says how)",
            )

    # --- what arrives

    async def take(self, batch: EventBatch) -> None:
        """Sort a batch of events. Each is taken once, by its event id."""
        self.skipped_events += batch.skipped
        self._doubt(batch)
        for event in batch.events:
            if event.event_id in self._seen:
                continue
            try:
                await self._take_event(event)
            except Exception:  # the supervisor of events: one that cannot be taken must not keep out those after it
                log.exception("an event could not be taken in", extra={"room_id": event.room_id})
                self.skipped_events += 1
            self._seen[event.event_id] = None
            if len(self._seen) > _SEEN_EVENTS:
                del self._seen[next(iter(self._seen))]

    def lost_track(self) -> None:
        """Have every open inbox, and the directory, be read on: something may have come that was not heard of."""
        self.manager.directory.expire()
        for agent in self._agents.values():
            if agent.inbox is not None:
                agent.inbox.doubt()

    def _doubt(self, batch: EventBatch) -> None:
        if batch.lost_track:
            self.lost_track()
            return
        for room_id in batch.gaps:
            if room_id == self.manager.space_id:
                self.manager.directory.expire()
            for inbox in self._inboxes_of(room_id):
                inbox.doubt()

    async def _take_event(self, event: RoomEvent) -> None:
        manager = self.manager
        agent = self.owner_of(event.room_id)
        if event.room_id == manager.space_id:
            manager.directory.apply(event)
            self._list_again(event)
        elif agent is None and event.room_id != manager.broadcast_id:
            self._refuse_strange_room(event)
            return
        if event.type == "m.room.encryption" and event.state_key == "":
            await self._mark_encrypted(event.room_id)
        message = parse_message(event, self.naming, manager.broadcast_id)
        inboxes = self._inboxes_of(event.room_id)
        if event.type == "m.room.redaction":
            for inbox in inboxes:
                inbox.withdraw(EventId(str(event.content.get("redacts"))))
        elif message is not None:
            self.answers.note(message)
            for inbox in inboxes:
                inbox.offer(message)

    def _list_again(self, event: RoomEvent) -> None:
        """Mend it where an agent was taken off the list by somebody whose business that is not."""
        name = self.owner_of(RoomId(event.state_key or "")) if event.type == "m.space.child" else None
        card = None if name is None else self.manager.directory.card(name)
        if card is None or card.daemon != self.naming.daemon or self.manager.directory.has_child(RoomId(card.room_id)):
            return
        if event.sender in self.manager.people or event.sender in (self.naming.daemon, self.naming.user(card.name)):
            return
        log.warning("%s took %s off the list; listing it again", event.sender, card.name)
        self._list_later(card.name)

    def _inboxes_of(self, room_id: RoomId) -> list[Inbox]:
        """Return the open inboxes that a room belongs to: all, where it is the broadcast room."""
        if room_id == self.manager.broadcast_id:
            agents = list(self._agents.values())
        else:
            owner = self.owner_of(room_id)
            agents = [self._agents[owner]] if owner in self._agents else []
        return [agent.inbox for agent in agents if agent.inbox is not None]

    async def _mark_encrypted(self, room_id: RoomId) -> None:
        """Remember that a room is encrypted, in the agent's card too, so that every directory says so."""
        self.encrypted.add(room_id)
        name = self.owner_of(room_id)
        card = None if name is None else self.manager.directory.card(name)
        if card is not None and not card.encrypted and card.room_id == room_id:
            self._list_later(card.name)

    def _refuse_strange_room(self, event: RoomEvent) -> None:
        """Have an agent leave a room that it did not make: anyone on a server can invite anyone."""
        if event.type != "m.room.member" or event.content.get("membership") not in ("invite", "join"):
            return
        agent = self.naming.agent_of(event.state_key or "")
        user = self.naming.daemon if event.state_key == self.naming.daemon else None
        ours = self.naming.agent_of(event.sender) is not None or event.sender == self.naming.daemon
        if (agent is None and user is None) or ours:
            return
        task = asyncio.create_task(self._leave_if_strange(agent, event.room_id), name=f"leave {event.room_id}")
        self._expulsions.add(task)
        task.add_done_callback(self._expulsions.discard)

    async def _leave_if_strange(self, agent: AgentName | None, room_id: RoomId) -> None:
        manager, naming = self.manager, self.naming
        client = manager.client_of_daemon if agent is None else manager.client_of(agent)
        own = () if agent is None else (naming.alias(agent),)
        try:
            for alias in (manager.space_alias, naming.broadcast, *own):  # whose rooms may not be known yet
                with contextlib.suppress(MatrixNotFoundError):
                    if await client.resolve_room_alias(alias) == room_id:
                        return
            await client.leave_room(room_id)
        except MatrixError as error:
            log.info("a strange room was not left: %s", error.message, extra={"room_id": room_id})
        except AiAgentChatError as error:
            log.warning("a strange room was not left: %s", error.message, extra={"room_id": room_id})

    def _agent(self, name: AgentName) -> HostedAgent:
        return self._agents.setdefault(name, HostedAgent(name))
