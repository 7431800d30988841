"""Whether the embedded homeserver runs, and as which process: known truthfully, whoever was killed.

The lock is on an open file that the homeserver's process inherits and nobody else keeps, so that it is held exactly
as long as that process lives; the process writes its own pid beside it. A pid alone could have been given to another
program since. `flock` behaves the same on Linux and macOS. Called by `homeserver.process` and `homeserver.embedded`.
"""

import fcntl
import os
from pathlib import Path

from aiagentchat.config import Paths


def homeserver_lock(paths: Paths) -> Path:
    """Where the homeserver's lock lies."""
    return paths.homeserver / "synapse.lock"


def acquire(path: Path) -> int | None:
    """Return a descriptor that holds the lock, with no pid beside it yet; None where it is held.

    A passing look by `is_held` may be in the way for an instant: a caller who minds asks again.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder_pid(path: Path) -> int | None:
    """Return the pid of the process that holds the lock; None where none does, or it has only just begun."""
    if not is_held(path):
        return None
    text = path.read_text(errors="replace").strip()
    return int(text) if text.isascii() and text.isdigit() else None
