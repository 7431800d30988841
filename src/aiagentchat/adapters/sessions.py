"""Which session of a program belongs to which conversation: only the program knows what it called it, so it is kept."""

import json
from pathlib import Path

from aiagentchat.config import read_private, write_private
from aiagentchat.errors import InvalidRequestError

_MOST = 1_000


class SessionStore:
    """The sessions of one agent's program. A file that cannot be read is none: conversations begin anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sessions = _load(file)

    def get(self, conversation: str) -> str | None:
        """Return the session of a conversation, or None."""
        return self._sessions.get(conversation)

    def put(self, conversation: str, session_id: str) -> None:
        """Remember a session."""
        self._sessions.pop(conversation, None)
        self._sessions[conversation] = session_id
        while len(self._sessions) > _MOST:
            del self._sessions[next(iter(self._sessions))]
        write_private(self._file, json.dumps(self._sessions) + "\n")


def _load(file: Path) -> dict[str, str]:
    try:
        data = json.loads(read_private(file) or "{}")
    except (ValueError, InvalidRequestError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {key: value for key, value in data.items() if isinstance(value, str)}
