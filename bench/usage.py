"""What processes use while something is done, and whether a homeserver is at rest."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from bench.machine import cpu_s
from bench.system import CALM_S, Bench

_CALM_REQUESTS = 4
_CALM_PERCENT = 10.0
_LONGEST_S = 180.0
SYNC = "SyncRestServlet"


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used until now, or, as a difference, within some time.

    Args:
        at_s: when. client_s: processor of who uses the homeserver. homeserver_s: its own. requests: it got, by servlet.
    """

    at_s: float
    client_s: float
    homeserver_s: float
    requests: Counter[str]

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            self.at_s - other.at_s,
            self.client_s - other.client_s,
            self.homeserver_s - other.homeserver_s,
            self.requests - other.requests,
        )

    @property
    def client_percent(self) -> float:
        """Of one core."""
        return self.client_s / self.at_s * 100

    @property
    def homeserver_percent(self) -> float:
        """Of one core."""
        return self.homeserver_s / self.at_s * 100

    @property
    def requests_a_minute(self) -> float:
        return self.requests.total() / self.at_s * 60


async def usage(bench: Bench, client_pid: int | None = None) -> Usage:
    """Return what was used until now. `client_pid`: who uses the homeserver; None: nobody of whom it is asked."""
    client_s = 0.0 if client_pid is None else cpu_s(client_pid)
    requests = await bench.requests()
    return Usage(time.monotonic(), client_s, cpu_s(bench.homeserver_pid), requests)


async def usage_within(bench: Bench, seconds: float, client_pid: int | None = None) -> Usage:
    """Return what is used within the next seconds."""
    before = await usage(bench, client_pid)
    await asyncio.sleep(seconds)
    return await usage(bench, client_pid) - before


async def wait_calm(bench: Bench) -> None:
    """Return when what was done has no more consequences: little but syncs that wait.

    Raises:
        TimeoutError: it still had them after minutes; it says what there was.
    """
    calm, deadline, last = 0, time.monotonic() + _LONGEST_S, ""
    while calm < 2:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"the homeserver is not at rest after {_LONGEST_S:.0f} s{last}")
        used = await usage_within(bench, CALM_S)
        others = used.requests - Counter({SYNC: used.requests[SYNC]})
        is_calm = others.total() <= _CALM_REQUESTS and used.homeserver_percent < _CALM_PERCENT
        calm = calm + 1 if is_calm else 0
        last = f": in the last {CALM_S:.0f} s, {used.homeserver_percent:.0f} % of a core and {dict(others)}"
