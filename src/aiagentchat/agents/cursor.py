"""The acknowledgement window of one agent in one room: what is read, what is acknowledged, where the cursor stands.

Pure; `agents.room_inbox` reads and writes it. The rules are in `docs/protocol.md`: the anchor trails behind the latest
acknowledged messages and never passes one that is not, because room order is not arrival order.
"""

from dataclasses import dataclass
from itertools import dropwhile

from aiagentchat.errors import AckWindowFullError
from aiagentchat.model import EventId, Message
from aiagentchat.space.content import ACKED_LIMIT, Cursor

TRAILING = 64
"""Acknowledged messages that the anchor stays behind at least, where the cursor has room for them."""


@dataclass(frozen=True, slots=True)
class AckPlan:
    """What acknowledging would change: the cursor to write, the entries it passes, and where the receipt goes."""

    cursor: Cursor
    passed: tuple[EventId, ...]
    receipt: EventId | None


class AckWindow:
    """The messages after the anchor, in order. An acknowledged one stays as its id alone until the anchor passes it.

    What the cursor names as acknowledged and was not added yet is kept in the cursor, until `end_reached`.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._anchor = EventId(cursor.anchor)
        self._acked: dict[EventId, None] = {EventId(event_id): None for event_id in cursor.acked}
        self._entries: dict[EventId, Message | None] = {}
        self._unread = 0

    @property
    def anchor(self) -> EventId:
        return self._anchor

    @property
    def unread_count(self) -> int:
        return self._unread

    def __contains__(self, event_id: EventId) -> bool:
        return event_id in self._entries

    def add(self, message: Message) -> bool:
        """Append a message unless it is here; return whether it is unread."""
        if message.event_id in self._entries:
            return False
        is_acked = message.event_id in self._acked
        self._entries[message.event_id] = None if is_acked else message
        self._unread += not is_acked
        return not is_acked

    def move_to_end(self, event_id: EventId) -> None:
        """Put an entry behind all others: where it stands in the room is known now."""
        self._entries[event_id] = self._entries.pop(event_id)

    def withdraw(self, event_id: EventId) -> None:
        """Drop a message that is not acknowledged: it was taken back."""
        if self._entries.get(event_id) is not None:
            del self._entries[event_id]
            self._unread -= 1

    def end_reached(self) -> None:
        """All that stands after the anchor was added: what else the cursor names is gone, and is kept no longer."""
        self._acked = {event_id: None for event_id in self._acked if event_id in self._entries}

    def unread(self) -> list[Message]:
        """Return what is not acknowledged, in order."""
        return [message for message in self._entries.values() if message is not None]

    def acknowledged_beyond(self) -> int:
        """Return how many are acknowledged that stand after one that is not."""
        after = dropwhile(lambda message: message is None, self._entries.values())
        return sum(message is None for message in after)

    def plan(self, event_ids: frozenset[EventId]) -> AckPlan | None:
        """Return what acknowledging these would change; None: nothing.

        Raises:
            AckWindowFullError: more are acknowledged beyond an unread message than the cursor can name.
        """
        fresh = frozenset(event_id for event_id in event_ids if self._entries.get(event_id) is not None)
        if not fresh:
            return None
        acked: list[EventId] = []
        oldest_unread, prefix = None, 0
        for event_id, message in self._entries.items():
            if message is None or event_id in fresh:
                acked.append(event_id)
            elif oldest_unread is None:
                oldest_unread, prefix = event_id, len(acked)
        if oldest_unread is None:
            prefix = len(acked)
        unseen = [event_id for event_id in self._acked if event_id not in self._entries]
        spare = ACKED_LIMIT - len(unseen) - (len(acked) - prefix)
        if spare < 0 and oldest_unread is not None:
            raise AckWindowFullError(
                f"{ACKED_LIMIT} messages beyond {oldest_unread} are acknowledged already",
                hint=f"read and acknowledge {oldest_unread} first",
            )
        is_full = len(acked) + len(unseen) > ACKED_LIMIT
        passing = prefix - min(TRAILING, spare) if is_full else 0
        passed = tuple(acked[:passing])
        cursor = Cursor(anchor=passed[-1] if passed else self._anchor, acked=[*acked[passing:], *unseen])
        return AckPlan(cursor, passed, acked[prefix - 1] if prefix else None)

    def commit(self, plan: AckPlan) -> None:
        """Take over a plan once its cursor has been written."""
        for event_id in plan.passed:
            self._unread -= self._entries.pop(event_id, None) is not None  # None also where it was taken back meanwhile
        self._acked = {EventId(event_id): None for event_id in plan.cursor.acked}
        for event_id in self._acked:
            if self._entries.get(event_id) is not None:
                self._entries[event_id] = None
                self._unread -= 1
        self._anchor = EventId(plan.cursor.anchor)
