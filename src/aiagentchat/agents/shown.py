"""`Shown`: how people see agents' rooms in their list, over restarts of the daemon, so that none need be looked at."""

import logging
from collections.abc import Iterable
from pathlib import Path

from aiagentchat.config import read_private, write_private
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import RoomId

log = logging.getLogger(__name__)

_OFFLINE, _UNKNOWN = "offline", "unknown"


class Shown:
    """Which rooms are shown as those of agents that are online, or offline; of one that is being changed, neither.

    Args:
        file: keeps it for the next daemon: who sees it and how, and a line for each room that is not known to be shown
            as online; None: it is not kept. whose: who sees it and how, in one line.
    """

    def __init__(self, file: Path | None, whose: str) -> None:
        self._file = file
        self._whose = whose
        self._rooms: dict[RoomId, bool | None] = {}
        self._written = ""

    def recall(self, rooms: Iterable[RoomId]) -> None:
        """Take these rooms up as the daemon before left them. Where that is not known, each is to be looked at."""
        try:
            whose, *lines = ("" if self._file is None else read_private(self._file) or "").splitlines() or [""]
        except InvalidRequestError as error:
            log.warning("%s", error.message)
            whose, lines = "", []
        known: dict[str, bool | None] = {}
        for line in lines:
            how, _, room_id = line.partition(" ")
            known[room_id] = False if how == _OFFLINE else None
        self._rooms = {room_id: known.get(room_id, True) if whose == self._whose else None for room_id in rooms}
        self._keep()

    def is_online(self, room_id: RoomId) -> bool | None:
        """Return whether a room is shown as one of an agent that is online; None: it has to be looked at."""
        return self._rooms.get(room_id)

    def note(self, room_id: RoomId, online: bool | None) -> None:
        """A room is shown so now; None: it is about to be changed, or was not looked at yet."""
        self._rooms[room_id] = online
        self._keep()

    def forget(self, room_id: RoomId) -> None:
        """The room is no agent's any more."""
        if room_id in self._rooms:
            del self._rooms[room_id]
            self._keep()

    def doubt(self) -> None:
        """Each room has to be looked at: the homeserver is an older copy of itself."""
        self._rooms = dict.fromkeys(self._rooms)
        self._keep()

    def _keep(self) -> None:
        lines = [self._whose]
        for room_id, is_online in self._rooms.items():
            if not is_online:
                lines.append(f"{_UNKNOWN if is_online is None else _OFFLINE} {room_id}")
        text = "\n".join(lines) + "\n"
        if self._file is None or text == self._written:
            return
        try:
            write_private(self._file, text)
        except OSError as error:  # the next daemon would look at each
            log.warning("%s was not written: %s", self._file, error.strerror)
        else:
            self._written = text
