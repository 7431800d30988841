"""What comes in: one room event, parsed with suspicion, and the seam through which batches of them arrive.

Both transports (`matrix.appservice`, and a sync loop for ordinary accounts) are an `EventSource`; nothing above the
seam knows which one it has.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from aiagentchat.model import EventId, RoomId, UserId


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """One event of a room. `state_key` is None for what is not state; `ts` in milliseconds, the homeserver's clock."""

    event_id: EventId
    room_id: RoomId
    sender: UserId
    type: str
    state_key: str | None
    content: dict[str, Any]
    ts: int


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events that arrived together, in the order of arrival. `skipped` counts entries that were no events.

    `gaps`: rooms of which events are missing before these. They are on the homeserver. `lost_track`: so may be events
    of any room. `is_out_of_turn`: they may be, or come later, or be none of ours. `user_id`: whose sync it was, where
    each account has its own; what is missing is so for that one alone.
    """

    events: tuple[RoomEvent, ...]
    skipped: int = 0
    gaps: frozenset[RoomId] = frozenset()
    lost_track: bool = False
    is_out_of_turn: bool = False
    user_id: UserId | None = None


class EventSource(Protocol):
    """Where events come from. Asking for the next batch says that the one before has been taken in."""

    def batches(self) -> AsyncGenerator[EventBatch, None]:
        """Yield batches until closed."""
        ...


def parse_event(raw: object, room_id: str | None = None) -> RoomEvent | None:
    """Return an event from JSON, or None where it is not one. Never raises, whatever `raw` is.

    `room_id` is given where the endpoint's answer leaves it out.
    """
    if not isinstance(raw, dict):
        return None
    room = raw.get("room_id", room_id)
    texts = (raw.get("event_id"), room, raw.get("sender"), raw.get("type"))
    content, state_key, ts = raw.get("content"), raw.get("state_key"), raw.get("origin_server_ts")
    if not all(isinstance(text, str) and text for text in texts) or not isinstance(content, dict):
        return None
    if not (state_key is None or isinstance(state_key, str)) or not isinstance(ts, int) or isinstance(ts, bool):
        return None
    event_id, room, sender, kind = texts
    return RoomEvent(EventId(str(event_id)), RoomId(str(room)), UserId(str(sender)), str(kind), state_key, content, ts)


def parse_events(raw: object, room_id: str | None = None, *, kinds: tuple[str, ...] | None = None) -> EventBatch:
    """Return the events of a JSON list, and how many of its entries were none; `kinds`: of these types alone."""
    entries = raw if isinstance(raw, list | tuple) else []
    if kinds is not None:  # before what is none of them is made an event: of a Space it is as many as there are agents
        entries = [entry for entry in entries if not isinstance(entry, dict) or entry.get("type") in kinds]
    parsed = [parse_event(entry, room_id) for entry in entries]
    events = tuple(event for event in parsed if event is not None)
    return EventBatch(events, skipped=len(parsed) - len(events))
