"""The directory cache: the Space's state, read whole at once, kept live by events, and safe from many threads.

Pure bookkeeping; `space.manager` fetches what goes in, and asks the homeserver about the cards of others. What is
foreign, malformed or hostile is skipped and counted.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from aiagentchat.matrix.events import RoomEvent
from aiagentchat.model import (
    AgentName,
    DirectoryEntry,
    EventId,
    RoomAlias,
    RoomId,
    Sender,
    UserId,
    localpart_of,
    server_of,
)
from aiagentchat.space.content import (
    CARD,
    LEASE,
    PEOPLE,
    ROSTER,
    ROSTER_LIMIT_BYTES,
    Card,
    Lease,
    PeopleList,
    Roster,
    SpaceChild,
    parse_content,
)
from aiagentchat.space.names import Names, shown_name
from aiagentchat.space.people import Person, parse_people

STATE_TYPES = (CARD, ROSTER, LEASE, PEOPLE, "m.space.child")
"""The state of the Space that makes the directory, and says whom our rooms are for."""

_MOST_ENTRIES = 20_000
"""Most cards, rosters, leases and children each: whoever is in the Space can write state, and memory is bounded."""

_MOST_ONLINE = ROSTER_LIMIT_BYTES // 4
"""Most names of a roster, each a letter, two quotes and a comma at least."""

_Key = TypeVar("_Key", bound=str)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class DirectoryView:
    """The agents, by name. `skipped`: entries that could not be used. `unavailable`: why it is empty, or ""."""

    entries: tuple[DirectoryEntry, ...]
    skipped: int = 0
    unavailable: str = ""


class Claim(NamedTuple):
    """What a card of somebody else's agent says of its room. It counts once the homeserver says so too."""

    user_id: UserId
    room_id: RoomId
    alias: RoomAlias


@dataclass(frozen=True, slots=True)
class Listed:
    """An agent of the directory. `name`: as it is called here, with `:server` where it is on another one.

    `is_hosted`: by this daemon.
    """

    name: AgentName
    user_id: UserId
    card: Card
    is_hosted: bool = False

    @property
    def room_id(self) -> RoomId:
        return RoomId(self.card.room_id)

    @property
    def claim(self) -> Claim:
        return Claim(self.user_id, self.room_id, RoomAlias(self.card.alias))


@dataclass(slots=True)
class _Parsed:
    """The Space's state after one parse per event. `own`: cards of this daemon's users; `claims`: of all others.

    `people`: those of this daemon's list; None: it has none.
    """

    own: dict[AgentName, Listed] = field(default_factory=dict)
    claims: dict[str, Card] = field(default_factory=dict)
    rosters: dict[str, frozenset[AgentName]] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    children: set[str] = field(default_factory=set)
    people: tuple[Person, ...] | None = None
    rejected: set[tuple[str, str]] = field(default_factory=set)
    written_ms: dict[tuple[str, str], int] = field(default_factory=dict)

    def note_time(self, event: RoomEvent) -> bool:
        """Note when an event was written; return whether none that was written later is here.

        Several streams of events do not come abreast.
        """
        place = event.type, event.state_key or ""
        known_ms = self.written_ms.get(place, 0)
        if place in self.written_ms or len(self.written_ms) < len(STATE_TYPES) * _MOST_ENTRIES:
            self.written_ms[place] = max(known_ms, event.ts)
        return event.ts >= known_ms

    def take(self, event: RoomEvent, names: Names) -> None:
        key = event.state_key
        if event.type not in STATE_TYPES or key is None:
            return
        accepted: bool
        if event.type == CARD:
            accepted = self._take_card(event, key, names)
        elif event.type == ROSTER:
            roster = parse_content(Roster, event.content) if key == event.sender else None
            accepted = roster is not None and len(roster.online) <= _MOST_ONLINE
            _put(self.rosters, key, frozenset(roster.online) if roster is not None and accepted else None)
        elif event.type == LEASE:
            accepted = key == event.sender and parse_content(Lease, event.content) is not None
            _put(self.leases, key, event.ts if accepted else None)
        elif event.type == PEOPLE:
            accepted = self._take_people(event, key, names)
        else:
            accepted = self._take_child(event, key)
        if accepted or not event.content:  # emptied state is how something is taken off the list, and no fault
            self.rejected.discard((event.type, key))
        elif len(self.rejected) < _MOST_ENTRIES:
            self.rejected.add((event.type, key))

    def _take_people(self, event: RoomEvent, key: str, names: Names) -> bool:
        """Take who our rooms are for, from the list that our own user alone can have written."""
        listed = parse_content(PeopleList, event.content) if key == event.sender else None
        if key == names.keeper:
            self.people = None if listed is None else parse_people(listed)
        return listed is not None

    def _take_child(self, event: RoomEvent, key: str) -> bool:
        accepted = parse_content(SpaceChild, event.content) is not None
        if not accepted:
            self.children.discard(key)
        elif len(self.children) < _MOST_ENTRIES:
            self.children.add(key)
        return accepted

    def _take_card(self, event: RoomEvent, key: str, names: Names) -> bool:
        """Take a card that its subject wrote: such state can be written by that user alone, says the homeserver."""
        card = parse_content(Card, event.content) if key == event.sender else None
        return self._put_card(UserId(key), card, names)

    def sort_anew(self, names: Names) -> None:
        """Tell own cards from others' again: other users are this daemon's now."""
        cards = {UserId(key): card for key, card in self.claims.items()}
        cards |= {listed.user_id: listed.card for listed in self.own.values()}
        self.own, self.claims = {}, {}
        for user_id, card in cards.items():
            self._put_card(user_id, card, names)

    def _put_card(self, user_id: UserId, card: Card | None, names: Names) -> bool:
        agent = names.agent_of(user_id)
        if agent is None:
            if card is not None and server_of(card.alias) != server_of(user_id):
                card = None  # an alias is its server's, and says something of that server's users alone
            _put(self.claims, user_id, card)
        else:
            if card is not None and (card.name != agent or card.alias != names.alias(agent)):
                card = None
            listed = None
            if card is not None:
                listed = Listed(agent, user_id, card, is_hosted=card.daemon == names.daemon_of(agent))
            _put(self.own, agent, listed)
        return card is not None


def _put(table: dict[_Key, _Value], key: _Key, value: _Value | None) -> None:
    if value is None:
        table.pop(key, None)
    elif key in table or len(table) < _MOST_ENTRIES:
        table[key] = value


@dataclass(frozen=True, slots=True)
class _Index:
    """Who counts: by their users, by their rooms, and those who have their name."""

    by_name: dict[AgentName, Listed]
    by_user: dict[UserId, Listed]
    by_room: dict[RoomId, Listed]


class Directory:
    """A TTL-based, bounded cache of the Space's state. Every method may be called from any thread.

    Args:
        ttl_s: seconds after which `is_stale` asks for a new read. clock: monotonic seconds.
    """

    def __init__(self, names: Names, *, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._parsed = _Parsed()
        self._accounts = dict(names.accounts)
        self._confirmed: set[Claim] = set()
        self._indexed: _Index | None = None
        self._view: tuple[tuple[frozenset[UserId], frozenset[AgentName]], DirectoryView] | None = None
        self._applied: dict[EventId, None] = {}
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
            parsed.note_time(event)
            parsed.take(event, self._names)
        with self._lock:
            for event in (self._newer or {}).values():
                parsed.note_time(event)
                parsed.take(event, self._names)
            self._parsed, self._malformed, self._read_at, self._newer = parsed, malformed, self._clock(), None
            self._forget_derived()

    def apply(self, event: RoomEvent, *, is_ours: bool = False) -> None:
        """Take one event of the Space as it happens. `is_ours`: it was just written, and comes back later."""
        if event.type in STATE_TYPES:
            with self._lock:
                is_latest = self._parsed.note_time(event)
                if event.event_id in self._applied:
                    return
                self._applied[event.event_id] = None
                if len(self._applied) > _MOST_ENTRIES:
                    del self._applied[next(iter(self._applied))]
                if not is_latest and not is_ours:
                    self._read_at = None  # clocks of several servers may differ: the Space is asked
                    return
                if self._newer is not None and len(self._newer) < _MOST_ENTRIES:
                    self._newer[event.type, event.state_key] = event
                self._parsed.take(event, self._names)
                self._view = None
                if event.type in (CARD, "m.space.child"):
                    self._indexed = None

    def _follow_accounts(self) -> None:
        """Sort the cards by the accounts that there are now: one may be logged in at any time. The lock is held."""
        accounts = self._names.accounts
        if accounts != self._accounts:
            self._accounts = dict(accounts)
            self._parsed.sort_anew(self._names)
            self._forget_derived()

    def _forget_derived(self) -> None:
        self._view = None
        self._indexed = None

    # --- the cards of others

    def claims(self) -> frozenset[Claim]:
        """Return what the cards of others claim, true or not."""
        with self._lock:
            self._follow_accounts()
            return frozenset(
                Claim(UserId(user_id), RoomId(card.room_id), RoomAlias(card.alias))
                for user_id, card in self._parsed.claims.items()
            )

    def confirm(self, claims: frozenset[Claim]) -> None:
        """Say which claims are true, in place of those that were before."""
        with self._lock:
            if claims != self._confirmed:
                self._confirmed = set(claims)
                self._forget_derived()

    def is_claimed(self, agent: AgentName, by: UserId) -> bool:
        """Whether a card of somebody else's has this name, and `by` is its user or daemon. It may not count yet."""
        with self._lock:
            self._follow_accounts()
            return any(
                card.name == agent and by in (user_id, card.daemon) for user_id, card in self._parsed.claims.items()
            )

    # --- who there is

    def _index(self) -> _Index:
        self._follow_accounts()
        if self._indexed is None:
            self._indexed = self._build_index()
        return self._indexed

    def _build_index(self) -> _Index:
        """Sort out who stands: own agents' rooms are theirs; of those with one name it is the one that is listed.

        A name is taken over by taking the other's room off the Space. Between equals the homeserver's alias of the
        name decides, and then the order of their users: the same everywhere.
        """
        server = self._names.server_name
        foreign = [
            Listed(shown_name(card.name, UserId(user_id), server), UserId(user_id), card)
            for user_id, card in self._parsed.claims.items()
        ]
        foreign.sort(key=lambda each: each.user_id)
        own_rooms: dict[RoomId, Listed] = {}
        for each in self._parsed.own.values():
            own_rooms.setdefault(each.room_id, each)
        # Whose another's room is can be told from inside alone: two that claim it both stand.
        true = (each for each in foreign if each.claim in self._confirmed and each.room_id not in own_rooms)
        counted = [*own_rooms.values(), *true]
        by_user = {each.user_id: each for each in counted}
        by_room: dict[RoomId, Listed] = {}
        for each in counted:
            by_room.setdefault(each.room_id, each)
        by_name: dict[AgentName, Listed] = {}
        for each in sorted(by_user.values(), key=self._precedence):
            by_name.setdefault(each.name, each)
        return _Index(by_name, by_user, by_room)

    def _precedence(self, agent: Listed) -> tuple[bool, bool, str]:
        is_plain = agent.card.alias == f"#aiagentchat-{agent.card.name}:{server_of(agent.user_id)}"
        return agent.room_id not in self._parsed.children, not is_plain, agent.user_id

    def view(self, alive: frozenset[UserId], own: frozenset[AgentName]) -> DirectoryView:
        """Return the directory. An agent is online where its daemon's roster lists it and that daemon is `alive`.

        `own`: the agents that have a session here; for this daemon's agents they stand for its roster, which follows.
        """
        with self._lock:
            self._follow_accounts()
            if self._view is None or self._view[0] != (alive, own):
                self._view = ((alive, own), self._render(alive, own))
            return self._view[1]

    def _render(self, alive: frozenset[UserId], own: frozenset[AgentName]) -> DirectoryView:
        parsed, index = self._parsed, self._index()
        entries = []
        for _, agent in sorted(index.by_name.items()):
            card = agent.card
            roster = own if agent.is_hosted else parsed.rosters.get(card.daemon, frozenset())
            online = card.room_id in parsed.children and card.daemon in alive and card.name in roster
            entries.append(_entry(agent, online=online))
        unused = len(parsed.own) + len(parsed.claims) - len(entries)
        return DirectoryView(tuple(entries), self._malformed + len(parsed.rejected) + unused)

    def find(self, agent: AgentName) -> Listed | None:
        """Return who has a name now: an agent of this daemon or another's."""
        with self._lock:
            return self._index().by_name.get(agent)

    def agent_of_room(self, room_id: RoomId) -> AgentName | None:
        """Return the agent whose card names this room."""
        with self._lock:
            listed = self._index().by_room.get(room_id)
            return None if listed is None else listed.name

    def sender_of(self, user_id: UserId) -> Sender:
        """Return who a user is: an agent where only this daemon can speak as them, or where their card counts."""
        own = self._names.agent_of(user_id)
        if own is not None:
            return Sender(user_id, own, "agent")
        with self._lock:
            listed = self._index().by_user.get(user_id)
        if listed is not None:
            return Sender(user_id, listed.name, "agent")
        is_daemon = self._names.has_own_daemon and user_id == self._names.daemon
        return Sender(user_id, localpart_of(user_id), "daemon" if is_daemon else "person")

    def card(self, agent: AgentName) -> Card | None:
        """Return the card of an agent of this daemon, if it counts, whoever has the name now."""
        with self._lock:
            self._follow_accounts()
            listed = self._parsed.own.get(agent)
            return None if listed is None else listed.card

    def own_cards(self) -> list[Card]:
        """Return the cards of this daemon's agents."""
        with self._lock:
            self._follow_accounts()
            return [listed.card for listed in self._parsed.own.values()]

    def has_child(self, room_id: RoomId) -> bool:
        """Whether the Space lists this room."""
        with self._lock:
            return room_id in self._parsed.children

    def people(self) -> tuple[Person, ...] | None:
        """Return the people of this daemon's list; None: there is none."""
        with self._lock:
            return self._parsed.people

    def roster(self, daemon: UserId) -> frozenset[AgentName] | None:
        """Return the roster of a daemon, None where it has none."""
        with self._lock:
            return self._parsed.rosters.get(daemon)

    def lease_ts(self, daemon: UserId) -> int | None:
        """Return when a daemon's lease event was written, by its homeserver's clock (ms); None: it has none."""
        with self._lock:
            return self._parsed.leases.get(daemon)

    def encrypted_agents(self) -> list[AgentName]:
        """Return the agents whose card says that their room is encrypted."""
        with self._lock:
            return [each.name for each in self._index().by_name.values() if each.card.encrypted]

    def daemons(self) -> frozenset[UserId]:
        """Return the daemons of others' agents: their leases decide who of those is online."""
        with self._lock:
            return frozenset(UserId(each.card.daemon) for each in self._index().by_user.values() if not each.is_hosted)


def _entry(agent: Listed, *, online: bool) -> DirectoryEntry:
    card = agent.card
    return DirectoryEntry(
        name=agent.name,
        user_id=agent.user_id,
        room_id=agent.room_id,
        alias=RoomAlias(card.alias),
        kind=card.kind,
        status="online" if online else "offline",
        reach=card.reach if online else "none",
        description=card.description,
        encrypted=card.encrypted,
    )
