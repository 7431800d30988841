"""`RoomOrder`: which agents' rooms are known to be in order without a look at them, over restarts of the daemon."""

import logging
from collections.abc import Callable
from pathlib import Path

from aiagentchat.config import read_private, write_private
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import AgentName

log = logging.getLogger(__name__)


class RoomOrder:
    """All are as a digest says, but for some.

    Args:
        file: keeps it for the next daemon: the digest, and a line for each of the others; None: nothing is known ever.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._checked = ""
        self._doubtful: set[str] = set()
        try:
            self._checked, *doubtful = ("" if file is None else read_private(file) or "").split("\n")
            self._doubtful.update(filter(None, doubtful))
        except InvalidRequestError as error:
            log.warning("%s", error.message)

    @property
    def is_kept(self) -> bool:
        """Whether anything can be known."""
        return self._file is not None

    def has(self, agent: AgentName, wanted: Callable[[], str]) -> bool:
        """Return whether an agent's room is as is wanted now."""
        return bool(self._checked) and agent not in self._doubtful and self.is_for(wanted())

    def is_for(self, wanted: str) -> bool:
        """Return whether all rooms were looked through for this."""
        return self._checked == wanted

    def settle(self, checked: str) -> None:
        """All rooms have been looked through for this."""
        self._checked = checked
        self._keep()

    def forget(self) -> None:
        """Nothing is known of any room."""
        self.settle("")

    def note(self, agent: AgentName, *, in_order: bool) -> None:
        """An agent's room has been looked at, or something was heard of it."""
        if in_order == (agent in self._doubtful):
            self._doubtful ^= {agent}
            self._keep()

    def _keep(self) -> None:
        try:
            if self._file is not None:
                write_private(self._file, "\n".join([self._checked, *sorted(self._doubtful)]) + "\n")
        except OSError as error:  # the next daemon would have had something of it
            log.warning("%s was not written: %s", self._file, error.strerror)
