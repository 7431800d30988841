"""`Shown`: how people see agents' rooms in their list, over restarts of the daemon, so that none need be looked at."""

import contextlib
import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from aiagentchat.config import read_private, write_private
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import RoomId

log = logging.getLogger(__name__)

_ONLINE, _OFFLINE = "online", "offline"


class Shown:
    """Which rooms are shown as those of agents that are online, and which as offline. Of all others it is not known.

    Args:
        file: keeps it for the next daemon: who sees it and how, and a line for each room; None: it is not kept.
        whose: who sees it and how, in one line.
    """

    def __init__(self, file: Path | None, whose: str) -> None:
        self._file = file
        self._whose = whose
        self._rooms: dict[RoomId, bool] = {}
        try:
            kept, *lines = ("" if file is None else read_private(file) or "").splitlines() or [""]
        except InvalidRequestError as error:
            log.warning("%s", error.message)
            return
        for line in lines if kept == whose else ():
            how, _, room_id = line.partition(" ")
            if how in (_ONLINE, _OFFLINE):
                self._rooms[RoomId(room_id)] = how == _ONLINE

    def is_online(self, room_id: RoomId) -> bool | None:
        """Return whether a room is shown as one of an agent that is online; None: it has to be looked at."""
        return self._rooms.get(room_id)

    def note(self, room_id: RoomId, *, online: bool) -> None:
        """A room is shown so now."""
        if self._rooms.get(room_id) != online:
            self._rooms[room_id] = online
            self._keep()

    def forget(self, rooms: Iterable[RoomId]) -> None:
        """Rooms are about to be changed: how they are shown is not known from now on."""
        self.keep_only(self._rooms.keys() - set(rooms))

    def keep_only(self, rooms: Collection[RoomId]) -> None:
        """Forget all others."""
        kept = {room_id: is_online for room_id, is_online in self._rooms.items() if room_id in rooms}
        if len(kept) < len(self._rooms):
            self._rooms = kept
            self._keep()

    def _keep(self) -> None:
        if self._file is None:
            return
        lines = [f"{_ONLINE if is_online else _OFFLINE} {room_id}" for room_id, is_online in self._rooms.items()]
        try:
            write_private(self._file, "\n".join([self._whose, *lines]) + "\n")
        except (OSError, InvalidRequestError) as error:
            log.warning("%s was not written: %s", self._file, error)
            with contextlib.suppress(OSError):
                self._file.unlink()  # what stands there is not so any more
