"""Agents that go on and on without a person: what they write past a limit is stored and shown, and wakes nobody.

The limits are the daemon's of who writes. How often is counted in memory, and begins anew with the daemon.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aiagentchat.model import AgentName, Message, RoomId

HOUR_S = 3600.0
_MOST_PAIRS = 10_000


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """How far agents go on by themselves: `hops` answers in a row, `hourly` messages from one into one room. 0: any."""

    hops: int = 0
    hourly: int = 0


class Loops:
    """Counts what agents write, by who writes and where, until a person writes."""

    def __init__(self, limits: LoopLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._sent: dict[tuple[AgentName, RoomId], deque[float]] = {}
        self._told: set[tuple[AgentName, RoomId]] = set()
        self._person_ms: dict[RoomId | None, int] = {}  # the latest message of a person, by room; None: to all

    def judge(self, agent: AgentName, room_id: RoomId, hops: int) -> str:
        """Count a message that an agent is about to write; return why it is to wake nobody, or ""."""
        if 0 < self._limits.hops < hops:
            return f"agents have answered each other {hops} times without a person"
        if not self._limits.hourly:
            return ""
        now = self._clock()
        sent = self._sent.pop((agent, room_id), None) or deque(maxlen=self._limits.hourly)
        self._sent[agent, room_id] = sent  # behind all others: the first is the one that was used least lately
        if len(self._sent) > _MOST_PAIRS:
            del self._sent[next(iter(self._sent))]
        if len(sent) == self._limits.hourly and sent[0] > now - HOUR_S:
            return f"{agent} has written {len(sent)} messages there within an hour without a person"
        sent.append(now)
        return ""

    def is_news(self, agent: AgentName, room_id: RoomId) -> bool:
        """Whether nobody was told yet, since a person wrote there, that this agent's messages wake nobody."""
        is_news = (agent, room_id) not in self._told
        if is_news and len(self._told) < _MOST_PAIRS:
            self._told.add((agent, room_id))
        return is_news

    def hops_of(self, message: Message) -> int:
        """Return how many agents' answers led to a message since a person last wrote where it stands, or to all."""
        latest_ms = max(self._person_ms.get(message.room_id, 0), self._person_ms.get(None, 0))
        return 0 if message.ts < latest_ms else message.hops

    def note_person(self, room_id: RoomId, owner: AgentName | None, ts: int) -> None:
        """A person wrote in an agent's room (`owner` None: to all): agents may go on there, and that one everywhere."""
        place = None if owner is None else room_id
        self._person_ms[place] = max(ts, self._person_ms.pop(place, 0))
        if len(self._person_ms) > _MOST_PAIRS:
            del self._person_ms[next(iter(self._person_ms))]
        for pair in [*self._sent, *self._told]:
            if owner is None or pair[1] == room_id or pair[0] == owner:
                self._sent.pop(pair, None)
                self._told.discard(pair)
