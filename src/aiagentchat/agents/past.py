"""Looking back: a message by its id, what stands before one, and how far one's own messages came.

All of it is read from the homeserver when it is asked for. `agents.mail` writes.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.messages import MESSAGE_TYPES, parse_message
from aiagentchat.errors import MatrixError, MatrixForbiddenError, MatrixNotFoundError, NotFoundError, RefusedError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import parse_event, parse_events
from aiagentchat.matrix.sync import get_receipt
from aiagentchat.model import AgentName, EventId, Message, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CURSOR, Cursor, parse_content
from aiagentchat.space.directory import Listed

_PAGE = 100
_MOST_PAGES = 5
_MESSAGES_ONLY = json.dumps({"types": list(MESSAGE_TYPES)}, separators=(",", ":"))
_LOOK_AGAIN_S = 2.0
"""How often somebody else's room is looked at for an answer, of which nothing else tells."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """In whose name: an agent, or (`agent` None) the operator."""

    user_id: UserId
    client: MatrixClient
    agent: AgentName | None


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of one's own, how far it came, and what answers it."""

    message: Message
    state: Literal["stored", "read", "answered"]
    to: AgentName | None
    answer: Message | None = None


@dataclass(frozen=True, slots=True)
class _Past:
    """Some of a room's past, newest first. `ids`: of what was taken back, too."""

    messages: list[Message]
    ids: list[EventId]


class Past:
    """Looks back."""

    def __init__(self, host: AgentHost) -> None:
        self._host = host

    async def find(self, speaker: Speaker, event_id: EventId) -> Message:
        """Return a message by its id, from a room that the speaker may read.

        Raises:
            NotFoundError: in none of them.
        """
        for room_id in await self._rooms_of(speaker):
            message = await self._message_in(speaker, room_id, event_id)
            if message is not None:
                return message
        raise NotFoundError(
            f"there is no message {event_id} that you may read", hint="'cchat read --json' shows the ids of yours"
        )

    async def _message_in(self, speaker: Speaker, room_id: RoomId, event_id: EventId) -> Message | None:
        try:
            event = parse_event(await speaker.client.get_event(room_id, event_id), room_id)
        except (MatrixNotFoundError, MatrixForbiddenError):
            return None
        return None if event is None else parse_message(event, self._host.sender_of, self._host.manager.broadcast_id)

    async def _rooms_of(self, speaker: Speaker) -> list[RoomId]:
        """An agent's own room and the broadcast room; for the operator all rooms of agents."""
        broadcast = self._host.manager.broadcast_id
        last = [broadcast] if broadcast is not None else []
        if speaker.agent is not None:
            return [await self._host.ready(speaker.agent), *last]
        view = await self._host.who()
        return [*last, *(entry.room_id for entry in view.entries)]

    async def history(self, speaker: Speaker, before: EventId, limit: int) -> list[Message]:
        """Return up to `limit` messages of an agent's own or the broadcast room that stand before an event, in order.

        Raises:
            NotFoundError: the event is in neither.
        """
        for room_id in await self._rooms_of(speaker):
            try:
                start, _ = await speaker.client.get_tokens_around(room_id, before)
            except (MatrixNotFoundError, MatrixForbiddenError):
                continue
            return (await self._page_back(speaker.client, room_id, start, limit)).messages[::-1]
        raise NotFoundError(f"there is no event {before} in your room")

    async def _page_back(self, client: MatrixClient, room_id: RoomId, start: str | None, limit: int) -> _Past:
        """Return what stands from `start` (None: the latest) backwards."""
        found: list[Message] = []
        ids: list[EventId] = []
        broadcast = self._host.manager.broadcast_id
        for _ in range(_MOST_PAGES):
            page = await client.get_messages(
                room_id, direction="b", start=start, limit=min(limit, _PAGE), filter_json=_MESSAGES_ONLY
            )
            for event in parse_events(page.chunk, room_id).events:
                ids.append(event.event_id)
                message = parse_message(event, self._host.sender_of, broadcast)
                if message is not None:
                    found.append(message)
            start = page.end
            if start is None or len(found) >= limit:
                break
        return _Past(found[:limit], ids)

    async def sent(self, speaker: Speaker, *, to: AgentName | None, limit: int) -> list[Sent]:
        """Return the speaker's latest messages to one agent (None: to all), newest first, as the homeserver knows them.

        *read*: the agent's cursor has passed it; *answered*: a message names it. A broadcast is never *read*.
        """
        host = self._host
        room_id = host.manager.broadcast_id if to is None else await host.manager.find_agent_room(to)
        if room_id is None:
            return []
        try:
            there = await self._page_back(speaker.client, room_id, None, _PAGE * _MOST_PAGES)
        except MatrixForbiddenError:  # never wrote there
            return []
        answering = there.messages
        if speaker.agent is not None and speaker.agent != to:
            own = await host.ready(speaker.agent)
            answering = [*answering, *(await self._page_back(speaker.client, own, None, _PAGE * _MOST_PAGES)).messages]
        answers = _answers(answering, speaker)
        read = await self._read_by(speaker, to, there) if to is not None else frozenset[EventId]()
        mine = [message for message in there.messages if message.sender.user_id == speaker.user_id][:limit]
        return [
            Sent(
                message=message,
                state="answered" if message.event_id in answers else "read" if message.event_id in read else "stored",
                to=to,
                answer=answers.get(message.event_id),
            )
            for message in mine
        ]

    async def _read_by(self, speaker: Speaker, agent: AgentName, past: _Past) -> frozenset[EventId]:
        """Return which of a room's latest events the agent has acknowledged, as the homeserver has it."""
        other = await self._host.manager.find_agent(agent)
        read: set[EventId] = set()
        if other is None:
            cursor = await self._cursor_of(agent)
            if cursor is None:
                return frozenset()
            read, last = {EventId(event_id) for event_id in cursor.acked}, EventId(cursor.anchor)
        else:
            receipt = await self._receipt_of(speaker, other)
            if receipt is None:
                return frozenset()
            last = receipt
        if last in past.ids:
            read |= set(past.ids[past.ids.index(last) :])
        return frozenset(read)

    async def _cursor_of(self, agent: AgentName) -> Cursor | None:
        client, room_id = self._host.manager.client_of(agent), await self._host.ready(agent)
        try:
            content = await client.get_room_account_data(self._host.names.user(agent), room_id, CURSOR)
        except MatrixNotFoundError:
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

    async def sent_message(self, speaker: Speaker, event_id: EventId, *, to: AgentName | None, wait_s: float) -> Sent:
        """Return one message of the speaker's own to one agent (None: to all), waiting for what answers it.

        Waits up to `wait_s` seconds. An answer to an agent comes into its own room, one to the operator stays where
        they wrote.

        Raises:
            NotFoundError: there is no such message of the speaker.
        """
        host = self._host
        room_id = host.manager.broadcast_id if to is None else await host.manager.find_agent_room(to)
        message = None if room_id is None else await self._message_in(speaker, room_id, event_id)
        if message is None or message.sender.user_id != speaker.user_id:
            raise NotFoundError(f"you sent no message {event_id} to {to or 'all'}")
        rooms = {message.room_id}
        if speaker.agent is not None:
            rooms |= set(await self._rooms_of(speaker))

        def is_answer(answer: Message) -> bool:
            return answer.room_id in rooms and answer.sender.user_id != speaker.user_id

        with host.answers.waiting(event_id, is_answer) as arriving:
            pages = {room: await self._page_back(speaker.client, room, None, _PAGE * _MOST_PAGES) for room in rooms}
            answer = _answers([each for past in pages.values() for each in past.messages], speaker).get(event_id)
            if answer is None and wait_s > 0:
                others = [room for room in rooms if not self._host.hears(room)]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        answer = await self._first_answer(speaker, event_id, arriving, others)
        if answer is not None:
            return Sent(message, "answered", to, answer)
        there = pages[message.room_id]
        if event_id not in there.ids:
            there.ids.append(event_id)  # older than all of them
        read = await self._read_by(speaker, to, there) if to is not None else frozenset[EventId]()
        return Sent(message, "read" if event_id in read else "stored", to)

    async def _first_answer(
        self, speaker: Speaker, event_id: EventId, arriving: asyncio.Future[Message], others: list[RoomId]
    ) -> Message:
        """Wait for an answer that arrives, or stands in a room of which nothing arrives."""
        while True:
            await asyncio.wait([arriving], timeout=_LOOK_AGAIN_S if others else None)
            if arriving.done():
                return arriving.result()
            for room_id in others:
                with contextlib.suppress(MatrixForbiddenError):  # the visit is over
                    there = await self._page_back(speaker.client, room_id, None, _PAGE)
                    answer = _answers(there.messages, speaker).get(event_id)
                    if answer is not None:
                        return answer


def _answers(messages: Iterable[Message], speaker: Speaker) -> dict[EventId, Message]:
    """Return the first answer of others to each event that one of these answers."""
    answers: dict[EventId, Message] = {}
    for message in sorted(messages, key=lambda each: each.ts):
        if message.in_reply_to is not None and message.sender.user_id != speaker.user_id:
            answers.setdefault(message.in_reply_to.event_id, message)
    return answers
