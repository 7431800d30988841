"""The doorbell of an agent that does not listen by itself: that somebody wrote, and who. Never what.

Whoever can reach the agent asks at the moments it has: when its session starts, when its person writes, after a tool,
when it stops, or, waiting, while it idles. The state is in memory: after a restart it rings again for what is unread.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from aiagentchat.agents.inbox import Inbox
from aiagentchat.model import AgentName, EventId, Message, is_called

Moment = Literal["start", "prompt", "tool", "stop", "idle"]

BUSY_S = 600.0
"""An agent that was said to work and has not been heard of for so long idles: it was interrupted, say."""
AGAIN_S = 60.0
"""What it rang for so long ago, and is unread still, it rings for again when a session starts or its person writes."""


class Bell:
    """One agent's. Several messages are one ring, and each message rings once, but for `AGAIN_S`.

    What it rang for while the agent idled may have woken nobody: of that the next tool or stop is told, too.
    """

    def __init__(self, name: AgentName, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._rung: dict[EventId, float] = {}
        self._rung_idle: set[EventId] = set()  # which may have woken nobody
        self._busy_until = 0.0
        self._waiting = asyncio.Event()  # set: another waits in its place
        self.asked_in: int | None = None  # the session, by when it began

    async def ask(self, inbox: Inbox, moment: Moment, wait_s: float) -> list[Message] | None:
        """Return the messages that it rings for, persons' first; None: another waits instead, or the agent has left.

        At `idle` it waits up to `wait_s` seconds for one, and until the agent idles; one at a time.
        """
        if moment != "idle":
            messages = await inbox.wait_due(lambda due: self._new(due, again=moment in ("start", "prompt")), 0.0)
            is_busy = moment in ("prompt", "tool") or (moment == "stop" and bool(messages))
            self._busy_until = self._clock() + BUSY_S if is_busy else 0.0
            inbox.look_again()
            self._rung_idle.difference_update(each.event_id for each in messages)
            return self._ring(messages)
        self._waiting.set()
        self._waiting = replaced = asyncio.Event()
        waiting = asyncio.ensure_future(self._wait(inbox, wait_s))
        replacing = asyncio.ensure_future(replaced.wait())
        try:
            await asyncio.wait((waiting, replacing), return_when=asyncio.FIRST_COMPLETED)
            has_left = inbox.is_closed and not inbox.is_replaced
            if has_left or not waiting.done():
                return None
            self._rung_idle.update(each.event_id for each in waiting.result())
            return self._ring(waiting.result())
        finally:
            for task in (waiting, replacing):
                task.cancel()
            await asyncio.gather(waiting, replacing, return_exceptions=True)

    async def _wait(self, inbox: Inbox, wait_s: float) -> list[Message]:
        deadline = self._clock() + wait_s
        while True:
            now = self._clock()
            until = min(deadline, self._busy_until) if self._busy_until > now else deadline
            messages = await inbox.wait_due(self._new_while_idle, max(0.0, until - now))
            if messages or self._clock() >= deadline or inbox.is_closed:
                return messages

    def _new_while_idle(self, due: list[Message]) -> list[Message]:
        return [] if self._busy_until > self._clock() else self._new(due, is_idle=True)

    def _new(self, due: list[Message], *, again: bool = False, is_idle: bool = False) -> list[Message]:
        """Return what there is to ring for: of what is for all, only what names the agent."""
        self._rung = {each.event_id: self._rung[each.event_id] for each in due if each.event_id in self._rung}
        self._rung_idle &= self._rung.keys()
        long_ago = self._clock() - AGAIN_S

        def is_due(message: Message) -> bool:
            rung_at = self._rung.get(message.event_id)
            is_again = again or (not is_idle and message.event_id in self._rung_idle)
            return rung_at is None or (is_again and rung_at <= long_ago)

        return [each for each in due if is_due(each) and (not each.broadcast or is_called(self._name, each.body))]

    def _ring(self, messages: list[Message]) -> list[Message]:
        self._rung |= dict.fromkeys((message.event_id for message in messages), self._clock())
        return sorted(messages, key=lambda message: message.sender.kind != "person")
