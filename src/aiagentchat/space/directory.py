"""The directory cache: the Space's state, read whole at once, kept live by events, and safe from many threads.

Pure bookkeeping; `space.manager` fetches what goes in. What is foreign, malformed or hostile is skipped and counted.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from aiagentchat.matrix.events import RoomEvent
from aiagentchat.model import AgentName, DirectoryEntry, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CARD, ROSTER, ROSTER_LIMIT_BYTES, Card, Roster, SpaceChild, parse_content
from aiagentchat.space.names import Naming

STATE_TYPES = (CARD, ROSTER, "m.space.child")
"""The state of the Space that makes the directory."""

_MOST_ENTRIES = 20_000
"""Most cards, rosters and children each: whoever is in the Space can write state, and memory is bounded."""

_MOST_ONLINE = ROSTER_LIMIT_BYTES // 4
"""Most names of a roster, each a letter, two quotes and a comma at least."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class DirectoryView:
    """The agents, by name. `skipped`: entries that could not be used. `unavailable`: why it is empty, or ""."""

    entries: tuple[DirectoryEntry, ...]
    skipped: int = 0
    unavailable: str = ""


@dataclass(slots=True)
class _Parsed:
    """The Space's state after one parse per event."""

    cards: dict[str, Card] = field(default_factory=dict)
    rosters: dict[str, frozenset[AgentName]] = field(default_factory=dict)
    children: set[str] = field(default_factory=set)
    rejected: set[tuple[str, str]] = field(default_factory=set)

    def take(self, event: RoomEvent, naming: Naming) -> None:
        key = event.state_key
        if event.type not in STATE_TYPES or key is None:
            return
        accepted: bool
        if event.type == CARD:
            card = card_that_counts(event, naming)
            accepted = card is not None
            _put(self.cards, key, card)
        elif event.type == ROSTER:
            roster = parse_content(Roster, event.content) if key == event.sender else None
            accepted = roster is not None and len(roster.online) <= _MOST_ONLINE
            _put(self.rosters, key, frozenset(roster.online) if roster is not None and accepted else None)
        else:
            accepted = parse_content(SpaceChild, event.content) is not None
            if not accepted:
                self.children.discard(key)
            elif len(self.children) < _MOST_ENTRIES:
                self.children.add(key)
        if accepted or not event.content:  # emptied state is how something is taken off the list, and no fault
            self.rejected.discard((event.type, key))
        elif len(self.rejected) < _MOST_ENTRIES:
            self.rejected.add((event.type, key))


def _put(table: dict[str, _Value], key: str, value: _Value | None) -> None:
    if value is None:
        table.pop(key, None)
    elif key in table or len(table) < _MOST_ENTRIES:
        table[key] = value


class Directory:
    """A TTL-based, bounded cache of the Space's state. Every method may be called from any thread.

    Args:
        ttl_s: seconds after which `is_stale` asks for a new read. clock: monotonic seconds.
    """

    def __init__(self, naming: Naming, *, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._naming = naming
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._parsed = _Parsed()
        self._rooms: dict[RoomId, AgentName] = {}
        self._view: tuple[tuple[frozenset[UserId], frozenset[AgentName]], DirectoryView] | None = None
        self._malformed = 0
        self._read_at: float | None = None
        self._newer: dict[tuple[str, str | None], RoomEvent] | None = None

    def is_stale(self) -> bool:
        """Whether it was never read, or not for `ttl_s`."""
        with self._lock:
            return self._read_at is None or self._clock() - self._read_at > self._ttl_s

    def expire(self) -> None:
        """Have the next reader read anew."""
        with self._lock:
            self._read_at = None

    def begin_read(self) -> None:
        """Say that the Space's state is about to be read. What is applied from now on is newer than what `load` gets.

        One read at a time.
        """
        with self._lock:
            self._newer = {}

    def load(self, events: Iterable[RoomEvent], *, malformed: int = 0) -> None:
        """Take the whole state of the Space in place of what was known. `malformed`: entries that were no events."""
        parsed = _Parsed()
        for event in events:
            parsed.take(event, self._naming)
        with self._lock:
            for event in (self._newer or {}).values():
                parsed.take(event, self._naming)
            self._parsed, self._malformed, self._read_at, self._newer = parsed, malformed, self._clock(), None
            self._view = None
            self._index_rooms()

    def apply(self, event: RoomEvent) -> None:
        """Take one event of the Space as it happens."""
        if event.type in STATE_TYPES:
            with self._lock:
                if self._newer is not None and len(self._newer) < _MOST_ENTRIES:
                    self._newer[event.type, event.state_key] = event
                self._parsed.take(event, self._naming)
                self._view = None
                if event.type == CARD:
                    self._index_rooms()

    def _index_rooms(self) -> None:
        self._rooms = {}
        for card in self._parsed.cards.values():
            self._rooms.setdefault(RoomId(card.room_id), card.name)

    def view(self, alive: frozenset[UserId], own: frozenset[AgentName]) -> DirectoryView:
        """Return the directory. An agent is online where its daemon's roster lists it and that daemon is `alive`.

        `own`: the agents that have a session here; for this daemon's agents they stand for its roster, which follows.
        """
        with self._lock:
            if self._view is None or self._view[0] != (alive, own):
                self._view = ((alive, own), self._render(alive, own))
            return self._view[1]

    def _render(self, alive: frozenset[UserId], own: frozenset[AgentName]) -> DirectoryView:
        parsed = self._parsed
        entries = []
        skipped = self._malformed + len(parsed.rejected)
        for user_id, card in parsed.cards.items():
            if self._rooms.get(RoomId(card.room_id)) != card.name:  # a second card that claims another's room
                skipped += 1
                continue
            roster = own if card.daemon == self._naming.daemon else parsed.rosters.get(card.daemon, frozenset())
            online = card.room_id in parsed.children and card.daemon in alive and card.name in roster
            entries.append(_entry(UserId(user_id), card, online=online))
        entries.sort(key=lambda entry: entry.name)
        return DirectoryView(tuple(entries), skipped)

    def agent_of_room(self, room_id: RoomId) -> AgentName | None:
        """Return the agent whose card names this room."""
        with self._lock:
            return self._rooms.get(room_id)

    def card(self, agent: AgentName) -> Card | None:
        """Return the card of an agent of this server, if it counts."""
        with self._lock:
            return self._parsed.cards.get(self._naming.user(agent))

    def has_child(self, room_id: RoomId) -> bool:
        """Whether the Space lists this room."""
        with self._lock:
            return room_id in self._parsed.children

    def encrypted_agents(self) -> list[AgentName]:
        """Return the agents whose card says that their room is encrypted."""
        with self._lock:
            return [card.name for card in self._parsed.cards.values() if card.encrypted]

    def daemons(self) -> frozenset[UserId]:
        """Return the daemons that the cards name: their leases decide who is online."""
        with self._lock:
            return frozenset(UserId(card.daemon) for card in self._parsed.cards.values())


def card_that_counts(event: RoomEvent, naming: Naming) -> Card | None:
    """Return the card in `event` if it was written by the user that its name derives to, else None.

    The state key is the sender's own user id: such state can be written by that user alone, says the homeserver.
    """
    if event.state_key != event.sender:
        return None
    card = parse_content(Card, event.content)
    if card is None or naming.user(card.name) != event.sender or naming.alias(card.name) != card.alias:
        return None
    return card


def _entry(user_id: UserId, card: Card, *, online: bool) -> DirectoryEntry:
    return DirectoryEntry(
        name=card.name,
        user_id=user_id,
        room_id=RoomId(card.room_id),
        alias=RoomAlias(card.alias),
        kind=card.kind,
        status="online" if online else "offline",
        reach=card.reach if online else "none",
        description=card.description,
        encrypted=card.encrypted,
    )
