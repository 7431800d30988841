"""An agent's inbox: what it has not acknowledged, in its own room and in the broadcast room.

The homeserver holds both the messages and the cursor. What is here is a bounded window, read when it is first asked
for, extended by live events, and dropped with the agent. The host of the agent is the only writer of its cursor.
"""

import asyncio
import heapq
import json
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from aiagentchat.agents.cursor import AckWindow
from aiagentchat.agents.messages import MESSAGE_TYPES, parse_message
from aiagentchat.errors import AiAgentChatError, MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import parse_event, parse_events
from aiagentchat.model import EventId, Message, RoomId, UserId
from aiagentchat.space.content import CURSOR, Cursor, parse_content, to_content
from aiagentchat.space.names import Naming

log = logging.getLogger(__name__)

UNREAD_WINDOW = 256
"""Most unread messages of one room held in memory; the rest stays on the homeserver until there is room."""

_PAGE = 100
_SETTLING_MS = 2_000
"""After opening, live events this old may be from before the cursor: the server's clock is known to the second."""
_MOST_LIVE = 512
"""Live events after which the timeline token is moved forward, so that what must be remembered stays bounded."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Whose inbox in which room this is."""

    user_id: UserId
    room_id: RoomId
    is_own_room: bool


class RoomInbox:
    """The unread tail of one room for one agent. Not safe from several tasks; `Inbox` sees to that."""

    def __init__(self, client: MatrixClient, reader: Reader, naming: Naming) -> None:
        self._client = client
        self._reader = reader
        self._naming = naming
        others = {"types": list(MESSAGE_TYPES), "not_senders": [reader.user_id]}
        self._filter = json.dumps(others, separators=(",", ":"))
        self._window: AckWindow | None = None
        self._token: str | None = None
        self._at_end = False
        self._missed = False
        self._live: set[EventId] = set()
        self._read_until_ms = 0
        self.anchor_lost = False

    @property
    def needs_reading(self) -> bool:
        """Whether there may be messages on the homeserver that fit the window and are not in it."""
        return self._window is None or (not self._at_end and len(self._window.unread()) < UNREAD_WINDOW)

    def unread(self) -> list[Message]:
        """Return the unread messages of the window, in order."""
        return [] if self._window is None else self._window.unread()

    def offer(self, message: Message) -> bool:
        """Take a live message; return whether a waiting reader should look.

        What is newer than all that was read is appended. Anything else may be a push that comes late, or twice, and
        may be behind the cursor already: it is not judged here, but the room is read on from the token.
        """
        if self._window is None or message.sender.user_id == self._reader.user_id:
            return self._window is None
        if message.event_id in self._window or message.event_id in self._live:
            return False
        too_many = len(self._live) >= _MOST_LIVE or len(self._window.unread()) >= UNREAD_WINDOW
        if not self._at_end or too_many or message.ts <= self._read_until_ms:
            self._at_end, self._missed = False, True
            return True
        self._live.add(message.event_id)
        self._read_until_ms = message.ts
        return self._window.add(message)

    async def read_on(self) -> None:
        """Read from the token on, until the end of the room or a full window."""
        if self._window is None:
            await self._open()
        assert self._window is not None
        while not self._at_end and len(self._window.unread()) < UNREAD_WINDOW:
            self._missed = False
            page = await self._client.get_messages(
                self._reader.room_id, direction="f", start=self._token, limit=_PAGE, filter_json=self._filter
            )
            for event in parse_events(page.chunk, self._reader.room_id).events:
                message = parse_message(event, self._naming, None if self._reader.is_own_room else event.room_id)
                if message is not None:
                    self._read_until_ms = max(self._read_until_ms, message.ts)
                    if message.event_id not in self._live:
                        self._window.add(message)
            if page.end is not None:
                self._token = page.end
            elif not self._missed:
                self._at_end = True
        if self._at_end:
            self._live.clear()

    async def acknowledge(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        """Acknowledge those of `event_ids` that are in the window; return the ones that this room knows.

        Raises:
            AckWindowFullError: nothing was acknowledged.
        """
        assert self._window is not None
        known = frozenset(event_id for event_id in event_ids if event_id in self._window)
        plan = self._window.plan(known)
        if plan is not None:
            await self._client.put_room_account_data(
                self._reader.user_id, self._reader.room_id, CURSOR, to_content(plan.cursor)
            )
            self._window.commit(plan)
            if plan.receipt is not None and self._reader.is_own_room:
                await self._show_receipt(plan.receipt)
        return known

    async def last_acknowledged(self) -> EventId | None:
        """Return the latest acknowledged message, or None."""
        cursor = await self._load_cursor()
        return EventId(cursor.acked[-1]) if cursor is not None and cursor.acked else None

    async def _show_receipt(self, event_id: EventId) -> None:
        """Let people see how far the agent has read. The cursor is what counts, so a failure is only noted."""
        try:
            await self._client.send_receipt(self._reader.room_id, event_id)
        except AiAgentChatError as error:
            log.warning("the read receipt did not follow: %s", error.message, extra={"room_id": self._reader.room_id})

    async def _open(self) -> None:
        cursor = await self._load_cursor() or Cursor(anchor=await self._first_join())
        try:
            _, self._token = await self._client.get_tokens_around(self._reader.room_id, EventId(cursor.anchor))
        except MatrixNotFoundError:
            # Purged: and with it everything before it. What is left is unread, or named in `acked`.
            self.anchor_lost = True
            self._token = None
        self._window = AckWindow(cursor)
        self._read_until_ms = self._client.server_now_ms() + _SETTLING_MS

    async def _load_cursor(self) -> Cursor | None:
        try:
            content = await self._client.get_room_account_data(self._reader.user_id, self._reader.room_id, CURSOR)
        except MatrixNotFoundError:
            return None
        return parse_content(Cursor, content)

    async def _first_join(self) -> EventId:
        """Return the event with which the agent first joined: its membership, followed back.

        At most 50 changes back through what it replaced.
        """
        raw = await self._client.get_state_event(self._reader.room_id, "m.room.member", self._reader.user_id)
        first = raw
        for _ in range(50):
            replaced = raw.get("unsigned", {}).get("replaces_state")
            if not isinstance(replaced, str):
                break
            try:
                raw = await self._client.get_event(self._reader.room_id, EventId(replaced))
            except MatrixNotFoundError:
                break
            if raw.get("content", {}).get("membership") == "join":
                first = raw
        event = parse_event(first, self._reader.room_id)
        assert event is not None
        return event.event_id


class Inbox:
    """Both rooms of an agent as one: waits, merges by time, and acknowledges. One task at a time reads or writes."""

    def __init__(self, own: RoomInbox) -> None:
        self._rooms = [own]
        self._busy = asyncio.Lock()
        self._news = asyncio.Event()

    @property
    def anchor_lost(self) -> bool:
        """Whether a cursor's event was gone, so that reading began at what is left of the room."""
        return any(room.anchor_lost for room in self._rooms)

    @property
    def has_broadcast(self) -> bool:
        """Whether the broadcast room is part of it."""
        return len(self._rooms) > 1

    def add_broadcast(self, room: RoomInbox) -> None:
        """Add the broadcast room, once the agent is in it."""
        self._rooms.append(room)
        self._news.set()

    def offer(self, message: Message) -> None:
        """Take a live message of either room."""
        for room in self._rooms[1:] if message.broadcast else self._rooms[:1]:
            if room.offer(message):
                self._news.set()

    async def _read_on(self) -> None:
        for room in self._rooms:
            if room.needs_reading:
                await room.read_on()

    async def unread(self, limit: int) -> list[Message]:
        """Return up to `limit` unread messages: each room in its order, the two merged by time."""
        async with self._busy:
            await self._read_on()
        merged = heapq.merge(*(room.unread() for room in self._rooms), key=lambda message: message.ts)
        return [message for message, _ in zip(merged, range(limit), strict=False)]

    async def wait_unread(self, limit: int, wait_s: float) -> list[Message]:
        """Return up to `limit` unread messages as soon as there is one, or none after `wait_s` seconds."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    self._news.clear()
                    if messages := await self.unread(limit):
                        return messages
                    await self._news.wait()
        except TimeoutError:
            return []

    async def follow(self) -> AsyncGenerator[Message, None]:
        """Yield every unread message once, then each new one as it comes.

        No more are handed out ahead than the window holds: who never acknowledges gets no further.
        """
        handed: set[EventId] = set()
        while True:
            self._news.clear()
            unread = await self.unread(2 * UNREAD_WINDOW)
            handed &= {message.event_id for message in unread}
            fresh = [message for message in unread if message.event_id not in handed]
            for message in fresh:
                handed.add(message.event_id)
                yield message
            if not fresh:
                await self._news.wait()

    async def acknowledge(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        """Move the cursors; return the ids that were in an inbox. Others were acknowledged before, or never here.

        Raises:
            AckWindowFullError: see `cursor.AckWindow.plan`.
        """
        known: frozenset[EventId] = frozenset()
        async with self._busy:
            await self._read_on()
            for room in self._rooms:
                known |= await room.acknowledge(event_ids - known)
        self._news.set()  # there may be room in the window for more
        return known

    async def last_acknowledged(self) -> EventId | None:
        """Return the latest message acknowledged in the own room, or in the broadcast room where there is none."""
        for room in self._rooms:
            found = await room.last_acknowledged()
            if found is not None:
                return found
        return None
