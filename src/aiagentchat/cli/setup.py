"""`cchat setup`: adds aiagentchat to the configuration of a coding tool, or takes it out."""

import difflib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from aiagentchat.adapters.hooks import PASSED_ON
from aiagentchat.adapters.setup import Wish, edits
from aiagentchat.adapters.tools import TOOLS
from aiagentchat.cli.invocation import Invocation
from aiagentchat.config import replace_file
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import visible

_WAKES_FROM = (2, 1, 139)
"""Of Claude Code: from here on `asyncRewake` is in its documentation."""
_PROBE_S = 5.0
_NEXT = {
    "claude-code": "restart Claude Code; '/hooks' and '/mcp' in it show what was added",
    "codex": "restart Codex and allow the hooks, as it asks then or with '/hooks': else it passes over them",
    "gemini": "restart Gemini CLI; '/hooks panel' and '/mcp' in it show what was added",
    "opencode": "restart opencode; 'opencode mcp list' shows what was added",
}


def setup(call: Invocation) -> None:
    """Show what would change, and write it on confirmation."""
    args, tool = call.args, TOOLS[call.args.tool]
    if find_spec("mcp") is None and not args.undo:
        raise InvalidRequestError("the MCP server needs the package mcp", hint="pip install 'aiagentchat[mcp]'")
    wish = Wish(
        cchat=_own_path(),
        environment={name: os.environ[name] for name in PASSED_ON if os.environ.get(name)},
        directory=Path.cwd() if args.here else None,
        agent=call.acting_as or None,
        has_channel=args.channel,
        can_wake=args.tool != "claude-code" or _can_wake(),
    )
    changes: dict[Path, Callable[[str], str]] = {}
    for edit in edits(tool, wish, Path.home(), os.environ):
        before, change = _read(edit.path), edit.undo if args.undo else edit.apply
        after = change(before)
        if after != before:
            changes[edit.path] = change
            _show(call, edit.path, before, after)
    if not changes:
        call.out.result({"changed": []}, "nothing to change")
        return
    if not (args.write or _is_confirmed(call)):
        call.out.note("nothing was written; --write does so")
        return
    for path, change in changes.items():
        _write(path, change(_read(path)))  # as it is now: the tool may have written to it meanwhile
    changed = [str(path) for path in changes]
    call.out.result({"changed": changed}, f"written: {', '.join(changed)}")
    if not args.undo:
        call.out.note(f"next: {_NEXT[tool.name]}")


def _own_path() -> str:
    """Return where `cchat` is: the tool may have another PATH. Raises `InvalidRequestError`."""
    beside = os.path.join(os.path.dirname(sys.executable), "cchat")
    called = sys.argv[0] if os.path.basename(sys.argv[0]) == "cchat" else beside
    found = shutil.which(called) or shutil.which("cchat")
    if found is None:
        raise InvalidRequestError("there is no program cchat", hint="pip install aiagentchat")
    return os.path.abspath(found)


def _can_wake() -> bool:
    """Whether Claude Code knows hooks that wait in the background, as far as is known; an older one would wait too."""
    program = shutil.which("claude")
    if program is None:
        return True
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=_PROBE_S)
    except (OSError, subprocess.TimeoutExpired):
        return True
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", told.stdout)
    return version is None or tuple(map(int, version.groups())) >= _WAKES_FROM


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}") from None


def _show(call: Invocation, path: Path, before: str, after: str) -> None:
    if call.out.as_json:
        return
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), lineterm="", n=0)
    for line in lines:
        call.out.line(visible(line))
    call.out.line("")
    call.out.flush()


def _is_confirmed(call: Invocation) -> bool:
    if not (call.out.is_terminal and sys.stdin.isatty()):
        return False
    return input("Write this? [y/N] ").strip().lower() in ("y", "yes")


def _write(path: Path, text: str) -> None:
    """Write a file as a whole, through a link, with the mode that it had; a new one is for its owner alone."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    replace_file(path, text, mode)
