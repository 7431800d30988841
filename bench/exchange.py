"""Messages from one to another, timed: what sends, what receives, and how several ways are measured in turns."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Goal, Row, Series, ratio_of
from bench.system import Note

PAUSE_S = 0.15
"""After a message, once the other waits for the next: until its last consequences are over."""
LATE_S = 30.0
_WARM_UP = 3

Content = dict[str, Any]


class Arrivals:
    """When each event arrived, by the clock of `time.perf_counter`; before its sender knows its id, as well."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[float]] = {}

    def note(self, event_id: str) -> None:
        """An event is here. The first time counts."""
        now, future = time.perf_counter(), self._future(event_id)
        if not future.done():
            future.set_result(now)

    async def of(self, event_id: str) -> float:
        """Return when an event arrived, and wait for it."""
        async with asyncio.timeout(LATE_S):
            return await self._future(event_id)

    def _future(self, event_id: str) -> asyncio.Future[float]:
        return self._futures.setdefault(event_id, asyncio.get_running_loop().create_future())


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(frozen=True, slots=True)
class Way:
    """How a message comes from one to another. `send`: returns the event's id. `ready`: the other waits for one."""

    what: str
    send: Callable[[Content], Awaitable[str]]
    arrivals: Arrivals
    ready: asyncio.Event = field(default_factory=_set)

    async def time_of(self, content: Content) -> float:
        """Send a message; return how long it took until it was there, in ms."""
        begun = time.perf_counter()
        event_id = await self.send(content)
        return (await self.arrivals.of(event_id) - begun) * 1000


async def in_turns(ways: Sequence[Way], content: Content, times: int, note: Note) -> dict[str, list[float]]:
    """Send a message by each way, and so on; return how long they took, by way."""
    took: dict[str, list[float]] = {way.what: [] for way in ways}
    for number in range(-_WARM_UP, times):
        if number >= 0 and number % 50 == 0:
            note(f"{number} of {times}")
        for way in ways:
            took_ms = await way.time_of(content | {"body": f"{content['body']} {number}"})
            async with asyncio.timeout(LATE_S):
                await way.ready.wait()
            await asyncio.sleep(PAUSE_S)
            if number >= 0:
                took[way.what].append(took_ms)
    return took


def fill_row(
    row: Row,
    took: Mapping[str, Sequence[float]],
    *,
    ours: str,
    parts: Sequence[str],
    raw: str,
    variants: Sequence[str],
    others: Sequence[str],
    why: str,
) -> dict[str, Series]:
    """Add what was measured, and what it was to be: ours near to what is raw, and before all others. Return all of it.

    Args:
        parts: ways that are a part of ours, or ours in other circumstances. variants: of the raw way. why: what keeps
            ours from it; see `Goal`.
    """
    series = {what: row.add(what, "ms", took[what]) for what in (ours, *parts, raw, *variants, *others)}
    mine = series[ours]
    for other, limit, limit_99 in ((raw, 1.10, 1.25), *((other, 1.0, 1.0) for other in others)):
        row.goals += [
            Goal(f"{ours} beside {other}, median", ratio_of(mine, series[other]), limit, why=why),
            Goal(
                f"{ours} beside {other}, 99 %",
                ratio_of(mine, series[other], lambda each: each.at(99)),
                limit_99,
                why=why,
            ),
        ]
    return series
