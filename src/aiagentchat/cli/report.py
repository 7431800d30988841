"""How a start reports itself: to a terminal, or through a pipe to the command that waits for a detached one."""

import contextlib
import json
import os
from typing import Protocol

from aiagentchat.cli.output import Output
from aiagentchat.connection import GatewayError, Json
from aiagentchat.errors import AiAgentChatError


class Report(Protocol):
    """Told what happens, in sentences for the person who waits."""

    def progress(self, text: str) -> None:
        """Say what is being done."""

    def ready(self, text: str, **more: Json) -> None:
        """Say that all is up, and what a program is told besides."""

    def failed(self, error: AiAgentChatError) -> None:
        """Say that it will not be."""


class TerminalReport:
    """Writes to the terminal; a failure is left to whoever raised it."""

    def __init__(self, out: Output, *, hint: str = "Ctrl-C stops it") -> None:
        self._out = out
        self._hint = hint

    def progress(self, text: str) -> None:
        """Say it beside the result."""
        self._out.note(f"… {text}")

    def ready(self, text: str, **more: Json) -> None:
        """Print it as the result. It is up all the same where nobody reads that."""
        with contextlib.suppress(OSError):
            self._out.result({"up": True, **more}, f"{text}\n{self._hint}.")
            self._out.flush()

    def failed(self, error: AiAgentChatError) -> None:
        """Nothing: it is raised."""


class FdReport:
    """Writes one JSON object a line to a descriptor, and closes it when all is said."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w")

    def progress(self, text: str) -> None:
        """Pass it on."""
        self._write({"progress": text})

    def ready(self, text: str, **more: Json) -> None:
        """Pass it on, and nothing after it."""
        self._write({"ready": text, "more": more})
        self._close()

    def failed(self, error: AiAgentChatError) -> None:
        """Pass it on, and nothing after it."""
        self._write({"failed": {"code": error.code, "detail": error.message, "hint": error.hint}})
        self._close()

    def _write(self, value: dict[str, Json]) -> None:
        if not self._file.closed:
            with contextlib.suppress(BrokenPipeError):  # nobody waits any more
                print(json.dumps(value), file=self._file, flush=True)

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._file.close()


def follow_report(descriptor: int, report: Report) -> None:
    """Pass on what comes from a `FdReport` until it is ready.

    Raises:
        AiAgentChatError: it failed, or ended without a word.
    """
    with os.fdopen(descriptor) as file:
        for line in file:
            said = json.loads(line)
            if "progress" in said:
                report.progress(said["progress"])
            elif "ready" in said:
                report.ready(said["ready"], **said["more"])
                return
            else:
                raise GatewayError(said["failed"])
    raise AiAgentChatError("it ended before it was up", hint="see daemon.log in the home")
