"""What was sent, stored, handed out and acknowledged, and what of it is wrong. Pure.

Lost: stored, still on the homeserver, and never handed to a reader of its agent that lived to acknowledge it; or told
to be stored, and not there.
Doubled: two events of one key, or handed out on a request from after the answer to its acknowledgement.
Reordered: two messages of one sender in one room, handed to an agent in another order than they stand there, by one
request or each for the first time.
Untrue: in the end, a message that was acknowledged and stands in the inbox, or of which its sender is told otherwise
than it is who has read it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class HandOut:
    """One message handed to an agent. Times are of one monotonic clock; `asked_at`: when its request was sent.

    `request`: the number of that request, or of the stream.
    """

    agent: str
    event_id: str
    asked_at: float
    at: float
    request: int


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
class Said:
    """What an agent is told in the end. `unread`: its inbox. `read_by`: of its latest messages, who has read each."""

    agent: str
    unread: Sequence[str]
    read_by: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence for each message that is wrong."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()
    untrue: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return self == Verdict()

    def __str__(self) -> str:
        named = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return "\n".join(f"{name}: {each}" for name, found in named for each in found) or "nothing is wrong"


@dataclass
class Ledger:
    """The record of a run.

    Attributes:
        stored: the events that senders were told, of each key. refused: why a key's sending was given up. left: whose
            sender gave up without an answer.
        began: on the clock of all other times. handed: in order. tried: what a reader asked to acknowledge, which may
            have taken effect without an answer. acknowledged_at: when the answer came.
    """

    began: float = 0.0
    stored: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    refused: dict[str, str] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
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

    def settle(self, rooms: Sequence[Room], said: Iterable[Said] = ()) -> Verdict:
        """Compare the record with the rooms as the homeserver has them, and with what agents are told."""
        lost = [*self.unread(rooms), *self._gone(rooms)]
        doubled = [*self._two_events(rooms), *self._handed_again()]
        reordered = [each for room in rooms for each in self._out_of_order(room)]
        return Verdict(tuple(lost), tuple(doubled), tuple(reordered), tuple(self._untrue(rooms, said)))

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
        latest: dict[tuple[str, str, int | None], int] = {}
        seen: set[tuple[str, str]] = set()
        for each in self.handed:
            place = places.get(each.event_id)
            if place is None:
                continue
            is_first = (each.agent, each.event_id) not in seen
            seen.add((each.agent, each.event_id))
            message = room.messages[place]
            orders = [(each.agent, message.sender, request) for request in (each.request, *[None] * is_first)]
            before = max(latest.get(order, -1) for order in orders)
            if place < before:
                later, at_s = room.messages[before].key, each.at - self.began
                yield f"{message.key} in {room.name} was handed to {each.agent} after {later}, at {at_s:.1f} s"
            for order in orders:
                latest[order] = max(place, latest.get(order, -1))

    def _untrue(self, rooms: Iterable[Room], said: Iterable[Said]) -> Iterator[str]:
        readers = {message.event_id: room.readers for room in rooms for message in room.messages}
        for each in said:
            for event_id in each.unread:
                if (each.agent, event_id) in self.acknowledged_at:
                    yield f"{event_id}, acknowledged, stands in the inbox of {each.agent}"
            for event_id, read_by in each.read_by.items():
                for reader in sorted(readers.get(event_id, frozenset()) - {each.agent}):
                    if reader not in read_by and (reader, event_id) in self.acknowledged_at:
                        yield f"{event_id} is told to be unread by {reader}, who acknowledged it"
                    elif reader in read_by and (reader, event_id) not in self.tried:
                        yield f"{event_id} is told to be read by {reader}, who never acknowledged it"
