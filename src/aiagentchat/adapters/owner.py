"""The program that a hook or an MCP server was started by: what is its session ends with it."""

import os

_SHELLS = frozenset(
    {"ash", "bash", "busybox", "cchat", "csh", "dash", "env", "fish", "ksh", "mksh", "nu", "pwsh", "sh", "tcsh"}
    | {"xonsh", "zsh"}
)
"""They start programs for others, and are left out on the way up."""
_MOST_ANCESTORS = 8


class Owner:
    """A process. `started` tells it from a later one of the same id; it has the operating system's own form.

    Every hook loads this, so it is of the simplest kind.
    """

    __slots__ = ("pid", "started")

    def __init__(self, pid: int, started: str) -> None:
        self.pid = pid
        self.started = started

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Owner) and (self.pid, self.started) == (other.pid, other.started)

    def __hash__(self) -> int:
        return hash((self.pid, self.started))

    def is_alive(self) -> bool:
        """Whether it runs still."""
        found = _look(self.pid)
        return found is not None and found[1] == self.started

    def arguments(self) -> list[str]:
        """Return its command line, [] where that is not known."""
        try:
            return _read(f"/proc/{self.pid}/cmdline").split("\0")[:-1]
        except OSError:
            return _ps("args=", self.pid)


def process(pid: int) -> Owner:
    """Return a process by its id; one that is no more is not alive."""
    found = _look(pid)
    return Owner(pid, "" if found is None else found[1])


def owner_of(tool: str) -> Owner:
    """Return the tool's process: the ancestor that Claude Code says it is, or the closest that is no shell."""
    told = os.environ.get("CLAUDE_PID", "") if tool == "claude-code" else ""
    return find_owner(int(told) if told.isascii() and told.isdigit() else None)


def find_owner(told: int | None = None) -> Owner:
    """Return the ancestor of this process that is `told`, else the closest that is no shell; at worst the parent."""
    line: list[tuple[Owner, str]] = []
    pid = os.getppid()
    while len(line) < _MOST_ANCESTORS and pid > 1 and (found := _look(pid)) is not None:
        parent, started, program = found
        line.append((Owner(pid, started), program))
        pid = parent
    for owner, _ in line:
        if owner.pid == told:
            return owner
    for owner, program in line:
        if program.lstrip("-") not in _SHELLS:
            return owner
    return process(os.getppid())


def _look(pid: int) -> tuple[int, str, str] | None:
    """Return a process's parent, when it was started, and its program; None: it is no more. A zombie is none."""
    if os.path.exists("/proc/self/stat"):
        try:
            text = _read(f"/proc/{pid}/stat")
        except OSError:
            return None
        program, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()  # proc(5): state is the third field of all, the parent the fourth, the start the 22nd
        return None if fields[0] in "ZX" else (int(fields[1]), fields[19], program)
    listing = _ps("ppid=,stat=,lstart=,comm=", pid)
    if len(listing) < 8 or listing[1].startswith("Z"):
        return None
    return int(listing[0]), " ".join(listing[2:7]), os.path.basename(listing[7])


def _read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


def _ps(columns: str, pid: int) -> list[str]:
    import subprocess  # noqa: PLC0415 - not on Linux, and it takes long to load

    return subprocess.run(
        ["ps", "-o", columns, "-p", str(pid)],  # noqa: S607 - it lies elsewhere on each system
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
