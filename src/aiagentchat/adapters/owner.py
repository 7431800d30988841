"""The program that a hook or an MCP server was started by: what is its session ends with it."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SHELLS = frozenset(
    {"ash", "bash", "busybox", "cchat", "csh", "dash", "env", "fish", "ksh", "mksh", "nu", "pwsh", "sh", "tcsh"}
    | {"xonsh", "zsh"}
)
"""They start programs for others, and are left out on the way up."""
_MOST_ANCESTORS = 8


@dataclass(frozen=True, slots=True)
class Owner:
    """A process. `started` tells it from a later one of the same id; it has the operating system's own form."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Whether it runs still."""
        found = _look(self.pid)
        return found is not None and found.started == self.started

    def arguments(self) -> list[str]:
        """Return its command line, [] where that is not known."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
        except OSError:
            listing = subprocess.run(
                ["ps", "-o", "args=", "-p", str(self.pid)], capture_output=True, text=True, check=False
            )
            return listing.stdout.split()


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    started: str
    program: str


def process(pid: int) -> Owner:
    """Return a process by its id; one that is no more is not alive."""
    found = _look(pid)
    return Owner(pid, "" if found is None else found.started)


def find_owner(told: int | None = None) -> Owner:
    """Return the ancestor of this process that is `told`, else the closest that is no shell; at worst the parent."""
    line = list(_line_up(os.getppid()))
    for pid, each in line:
        if pid == told:
            return Owner(pid, each.started)
    for pid, each in line:
        if each.program.lstrip("-") not in _SHELLS:
            return Owner(pid, each.started)
    return process(os.getppid())


def _line_up(pid: int) -> Iterator[tuple[int, _Process]]:
    for _ in range(_MOST_ANCESTORS):
        process = _look(pid)
        if pid <= 1 or process is None:
            return
        yield pid, process
        pid = process.parent


def _look(pid: int) -> _Process | None:
    """Return what the system knows of a process; None: it is no more. A zombie is none."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        program, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()  # proc(5): state is the third field of all, the parent the fourth, the start the 22nd
        return None if fields[0] in "ZX" else _Process(int(fields[1]), fields[19], program)
    listing = subprocess.run(
        ["ps", "-o", "ppid=,stat=,lstart=,comm=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    if len(listing) < 8 or listing[1].startswith("Z"):
        return None
    return _Process(int(listing[0]), " ".join(listing[2:7]), os.path.basename(listing[7]))
