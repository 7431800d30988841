"""What was sent, stored, handed out and acknowledged, and what of it is wrong. Pure.

Lost: stored, still on the homeserver, and never handed to a reader of its agent that lived to acknowledge it; or told
to be stored, and not there.
Doubled: two events of one key, or handed out on a request from after the answer to its acknowledgement.
Reordered: two messages of one sender in one room, first handed to an agent in another order than they stand there.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HandOut:
    """One message handed to an agent. Times are of one monotonic clock; `asked_at`: when its request was sent."""

    agent: str
    event_id: str
    asked_at: float
    at: float


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it stands in a room. `key` is its body."""

    event_id: str
    sender: str
    key: str


@dataclass(frozen=True, slots=True)
class Room:
    """A room in its order, and who has to read it. Nobody has to read what is their own."""

    name: str
    readers: frozenset[str]
    messages: Sequence[Stored]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence for each message that is wrong."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()

    @property
    def figures(self) -> tuple[int, int, int]:
        return len(self.lost), len(self.doubled), len(self.reordered)

    def __str__(self) -> str:
        named = (("lost", self.lost), ("doubled", self.doubled), ("reordered", self.reordered))
        return "\n".join(f"{name}: {each}" for name, found in named for each in found) or "nothing is wrong"


@dataclass
class Ledger:
    """The record of a run.

    Attributes:
        stored: the events that senders were told, of each key. refused: why a key's sending was given up.
        began: on the clock of all other times. handed: in order. tried: what a reader asked to acknowledge, which may
            have taken effect without an answer. acknowledged_at: when the answer came.
    """

    began: float = 0.0
    stored: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    refused: dict[str, str] = field(default_factory=dict)
    handed: list[HandOut] = field(default_factory=list)
    tried: set[tuple[str, str]] = field(default_factory=set)
    acknowledged_at: dict[tuple[str, str], float] = field(default_factory=dict)
    _known: set[tuple[str, str]] = field(default_factory=set)

    def note_handed(self, hand_out: HandOut) -> None:
        self.handed.append(hand_out)
        self._known.add((hand_out.agent, hand_out.event_id))

    def note_tried(self, agent: str, event_ids: Iterable[str]) -> None:
        self.tried |= {(agent, event_id) for event_id in event_ids}

    def note_acknowledged(self, agent: str, event_ids: Iterable[str], at: float) -> None:
        for event_id in event_ids:
            self.acknowledged_at.setdefault((agent, event_id), at)

    def was_handed(self, agent: str, event_id: str) -> bool:
        return (agent, event_id) in self._known

    def unread(self, rooms: Iterable[Room]) -> list[str]:
        """Return what stands in the rooms and came to nobody for whom it is that lived to acknowledge it."""
        return [
            f"{message.key} ({message.event_id}) in {room.name}, for {agent}"
            for room in rooms
            for message in room.messages
            for agent in sorted(room.readers - {message.sender})
            if (agent, message.event_id) not in self.tried
        ]

    def settle(self, rooms: Sequence[Room]) -> Verdict:
        """Compare the record with the rooms as the homeserver has them."""
        lost = [*self.unread(rooms), *self._gone(rooms)]
        doubled = [*self._two_events(rooms), *self._handed_again()]
        reordered = [each for room in rooms for each in self._out_of_order(room)]
        return Verdict(tuple(lost), tuple(doubled), tuple(reordered))

    def _gone(self, rooms: Sequence[Room]) -> Iterator[str]:
        there = {message.event_id for room in rooms for message in room.messages}
        for key, event_ids in self.stored.items():
            for event_id in sorted(event_ids - there):
                yield f"{key} ({event_id}) was told to be stored, and is not there"

    def _two_events(self, rooms: Sequence[Room]) -> Iterator[str]:
        events = defaultdict(set, {key: set(event_ids) for key, event_ids in self.stored.items()})
        for room in rooms:
            for message in room.messages:
                events[message.key].add(message.event_id)
        for key, event_ids in events.items():
            if len(event_ids) > 1:
                yield f"{key} is {len(event_ids)} events: {' '.join(sorted(event_ids))}"

    def _handed_again(self) -> Iterator[str]:
        for each in self.handed:
            acknowledged_at = self.acknowledged_at.get((each.agent, each.event_id))
            if acknowledged_at is not None and acknowledged_at < each.asked_at:
                after_s = each.asked_at - acknowledged_at
                yield f"{each.event_id}, acknowledged, was handed to {each.agent} on a request {after_s:.3f} s later"

    def _out_of_order(self, room: Room) -> Iterator[str]:
        places = {message.event_id: place for place, message in enumerate(room.messages)}
        latest: dict[tuple[str, str], int] = {}
        seen: set[tuple[str, str]] = set()
        for each in self.handed:
            place = places.get(each.event_id)
            if place is None or (each.agent, each.event_id) in seen:
                continue
            seen.add((each.agent, each.event_id))
            message = room.messages[place]
            before = latest.get((each.agent, message.sender), -1)
            if place < before:
                later, at_s = room.messages[before].key, each.at - self.began
                yield f"{message.key} in {room.name} was handed to {each.agent} after {later}, at {at_s:.1f} s"
            latest[each.agent, message.sender] = max(place, before)
