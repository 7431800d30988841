"""What a command gets: its arguments, the settings, and where to write. Every file of `cli` uses it."""

import signal
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from aiagentchat.cli.output import Output
from aiagentchat.client import GatewayClient, connect
from aiagentchat.config import Settings
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import AgentName, parse_agent_name


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of `cchat`."""

    args: Namespace
    settings: Settings
    out: Output = field(default_factory=Output)

    @property
    def acting_as(self) -> str:
        """What `--as` says, or "" where it is not given. Raises `InvalidNameError`."""
        name = getattr(self.args, "acting_as", None)
        return "" if name is None else parse_agent_name(name)

    @property
    def given_name(self) -> AgentName | None:
        """The agent that somebody named, with `--as` or in the settings. Raises `InvalidNameError`."""
        name = self.acting_as or self.settings.agent
        return parse_agent_name(name) if name else None

    def client(self) -> GatewayClient:
        """Return a client that speaks as this call is to."""
        return connect(self.settings, acting_as=self.acting_as, label=f"cchat {self.args.command}")


def interrupt_on_signals() -> None:
    """Have SIGTERM, and the end of its terminal, end this command as Ctrl-C does: it lets go of what it holds."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as after `nohup`
        signal.signal(signal.SIGHUP, interrupt)


def read_text(given: str) -> str:
    """Return the text of a message: as given, or standard input, less one final newline, where it is `-`.

    Raises:
        InvalidRequestError: standard input is closed, or no UTF-8.
    """
    if given != "-":
        return given
    if sys.__stdin__ is None:
        raise InvalidRequestError("standard input is closed; nothing was sent")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidRequestError("standard input is not UTF-8 text; nothing was sent") from None
