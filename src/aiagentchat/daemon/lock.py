"""One daemon per home: an OS lock that lives exactly as long as its process, with the pid beside it."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from aiagentchat.config import ensure_private_dir
from aiagentchat.errors import AlreadyRunningError


class DaemonLock:
    """Held from construction until the end of the `with` or of the process, however that ends.

    Raises:
        AlreadyRunningError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        ensure_private_dir(path.parent)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise AlreadyRunningError(
                f"a daemon runs here already (pid {pid})", hint="'cchat status' shows it, 'cchat down' stops it"
            ) from None
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def running_pid(path: Path) -> int | None:
    """Return the pid of the daemon that holds the lock, or None where none does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None
