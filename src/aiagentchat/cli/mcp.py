"""`cchat mcp`: a session of a tool that speaks MCP is an agent."""

import os
from contextlib import suppress

import anyio

from aiagentchat.adapters.hooks import Session
from aiagentchat.adapters.mcp import McpServer
from aiagentchat.adapters.owner import owner_of
from aiagentchat.adapters.tools import OTHER, TOOLS, agent_of
from aiagentchat.cli.hook import keeping
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.client import connect
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import parse_agent_name


def mcp(call: Invocation) -> None:
    """Serve until standard input ends."""
    tool = TOOLS.get(call.args.tool, OTHER)
    owner, directory = owner_of(tool.name), os.getcwd()
    # within `cchat run`, say, it is that agent, and may be no other
    within = os.environ.get("CCHAT_AGENT", "") if call.settings.token else ""
    named = call.given_name or (parse_agent_name(within) if within else None)

    def session_for(conversation: str) -> Session:
        name = named or agent_of(tool, owner, conversation=conversation, directory=directory)
        client = connect(call.settings, acting_as=name, label=f"{tool.title}'s MCP client")
        keep = keeping(tool, owner, name, is_named=bool(named), directory=directory, conversation=conversation)
        return Session(tool, name, client, bool(named), directory, keep)

    by_conversation = tool.by_conversation and not named
    files = call.settings.paths.files
    server = McpServer(session_for, files, by_conversation=by_conversation, has_channel=call.args.channel)
    interrupt_on_signals()
    try:
        anyio.run(server.run)
    except* (KeyboardInterrupt, BrokenPipeError):
        pass
    for session in server.sessions:
        if not (session.is_named or tool.moments):
            with suppress(AiAgentChatError):
                session.client.detach(session.name)
    os._exit(0)  # with whatever still waits for the daemon in a thread
