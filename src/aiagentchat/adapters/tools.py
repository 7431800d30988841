"""The coding tools whose sessions become agents: what their hooks are called, and which agent a session is.

A session's hooks and its MCP server come to the same name, each on its own: from the tool's process, or from the
conversation's id where one process has several.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePath
from types import MappingProxyType
from typing import Literal

from aiagentchat.adapters.owner import Owner
from aiagentchat.adapters.quick import project_of
from aiagentchat.model import AgentName, parse_agent_name

Moment = Literal["start", "prompt", "tool", "stop", "end"]


@dataclass(frozen=True, slots=True)
class Tool:
    """One of them.

    `moments`: of each hook event. `decision`: what has it go on when it is about to stop. `silence`: what a hook prints
    that has nothing to say. `by_conversation`: one process may have several conversations.
    """

    name: str
    title: str
    prefix: str
    moments: Mapping[str, Moment]
    decision: str = "block"
    silence: str = ""
    by_conversation: bool = False


_CLAUDE_EVENTS: Mapping[str, Moment] = MappingProxyType(
    {
        "SessionStart": "start",
        "UserPromptSubmit": "prompt",
        "PostToolUse": "tool",
        "Stop": "stop",
        "SessionEnd": "end",
    }
)
_GEMINI_EVENTS: Mapping[str, Moment] = MappingProxyType(
    {"SessionStart": "start", "BeforeAgent": "prompt", "AfterTool": "tool", "AfterAgent": "stop", "SessionEnd": "end"}
)
TOOLS = {
    tool.name: tool
    for tool in (
        Tool("claude-code", "Claude Code", "claude", _CLAUDE_EVENTS),
        Tool("codex", "Codex", "codex", _CLAUDE_EVENTS, by_conversation=True),
        Tool("gemini", "Gemini CLI", "gemini", _GEMINI_EVENTS, decision="deny", silence="{}"),
        Tool("opencode", "opencode", "opencode", MappingProxyType({})),
    )
}
OTHER = Tool("other", "An MCP client", "session", MappingProxyType({}))


def agent_of(tool: Tool, owner: Owner, *, conversation: str = "", directory: str = "") -> AgentName:
    """Return the agent that a session is: `claude-webshop-3fa9c1`. `directory`: where it was started."""
    if tool.by_conversation and conversation:
        key, project = conversation, ""
    else:
        key = f"{owner.pid} {owner.started}"
        project = _slug(PurePath(project_of(tool.name) or directory).name)
    digest = sha256(f"{tool.name} {key}".encode(errors="replace")).hexdigest()[:6]
    return parse_agent_name("-".join(part for part in (tool.prefix, project, digest) if part))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].strip("-")
