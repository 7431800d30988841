"""One daemon per home: an OS lock that lives exactly as long as its process, with the pid beside it."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from aiagentchat.config import ensure_private_dir
from aiagentchat.errors import AlreadyRunningError

_PASSING_LOOK_S = 0.2
"""A look by `running_pid` holds the lock for an instant; whoever holds it longer is a daemon."""


class DaemonLock:
    """Held from construction until the end of the `with` or of the process, however that ends.

    Raises:
        AlreadyRunningError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        ensure_private_dir(path.parent)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PASSING_LOOK_S
        while not _lock(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid = _read_pid(self._descriptor) or "unknown"
                os.close(self._descriptor)
                raise AlreadyRunningError(
                    f"a daemon runs here already (pid {pid})", hint="'cchat status' shows it, 'cchat down' stops it"
                )
            time.sleep(0.01)
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.truncate(self._descriptor, 0)  # so that nobody takes the pid for another program's later
        os.close(self._descriptor)


def running_pid(path: Path) -> int | None:
    """Return the pid of the daemon that holds the lock, or None where none does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared: two who look at once must not take each other for a daemon, with the pid of one long dead.
        return None if _lock(descriptor, fcntl.LOCK_SH) else _read_pid(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isascii() and text.isdigit() else None
