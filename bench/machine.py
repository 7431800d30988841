"""What processes use, and what machine this is. Linux."""

import ctypes
import os
import platform
import re
import sqlite3
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

_REQUESTS = re.compile(
    r'^synapse_http_server_requests_received_total\{.*servlet="([^"]+)".*\} ([0-9.e+]+)$', re.MULTILINE
)


def cpu_s(pid: int) -> float:
    """Return the seconds of processor that a process has used, of user and system.

    From its clock, `clock_getcpuclockid(3)`: what `/proc` says comes in hundredths of a second.
    """
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def memory_bytes(pid: int) -> int:
    """Return what memory is a process's own: its proportional set size."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def parse_requests(metrics: str) -> Counter[str]:
    """Return how many requests a homeserver has received, by servlet, from what its metrics listener says."""
    counted: Counter[str] = Counter()
    for servlet, count in _REQUESTS.findall(metrics):
        counted[servlet] += int(float(count))
    return counted


def describe() -> str:
    """Return what a reader has to know of machine and versions, in Markdown."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1] if found else platform.machine()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(
        f"{name} {version(name)}"
        for name in ("aiagentchat", "matrix-synapse", "aiohttp", "matrix-nio", "mautrix", "matrix-commander")
    )
    system = f"{platform.system()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return f"{os.cpu_count()} cores ({processor}), {gib:.0f} GiB, {system}; {versions}."
