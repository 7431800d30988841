"""Why the embedded homeserver did not start: the end of its log, and what is known of such ends. Pure but for reading.

Called by `homeserver.process`.
"""

from collections.abc import Iterable
from pathlib import Path

from aiagentchat.errors import HomeserverStartError
from aiagentchat.model import visible

_TAIL_BYTES = 16_384
_TAIL_LINES = 20
_LINE_LENGTH = 400

_KNOWN = (
    ("No module named synapse", "install it: pip install 'aiagentchat[server]'"),
    ("No module named 'synapse", "install it: pip install 'aiagentchat[server]'"),
    ("Address already in use", "another program listens on this port: use '--port 0' for any free one"),
    ("CannotListenError", "another program listens on this port: use '--port 0' for any free one"),
    ("too new for the server", "the data was written by a newer Synapse: pip install -U 'aiagentchat[server]'"),
    ("not native to", "the data belongs to another server name: start with that one, or use another AIAGENTCHAT_HOME"),
    ("is malformed", "the database is damaged: 'cchat restore FILE --move-aside' puts a backup in its place"),
    ("file is not a database", "the database is damaged: 'cchat restore FILE --move-aside' puts a backup in its place"),
    ("disk is full", "make room on the disk"),
    ("No space left on device", "make room on the disk"),
    ("readonly database", "the homeserver's directory must be writable"),
    ("Permission denied", "the homeserver's directory must belong to the user who starts it"),
)


def read_tail(path: Path, *, start: int = 0, hide: Iterable[str] = ()) -> str:
    """Return the last lines of a log, "" where there are none.

    Args:
        start: nothing before this byte, if the log is as long. hide: texts that are replaced by `***`.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    for secret in hide:
        text = text.replace(secret, "***")
    return "\n".join([visible(line)[:_LINE_LENGTH] for line in text.splitlines() if line.strip()][-_TAIL_LINES:])


def explain_failure(what: str, *, printed: str, logged: str, log_file: Path) -> HomeserverStartError:
    """Return the error for a failed start: `what`, then what the process printed, else logged, and a hint."""
    tail = printed or logged
    hint = next((hint for sign, hint in _KNOWN if sign in printed or sign in logged), f"its log is {log_file}")
    return HomeserverStartError(f"{what}; it said last:\n{tail}" if tail else what, hint=hint)
