"""What a command gets: its arguments, the settings, and where to write. Every file of `cli` uses it."""

import signal
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from aiagentchat.adapters.files import FileStore
from aiagentchat.cli.output import Output
from aiagentchat.client import GatewayClient, connect
from aiagentchat.config import Settings
from aiagentchat.errors import FileTooLargeError, InvalidRequestError, RefusedError
from aiagentchat.model import BYTES, MIME_TYPE, AgentName, Attachment, parse_agent_name


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

    def refuse_agents(self, what: str) -> None:
        """Raise where the call is made as an agent, or with an agent's credential; `what`: that is the operator's."""
        if self.acting_as:
            raise InvalidRequestError(f"{self.args.command} speaks for nobody: leave --as out")
        if self.settings.token:
            raise RefusedError(
                f"an agent's credential is set, and {what} is the operator's business",
                hint="unset AIAGENTCHAT_TOKEN to do it all the same",
            )

    def client(self) -> GatewayClient:
        """Return a client that speaks as this call is to."""
        return connect(self.settings, acting_as=self.acting_as, label=f"cchat {self.args.command}")

    def files(self, client: GatewayClient) -> FileStore:
        """Return where the files are kept that come with messages to whom the client speaks as."""
        return FileStore(client, self.settings.paths.files)


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


def read_file(path: Path, limit_bytes: int) -> Attachment:
    """Return a file that is to be sent.

    Raises:
        InvalidRequestError: it cannot be read, is empty, or no file. FileTooLargeError: it is larger than that.
    """
    import mimetypes  # noqa: PLC0415 - most calls send none

    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror}; nothing was sent") from None
    if not data:
        raise InvalidRequestError(f"{path} is empty; nothing was sent")
    if len(data) > limit_bytes:
        raise FileTooLargeError(
            f"{path} is larger than {limit_bytes:,} bytes; nothing was sent",
            hint="AIAGENTCHAT_FILE_LIMIT sets the limit, of the daemon as well",
        )
    kind, encoding = mimetypes.guess_type(path.name)
    kind = (kind or "").lower()
    return Attachment(path.name, kind if encoding is None and MIME_TYPE.fullmatch(kind) else BYTES, data)
