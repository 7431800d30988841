"""How fast one agent may go: no agent's haste is another's delay. Asked by `gateway.api` before each request.

Counted are the requests that the homeserver has to work for, of each agent by itself, with whichever credential.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiagentchat.errors import TooFastError
from aiagentchat.model import AgentName

_TURN_S = 1.0
"""Who takes longer waits for somebody, and keeps the agent's next request waiting no more."""
_REFUSAL_S = 0.2
"""So long a refusal takes, so that who does not listen to it keeps nobody busy with refusing."""
_BURST_S = 30.0
"""For so long an agent may go at any speed that its requests would have lasted at the rate that it may keep."""
_MOST_AGENTS = 1000


@dataclass(slots=True)
class _Agent:
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    due: float = 0.0
    """When it would be even with the rate, had it kept it."""


class Pace:
    """Lets each agent's requests in, one after the other and so many a minute.

    Args:
        per_minute: that an agent may keep up; 0: any number. clock: in seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._agents: dict[AgentName, _Agent] = {}

    @asynccontextmanager
    async def turn(self, name: AgentName) -> AsyncIterator[None]:
        """Count a request of an agent, and wait for its turn. Raises what `count` does."""
        agent = await self.count(name)
        await agent.turn.acquire()
        loop = asyncio.get_running_loop()
        release = loop.call_later(_TURN_S, agent.turn.release)
        try:
            yield
        finally:
            if loop.time() < release.when():  # else it has been released, or is at once
                release.cancel()
                agent.turn.release()

    async def count(self, name: AgentName) -> _Agent:
        """Count a request of an agent, without a turn: it waits on purpose, and keeps no other of the agent's waiting.

        Raises:
            TooFastError: there were too many; the error says how long to wait.
        """
        agent = self._agents.pop(name, None) or _Agent()
        self._agents[name] = agent  # behind all others: the first is the one that asked least lately
        if len(self._agents) > _MOST_AGENTS:
            del self._agents[next(iter(self._agents))]
        now = self._clock()
        ahead_s = max(0.0, agent.due - now)
        if ahead_s > _BURST_S:
            await asyncio.sleep(_REFUSAL_S)
            raise _too_fast(name, ahead_s - _BURST_S, self._every_s)
        agent.due = now + ahead_s + self._every_s
        return agent


def _too_fast(name: AgentName, wait_s: float, every_s: float) -> TooFastError:
    return TooFastError(
        f"{name} asks for more than {60 / every_s:.0f} things a minute, and nothing was done: wait {wait_s:.1f} s",
        hint="AIAGENTCHAT_AGENT_RATE sets the limit",
        wait_s=wait_s,
    )
