"""What a command gets: its arguments, the settings, and where to write. Every file of `cli` uses it."""

import sys
from argparse import Namespace
from dataclasses import dataclass, field

from aiagentchat.cli.output import Output
from aiagentchat.client import GatewayClient, connect
from aiagentchat.config import Settings
from aiagentchat.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of `cchat`."""

    args: Namespace
    settings: Settings
    out: Output = field(default_factory=Output)

    @property
    def acting_as(self) -> str:
        """What `--as` says, or ""."""
        return str(getattr(self.args, "acting_as", ""))

    def client(self) -> GatewayClient:
        """Return a client that speaks as this call is to."""
        return connect(self.settings, acting_as=self.acting_as, label=f"cchat {self.args.command}")


def read_text(given: str) -> str:
    """Return the text of a message: as given, or standard input, less one final newline, where it is `-`.

    Raises:
        InvalidRequestError: standard input is no UTF-8.
    """
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidRequestError("standard input is not UTF-8 text; nothing was sent") from None
