"""What a coding tool's hooks say: that somebody wrote to its session, in the tool's own form. Never what they wrote.

A hook is a short process that must not fail: where there is no daemon, or it does not answer, there is nothing to say.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiagentchat.adapters.fence import KINDS
from aiagentchat.adapters.owner import Owner
from aiagentchat.adapters.tools import Tool
from aiagentchat.client import GatewayClient, Json
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import AgentName, one_line

_MOST_SENDERS = 5
_LONGEST_NAME = 64
_WAIT_S = 3000.0
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 30.0
_OWNER_LOOK_S = 2.0
_PROBE_S = _WAKE_S = 20.0
_ARRIVING_S = 30.0
"""How long the agent may take to be there, which another hook of the same event sees to."""
_OFFLINE_S = 600.0
"""How long an agent may be away, because the daemon is, before nobody waits for it any more."""
_GOES_ON = ("clear", "resume")
"""Reasons of a session's end after which the same process has another one."""
PASSED_ON = ("AIAGENTCHAT_HOME", "AIAGENTCHAT_URL")
"""What says where the daemon is: a tool starts its servers and hooks, and a model its shell, without most else."""
WAKE = 2
"""The exit code with which a hook in the background wakes Claude Code."""


@dataclass(frozen=True, slots=True)
class HookInput:
    """What a tool writes to its hooks, as far as it is of use here. `conversation`: its session id."""

    event: str
    conversation: str = ""
    directory: str = ""
    reason: str = ""
    source: str = ""
    of_subagent: bool = False


def parse_input(raw: bytes) -> HookInput | None:
    """Return what a hook was given on standard input; None: it is none of its forms. Never raises."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None

    def text(key: str) -> str:
        value = data.get(key)
        return value if isinstance(value, str) else ""

    return HookInput(
        text("hook_event_name"),
        text("session_id"),
        text("cwd"),
        text("reason"),
        text("source"),
        of_subagent=bool(data.get("agent_id")),
    )


@dataclass(frozen=True, slots=True)
class Session:
    """A tool's session as an agent.

    Args:
        is_named: somebody gave the name, so it stays when the session ends. keep: starts the process that holds the
            agent online as long as the tool runs.
    """

    tool: Tool
    name: AgentName
    client: GatewayClient
    is_named: bool
    directory: str
    keep: Callable[[], None]

    def answer(self, given: HookInput) -> str:
        """Return what the hook is to print for an event."""
        moment = self.tool.moments.get(given.event)
        if moment is None or given.of_subagent:
            return self.tool.silence
        try:
            if moment == "end":
                if given.reason not in _GOES_ON and not self.is_named:  # a named one may have other sessions
                    self.client.detach(self.name)
                return self.tool.silence
            # compacted in the middle of a turn, it begins anew and works on
            bell = self._ask("tool" if given.source == "compact" else moment)
        except AiAgentChatError:
            return self.tool.silence
        return render(self.tool, given.event, moment, self.name, bell)

    def _ask(self, moment: str) -> dict[str, Json]:
        """Ask the doorbell; have the agent be there where it is not, unless it was made to leave meanwhile."""
        try:
            bell = self.client.ask_bell(moment)
        except AiAgentChatError as error:
            if error.code != "agent_not_found" or moment not in ("start", "prompt"):
                raise
            self.attach()
            bell = self.client.ask_bell(moment)
        if not bell["online"] and moment in ("start", "prompt"):
            self.keep()
        return bell

    def attach(self) -> None:
        """Have the agent's room be there."""
        self.client.attach(self.name, session="none", kind=self.kind, description=self.description)

    @property
    def kind(self) -> str:
        return "persistent" if self.is_named else "ephemeral"

    @property
    def description(self) -> str | None:
        if self.is_named:
            return None
        return one_line(f"{self.tool.title} in {self.directory}" if self.directory else self.tool.title)[:500]


def render(tool: Tool, event: str, moment: str, name: AgentName, bell: dict[str, Json]) -> str:
    """Return what a hook prints of what there is to say at an event."""
    told = [introduce(name)] if moment == "start" else []
    if bell["messages"]:
        told.append(describe(name, bell))
    if not told:
        return tool.silence
    if moment == "stop":
        return json.dumps({"decision": tool.decision, "reason": told[0]})
    return json.dumps({"hookSpecificOutput": {"hookEventName": event, "additionalContext": "\n".join(told)}})


def introduce(name: AgentName) -> str:
    """Say to a model which agent it is, and how it speaks."""
    call = f"{command()} --as {name}"
    return (
        f"This session is the agent {name}: people and other agents can write to it. With the tools of the MCP server "
        f"cchat, or in a shell: `{command()} who` lists them, `{call} send --to NAME TEXT` writes to one, "
        f"`{call} read --fenced` shows what came, `{call} reply TEXT` answers that."
    )


def describe(name: AgentName, bell: dict[str, Json]) -> str:
    """Say how many messages are unread, of whom, and how to read them."""
    senders = [
        f"{one_line(each['name'])[:_LONGEST_NAME]}, {KINDS.get(each['kind'], 'somebody')} ({each['messages']})"
        for each in bell["senders"][:_MOST_SENDERS]
    ]
    if len(bell["senders"]) > _MOST_SENDERS:
        senders.append(f"{len(bell['senders']) - _MOST_SENDERS} others")
    count = bell["messages"]
    messages = "A message" if count == 1 else f"{count} messages"
    return (
        f"{messages} to {name} {'is' if count == 1 else 'are'} unread, from {'; '.join(senders)}. `read` of the MCP "
        f"server cchat, or `{command()} --as {name} read --fenced`, shows {'it' if count == 1 else 'them'}."
    )


def command() -> str:
    """Return how `cchat` is called in a shell here, with what says where the daemon is."""
    given = [f"{name}={shlex.quote(os.environ[name])}" for name in PASSED_ON if os.environ.get(name)]
    return " ".join([*given, "cchat" if shutil.which("cchat") else shlex.quote(sys.argv[0])])


# --- as long as the tool runs


def end_with(owner: Owner, end: Callable[[], None]) -> None:
    """Call `end` in a thread once the tool's process is no more."""

    def watch() -> None:
        while owner.is_alive():
            time.sleep(_OWNER_LOOK_S)
        end()

    threading.Thread(target=watch, name="owner", daemon=True).start()


def hold(session: Session, on_online: Callable[[dict[str, Json]], None] = lambda _: None) -> None:
    """Hold the agent online, through restarts of the daemon, until somebody has it leave.

    `on_online` is called once, when it is, with what the gateway answers.
    """
    pause_s, is_new = _FIRST_RETRY_S, True
    while True:
        try:
            with session.client.hold(session.name, kind=session.kind, description=session.description) as events:
                for event, data in events:
                    if event == "ended":
                        return
                    pause_s = _FIRST_RETRY_S
                    if is_new:
                        is_new = False
                        on_online(data)
        except AiAgentChatError:
            pass
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_RETRY_S)


def wait_for_ring(session: Session, *, is_held: bool = False) -> str | None:
    """Wait while the session idles; return what there is to say, or None: another waits instead, or the agent has left.

    Once it has reached the daemon it waits on through restarts of it; `is_held`, by who calls, however long one takes.
    """
    gives_up_at, pause_s = time.monotonic() + _ARRIVING_S, _FIRST_RETRY_S
    has_reached = False
    while True:
        try:
            bell = session.client.ask_bell("idle", wait_s=_WAIT_S if has_reached else 0.0)
        except AiAgentChatError as error:
            if not (is_held or (has_reached and error.retryable) or error.code == "agent_not_found"):
                return None
            bell = None
        if bell is not None and bell["online"]:
            has_reached, gives_up_at, pause_s = True, time.monotonic() + _OFFLINE_S, _FIRST_RETRY_S
            if bell["replaced"]:
                return None
            if bell["messages"]:
                return describe(session.name, bell)
            continue
        if (bell is not None and bell["replaced"]) or (time.monotonic() > gives_up_at and not is_held):
            return None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_RETRY_S)


def codex_queue() -> str | None:
    """Return the program that can have Codex begin a turn (`codex queue`, from 0.149 on), or None."""
    program = shutil.which("codex")
    if program is None:
        return None
    # before, it answers with its own help
    try:
        options = subprocess.run(
            [program, "queue", "--help"], capture_output=True, text=True, check=False, timeout=_PROBE_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return program if "--thread" in options and "--message" in options else None


def wake_codex(program: str, conversation: str, text: str) -> None:
    """Have Codex begin a turn in an idle conversation; where it does not, a later hook is told once more."""
    command = [program, "queue", "--thread", conversation, "--message", text]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, check=False, timeout=_WAKE_S)
