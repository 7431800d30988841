"""A hook that has nothing to say, which is most of them: answered with hardly more than what Python loads by itself.

Whoever holds a session's agent online notes where its bell is, in a file that the session's hooks find. Where there is
none, the way is the long one (`cli.hook`).
"""

import _socket  # `socket` takes as long to load as all the rest
import json
import os

from aiagentchat.adapters.owner import owner_of

_MOMENTS = {"PostToolUse": "tool", "AfterTool": "tool", "Stop": "stop", "AfterAgent": "stop"}
_SILENCE = {"gemini": "{}"}
_NAMED_HOOKS = {
    "claude-code": ".claude/settings.local.json",
    "codex": ".codex/hooks.json",
    "gemini": ".gemini/settings.json",
}
_PROJECT = {"claude-code": "CLAUDE_PROJECT_DIR", "gemini": "GEMINI_PROJECT_DIR"}
_TIMEOUT_S = 2.0
_MOST_BYTES = 100_000


def answer(words: list[str], raw: bytes) -> str | None:
    """Return what a hook is to print; None: the long way knows.

    Args:
        words: of the command, after `hook`. raw: what the tool wrote.
    """
    try:
        return _answer(words, raw)
    except Exception:  # noqa: BLE001 - whatever it is, the long way knows what to do
        return None


def _answer(words: list[str], raw: bytes) -> str | None:
    tool = words[0]
    named = words[2] if len(words) == 3 and words[1] == "--as" else ""
    if len(words) != (3 if named else 1):
        return None
    given = json.loads(raw)
    event, silence = given["hook_event_name"], _SILENCE.get(tool, "")
    moment = _MOMENTS.get(event)
    if moment is None:
        return None
    if given.get("agent_id") or "CCHAT_AGENT" in os.environ or not (named or speaks_for(tool, given.get("cwd", ""))):
        return silence
    path = note_path(tool, owner_of(tool).pid, str(given.get("session_id", "")), named)
    if not is_own(os.path.dirname(path)):
        return None
    with open(path, encoding="utf-8") as file:
        note = json.load(file)
    bell = _ask(note, moment)
    if not bell["messages"]:
        return silence
    from aiagentchat.adapters.hooks import render  # noqa: PLC0415 - there is something to say
    from aiagentchat.adapters.tools import TOOLS  # noqa: PLC0415 - likewise

    return render(TOOLS[tool], event, moment, note["name"], bell)


def speaks_for(tool: str, directory: str) -> bool:
    """Whether sessions in a directory have no hooks of an agent that somebody named."""
    try:
        with open(os.path.join(project_of(tool) or directory, _NAMED_HOOKS[tool]), errors="replace") as settings:
            text = settings.read()
    except OSError:
        return True
    return not all(word in text for word in ("cchat", tool, "--as"))


def project_of(tool: str) -> str:
    """Return the directory that the tool says it was started in; a session's own may change."""
    return os.environ.get(_PROJECT.get(tool, ""), "")


def note_path(tool: str, pid: int, conversation: str, named: str) -> str:
    """Return where it is noted where the bell of a session is: known to its hooks without any setting.

    Codex has several conversations in a process.
    """
    key = conversation if tool == "codex" and conversation.replace("-", "").isalnum() else str(pid)
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108 - `is_own` looks whose the directory in it is
    return os.path.join(base, f"aiagentchat-{os.getuid()}", f"{tool}-{key}-{named}.json")


def is_own(directory: str) -> bool:
    """Whether nobody else can have written what lies in a directory."""
    found = os.lstat(directory)
    return found.st_uid == os.getuid() and not found.st_mode & 0o077


def _ask(note: dict[str, str], moment: str) -> dict[str, int]:
    """Ask the bell over the daemon's socket. Raises whatever is wrong."""
    body = json.dumps({"moment": moment})
    request = (
        f"POST /bell HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {note['token']}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(note["socket"])
        connection.send(request.encode())
        answer = b""
        while (part := connection.recv(_MOST_BYTES)) and len(answer) < _MOST_BYTES:
            answer += part
    finally:
        connection.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head[:20]:
        raise OSError(head[:100])
    return dict(json.loads(rest))
