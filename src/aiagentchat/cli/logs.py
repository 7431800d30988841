"""`cchat logs`: what this home's daemon, or its homeserver, wrote to its log."""

import os
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.errors import NotFoundError
from aiagentchat.homeserver.launch import STARTUP_LOG_FILE
from aiagentchat.homeserver.render import LOG_FILE, OLD_LOGS
from aiagentchat.model import visible

_LOOK_S = 0.25


def logs(call: Invocation) -> None:
    """Print the last lines, and with `--follow` those that come."""
    call.refuse_agents("the log")
    paths, args, out = call.settings.paths, call.args, call.out
    path = paths.homeserver / LOG_FILE if args.homeserver else paths.daemon_log
    startup = paths.homeserver / STARTUP_LOG_FILE
    if args.homeserver and startup.exists() and startup.stat().st_size:
        out.note(f"what it printed before it could log is in {startup}")
    interrupt_on_signals()
    with closing(Tail(path)) as tail:
        _print(call, tail.last(args.lines))
        while args.follow:
            _print(call, tail.new())
            time.sleep(_LOOK_S)  # a file tells nobody that it grew
        _print(call, tail.rest())


def _print(call: Invocation, lines: list[str]) -> None:
    for line in lines:
        call.out.result({"line": line}, visible(line))
    call.out.flush()


class Tail:
    """A log file that is renamed to `.1`, and that to `.2`, while it is read: each line comes, and none twice.

    Raises:
        NotFoundError: there is none.
    """

    def __init__(self, path: Path) -> None:
        self._paths = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, OLD_LOGS + 1))]
        self._partial = b""
        files = self._open_newer_than(None)
        if not files:
            raise NotFoundError(
                f"there is no {path}",
                hint="'cchat up' writes it; 'cchat daemon' logs to standard error, under systemd to journalctl",
            )
        self._files = files

    def close(self) -> None:
        """Read no more."""
        for file in self._files:
            file.close()

    def last(self, count: int) -> list[str]:
        """Return the last lines; for once, before anything else."""
        *older, current = self._files
        self._files = [current]
        lines: deque[str] = deque(maxlen=count)
        for file in older:
            with file:
                lines.extend(_text(line) for line in file.read().splitlines())
        lines.extend(self._read(current))
        return list(lines)

    def new(self) -> list[str]:
        """Return the lines that have come since."""
        newer = self._open_newer_than(self._files[0])
        lines = self._read(self._files[0])  # after that look: what was renamed is not written to any more
        for file in newer:
            lines += self.rest()
            self._files[0].close()
            self._files = [file]
            lines += self._read(file)
        return lines

    def rest(self) -> list[str]:
        """Return the beginning of a line that has not come to its end."""
        rest, self._partial = self._partial, b""
        return [_text(rest)] if rest else []

    def _read(self, file: BinaryIO) -> list[str]:
        if os.fstat(file.fileno()).st_size < file.tell():  # somebody emptied it
            file.seek(0)
        *lines, self._partial = (self._partial + file.read()).split(b"\n")
        return [_text(line) for line in lines]

    def _open_newer_than(self, known: BinaryIO | None) -> list[BinaryIO]:
        """Return the files that were begun after one, all for None, the oldest first."""
        found: dict[int, BinaryIO] = {}
        until = None if known is None else os.fstat(known.fileno()).st_ino
        for path in self._paths:
            try:
                file = path.open("rb")
            except FileNotFoundError:  # between two names
                continue
            number = os.fstat(file.fileno()).st_ino
            if number == until or number in found:  # renamed since it was opened
                file.close()
            else:
                found[number] = file
            if number == until:
                break
        return list(found.values())[::-1]


def _text(line: bytes) -> str:
    return line.decode(errors="replace")
