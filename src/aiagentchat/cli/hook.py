"""`cchat hook`: what the hooks of a coding tool run. They are written by `cchat setup`."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace

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
from aiagentchat.adapters.owner import Owner, find_owner
from aiagentchat.adapters.tools import TOOLS, agent_of, owner_of
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.client import connect
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import AgentName

_DEADLINE_S = 8.0
"""A turn of the tool waits for a hook."""
_WAKE_TEXT = "Messages to this session's agent are unread. `cchat --as {name} read` shows them."


def hook(call: Invocation) -> None:
    """Answer one event, or do what goes on beside the session: hold its agent, or wait for a message."""
    args, tool = call.args, TOOLS[call.args.tool]
    if args.keep is not None:
        _keep(call, find_owner(args.keep))
        return
    given = parse_input(sys.stdin.buffer.read())
    printed = tool.silence
    with suppress(AiAgentChatError):  # no daemon ever ran here, say
        if given is not None:
            owner = owner_of(tool)
            session = _session(call, owner, given)
            if args.wait:
                _wait(session, owner, given)
            else:
                printed = session.answer(given)
    if printed:
        call.out.line(printed)


def _session(call: Invocation, owner: Owner, given: HookInput) -> Session:
    args, tool = call.args, TOOLS[call.args.tool]
    directory = given.directory or os.getcwd()
    named = call.given_name
    name = named or agent_of(tool, owner, conversation=given.conversation, directory=directory)
    settings = call.settings if args.wait else replace(call.settings, deadline_s=_DEADLINE_S)
    client = connect(settings, acting_as=name, label=f"{tool.title}'s hooks")

    def keep() -> None:
        words = ["hook", tool.name, "--keep", str(owner.pid), "--as", name]
        words += [] if named else ["--passing", "--directory", directory]
        words += ["--conversation", given.conversation] if given.conversation else []
        subprocess.Popen(
            [sys.executable, "-m", "aiagentchat", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    return Session(tool, name, client, bool(named), directory, keep)


def _wait(session: Session, owner: Owner, given: HookInput) -> None:
    """Wait for a message in the background of Claude Code, and wake it."""
    if given.of_subagent:
        return
    interrupt_on_signals()
    end_with(owner, lambda: os._exit(0))
    text = wait_for_ring(session)
    if text is not None:
        print(text, file=sys.stderr, flush=True)
        sys.exit(WAKE)


def _keep(call: Invocation, owner: Owner) -> None:
    """Hold the agent as long as the tool runs; wake Codex while it idles."""
    args, tool = call.args, TOOLS[call.args.tool]
    name = AgentName(call.acting_as)
    client = connect(call.settings, acting_as=name, label=tool.title)
    session = Session(tool, name, client, not args.passing, args.directory or "", lambda: None)

    def leave() -> None:
        with suppress(AiAgentChatError):
            client.detach(name)
        os._exit(0)

    end_with(owner, leave)
    program = codex_queue() if tool.name == "codex" and args.conversation else None
    if program is not None:
        threading.Thread(target=_wake_codex, args=(session, program, args.conversation), daemon=True).start()
    hold(session)


def _wake_codex(session: Session, program: str, conversation: str) -> None:
    while wait_for_ring(session) is not None:
        if not wake_codex(program, conversation, _WAKE_TEXT.format(name=session.name)):
            return
