"""What this process uses of the machine, as Linux tells in `/proc`. For `daemon.health`."""

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Usage:
    """Resident memory in bytes, open file descriptors, threads. None: this system does not tell."""

    resident_bytes: int | None = None
    open_files: int | None = None
    threads: int | None = None


def read_usage(proc: Path = _PROC) -> Usage:
    """Return what the process uses now; all None where there is no Linux' `/proc`."""
    try:
        pages = int((proc / "statm").read_text().split()[1])
        open_files, threads = len(os.listdir(proc / "fd")), len(os.listdir(proc / "task"))
    except OSError:
        return Usage()
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), open_files, threads)
