"""Sending, answering and looking back: what a speaker, an agent or the operator, does with messages.

`agents.host` says which rooms there are; this decides where a message goes and in whose name.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.messages import (
    MESSAGE_TYPES,
    add_answer,
    add_reply,
    check_size,
    parse_message,
    render_message,
    transaction_id,
)
from aiagentchat.errors import (
    HomeserverUnavailableError,
    InvalidRequestError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
    NotFoundError,
    RefusedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import parse_event, parse_events
from aiagentchat.model import AgentName, EventId, Message, RoomId, UserId
from aiagentchat.space.content import CURSOR, Cursor, parse_content

_PAGE = 100
_MOST_PAGES = 5
_MESSAGES_ONLY = json.dumps({"types": list(MESSAGE_TYPES)}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Speaker:
    """In whose name: an agent, or (`agent` None) the operator."""

    user_id: UserId
    client: MatrixClient
    agent: AgentName | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to send. `to` None and `reply_to` None: to all. `key`: the same key is the same message."""

    body: str
    key: str
    to: AgentName | None = None
    reply_to: EventId | None = None
    format: Literal["plain", "markdown"] = "plain"


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


class Mail:
    """Sends, and looks back.

    Args:
        operator: who the operator is, with a client that acts as them; None: there is none.
    """

    def __init__(self, host: AgentHost, operator: Speaker | None) -> None:
        self._host = host
        self._operator = operator

    def speaker(self, agent: AgentName | None) -> Speaker:
        """Return in whose name an agent, or the operator, speaks.

        Raises:
            RefusedError: there is no operator's device.
        """
        if agent is not None:
            return Speaker(self._host.naming.user(agent), self._host.manager.client_of(agent), agent)
        if self._operator is None:
            raise RefusedError("this daemon holds no device of the operator", hint="speak as an agent: --as NAME")
        return self._operator

    # --- sending

    async def send(self, speaker: Speaker, draft: Draft) -> tuple[EventId, RoomId]:
        """Send, and return what the homeserver stored, where.

        Raises:
            InvalidRequestError: empty, too large, or to oneself. AgentNotFoundError: no such agent.
            RefusedError: the operator's device is logged out. RoomEncryptedError: the room is encrypted.
            HomeserverUnavailableError: not stored, as far as is known.
        """
        try:
            return await self._send(speaker, draft)
        except MatrixUnauthorizedError as error:
            if speaker.agent is not None:
                raise
            raise RefusedError(
                f"the operator's device is not, or no longer, logged in: {error.error}",
                hint="stop the daemon and start it with 'cchat up', which logs it in again",
            ) from None

    async def _send(self, speaker: Speaker, draft: Draft) -> tuple[EventId, RoomId]:
        content = render_message(draft.body, draft.format)
        check_size(content)
        if speaker.agent is not None:
            await self._host.ready(speaker.agent)
        if draft.reply_to is not None:
            return await self._answer(speaker, draft, draft.reply_to, content)
        if draft.to is None:
            return await self._send_to_all(speaker, draft, content)
        if draft.to == speaker.agent:
            raise InvalidRequestError(f"{draft.to} is you; a message to yourself would never be read")
        return await self._send_to_agent(speaker, draft, draft.to, content)

    async def _answer(
        self, speaker: Speaker, draft: Draft, event_id: EventId, content: dict[str, Any]
    ) -> tuple[EventId, RoomId]:
        parent = await self.find(speaker, event_id)
        asker = self._host.naming.agent_of(parent.sender.user_id)
        if asker is not None and asker != speaker.agent:
            return await self._send_to_agent(speaker, draft, asker, add_answer(content, parent))
        content = add_reply(content, parent)
        if parent.broadcast:
            return await self._send_to_all(speaker, draft, content)
        owner = self._host.owner_of(parent.room_id)
        if owner is None:
            raise NotFoundError(f"{event_id} stands in a room of no agent")
        return await self._send_to_agent(speaker, draft, owner, content)

    async def _send_to_agent(
        self, speaker: Speaker, draft: Draft, target: AgentName, content: dict[str, Any]
    ) -> tuple[EventId, RoomId]:
        host = self._host
        if not host.is_known(target):
            await host.manager.find_agent_room(target)
        room_id = await host.ready(target)  # which tells whether it is encrypted

        async def admit() -> None:
            if target != speaker.agent:
                with contextlib.suppress(MatrixForbiddenError):  # a member already: an invite is a 403, a join none
                    await host.manager.client_of(target).invite(room_id, speaker.user_id)
            await speaker.client.join_room(room_id)

        return await self._put(speaker, draft, room_id, content, admit), room_id

    async def _send_to_all(self, speaker: Speaker, draft: Draft, content: dict[str, Any]) -> tuple[EventId, RoomId]:
        room_id = self._host.manager.broadcast_id
        if room_id is None:
            raise HomeserverUnavailableError(
                f"the broadcast room is not to be had: {self._host.manager.unavailable}",
                hint="send to one agent with --to NAME, or see 'cchat status'",
            )

        async def admit() -> None:
            await speaker.client.join_room(room_id)

        return await self._put(speaker, draft, room_id, content, admit), room_id

    async def _put(
        self,
        speaker: Speaker,
        draft: Draft,
        room_id: RoomId,
        content: dict[str, Any],
        admit: Callable[[], Awaitable[None]],
    ) -> EventId:
        """Send; a 403 may mean that the speaker is not in the room yet: then it is let in, and sends again."""
        check_size(content)
        self._host.require_clear(room_id)
        txn_id = transaction_id(speaker.user_id, draft.key)
        try:
            return await speaker.client.send(room_id, "m.room.message", content, txn_id)
        except MatrixForbiddenError as refused:
            try:
                await admit()
            except MatrixForbiddenError:
                raise refused from None
        return await speaker.client.send(room_id, "m.room.message", content, txn_id)

    # --- looking back

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
        return None if event is None else parse_message(event, self._host.naming, self._host.manager.broadcast_id)

    async def _rooms_of(self, speaker: Speaker) -> list[RoomId]:
        """An agent's own room and the broadcast room; for the operator all rooms of agents."""
        broadcast = self._host.manager.broadcast_id
        last = [broadcast] if broadcast is not None else []
        if speaker.agent is not None:
            return [await self._host.ready(speaker.agent), *last]
        view = await self._host.who()
        return [*last, *(entry.room_id for entry in view.entries)]

    async def history(self, agent: AgentName, before: EventId, limit: int) -> list[Message]:
        """Return up to `limit` messages of the agent's own or the broadcast room that stand before an event, in order.

        Raises:
            NotFoundError: the event is in neither.
        """
        speaker = self.speaker(agent)
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
                message = parse_message(event, self._host.naming, broadcast)
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
        read = await self._read_by(to, room_id, there) if to is not None else frozenset[EventId]()
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

    async def _read_by(self, agent: AgentName, room_id: RoomId, past: _Past) -> frozenset[EventId]:
        """Return which of a room's latest events the agent has acknowledged, by its cursor on the homeserver."""
        user = self._host.naming.user(agent)
        try:
            content = await self._host.manager.client_of(agent).get_room_account_data(user, room_id, CURSOR)
        except MatrixNotFoundError:
            return frozenset()
        cursor = parse_content(Cursor, content)
        if cursor is None:
            return frozenset()
        read = {EventId(event_id) for event_id in cursor.acked}
        if cursor.anchor in past.ids:
            read |= set(past.ids[past.ids.index(EventId(cursor.anchor)) :])
        return frozenset(read)

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
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        answer = await arriving
        if answer is not None:
            return Sent(message, "answered", to, answer)
        there = pages[message.room_id]
        if event_id not in there.ids:
            there.ids.append(event_id)  # older than all of them
        read = await self._read_by(to, message.room_id, there) if to is not None else frozenset[EventId]()
        return Sent(message, "read" if event_id in read else "stored", to)


def _answers(messages: Iterable[Message], speaker: Speaker) -> dict[EventId, Message]:
    """Return the first answer of others to each event that one of these answers."""
    answers: dict[EventId, Message] = {}
    for message in sorted(messages, key=lambda each: each.ts):
        if message.in_reply_to is not None and message.sender.user_id != speaker.user_id:
            answers.setdefault(message.in_reply_to.event_id, message)
    return answers
