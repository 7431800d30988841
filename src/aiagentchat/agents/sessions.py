"""Who is there: the sessions of this daemon's agents, in memory only. `agents.heartbeat` writes their roster.

A session is *held* (as long as a connection stands) or *timed* (until `ttl_s` of silence).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiagentchat.model import AgentName


@dataclass(slots=True)
class _Claims:
    """One agent's claims to be there. `began_ms`: the homeserver's clock when the first was made."""

    began_ms: int
    held: dict[int, Callable[[], object]] = field(default_factory=dict)
    until: float | None = None


class Sessions:
    """The sessions. `changed` is set whenever the set of online agents changes, or a timed session has been opened.

    Args:
        ttl_s: silence that ends a timed session. server_now_ms: the homeserver's clock, and not later than it, so that
            no message of a session seems to be from before it. clock: monotonic seconds.
    """

    def __init__(
        self, *, ttl_s: float, server_now_ms: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s = ttl_s
        self._server_now_ms = server_now_ms
        self._clock = clock
        self._claims: dict[AgentName, _Claims] = {}
        self._last_seen_ms: dict[AgentName, int] = {}
        self._next_id = 0
        self._online: frozenset[AgentName] = frozenset()
        self.changed = asyncio.Event()

    def online(self) -> frozenset[AgentName]:
        """Return the agents that have a session."""
        return self._online

    def began_ms(self, agent: AgentName) -> int | None:
        """Return when the agent's present time online began, by the homeserver's clock, or None."""
        claims = self._claims.get(agent)
        return None if claims is None else claims.began_ms

    def last_seen_ms(self, agent: AgentName) -> int | None:
        """Return when the agent last did something here or went offline; None where this daemon has not seen it."""
        return self._last_seen_ms.get(agent)

    def hold(self, agent: AgentName, on_end: Callable[[], object]) -> int:
        """Open a held session; return its id. `on_end` is called when somebody else ends it."""
        self._next_id += 1
        self._claims_of(agent).held[self._next_id] = on_end
        self._publish(agent)
        return self._next_id

    def release(self, agent: AgentName, session_id: int) -> None:
        """Close a held session."""
        claims = self._claims.get(agent)
        if claims is not None and claims.held.pop(session_id, None) is not None:
            self._publish(agent)

    def renew(self, agent: AgentName) -> None:
        """Open a timed session, or have it last `ttl_s` from now."""
        claims = self._claims_of(agent)
        if claims.until is None:
            self.changed.set()  # whoever waits for the next session to be over has one more to think of
        claims.until = self._clock() + self._ttl_s
        self._publish(agent)

    def end(self, agent: AgentName) -> None:
        """Close every session of an agent."""
        claims = self._claims.pop(agent, None)
        if claims is not None:
            for on_end in claims.held.values():
                on_end()
            self._publish(agent)

    def forget(self, agent: AgentName) -> None:
        """Drop when an agent that is no more was last here."""
        self._last_seen_ms.pop(agent, None)

    def end_all(self) -> None:
        """Close every session."""
        for agent in list(self._claims):
            self.end(agent)

    def is_timed(self, agent: AgentName) -> bool:
        """Whether the agent has a timed session."""
        claims = self._claims.get(agent)
        return claims is not None and claims.until is not None

    def expire(self) -> float | None:
        """Close timed sessions that are over; return seconds until the next one is, None where there is none."""
        now = self._clock()
        waits = []
        for agent, claims in list(self._claims.items()):
            if claims.until is not None and claims.until <= now:
                claims.until = None
                self._publish(agent)
            elif claims.until is not None:
                waits.append(claims.until - now)
        return min(waits, default=None)

    def _claims_of(self, agent: AgentName) -> _Claims:
        return self._claims.setdefault(agent, _Claims(began_ms=self._server_now_ms()))

    def _publish(self, agent: AgentName) -> None:
        self._last_seen_ms[agent] = self._server_now_ms()
        claims = self._claims.get(agent)
        if claims is not None and not claims.held and claims.until is None:
            del self._claims[agent]
        if (agent in self._claims) != (agent in self._online):
            self._online = frozenset(self._claims)
            self.changed.set()
