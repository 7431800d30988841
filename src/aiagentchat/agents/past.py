"""Looking back: a message by its id, and what stands before one.

All of it is read from the homeserver when it is asked for. `agents.mail` writes; `agents.delivery` says how far that
came.
"""

import json
from dataclasses import dataclass, replace

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.messages import parse_message
from aiagentchat.errors import MatrixForbiddenError, MatrixNotFoundError, NotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import RoomEvent, parse_event, parse_events
from aiagentchat.matrix.filters import MESSAGE_TYPES
from aiagentchat.model import AgentName, EventId, Message, RoomId, UserId

MOST_LOOKED_AT = 500
"""Most messages of one room that are looked at."""

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Speaker:
    """In whose name: an agent, or (`agent` None) the operator."""

    user_id: UserId
    client: MatrixClient
    agent: AgentName | None


@dataclass(frozen=True, slots=True)
class Pages:
    """Some of a room's past, newest first. `ids`: of what was taken back, too."""

    messages: list[Message]
    ids: list[EventId]


class Past:
    """Looks back."""

    def __init__(self, host: AgentHost) -> None:
        self._host = host

    async def find(self, speaker: Speaker, event_id: EventId) -> tuple[Message, RoomEvent]:
        """Return a message by its id, and its event, from a room that the speaker may read; an edit as `complete` does.

        Raises:
            NotFoundError: in none of them.
        """
        for room_id in await self.rooms_of(speaker):
            found = await self._look(speaker, room_id, event_id)
            if found is not None:
                return await self.complete(speaker, found[0]), found[1]
        self._host.manager.require_looked_up()
        raise NotFoundError(
            f"there is no message {event_id} that you may read", hint="'cchat read --json' shows the ids of yours"
        )

    async def message_in(self, speaker: Speaker, room_id: RoomId, event_id: EventId) -> Message | None:
        """Return the message of an id in one room; None: there is none that the speaker may read."""
        found = await self._look(speaker, room_id, event_id)
        return None if found is None else found[0]

    async def complete(self, speaker: Speaker, message: Message) -> Message:
        """Return an edit with the place of what it replaces, of which it says nothing itself: thread, answered, hops.

        One of somebody else's message is none.
        """
        if message.edits is None:
            return message
        original = await self.message_in(speaker, message.room_id, message.edits)
        if original is None:
            return message
        if original.sender != message.sender:
            return replace(message, edits=None)
        hops, quiet = max(message.hops, original.hops), message.quiet or original.quiet
        return replace(message, thread=original.thread, in_reply_to=original.in_reply_to, hops=hops, quiet=quiet)

    async def _look(self, speaker: Speaker, room_id: RoomId, event_id: EventId) -> tuple[Message, RoomEvent] | None:
        try:
            event = parse_event(await speaker.client.get_event(room_id, event_id), room_id)
        except (MatrixNotFoundError, MatrixForbiddenError):
            return None
        if event is None:
            return None
        message = parse_message(event, self._host.sender_of, self._host.manager.broadcast_id)
        return None if message is None else (message, event)

    async def rooms_of(self, speaker: Speaker) -> list[RoomId]:
        """Return an agent's own room and the broadcast room; for the operator all rooms of agents."""
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
        for room_id in await self.rooms_of(speaker):
            try:
                start, _ = await speaker.client.get_tokens_around(room_id, before)
            except (MatrixNotFoundError, MatrixForbiddenError):
                continue
            return (await self.page_back(speaker.client, room_id, start=start, limit=limit)).messages[::-1]
        raise NotFoundError(f"there is no event {before} in your room")

    async def page_back(
        self,
        client: MatrixClient,
        room_id: RoomId,
        *,
        start: str | None = None,
        limit: int = MOST_LOOKED_AT,
        since_ms: int = 0,
        sender: UserId | None = None,
        answers_alone: bool = False,
    ) -> Pages:
        """Return up to `limit` messages of a room, from `start` (None: the latest) backwards.

        Args:
            since_ms: of the homeserver's clock; what is older is not looked for. sender: of these messages alone.
            answers_alone: return those that answer one; of all others the ids alone, however long they are.

        Raises:
            MatrixForbiddenError: the client's user never was in that room.
        """
        found: list[Message] = []
        ids: list[EventId] = []
        broadcast = self._host.manager.broadcast_id
        only = {"types": list(MESSAGE_TYPES)} | ({} if sender is None else {"senders": [sender]})
        filter_json = json.dumps(only, separators=(",", ":"))
        for _ in range(MOST_LOOKED_AT // _PAGE):
            page = await client.get_messages(
                room_id, direction="b", start=start, limit=min(limit, _PAGE), filter_json=filter_json
            )
            events = parse_events(page.chunk, room_id).events
            for event in events:
                ids.append(event.event_id)
                message = parse_message(event, self._host.sender_of, broadcast)
                if message is not None and (not answers_alone or message.in_reply_to is not None):
                    found.append(message)
            start = page.end
            if start is None or len(found) >= limit or (events and events[-1].ts < since_ms):
                break
        return Pages(found[:limit], ids)
