"""`cchat hook`: what the hooks of a coding tool run. They are written by `cchat setup`.

A tool takes a hook that fails as a refusal, or as something to say: so whatever goes wrong, there is nothing to say.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from aiagentchat.adapters.hooks import (
    WAKE,
    HookInput,
    Session,
    codex_queue,
    end_with,
    hold,
    parse_input,
    wait_for_ring,
    wake_codex,
)
from aiagentchat.adapters.owner import Owner, owner_of, process
from aiagentchat.adapters.quick import is_own, note_path, speaks_for
from aiagentchat.adapters.tools import TOOLS, Tool, agent_of
from aiagentchat.client import Json, connect
from aiagentchat.config import Settings, load_settings
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import AgentName, parse_agent_name

_SECONDS = {"start": 8.0, "prompt": 8.0, "end": 2.5}
_FEW_SECONDS = 2.0
"""How long the tool waits for a hook, at the other moments: it says nothing then."""
_WAKE_TEXT = "Messages to this session's agent are unread. `cchat --as {name} read` shows them."


def main(words: Sequence[str], raw: bytes) -> int:
    """Answer one event, or do what goes on beside the session: wait for a message, or hold its agent."""
    tool = TOOLS.get(words[0]) if words else None
    silence = "" if tool is None else tool.silence
    try:
        printed, code = (silence, 0) if tool is None else _run(tool, _parse(words[1:]), raw)
    except Exception:  # noqa: BLE001 - the supervisor of a hook: whatever it is, the tool is to go on
        printed, code = silence, 0
    with suppress(OSError):
        if printed:
            print(printed, file=sys.stderr if code else sys.stdout, flush=True)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, exit_on_error=False)
    parser.add_argument("--as", dest="acting_as")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--keep", type=int)
    parser.add_argument("--passing", action="store_true")
    parser.add_argument("--directory", default="")
    parser.add_argument("--conversation", default="")
    return parser.parse_args(words)


def _run(tool: Tool, args: argparse.Namespace, raw: bytes) -> tuple[str, int]:
    """Return what is to be printed, and the exit code."""
    settings = load_settings(os.environ)
    if args.keep is not None:
        _keep(tool, args, settings)
        return "", 0
    given = parse_input(raw)
    if given is None or given.of_subagent or "CCHAT_AGENT" in os.environ:  # which `cchat run` and `cchat acp` set
        return tool.silence, 0
    named = args.acting_as or settings.agent
    directory = given.directory or os.getcwd()
    if not (named or speaks_for(tool.name, directory)):
        return tool.silence, 0
    owner = owner_of(tool.name)
    session = _session(tool, settings, owner, given, named, directory)
    if args.wait:
        return _wait(session, owner)
    _end_after(_SECONDS.get(tool.moments.get(given.event, ""), _FEW_SECONDS))
    return session.answer(given), 0


def _end_after(seconds: float) -> None:
    """Have whatever is waited for end in time."""

    def end(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _session(tool: Tool, settings: Settings, owner: Owner, given: HookInput, named: str, directory: str) -> Session:
    if named:
        name = parse_agent_name(named)
    else:
        name = agent_of(tool, owner, conversation=given.conversation, directory=directory)
    client = connect(settings, acting_as=name, label=f"{tool.title}'s hooks")
    keep = keeping(tool, owner, name, is_named=bool(named), directory=directory, conversation=given.conversation)
    return Session(tool, name, client, bool(named), directory, keep)


def keeping(
    tool: Tool, owner: Owner, name: AgentName, *, is_named: bool, directory: str, conversation: str
) -> Callable[[], None]:
    """Return what starts the process that holds the agent online as long as the tool runs."""
    words = ["hook", tool.name, "--keep", str(owner.pid), "--as", name]
    words += [] if is_named else ["--passing", "--directory", directory]
    words += ["--conversation", conversation] if conversation else []

    def keep() -> None:
        subprocess.Popen(
            # not with what lies in the session's directory in place of Python's own modules
            [sys.executable, "-P", "-m", "aiagentchat", *words],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    return keep


def _wait(session: Session, owner: Owner) -> tuple[str, int]:
    """Wait for a message in the background of Claude Code, and wake it. Where nobody can be woken it does not wait."""
    is_single = os.environ.get("CLAUDE_CODE_ENTRYPOINT", "").startswith("sdk")
    if is_single or {"-p", "--print"} & set(owner.arguments()):
        return "", 0
    end_with(owner, lambda: os._exit(0))
    text = wait_for_ring(session)
    return ("", 0) if text is None else (text, WAKE)


def _keep(tool: Tool, args: argparse.Namespace, settings: Settings) -> None:
    """Hold the agent as long as the tool runs; wake Codex while it idles."""
    name = AgentName(args.acting_as)
    client = connect(settings, acting_as=name, label=tool.title)
    session = Session(tool, name, client, not args.passing, args.directory, lambda: None)

    note = note_path(tool.name, args.keep, args.conversation, "" if args.passing else name)

    def leave() -> None:
        with suppress(OSError):
            os.unlink(note)
        with suppress(AiAgentChatError):
            if args.passing:  # another session may be the same named one
                client.detach(name)
        os._exit(0)

    def begin(attached: dict[str, Json]) -> None:
        if not settings.url:
            _write_note(note, {"name": name, "socket": str(settings.paths.socket), "token": attached["token"]})
        if tool.name == "codex" and args.conversation:
            threading.Thread(target=_wake_codex, args=(session, args.conversation), daemon=True).start()

    end_with(process(args.keep), leave)
    hold(session, begin)
    with suppress(OSError):
        os.unlink(note)


def _write_note(path: str, note: dict[str, str]) -> None:
    """Note where the session's bell is, for its hooks alone; where the directory is not the user's own, do not."""
    directory = os.path.dirname(path)
    with suppress(OSError):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if is_own(directory):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(note, file)


def _wake_codex(session: Session, conversation: str) -> None:
    program = codex_queue()
    while program is not None and wait_for_ring(session, is_held=True) is not None:
        wake_codex(program, conversation, _WAKE_TEXT.format(name=session.name))
