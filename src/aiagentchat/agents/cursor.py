"""The acknowledgement window of one agent in one room: what is read, what is acknowledged, where the cursor stands.

Pure; `agents.inbox` reads and writes it. The rules are DESIGN's: the anchor trails behind the latest acknowledged
messages and never passes one that is not, because room order is not arrival order.
"""

from dataclasses import dataclass

from aiagentchat.errors import AckWindowFullError
from aiagentchat.model import EventId, Message
from aiagentchat.space.content import ACKED_LIMIT, Cursor

_TRAILING = 64


@dataclass(frozen=True, slots=True)
class AckPlan:
    """What acknowledging would change: the cursor to write, the entries it passes, and where the receipt goes."""

    cursor: Cursor
    acked: frozenset[EventId]
    passed: tuple[EventId, ...]
    receipt: EventId | None


class AckWindow:
    """The messages after the anchor, in order. An acknowledged one stays as its id alone until the anchor passes it."""

    def __init__(self, cursor: Cursor) -> None:
        self._anchor = EventId(cursor.anchor)
        self._acked: frozenset[EventId] = frozenset(EventId(event_id) for event_id in cursor.acked)
        self._entries: dict[EventId, Message | None] = {}

    @property
    def anchor(self) -> EventId:
        return self._anchor

    def __contains__(self, event_id: EventId) -> bool:
        return event_id in self._entries

    def is_acked(self, event_id: EventId) -> bool:
        """Whether this message of the window is acknowledged."""
        return event_id in self._acked

    def add(self, message: Message) -> bool:
        """Append a message unless it is here; return whether it is unread."""
        if message.event_id in self._entries:
            return False
        is_acked = message.event_id in self._acked
        self._entries[message.event_id] = None if is_acked else message
        return not is_acked

    def unread(self) -> list[Message]:
        """Return what is not acknowledged, in order."""
        return [message for message in self._entries.values() if message is not None]

    def plan(self, event_ids: frozenset[EventId]) -> AckPlan | None:
        """Return what acknowledging these would change; None: nothing.

        Raises:
            AckWindowFullError: more are acknowledged beyond an unread message than the cursor can name.
        """
        fresh = frozenset(event_id for event_id in event_ids if self._entries.get(event_id) is not None)
        if not fresh:
            return None
        acked = [event_id for event_id in self._entries if event_id in self._acked or event_id in fresh]
        prefix = 0
        for event_id in self._entries:
            if event_id not in self._acked and event_id not in fresh:
                break
            prefix += 1
        beyond = len(acked) - prefix
        if beyond > ACKED_LIMIT:
            oldest = next(event_id for event_id in self._entries if self._entries[event_id] and event_id not in fresh)
            raise AckWindowFullError(
                f"{ACKED_LIMIT} messages beyond {oldest} are acknowledged already",
                hint=f"read and acknowledge {oldest} first",
            )
        passing = max(0, prefix - min(_TRAILING, ACKED_LIMIT - beyond))
        passed = tuple(acked[:passing])
        cursor = Cursor(anchor=passed[-1] if passed else self._anchor, acked=list(acked[passing:]))
        receipt = acked[prefix - 1] if prefix else None
        return AckPlan(cursor, frozenset(acked[passing:]), passed, receipt)

    def commit(self, plan: AckPlan) -> None:
        """Take over a plan once its cursor has been written."""
        for event_id in plan.passed:
            del self._entries[event_id]
        for event_id in plan.acked:
            self._entries[event_id] = None
        self._acked = plan.acked
        self._anchor = EventId(plan.cursor.anchor)
