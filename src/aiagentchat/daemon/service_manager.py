"""`ServiceManager`: tells systemd that the daemon is up, that it goes on, and that it stops.

By the protocol of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names. Without one, nothing is told.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

log = logging.getLogger(__name__)

STUCK_S = 120.0
"""Taking in one batch of events takes milliseconds; the homeserver is not waited for meanwhile."""


class ServiceManager:
    """Whoever started the daemon and watches it, if anybody does.

    Args:
        env: of the process. clock: monotonic seconds.
    """

    def __init__(self, env: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = env.get("NOTIFY_SOCKET", "")
        every = env.get("WATCHDOG_USEC", "")
        self._watchdog_s = int(every) / 1e6 if self._address and every.isascii() and every.isdigit() else 0.0
        self._clock = clock
        self._busy_since: float | None = None

    def tell(self, state: str) -> None:
        """Tell a state, such as `READY=1`. A manager that is gone is no fault of ours."""
        if not self._address:
            return
        path = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.setblocking(False)
            notify.sendto(state.encode(), path)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """What is done in here is done soon, or the daemon is stuck."""
        self._busy_since = self._clock()
        try:
            yield
        finally:
            self._busy_since = None

    @property
    def is_stuck(self) -> bool:
        """Whether events have been taken in for longer than that takes."""
        return self._busy_since is not None and self._clock() - self._busy_since > STUCK_S

    async def watch(self) -> None:
        """Say in time that the daemon goes on: its loop turns, and events are taken in. Else it is started anew."""
        while self._watchdog_s:
            if self.is_stuck:
                log.error("taking in events has not ended for %.0f s; the service manager is to start us anew", STUCK_S)
            else:
                self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 3)
