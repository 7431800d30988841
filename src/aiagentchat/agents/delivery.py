"""How far a speaker's own messages came: stored, read, answered.

All of it is read from the homeserver when it is asked for: messages and answers in their rooms, what was read in the
readers' cursors and receipts. `agents.mail` sends; `agents.service` asks.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aiagentchat.agents.at_once import for_each
from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.past import Pages, Past, Speaker
from aiagentchat.errors import (
    HomeserverUnavailableError,
    InvalidRequestError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    NotFoundError,
    RefusedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import parse_event
from aiagentchat.matrix.sync import get_receipt
from aiagentchat.model import AgentName, EventId, Message, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CURSOR, Cursor, parse_content
from aiagentchat.space.directory import Listed

_LOOK_AGAIN_S = 2.0
"""How often a room is looked at of which no event arrives, and the receipt of somebody else's agent."""
_LOOK_ANYWAY_S = 30.0
"""How often a room is looked at of which events arrive: one may have been left out."""
_ORDER_MS = 60_000
"""How far the order of a room may be from that of its times."""
_MOST_MEMBERSHIPS = 20

Until = Literal["read", "answered"]
_Read = Mapping[tuple[RoomId, AgentName], frozenset[EventId]]
"""What each agent has acknowledged in a room."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of one's own. `to`: in whose room it stands. `read_by`: the agents that have acknowledged it."""

    message: Message
    state: Literal["stored", "read", "answered"]
    to: AgentName | None
    read_by: tuple[AgentName, ...] = ()
    answer: Message | None = None


class Delivery:
    """Looks after what was sent."""

    def __init__(self, host: AgentHost, past: Past) -> None:
        self._host = host
        self._past = past

    # --- many messages

    async def sent(self, speaker: Speaker, *, to: AgentName | None, limit: int) -> list[Sent]:
        """Return the speaker's latest messages to one agent (None: all that it sent), newest first.

        Raises:
            AgentNotFoundError: there is no agent `to`. HomeserverUnavailableError: without the Space nobody knows
                which rooms there are.
        """
        rooms = await self._rooms(speaker) if to is None else {await self._host.manager.find_agent_room(to): to}
        found = await self._own(speaker, rooms, limit)
        own = sorted((each for pages in found.values() for each in pages.messages), key=lambda each: -each.ts)[:limit]
        since_ms = {each.room_id: each.ts for each in own}  # the oldest of each room, which comes last
        if own and speaker.agent is not None:  # where agents answer it
            since_ms[await self._host.ready(speaker.agent)] = own[-1].ts
        pages = await self._look_back(speaker, since_ms)
        answers = _answers(pages.values(), speaker)
        read = await self._read(speaker, own, pages, rooms)
        return [_describe(each, rooms[each.room_id], answers.get(each.event_id), read) for each in own]

    async def _rooms(self, speaker: Speaker) -> dict[RoomId, AgentName | None]:
        """Return the rooms that the speaker may have written in, and whose they are. None: its own, or everybody's."""
        host, manager = self._host, self._host.manager
        view = await host.who()
        if view.unavailable:
            raise HomeserverUnavailableError(
                f"the Space is not to be had: {view.unavailable}", hint="'--to NAME' shows what was sent to one agent"
            )
        joined = await speaker.client.joined_rooms()
        rooms: dict[RoomId, AgentName | None] = {room_id: host.owner_of(room_id) for room_id in joined}
        if speaker.agent is not None:  # it has left those that it joined for a message
            for entry in view.entries:
                if manager.layout.open_rooms or not host.is_known(AgentName(entry.name)):
                    rooms[entry.room_id] = AgentName(entry.name)
        rooms = {room_id: owner for room_id, owner in rooms.items() if owner is not None}
        if speaker.agent is not None:
            rooms[await host.ready(speaker.agent)] = None
        if manager.broadcast_id is not None:
            rooms[manager.broadcast_id] = None
        return rooms

    async def _own(self, speaker: Speaker, rooms: Collection[RoomId], limit: int) -> dict[RoomId, Pages]:
        """Return the speaker's latest messages in each room: a request a room, which a busy one does not hide from.

        One sync of all rooms costs Synapse as much, and overlooks what many messages of others came after.
        """

        async def look(room_id: RoomId) -> Pages:
            try:
                return await self._past.page_back(speaker.client, room_id, limit=limit, sender=speaker.user_id)
            except (MatrixForbiddenError, MatrixNotFoundError):  # never was there
                return Pages([], [])

        return await for_each(rooms, look)

    async def _look_back(self, speaker: Speaker, since_ms: Mapping[RoomId, int]) -> dict[RoomId, Pages]:
        """Return the answers in each room, and the ids of all messages, back to a time of the homeserver's."""

        async def look(room_id: RoomId) -> Pages:
            with contextlib.suppress(MatrixForbiddenError):
                return await self._past.page_back(
                    speaker.client, room_id, since_ms=since_ms[room_id], answers_alone=True
                )
            return Pages([], [])

        return await for_each(since_ms, look)

    # --- one message

    async def sent_message(
        self, speaker: Speaker, event_id: EventId, *, to: AgentName | None, wait_s: float, until: Until
    ) -> Sent:
        """Return one message of the speaker's own to one agent (None: to all), waiting up to `wait_s` s for `until`.

        An answer to an agent comes into its own room, one to the operator stays where they wrote.

        Raises:
            NotFoundError: there is no such message of the speaker. InvalidRequestError: to all, and until it is read.
        """
        host = self._host
        if to is None and until == "read":
            raise InvalidRequestError("a message to all is read by nobody in particular", hint="name the agent: to")
        room_id = host.manager.broadcast_id if to is None else await host.manager.find_agent_room(to)
        message = None if room_id is None else await self._past.message_in(speaker, room_id, event_id)
        if message is None or message.sender.user_id != speaker.user_id:
            raise NotFoundError(f"you sent no message {event_id} to {to or 'all'}")
        rooms = {message.room_id}
        if speaker.agent is not None:
            rooms |= set(await self._past.rooms_of(speaker))

        def is_answer(answer: Message) -> bool:
            return answer.room_id in rooms and answer.sender.user_id != speaker.user_id

        polls = not all(host.hears(room) for room in rooms)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        with host.answers.waiting(event_id, is_answer) as arriving:
            while True:
                acknowledged = (
                    host.answers.acknowledgement_by(to) if to is not None and until == "read" else asyncio.Event()
                )
                pages = await self._look_back(speaker, dict.fromkeys(rooms, message.ts))
                answer = _answers(pages.values(), speaker).get(event_id)
                if answer is None and arriving.done():
                    answer = arriving.result()
                left_s = deadline - loop.time()
                is_over = answer is not None or left_s <= 0
                if is_over or until == "read":
                    read = await self._read(speaker, [message], pages, {message.room_id: to})
                    sent = _describe(message, to, answer, read)
                    if is_over or sent.state == until:
                        return sent
                await _first_of(arriving, acknowledged, min(left_s, _LOOK_AGAIN_S if polls else _LOOK_ANYWAY_S))

    # --- who has read

    async def read_in_room(
        self, reader: Speaker, agent: AgentName, room_id: RoomId, pages: Pages
    ) -> frozenset[EventId]:
        """Return which of an agent's room's messages it has acknowledged; `reader` is nobody's agent, but may read it.

        `pages`: of the room, newest first.
        """
        read = await self._read(reader, pages.messages, {room_id: pages}, {room_id: agent})
        return frozenset().union(*read.values()) & {message.event_id for message in pages.messages}

    async def _read(
        self,
        speaker: Speaker,
        own: Collection[Message],
        pages: Mapping[RoomId, Pages],
        rooms: Mapping[RoomId, AgentName | None],
    ) -> _Read:
        """Return what the agents of these rooms have acknowledged; of a message to all, the agents of this daemon."""
        ids: dict[RoomId, list[EventId]] = {}
        for message in own:
            known = ids.setdefault(message.room_id, list(pages[message.room_id].ids))
            if message.event_id not in known:
                known.append(message.event_id)  # older than all of them

        async def up_to(last: EventId, room_id: RoomId, client: MatrixClient) -> frozenset[EventId]:
            known = ids[room_id]
            if last in known:
                return frozenset(known[known.index(last) :])
            with contextlib.suppress(MatrixError):  # no message, or too much came after it: then by its time
                event = parse_event(await client.get_event(room_id, last), room_id)
                if event is not None:
                    before_ms = event.ts - _ORDER_MS
                    return frozenset(each.event_id for each in own if each.room_id == room_id and each.ts < before_ms)
            return frozenset()

        async def look(reader: tuple[RoomId, AgentName]) -> frozenset[EventId]:
            room_id, agent = reader
            other = None if room_id == self._host.manager.broadcast_id else await self._host.manager.find_agent(agent)
            if other is not None:
                last = await self._receipt_of(speaker, other)
                return frozenset() if last is None else await up_to(last, room_id, speaker.client)
            cursor = await self._cursor_of(agent, room_id)
            if cursor is None:
                return frozenset()
            client = self._host.manager.client_of(agent)
            passed = await up_to(EventId(cursor.anchor), room_id, client)
            if passed and room_id == self._host.manager.broadcast_id:  # it is read from when the agent joined
                joined_ms = await _joined_ms(client, room_id, self._host.names.user(agent))
                passed &= {each.event_id for each in own if each.ts >= joined_ms}
            return passed | frozenset(EventId(each) for each in cursor.acked)

        readers = [(room_id, agent) for room_id in ids for agent in self._readers(speaker, room_id, rooms[room_id])]
        return await for_each(readers, look)

    def _readers(self, speaker: Speaker, room_id: RoomId, owner: AgentName | None) -> list[AgentName]:
        if room_id == self._host.manager.broadcast_id:
            names = sorted(card.name for card in self._host.manager.directory.own_cards())
            return [name for name in names if self._host.is_known(name) and name != speaker.agent]
        return [owner] if owner is not None and owner != speaker.agent else []

    async def _cursor_of(self, agent: AgentName, room_id: RoomId) -> Cursor | None:
        client = self._host.manager.client_of(agent)
        try:
            content = await client.get_room_account_data(self._host.names.user(agent), room_id, CURSOR)
        except MatrixError:  # there is none, or the agent's account is logged out
            return None
        return parse_content(Cursor, content)

    async def _receipt_of(self, speaker: Speaker, target: Listed) -> EventId | None:
        """Return the last event that somebody else's agent has read: only who is in its room is told."""
        try:
            await self._host.manager.others.require_made_by(speaker.client, target.claim)
            await speaker.client.join_room(RoomAlias(target.card.alias))
        except (MatrixError, RefusedError):
            return None
        if speaker.agent is not None:
            self._host.visits.note(speaker.client, speaker.user_id, target.room_id)
        return await get_receipt(speaker.client, target.room_id, target.user_id)


async def _joined_ms(client: MatrixClient, room_id: RoomId, user_id: UserId) -> int:
    """Return when a member joined, by the homeserver's clock; later memberships, a new name say, are followed back."""
    joined_ms = 2**53
    with contextlib.suppress(MatrixError):
        raw = await client.get_state_event(room_id, "m.room.member", user_id)
        for _ in range(_MOST_MEMBERSHIPS):
            joined_ms = int(raw.get("origin_server_ts", joined_ms))
            unsigned = raw.get("unsigned", {})
            before = unsigned.get("replaces_state")
            if unsigned.get("prev_content", {}).get("membership") != "join" or not isinstance(before, str):
                break
            raw = await client.get_event(room_id, EventId(before))
    return joined_ms


def _describe(message: Message, to: AgentName | None, answer: Message | None, read: _Read) -> Sent:
    room_id, event_id = message.room_id, message.event_id
    read_by = tuple(agent for (room, agent), ids in read.items() if room == room_id and event_id in ids)
    return Sent(message, "answered" if answer is not None else "read" if read_by else "stored", to, read_by, answer)


def _answers(pages: Iterable[Pages], speaker: Speaker) -> dict[EventId, Message]:
    """Return the first answer of others to each event that one of these messages answers."""
    answers: dict[EventId, Message] = {}
    for message in sorted((each for page in pages for each in page.messages), key=lambda each: each.ts):
        if message.in_reply_to is not None and message.sender.user_id != speaker.user_id:
            answers.setdefault(message.in_reply_to.event_id, message)
    return answers


async def _first_of(arriving: asyncio.Future[Message], acknowledged: asyncio.Event, wait_s: float) -> None:
    """Wait for an answer or an acknowledgement, at most so many seconds."""
    acknowledging = asyncio.create_task(acknowledged.wait())
    waiting: list[asyncio.Future[Any]] = [arriving, acknowledging]
    try:
        await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        acknowledging.cancel()
