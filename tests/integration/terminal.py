"""A terminal in which a `cchat` process runs, as a person has it: keys go in, and what is on its screen can be read."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator

import pyte

from tests.integration.processes import PROCESS_S, System, wait_until

COLUMNS, ROWS = 100, 30


class _Screen(pyte.Screen):
    def __init__(self, end: int) -> None:
        super().__init__(COLUMNS, ROWS)
        self._end = end

    def write_process_input(self, data: str) -> None:
        """Answer what a terminal is asked: where its cursor is."""
        os.write(self._end, data.encode())


class Terminal:
    """The terminal of one process."""

    def __init__(self, process: "subprocess.Popen[bytes]", end: int) -> None:
        self._process = process
        self._end = end
        self._lock = threading.Lock()
        self._screen = _Screen(end)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with contextlib.suppress(OSError):  # the process has ended
            while data := os.read(self._end, 65536):
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._end, text.encode())

    @property
    def lines(self) -> list[str]:
        """What is on the screen, less what is empty."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def bottom(self) -> str:
        return (self.lines or [""])[-1]

    def sees(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait_for(self, text: str) -> str:
        """Return the first line on the screen that has a text in it, once there is one."""
        try:
            return wait_until(lambda: next((line for line in self.lines if text in line), ""))
        except AssertionError:
            raise AssertionError(f"{text!r} is not on the screen:\n" + "\n".join(self.lines)) from None

    def resize(self, columns: int, rows: int) -> None:
        with self._lock:
            self._screen.resize(rows, columns)
        _set_size(self._end, columns, rows)

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if any, and return the exit code."""
        if number is not None:
            self._process.send_signal(number)
        return self._process.wait(PROCESS_S)

    @property
    def is_as_before(self) -> bool:
        """Whether lines are read and echoed by the terminal, as a shell wants it."""
        modes: int = termios.tcgetattr(self._end)[3]
        return modes & (termios.ICANON | termios.ECHO) == termios.ICANON | termios.ECHO


@contextlib.contextmanager
def terminal(system: System, *arguments: str, **environment: str) -> Iterator[Terminal]:
    """Run a command in a terminal; what is still there afterwards is killed."""
    end, other = pty.openpty()
    _set_size(end, COLUMNS, ROWS)
    kept = system.environment | {"TERM": "xterm-256color", "TZ": "UTC"} | environment
    with subprocess.Popen(
        system.command(*arguments),
        env=kept,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C in it is a signal
    ) as process:
        try:
            yield Terminal(process, end)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PROCESS_S)
            os.close(other)
            os.close(end)


def _set_size(end: int, columns: int, rows: int) -> None:
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
