"""The file that came with a message, where who reads the message finds it. It can be fetched anew: this is a cache."""

import re
import time
from hashlib import sha256
from pathlib import Path

from aiagentchat.client import GatewayClient, Json
from aiagentchat.config import ensure_private_dir, write_private
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError
from aiagentchat.model import one_line, visible

_KEPT_S = 7 * 24 * 3600.0
"""How long a file is kept."""
_NAME_CHARACTERS = 60
_UNSAFE = re.compile(r"[^\w.-]+")


class FileStore:
    """Fetches files as the agent that `client` acts as, into a private directory."""

    def __init__(self, client: GatewayClient, directory: Path) -> None:
        self._client = client
        self._directory = directory

    def place(self, message: dict[str, Json]) -> dict[str, Json]:
        """Return a message with its file's `path`, or (None) with the `failure` for which it is not there.

        Raises:
            DaemonNotRunningError: the daemon is away; all else is a failure.
        """
        file = message["file"]
        if file is None:
            return message
        where: dict[str, Json] = {"path": None, "failure": ""}
        try:
            where["path"] = str(self._path(message["event_id"], file["name"]))
        except DaemonNotRunningError:
            raise
        except AiAgentChatError as error:
            where["failure"] = error.message
        except OSError as error:
            where["failure"] = f"it cannot be written: {error.strerror}"
        return message | {"file": file | where}

    def _path(self, event_id: str, name: str) -> Path:
        path = self._directory / sha256(event_id.encode()).hexdigest()[:16] / safe_name(name)
        if not path.exists():
            data = self._client.fetch_file(event_id)
            ensure_private_dir(self._directory)
            self._remove_old()
            write_private(path, data)
        return path

    def _remove_old(self) -> None:
        import shutil  # noqa: PLC0415 - most calls bring no file

        for kept in self._directory.iterdir():
            if kept.stat().st_mtime < time.time() - _KEPT_S:
                shutil.rmtree(kept, ignore_errors=True)


def safe_name(name: str) -> str:
    """Return what a file may be called here whose sender calls it `name`: the end of it, without what has a meaning."""
    return _UNSAFE.sub("_", name)[-_NAME_CHARACTERS:].lstrip(".-") or "file"


def describe_file(message: dict[str, Json]) -> str:
    """Return where the file of a message is, in a line, or why it is nowhere; "" where none came."""
    file = message["file"]
    if file is None:
        return ""
    if file.get("path"):
        return visible(file["path"])
    size = "" if file["size"] is None else f", {file['size']:,} bytes"
    said = f"{one_line(file['name'])} ({one_line(file['mimetype'])}{size})"
    return f"{said}, not fetched: {one_line(file['failure'])}" if file.get("failure") else said
