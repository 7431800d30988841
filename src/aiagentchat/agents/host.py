"""`AgentHost`: the agents of one daemon, those that are in use and those that are pending.

Delegates rooms to `space.manager`, inboxes to `agents.inbox`, sessions to `agents.sessions`; `agents.intake` tells it
what happens. Nothing is kept, and nothing runs, for an agent that is not asked for.
"""

import asyncio
import contextlib
import logging
import random
from dataclasses import replace
from functools import partial

from aiagentchat.agents.answers import Answers
from aiagentchat.agents.heartbeat import check_roster_has_room
from aiagentchat.agents.hosted import AS_IT_IS, Attached, HostedAgent, Pending, Wish, add_local
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.room_inbox import Reader, RoomInbox
from aiagentchat.agents.room_order import RoomOrder
from aiagentchat.agents.sessions import Sessions
from aiagentchat.agents.tally import Tally
from aiagentchat.agents.visits import Visits, end_old_visits
from aiagentchat.errors import (
    AiAgentChatError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    NameTakenError,
    RefusedError,
    RoomEncryptedError,
)
from aiagentchat.model import AgentName, DirectoryEntry, RoomAlias, RoomId, UserId, localpart_of
from aiagentchat.space.content import Card
from aiagentchat.space.directory import DirectoryView
from aiagentchat.space.manager import SpaceManager
from aiagentchat.space.rooms import membership_of

log = logging.getLogger(__name__)

_EPHEMERAL_JITTER_S = 2.0


class AgentHost:
    """Boots agents, and keeps their sessions, rooms and inboxes.

    Args:
        order: which rooms need no look. jitter: seconds to wait before an ephemeral agent boots, for tests' sake.
    """

    def __init__(
        self,
        manager: SpaceManager,
        sessions: Sessions,
        order: RoomOrder | None = None,
        *,
        jitter: random.Random | None = None,
    ) -> None:
        self.manager = manager
        self.order = order or RoomOrder()
        self.sessions = sessions
        self.names = manager.names
        self.sender_of = manager.directory.sender_of
        self.answers = Answers()
        self.visits = Visits()
        self.tally = Tally()
        self.encrypted: set[RoomId] = set()
        self.pending: dict[AgentName, Pending] = {}
        self.pending_changed = asyncio.Event()
        self.in_use: dict[AgentName, RoomId] = {}
        self.in_use_changed = asyncio.Event()
        self._jitter = jitter or random.Random()
        self._agents: dict[AgentName, HostedAgent] = {}
        self._rooms: dict[RoomId, AgentName] = {}
        self._removed: dict[AgentName, str] = {}
        self._checking: set[asyncio.Task[None]] = set()
        self._booting = 0
        manager.on_lost = self.lose_space

    # --- boot

    async def boot(self, name: AgentName, wish: Wish = AS_IT_IS, *, take_over: bool = False) -> Attached:
        """Bring an agent into being or back: its room, its place in the Space. Idempotent; opens no session.

        Without the Space the agent's own room works, and it is listed later.

        Args:
            take_over: though another live daemon hosts the name. Who is unread there stays there.

        Raises:
            NameTakenError: another live daemon hosts this name, or a person has it. AiAgentChatError: its own room is
                not to be had.
        """
        self._refuse_name_of_person(name)
        check_roster_has_room(self.sessions.online(), name)
        if not self.manager.is_looked_up:  # the directory says whose name it is
            with contextlib.suppress(MatrixError, RefusedError):
                await self.manager.require_space()
        if not take_over:
            await self.manager.others.refuse_name_of_live_daemon(name)
        before = self.manager.directory.find(name)
        if wish.kind == "ephemeral" and self.manager.directory.card(name) is None:
            await self._spread_out()
        if name in self.in_use:
            self._check_alias(name)
        elif await self._is_invited_again(name):
            self.readmit(name)
        self.hosted(name).wish = wish
        trusted = self._find_in_order(name, wish)
        self._booting += 1
        try:
            room_id = trusted or await self.ready(name)
        finally:
            self._booting -= 1
        log.info("%s is up", name, extra={"agent": name, "room_id": room_id})
        registered = trusted is not None or await self._register(name, wish)
        lost = RoomAlias(before.card.alias) if before is not None and before.user_id != self.names.user(name) else None
        return Attached(name, self.names.user(name), room_id, self.names.alias(name), registered, lost)

    def _find_in_order(self, name: AgentName, wish: Wish) -> RoomId | None:
        """Return the room of an agent that is listed as it is to be: `ready` looks at it when it is first used.

        So a start costs the same however many agents there are. None: that is not known, or the agent is in use.
        """
        card = self.manager.directory.card(name)
        is_new = name not in self.in_use and name not in self.pending and not self.hosted(name).expelled
        if card is None or not is_new or not self.order.has(name, self.manager.rooms_are_for):
            return None
        room_id, listed = RoomId(card.room_id), self.manager.directory.find(name)
        is_listed = listed is not None and listed.is_hosted and self.manager.directory.has_child(room_id)
        if not is_listed or card != self._card(name, room_id, wish):
            return None
        self._use(name, room_id)
        return room_id

    def _use(self, name: AgentName, room_id: RoomId) -> None:
        before = self.in_use.get(name, room_id)
        if before != room_id:  # that the directory knows was gone
            self._rooms.pop(before, None)
            self.list_later(name)
        self._rooms[room_id] = name
        self.in_use[name] = room_id
        self.in_use_changed.set()

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
            alias=self.names.alias(name),
            kind=wish.kind if present is None else present.kind,
            description=kept if wish.description is None else wish.description,
            reach="none",
            daemon=self.names.daemon_of(name),
            encrypted=room_id in self.encrypted,
        )

    async def _spread_out(self) -> None:
        """Sleep a random 0–2 s, so that many that start at once do not arrive at once; not when booted alone."""
        if self._booting:
            await asyncio.sleep(self._jitter.uniform(0, _EPHEMERAL_JITTER_S))

    async def _register(self, name: AgentName, wish: Wish) -> bool:
        try:
            room_id = await self.ready(name)
        except AiAgentChatError as error:  # one that is refused its room was so by somebody
            self._postpone(name, wish, error, is_final=isinstance(error, RefusedError))
            return False
        try:
            if self.manager.settings.shared_room is not None and self.manager.broadcast_id is not None:
                await self._is_in_broadcast(name)
            await self.manager.require_space()
            await self.manager.register_in_space(self._card(name, room_id, wish))
            self.pending.pop(name, None)
            agent = self._agents.get(name)
            if agent is None:  # it left meanwhile
                await self.retire(name)
            elif agent.inbox is not None:
                await self.inbox(name)  # whoever reads it gets the broadcast room as well
        except AiAgentChatError as error:  # one that is refused in a Space that is there was so by somebody
            is_final = isinstance(error, RefusedError) and self.manager.space_id is not None
            self._postpone(name, wish, error, is_final=is_final)
            return False
        return True

    def _postpone(self, name: AgentName, wish: Wish, error: AiAgentChatError, *, is_final: bool = False) -> None:
        log.warning("%s is not listed yet: %s", name, error.message, extra={"agent": name})
        if name in self._agents:
            self.pending[name] = Pending(wish, error.message, is_final)
            self.pending_changed.set()

    def list_later(self, name: AgentName, wish: Wish | None = None, reason: str = "it is being listed") -> None:
        """Have an agent be listed, or its card be written again, by `register_pending`."""
        before = self.pending.get(name)
        self.pending[name] = Pending(wish or (AS_IT_IS if before is None else before.wish), reason)
        self.pending_changed.set()

    async def register_pending(self) -> bool:
        """List the agents that could not be listed before; return whether all are now."""
        for name, pending in list(self.pending.items()):
            if not pending.is_final:
                await self._register(name, pending.wish)
        return all(pending.is_final for pending in self.pending.values())

    async def add_broadcast(self) -> None:
        """Have every inbox that was opened before the broadcast room was known take it in."""
        self.in_use_changed.set()
        for name, agent in list(self._agents.items()):
            if agent.inbox is not None:
                await self.inbox(name)

    async def ready(self, name: AgentName) -> RoomId:
        """Return the agent's room, verified and mended once in this daemon's life.

        Raises:
            RefusedError: somebody took the agent out of it, or it is somebody else's. AiAgentChatError: it is not to
                be had.
        """
        agent = self.hosted(name)
        async with agent.lock:
            if agent.expelled:
                raise RefusedError(agent.expelled, hint=f"invite {self.names.user(name)} there again to have it back")
            while agent.room_id is None:
                losses = agent.losses
                try:
                    room = await self.manager.find_or_create_agent_room(name, agent.wish.kind, agent.wish.description)
                except AiAgentChatError as error:
                    if name in self.in_use and not error.retryable:  # since the directory was trusted
                        self.lose_room(name, error.message)
                    raise
                if agent.losses != losses:
                    continue
                if self._agents.get(name) is not agent:
                    return room.room_id  # it left meanwhile
                self._use(name, room.room_id)
                self.order.note(name, in_order=True)
                agent.room_id = room.room_id
                if room.encrypted:
                    self.mark_encrypted(room.room_id)
                if self.manager.layout.open_rooms:
                    await end_old_visits(self.manager.client_of(name), name, self.owner_of)
            return agent.room_id

    async def retire(self, name: AgentName) -> None:
        """Close an agent's sessions and drop what is held for it; an ephemeral one is taken off the list as well."""
        self.drop(name)
        card = self.manager.directory.card(name)
        if card is not None and card.kind == "ephemeral" and card.daemon == self.names.daemon_of(name):
            await self.manager.unregister(name)
            self.sessions.forget(name)

    def drop(self, name: AgentName) -> None:
        """Close an agent's sessions and drop what is held for it."""
        self.sessions.end(name)
        self.pending.pop(name, None)
        room_id = self.in_use.pop(name, None)
        if room_id is not None:
            self._rooms.pop(room_id, None)
            self.in_use_changed.set()
        agent = self._agents.pop(name, None)
        if agent is not None and agent.inbox is not None:
            agent.inbox.close()

    # --- rooms that change under us

    async def _is_invited_again(self, name: AgentName) -> bool:
        """Whether an agent that was taken out of its room has an invite, of which no event may have told."""
        agent, card = self._agents.get(name), self.manager.directory.card(name)
        if agent is None or not agent.expelled or card is None:
            return False
        operator, room_id = self.manager.operator, RoomId(card.room_id)
        return operator is not None and await membership_of(operator, room_id, self.names.user(name)) == "invite"

    def lose_room(self, name: AgentName, reason: str, *, on_purpose: bool = False) -> None:
        """An agent's room is not, or no more, where it was: it is looked for again, unless a person meant it."""
        agent = self.hosted(name)
        log.warning("%s: %s", name, reason, extra={"agent": name, "room_id": self.in_use.get(name)})
        agent.losses += 1
        agent.room_id = None
        self.order.note(name, in_order=False)
        if (room_id := self.in_use.pop(name, None)) is not None:
            self._rooms.pop(room_id, None)
            self.in_use_changed.set()
        if agent.inbox is not None:
            agent.inbox.replace()
            agent.inbox = None
        if on_purpose:
            agent.expelled = reason
        self.list_later(name, reason=reason)

    def lose_space(self, reason: str) -> None:
        """The Space is gone, or the daemon is not in it any more: whoever finds one again lists all agents there."""
        manager = self.manager
        log.warning("the Space is lost: %s", reason)
        for card in manager.directory.own_cards():
            self.pending.setdefault(card.name, Pending(Wish(card.kind, card.description), reason))
        manager.lose_space(reason)
        for agent in self._agents.values():
            agent.room_id = None  # it names the Space as its parent
        if manager.settings.shared_room is None:
            self.lose_broadcast()
        self.pending_changed.set()

    def lose_broadcast(self) -> None:
        """The broadcast room is looked for again."""
        for inbox in self.inboxes().values():
            inbox.drop_broadcast()
        self.manager.broadcast_id = None
        self.pending_changed.set()

    def note_removal(self, name: AgentName, reason: str) -> None:
        """Somebody took an agent out of the Space, in a sentence; "": it is in it, or invited again."""
        self._removed.pop(name, None)
        if reason:
            self._removed[name] = reason

    def expelled(self) -> dict[AgentName, str]:
        """Return the agents that a person took out of their room, or of the Space, each with a sentence on it."""
        return self._removed | {name: agent.expelled for name, agent in self._agents.items() if agent.expelled}

    def _check_alias(self, name: AgentName) -> None:
        """See, without waiting for it."""
        task = asyncio.create_task(self._check_alias_now(name), name=f"check the alias of {name}")
        self._checking.add(task)
        task.add_done_callback(self._checking.discard)

    async def _check_alias_now(self, name: AgentName) -> None:
        alias = self.names.alias(name)
        try:
            found = await self.manager.client_of_daemon.resolve_room_alias(alias)
        except MatrixNotFoundError as error:
            if name in self.in_use:
                self.lose_room(name, f"its alias {alias} is gone: {error.error}")
        except AiAgentChatError as error:
            log.info("the alias of %s was not checked: %s", name, error.message, extra={"agent": name})
        else:
            if found != self.in_use.get(name, found):
                self.lose_room(name, f"its alias {alias} names another room now, {found}")

    async def is_in_its_room(self, name: AgentName) -> bool:
        """Whether an agent of this daemon is in the room that it is thought to be in."""
        card = self.manager.directory.card(name)
        room_id = self.in_use.get(name) or (None if card is None else RoomId(card.room_id))
        if room_id is None:
            return False
        try:
            member = await self.manager.client_of(name).get_state(room_id, "m.room.member", self.names.user(name))
        except (MatrixForbiddenError, MatrixNotFoundError):
            return False
        return member.get("membership") == "join"

    # --- what the gateway asks

    def is_known(self, name: AgentName) -> bool:
        """Whether an agent of this name is this daemon's, online or not."""
        listed = self.manager.directory.find(name)
        return name in self._agents if listed is None else listed.is_hosted

    def owner_of(self, room_id: RoomId) -> AgentName | None:
        """Return the agent whose room this is."""
        return self._rooms.get(room_id) or self.manager.directory.agent_of_room(room_id)

    async def who(self) -> DirectoryView:
        """Return the directory, with what this daemon knows of its own agents besides."""
        view = await self.manager.list_agents(self.sessions.online())
        return replace(view, entries=tuple(self._with_local(entry) for entry in view.entries))

    def _with_local(self, entry: DirectoryEntry) -> DirectoryEntry:
        name = AgentName(entry.name)
        return add_local(
            entry,
            self._agents.get(name),
            began_ms=self.sessions.began_ms(name),
            seen_ms=self.sessions.last_seen_ms(name),
            encrypted=entry.encrypted or entry.room_id in self.encrypted,
        )

    async def inbox(self, name: AgentName) -> Inbox:
        """Return the agent's inbox, opened when it is first asked for."""
        room_id = await self.ready(name)
        agent = self.hosted(name)
        async with agent.lock:
            user, client = self.names.user(name), self.manager.client_of(name)
            if agent.inbox is None:
                own = RoomInbox(client, Reader(user, room_id, is_own_room=True), self.sender_of)
                agent.inbox = Inbox(own, on_acknowledged=partial(self._note_acknowledged, name))
            broadcast = self.manager.broadcast_id
            if broadcast is not None and not agent.inbox.has_broadcast and await self._is_in_broadcast(name):
                reader = Reader(user, broadcast, is_own_room=False)
                agent.inbox.add_broadcast(RoomInbox(client, reader, self.sender_of))
            return agent.inbox

    def _note_acknowledged(self, name: AgentName, count: int) -> None:
        self.tally.acknowledged += count
        self.answers.note_acknowledged(name)

    async def _is_in_broadcast(self, name: AgentName) -> bool:
        """Whether the agent can read the broadcast room: once it is listed; one that the person named it joins now."""
        if self.manager.settings.shared_room is None:
            return self.manager.directory.card(name) is not None
        try:
            await self.manager.join_broadcast(name)
        except AiAgentChatError as error:
            room = self.manager.settings.shared_room
            log.warning("%s cannot join %s: %s", name, room, error.message, extra={"agent": name})
            return False
        return True

    async def set_status(self, name: AgentName, line: str | None, typing_s: float | None) -> None:
        """Write the agent's presence line when it changed, and show or end its typing in its own room."""
        agent, user, client = self.hosted(name), self.names.user(name), self.manager.client_of(name)
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

    def inboxes(self) -> dict[AgentName, Inbox]:
        """Return the inboxes that are open, by the names of their agents."""
        return {name: agent.inbox for name, agent in sorted(self._agents.items()) if agent.inbox}

    def require_clear(self, room_id: RoomId) -> None:
        """Raise `RoomEncryptedError` where a room is encrypted."""
        if room_id in self._encrypted_rooms():
            raise RoomEncryptedError(
                f"the room {room_id} is encrypted, and nothing is sent in clear into it",
                hint="end-to-end encryption is not supported: make a new room ('cchat status' says how)",
            )

    def hears(self, room_id: RoomId) -> bool:
        """Whether what is written in a room arrives by itself."""
        return room_id == self.manager.broadcast_id or room_id in self.in_use.values()

    # --- for those who take in events

    def inboxes_of(self, room_id: RoomId, user_id: UserId | None = None) -> list[Inbox]:
        """Return the open inboxes that a room belongs to: all, or that of one user, where it is the broadcast room."""
        owner = self.owner_of(room_id)
        if room_id == self.manager.broadcast_id:
            if user_id is None:
                return list(self.inboxes().values())
            owner = self.names.agent_of(user_id)
        agent = self._agents.get(owner or AgentName(""))
        return [agent.inbox] if agent is not None and agent.inbox is not None else []

    def mark_encrypted(self, room_id: RoomId) -> None:
        """Remember that a room is encrypted, in the agent's card too, so that every directory says so."""
        self.encrypted.add(room_id)
        name = self.owner_of(room_id)
        card = None if name is None else self.manager.directory.card(name)
        if card is not None and not card.encrypted and card.room_id == room_id:
            self.list_later(card.name)

    def lost_track(self) -> None:
        """Have every open inbox, and the directory, be read on: something may have come that was not heard of."""
        self.manager.directory.expire()
        for inbox in self.inboxes().values():
            inbox.doubt(anew=True)

    def distrust(self) -> None:
        """Have what comes next be read from its room, in the room's order; ask for nothing by itself."""
        for inbox in self.inboxes().values():
            inbox.distrust()

    def begin_anew(self, reason: str) -> None:
        """What is held of the homeserver's rooms is not as they are: look for all of them again."""
        self.lose_space(reason)
        for name in list(self._agents):
            self.lose_room(name, reason)

    def readmit(self, name: AgentName) -> None:
        """Somebody invited an agent to its room again."""
        agent = self._agents.get(name)
        if agent is not None and agent.expelled:
            agent.expelled = ""
            self.list_later(name)

    def hosted(self, name: AgentName) -> HostedAgent:
        """Return what is known of an agent in use."""
        return self._agents.setdefault(name, HostedAgent(name))
