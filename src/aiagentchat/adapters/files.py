"""The file that came with a message, where who reads the message finds it. It can be fetched anew: this is a cache."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from aiagentchat.client import GatewayClient, Json
from aiagentchat.config import ensure_private_dir, write_private
from aiagentchat.errors import AiAgentChatError, DeadlineExceededError
from aiagentchat.model import one_line, visible

_KEPT_S = 7 * 24 * 3600.0
_KEPT_BYTES = 1_000_000_000
_NEW_S = 600.0
"""What was fetched or asked for so lately is not removed, since somebody may be about to open it."""
_NAME_CHARACTERS = 60
_UNSAFE = re.compile(r"[^\w.-]+")


class FileStore:
    """Fetches files as the agent that `client` acts as, into a private directory."""

    def __init__(self, client: GatewayClient, directory: Path) -> None:
        self._client = client
        self._directory = directory

    def place_all(self, messages: Iterable[dict[str, Json]], within_s: float) -> Iterator[dict[str, Json]]:
        """Yield messages as `place` returns them, with what files there are after so many seconds."""
        deadline = time.monotonic() + within_s
        for message in messages:
            yield self.place(message, within_s=deadline - time.monotonic())

    def place(self, message: dict[str, Json], *, within_s: float | None = None) -> dict[str, Json]:
        """Return a message with its file's `path`, or (None) with the `failure` for which it is not there.

        Raises:
            AiAgentChatError: something that passes, other than a file that takes longer than `within_s` s.
        """
        file = message["file"]
        if file is None:
            return message
        where: dict[str, Json] = {"path": None, "failure": ""}
        try:
            where["path"] = str(self._path(message["event_id"], file["name"], within_s))
        except AiAgentChatError as error:
            if error.retryable and not (within_s is not None and error.code == "deadline_exceeded"):
                raise
            where["failure"] = error.message
        except OSError as error:
            where["failure"] = f"it cannot be written: {error.strerror}"
        return message | {"file": file | where}

    def _path(self, event_id: str, name: str, within_s: float | None) -> Path:
        path = self._directory / sha256(event_id.encode()).hexdigest()[:16] / safe_name(name)
        if path.exists():
            os.utime(path.parent)
            return path
        if within_s is not None and within_s <= 0:
            raise DeadlineExceededError("there was no time left to fetch it")
        data = self._client.fetch_file(event_id, within_s=within_s)
        ensure_private_dir(self._directory)
        self._make_room(len(data))
        write_private(path, data)
        return path

    def _make_room(self, wanted_bytes: int) -> None:
        import shutil  # noqa: PLC0415 - most calls bring no file

        kept: list[tuple[float, Path]] = []
        for directory in self._directory.iterdir():
            with suppress(OSError):  # another process has removed it
                kept.append((directory.stat().st_mtime, directory))
        now, total = time.time(), wanted_bytes
        for used_at, directory in sorted(kept, reverse=True):
            with suppress(OSError):
                total += sum(file.stat().st_size for file in directory.iterdir())
            age_s = now - used_at
            if age_s > _KEPT_S or (total > _KEPT_BYTES and age_s > _NEW_S):
                shutil.rmtree(directory, ignore_errors=True)


def safe_name(name: str) -> str:
    """Return what a file may be called here whose sender calls it `name`: the end of it, without what has a meaning."""
    return _UNSAFE.sub("_", name)[-_NAME_CHARACTERS:].lstrip(".-") or "file"


def describe_file(message: dict[str, Json]) -> str:
    """Return where the file of a message is, or else its name, which is no path; "" where none came."""
    file = message["file"]
    if file is None:
        return ""
    if file.get("path"):
        return visible(file["path"])
    return f"{safe_name(file['name'])}, not fetched" if file.get("failure") else safe_name(file["name"])


def explain_file(message: dict[str, Json]) -> str:
    """Return why the file of a message is not there, and what to do; "" where it is, or none came."""
    file = message["file"]
    if file is None or not file.get("failure"):
        return ""
    name, event_id = safe_name(file["name"]), one_line(message["event_id"])
    return f"{name} was not fetched: {one_line(file['failure'])}\n  try again with: cchat file '{event_id}' >{name}"
