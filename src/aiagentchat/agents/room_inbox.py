"""What one agent has not acknowledged in one room: a window of it, read from the homeserver and extended live.

The homeserver holds both the messages and the cursor. `agents.inbox` makes an agent's inbox of two of these.
"""

import asyncio
import json
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from aiagentchat.agents.cursor import TRAILING, AckPlan, AckWindow
from aiagentchat.agents.messages import ANSWERED_FOR_AGENTS, SenderOf, command_in, parse_message
from aiagentchat.errors import AiAgentChatError, MatrixError, MatrixForbiddenError, MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient, MessagesPage
from aiagentchat.matrix.events import parse_event, parse_events
from aiagentchat.matrix.filters import MESSAGE_TYPES
from aiagentchat.model import EventId, Message, RoomId, UserId, server_of
from aiagentchat.space.content import CURSOR, Cursor, parse_content, to_content

log = logging.getLogger(__name__)

UNREAD_WINDOW = 256
"""Most unread messages of one room held in memory; the rest stays on the homeserver until there is room."""

_PAGE = 50
_LONGEST_PAUSE_S = 0.25
"""From one page to the next, which otherwise is as long as that page took: half of the homeserver is for others."""
_SETTLING_MS = 2_000
"""After opening, live events this old may be from before the cursor: the server's clock is known to the second."""
_MOST_LIVE = 512
"""Live events after which the room is read on, so that what must be remembered of them stays bounded."""
_BACKFILL_S = 10.0
"""After this long no further page is asked for, so that a reader gets its answer within the gateway's deadline."""
_UNNAMED = EventId("")
"""Stands for missed events that are too many to remember: never found, so that the room is read anew."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Whose inbox in which room this is."""

    user_id: UserId
    room_id: RoomId
    is_own_room: bool


class RoomInbox:
    """The unread tail of one room for one agent. Not safe from several tasks; `Inbox` sees to that.

    Messages come by reading the room on from a token, in the room's order, and live, in the order of arrival. The two
    may differ: before the anchor is moved, the places of all live messages are read. One that stands behind the token
    is found by reading anew from the anchor, which trails for that reason.
    """

    def __init__(self, client: MatrixClient, reader: Reader, sender_of: SenderOf) -> None:
        self._client = client
        self._reader = reader
        self._sender_of = sender_of
        others = {"types": list(MESSAGE_TYPES), "not_senders": [reader.user_id]}
        self._filter = json.dumps(others, separators=(",", ":"))
        self._window: AckWindow | None = None
        self._token: str | None = None
        self._at_end = False
        self._live: set[EventId] = set()  # in the window, and their place in the room not read yet
        self._missed: set[EventId] = set()  # pushed, and not read yet
        self._regained: set[EventId] = set()  # in the window when it was begun anew, and not read again yet
        self._read_until_ms = 0
        self._receipt: EventId | None = None
        self._taken_back: deque[EventId] = deque(maxlen=_MOST_LIVE)
        self._gaps_feared = 0  # before events of other homeservers
        self._gaps_filled = 0
        self._backfilled: frozenset[EventId] | None = frozenset()  # until the end is reached; None: it failed, so all
        self.anchor_lost = False
        self.has_gap = False  # that another homeserver did not fill

    @property
    def is_own_room(self) -> bool:
        return self._reader.is_own_room

    @property
    def needs_reading(self) -> bool:
        """Whether there may be messages on the homeserver that fit the window and are not in it."""
        return self._window is None or (not self._at_end and self._wants_more(self._window))

    def _wants_more(self, window: AckWindow) -> bool:
        return bool(self._live or self._regained) or window.unread_count < UNREAD_WINDOW

    @property
    def unread_count(self) -> int | None:
        """How many unread messages the window holds; None: it was not read yet."""
        return None if self._window is None else self._window.unread_count

    @property
    def is_read(self) -> bool:
        """Whether the room was read to its end, and nothing makes one doubt it."""
        return self._at_end

    @property
    def is_held_up(self) -> bool:
        """Whether much is acknowledged beyond a message that is not: the cursor can name only so much."""
        return self._window is not None and self._window.acknowledged_beyond() >= TRAILING

    @property
    def _may_lack(self) -> bool:
        """Whether a message of another homeserver may have come before what it left out."""
        return self._gaps_feared != self._gaps_filled

    def unread(self) -> list[Message]:
        """Return the unread messages of the window, in order."""
        return [] if self._window is None else self._window.unread()

    def offer(self, message: Message) -> bool:
        """Take a live message; return whether a waiting reader should look.

        What is newer than all that was read is appended. Anything else may be a push that comes late, or twice, and
        may be behind the cursor already: it is not judged here, but looked for in the room. So is what comes from
        another homeserver, which may have left out what it stored before.
        """
        if message.sender.user_id == self._reader.user_id:
            return False
        if self._window is None:
            return True
        if message.event_id in self._window:
            return False
        is_from_afar = self._is_from_afar(message.sender.user_id)
        self._gaps_feared += is_from_afar
        too_many = len(self._live) >= _MOST_LIVE or self._window.unread_count >= UNREAD_WINDOW
        if not self._at_end or too_many or message.ts <= self._read_until_ms or is_from_afar:
            self._at_end = False
            self._missed.add(message.event_id if len(self._missed) < _MOST_LIVE else _UNNAMED)
            return True
        self._live.add(message.event_id)
        self._read_until_ms = message.ts
        return self._window.add(message)

    def doubt(self, *, anew: bool = False) -> None:
        """Look at the end of the room before the next reader is answered: something may have come unheard.

        `anew`: something was not heard of, which may stand before what was read.
        """
        self._at_end = False
        if anew:
            self._missed.add(_UNNAMED)

    def withdraw(self, event_id: EventId) -> None:
        """Drop a message that was taken back before it was acknowledged, and its edits."""
        self._taken_back.append(event_id)
        for gone in (event_id, *(each.event_id for each in self.unread() if each.edits == event_id)):
            self._live.discard(gone)
            self._regained.discard(gone)
            if self._window is not None:
                self._window.withdraw(gone)

    async def read_on(self) -> None:
        """Read from the token on, until the end of the room or a full window."""
        window = self._window or await self._open()
        # Once each: else who writes from afar, or pushes late, without a pause would keep the reader waiting.
        has_filled = has_reopened = False
        pause_s = 0.0
        while not self._at_end and self._wants_more(window):
            if pause_s:
                await asyncio.sleep(pause_s)
            looked_for, began = frozenset(self._missed), time.monotonic()
            page = await self._client.get_messages(
                self._reader.room_id, direction="f", start=self._token, limit=_PAGE, filter_json=self._filter
            )
            pause_s = min(_LONGEST_PAUSE_S, time.monotonic() - began)
            if self._take_page(window, page):
                self._gaps_feared += 1
            if self._may_lack and not has_filled:
                window, has_filled = await self._fill(window.anchor), True
            elif page.end is not None:
                self._token = page.end
            elif self._live or self._missed & looked_for:  # not after the token, so before it, or nowhere
                if has_reopened:
                    return
                window, has_reopened = await self._open(), True
            elif not self._missed:
                self._backfilled = frozenset()
                self._regained.clear()
                window.end_reached()
                if self._may_lack:
                    return
                self._at_end = True

    def _take_page(self, window: AckWindow, page: MessagesPage) -> bool:
        """Take in what stands after the token; return whether another homeserver may have left out what is before."""
        room_id = self._reader.room_id
        may_lack = False
        for event in parse_events(page.chunk, room_id).events:
            message = parse_message(event, self._sender_of, None if self._reader.is_own_room else room_id)
            if message is None:
                self._taken_back.append(event.event_id)
                continue
            if command_in(event, message) in ANSWERED_FOR_AGENTS:
                continue
            self._read_until_ms = max(self._read_until_ms, message.ts)
            self._missed.discard(message.event_id)
            self._regained.discard(message.event_id)
            if message.event_id in self._live:
                self._live.discard(message.event_id)
                window.move_to_end(message.event_id)
            elif message.edits in self._taken_back:
                continue
            elif window.add(message) and self._is_from_afar(event.sender):
                may_lack |= self._backfilled is not None and message.event_id not in self._backfilled
        return may_lack

    def _is_from_afar(self, user_id: UserId) -> bool:
        return server_of(user_id) != server_of(self._reader.user_id)

    async def _fill(self, anchor: EventId) -> AckWindow:
        """Have what other homeservers left out fetched, and begin anew. Cut short, it is done by the next reader."""
        feared = self._gaps_feared
        backfilled = await self._backfill(anchor)
        window = await self._open()
        self._gaps_filled, self._backfilled = feared, backfilled
        return window

    async def _backfill(self, anchor: EventId) -> frozenset[EventId] | None:
        """Have the homeserver fetch what others have not sent it: it does so for who reads backwards alone.

        Returns the events that nothing is left out before; None: not all was fetched, and is not tried again.
        """
        read: set[EventId] = set()
        room_id, client, start = self._reader.room_id, self._client.with_deadline(_BACKFILL_S), None
        deadline, failure = time.monotonic() + _BACKFILL_S, f"not all was fetched within {_BACKFILL_S:g} s"
        try:
            while time.monotonic() < deadline:
                page = await client.get_messages(room_id, direction="b", start=start, limit=_PAGE, filter_json="{}")
                start = page.end
                read |= {event.event_id for event in parse_events(page.chunk, room_id).events}
                if start is None or anchor in read:
                    self.has_gap = False
                    return frozenset(read)
        except AiAgentChatError as error:
            failure = error.message
        log.warning("messages of other homeservers may be missing: %s", failure, extra={"room_id": room_id})
        self.has_gap = True
        return None

    async def plan(self, event_ids: frozenset[EventId]) -> AckPlan | None:
        """Return what acknowledging those of `event_ids` that are in the window would change; None: nothing.

        Raises:
            AckWindowFullError: nothing can be acknowledged.
        """
        if self._window is None:
            return None
        plan = self._window.plan(event_ids)
        if plan is not None and plan.passed and (self._missed or self._live or self._may_lack):
            if self._missed or self._may_lack:  # and perhaps behind the token
                await self._open()
            self._at_end = False
            await self.read_on()
            plan = self._window.plan(event_ids)
        return plan

    def known(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        """Return those of `event_ids` that are in the window."""
        window = self._window
        return frozenset() if window is None else frozenset(each for each in event_ids if each in window)

    async def carry_out(self, plan: AckPlan) -> None:
        """Write the cursor of a plan that was made just now, and have the receipt follow.

        Raises:
            AiAgentChatError: it may have been written all the same, so the next reader begins with what is there.
        """
        assert self._window is not None
        try:
            await self._client.put_room_account_data(
                self._reader.user_id, self._reader.room_id, CURSOR, to_content(plan.cursor)
            )
        except AiAgentChatError:
            self._close()
            raise
        self._window.commit(plan)
        if plan.receipt is not None and plan.receipt != self._receipt and self._reader.is_own_room:
            await self._show_receipt(plan.receipt)

    async def last_acknowledged(self) -> tuple[int, EventId] | None:
        """Return when the latest acknowledged message was written (homeserver's ms) and its id, or None."""
        cursor = await self._load_cursor()
        if cursor is None or not cursor.acked:
            return None
        event_id = EventId(cursor.acked[-1])
        try:
            event = parse_event(await self._client.get_event(self._reader.room_id, event_id), self._reader.room_id)
        except (MatrixForbiddenError, MatrixNotFoundError):  # purged
            return None
        return None if event is None else (event.ts, event_id)

    async def _show_receipt(self, event_id: EventId) -> None:
        """Let people see how far the agent has read. The cursor is what counts, so a failure is only noted."""
        try:
            await self._client.send_receipt(self._reader.room_id, event_id)
            self._receipt = event_id
        except AiAgentChatError as error:
            log.warning("the read receipt did not follow: %s", error.message, extra={"room_id": self._reader.room_id})

    async def _open(self) -> AckWindow:
        """Begin anew after the cursor's anchor."""
        cursor = await self._load_cursor() or Cursor(anchor=await self._first_join())
        try:
            _, self._token = await self._client.get_tokens_around(self._reader.room_id, EventId(cursor.anchor))
        except MatrixError as error:
            if not await self._is_purged(EventId(cursor.anchor), error):
                raise
            # And with it everything before it. What is left is unread, or named in `acked`.
            self.anchor_lost = True
            self._token = None
        self._close()
        self._window = AckWindow(cursor)
        self._at_end = False
        self._live.clear()
        self._missed.clear()
        self._read_until_ms = max(self._read_until_ms, self._client.server_now_ms() + _SETTLING_MS)
        return self._window

    def _close(self) -> None:
        """Have the next reader begin anew; what was handed out is found again then."""
        self._regained.update(message.event_id for message in self.unread())
        self._window = None

    async def _is_purged(self, anchor: EventId, error: MatrixError) -> bool:
        """Tell a purged anchor from a homeserver at fault.

        Synapse keeps a purged membership as state, without its place in the room, and then answers 500.
        """
        if error.status != 500:
            return isinstance(error, MatrixNotFoundError)
        room_id = self._reader.room_id
        kept = parse_event(await self._client.get_event(room_id, anchor), room_id)
        page = await self._client.get_messages(room_id, direction="f", start=None, limit=1, filter_json="{}")
        oldest = next(iter(parse_events(page.chunk, room_id).events), None)
        return kept is not None and oldest is not None and kept.ts < oldest.ts

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
        raw = await self._own_membership()
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
        if event is None:
            raise MatrixError(200, "M_BAD_JSON", "the agent's membership is no event")
        return event.event_id

    async def _own_membership(self) -> dict[str, Any]:
        room_id, kind, user_id = self._reader.room_id, "m.room.member", self._reader.user_id
        try:
            raw = await self._client.get_state_event(room_id, kind, user_id)
        except (MatrixForbiddenError, MatrixNotFoundError):  # never joined: the room was made anew, for one
            await self._client.join_room(room_id)
            raw = await self._client.get_state_event(room_id, kind, user_id)
        if "event_id" in raw:
            return raw
        # An older Synapse leaves the id out there, and has it in the whole state.
        state = await self._client.get_full_state(room_id)
        return next((each for each in state if (each.get("type"), each.get("state_key")) == (kind, user_id)), raw)
