"""`Intake`: takes in every event that arrives, whichever way, and tells host, directory and inboxes what it means.

Each event is taken once, by its event id. Events of rooms that are neither ours nor another agent's are dropped.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.messages import ANSWERED_FOR_AGENTS, command_in, parse_message
from aiagentchat.errors import AiAgentChatError, MatrixError, MatrixNotFoundError
from aiagentchat.matrix.events import EventBatch, RoomEvent
from aiagentchat.model import AgentName, Command, EventId, Message, RoomId, UserId
from aiagentchat.space.content import CARD

log = logging.getLogger(__name__)

_SEEN_EVENTS = 10_000
_SPACE, _BROADCAST, _AGENT = "space", "broadcast", "agent"
_GONE = ("leave", "ban")


@dataclass(frozen=True, slots=True)
class Landmark:
    """An event that the homeserver has, when it was written there (its ms), and who can read it."""

    user_id: UserId
    room_id: RoomId
    event_id: EventId
    ts: int


class Intake:
    """What arrives, sorted. `taken_at`: when something did last, by the local monotonic clock.

    `landmarks`: the latest event of the Space, the broadcast room, and agents' rooms.

    `on_person` is told of the room of each message of a person, whose that is (None: everybody's), and its time;
    `on_command` of what a person asks of the system in the room of an agent of this daemon; `on_event` of each event of
    an agent's room, of the message that it is, if any, and whose room that is.
    """

    def __init__(
        self,
        host: AgentHost,
        *,
        on_person: Callable[[RoomId, AgentName | None, int], None] = lambda *_: None,
        on_command: Callable[[AgentName, Command, Message], None] = lambda *_: None,
        on_event: Callable[[RoomEvent, Message | None, AgentName], None] = lambda *_: None,
    ) -> None:
        self._host = host
        self._on_person = on_person
        self._on_command = on_command
        self._on_event = on_event
        self._manager = host.manager
        self._names = host.names
        self._seen: dict[EventId, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.skipped_events = 0
        self.taken_at: float | None = None
        self.landmarks: dict[str, Landmark] = {}

    def has_taken(self, event_id: EventId) -> bool:
        """Whether an event has arrived. Of the latest 10,000 it is known."""
        return event_id in self._seen

    async def take(self, batch: EventBatch) -> None:
        """Sort a batch of events."""
        self.skipped_events += batch.skipped
        self.taken_at = time.monotonic()
        self._doubt(batch)
        for event in batch.events:
            if event.event_id in self._seen:
                continue
            try:
                self._take_event(event)
            except Exception:  # the supervisor of events: one that cannot be taken must not keep out those after it
                log.exception(
                    "an event could not be taken in", extra={"room_id": event.room_id, "event_id": event.event_id}
                )
                self.skipped_events += 1
            self._seen[event.event_id] = None
            if len(self._seen) > _SEEN_EVENTS:
                del self._seen[next(iter(self._seen))]

    def _doubt(self, batch: EventBatch) -> None:
        if batch.lost_track:
            self._host.lost_track()
            return
        if batch.is_out_of_turn:
            self._host.distrust()
        for room_id in batch.gaps:
            if room_id == self._manager.space_id:
                self._manager.directory.expire()
            lacking = self._host.inboxes_of(room_id, batch.user_id)
            is_cut = any(event.room_id == room_id for event in batch.events)
            for inbox in self._host.inboxes_of(room_id):
                if inbox in lacking:
                    inbox.doubt(anew=True)
                elif is_cut:  # what was left out comes with that one's own sync, and may come later
                    inbox.distrust()

    def _take_event(self, event: RoomEvent) -> None:
        manager = self._manager
        agent = self._host.owner_of(event.room_id)
        if event.room_id == manager.space_id:
            self._note(_SPACE, self._names.daemon, event)
            self._take_event_of_space(event)
        elif event.room_id == manager.broadcast_id:
            self._note(_BROADCAST, self._names.daemon, event)
            self._take_change_of_broadcast(event)
        elif agent is None:
            self._refuse_strange_room(event)
            return
        else:
            if self._host.is_known(agent):  # in the room of another daemon's, its user is none of ours
                self._note(_AGENT, self._names.user(agent), event)
            self._take_change_of_room(agent, event)
        if event.type == "m.room.encryption" and event.state_key == "":
            self._host.mark_encrypted(event.room_id)
        message = parse_message(event, self._host.sender_of, manager.broadcast_id)
        inboxes = self._host.inboxes_of(event.room_id)
        if event.type == "m.room.redaction":
            for inbox in inboxes:
                inbox.withdraw(EventId(str(event.content.get("redacts"))))
        elif message is not None:
            self._take_message(message, agent, inboxes, command_in(event, message))
        if agent is not None:
            self._on_event(event, message, agent)

    def _take_message(
        self, message: Message, owner: AgentName | None, inboxes: Iterable[Inbox], command: Command | None
    ) -> None:
        ids = {"agent": owner, "room_id": message.room_id, "event_id": message.event_id}
        log.debug("a message of %s arrived", message.sender.user_id, extra=ids)
        self._host.answers.note(message)
        self._host.tally.note(message)
        if command is not None and owner is not None and self._host.is_known(owner):
            self._on_command(owner, command, message)
        elif message.sender.kind == "person":
            self._on_person(message.room_id, owner, message.ts)
        if command in ANSWERED_FOR_AGENTS:
            return
        for inbox in inboxes:
            inbox.offer(message)

    def _note(self, place: str, user_id: UserId, event: RoomEvent) -> None:
        self.landmarks[place] = Landmark(user_id, event.room_id, event.event_id, event.ts)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the Space and the broadcast room

    def _take_event_of_space(self, event: RoomEvent) -> None:
        manager = self._manager
        if event.type == "m.room.tombstone" and event.state_key == "":
            self._host.lose_space(f"{event.sender} upgraded the Space")
        elif _is_gone(event) and event.state_key == self._names.daemon:
            self._host.lose_space(_removal(event, "the Space"))
        elif event.type == "m.room.member" and (agent := self._names.agent_of(event.state_key or "")) is not None:
            is_out = _is_gone(event) and event.sender != event.state_key
            self._host.note_removal(agent, _removal(event, "the Space") if is_out else "")
        manager.directory.apply(event)
        if event.type == CARD and self._names.agent_of(event.sender) is None:
            self._start(manager.others.check_claims(), "check the cards of others")
        self._list_again(event)

    def _take_change_of_broadcast(self, event: RoomEvent) -> None:
        if event.type == "m.room.tombstone" and event.state_key == "":
            self._host.lose_broadcast()
        elif _is_gone(event) and event.state_key == self._names.daemon:
            log.warning("%s", _removal(event, "the broadcast room"))
            self._host.lose_broadcast()

    def _list_again(self, event: RoomEvent) -> None:
        """Mend it where an agent was taken off the list by somebody whose business that is not."""
        directory = self._manager.directory
        name = self._host.owner_of(RoomId(event.state_key or "")) if event.type == "m.space.child" else None
        card = None if name is None else directory.card(name)
        if card is None or card.room_id != event.state_key or directory.has_child(RoomId(card.room_id)):
            return
        if event.sender in self._manager.people or event.sender in (self._names.daemon, self._names.user(card.name)):
            return
        self._start(self._judge_removal(card.name, event.sender), f"judge what was done to {card.name}")

    async def _judge_removal(self, agent: AgentName, by: UserId) -> None:
        """Tell a take-over, whose card the homeserver bears out, from anything else."""
        directory = self._manager.directory
        if directory.is_claimed(agent, by):
            await self._manager.others.check_claims()
        taken_by = directory.find(agent)
        if taken_by is not None and not taken_by.is_hosted and by in (taken_by.user_id, taken_by.card.daemon):
            log.warning("%s has taken over the name %s", by, agent, extra={"agent": agent})
            self._host.drop(agent)
            return
        log.warning("%s took %s off the list; listing it again", by, agent, extra={"agent": agent})
        self._host.list_later(agent)

    # --- the room of an agent

    def _take_change_of_room(self, agent: AgentName, event: RoomEvent) -> None:
        """Note that a room of ours was upgraded, or its agent taken out of it, or invited again."""
        if event.room_id != self._host.in_use.get(agent, event.room_id) or not self._host.is_known(agent):
            return
        if event.type == "m.room.tombstone" and event.state_key == "":
            self._host.lose_room(agent, f"{event.sender} upgraded its room")
        elif event.type == "m.room.member" and event.state_key == self._names.user(agent):
            if _is_gone(event):
                by_itself = event.sender == event.state_key  # as it is when an administrator deletes the room
                self._host.lose_room(agent, _removal(event, "its room"), on_purpose=not by_itself)
            elif event.content.get("membership") == "invite":
                self._host.readmit(agent)

    # --- rooms of nobody

    def _refuse_strange_room(self, event: RoomEvent) -> None:
        """Have an agent leave a room that it did not make: anyone on a server can invite anyone.

        Before the directory is known, any room is strange, and may be an agent's that is not in order any more.
        """
        if self._manager.directory.is_stale() and _changes_a_room(event):
            self._host.order.forget()
        if event.type != "m.room.member" or event.content.get("membership") not in ("invite", "join"):
            return
        agent = self._names.agent_of(event.state_key or "")
        is_daemon = self._names.has_own_daemon and event.state_key == self._names.daemon
        ours = self._names.agent_of(event.sender) is not None or event.sender == self._names.daemon
        if (agent is not None or is_daemon) and not ours:
            self._start(self._leave_if_strange(agent, event.room_id), f"leave {event.room_id}")

    async def _leave_if_strange(self, agent: AgentName | None, room_id: RoomId) -> None:
        manager, names = self._manager, self._names
        client = manager.client_of_daemon if agent is None else manager.client_of(agent)
        own = () if agent is None else (names.alias(agent),)
        try:
            for room in (*manager.common_rooms, *own):  # which may not be known yet
                if room == room_id:
                    return
                with contextlib.suppress(MatrixNotFoundError):
                    if room.startswith("#") and await client.resolve_room_alias(room) == room_id:
                        return
            await client.leave_room(room_id)
        except MatrixError as error:
            log.info("a strange room was not left: %s", error.message, extra={"room_id": room_id})
        except AiAgentChatError as error:
            log.warning("a strange room was not left: %s", error.message, extra={"room_id": room_id})


def _is_gone(event: RoomEvent) -> bool:
    return event.type == "m.room.member" and event.content.get("membership") in _GONE


def _changes_a_room(event: RoomEvent) -> bool:
    return _is_gone(event) or event.type in ("m.room.tombstone", "m.room.encryption")


def _removal(event: RoomEvent, room: str) -> str:
    if event.sender == event.state_key:
        return f"{event.state_key} is not in {room} any more"
    did = "banned" if event.content.get("membership") == "ban" else "removed"
    return f"{event.sender} {did} {event.state_key} from {room}"
