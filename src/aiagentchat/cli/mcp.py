"""`cchat mcp`: a session of a tool that speaks MCP is an agent."""

import os
from contextlib import suppress

import anyio

from aiagentchat.adapters.hooks import Session
from aiagentchat.adapters.mcp import McpServer
from aiagentchat.adapters.tools import OTHER, TOOLS, agent_of, owner_of
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.client import connect
from aiagentchat.errors import AiAgentChatError


def mcp(call: Invocation) -> None:
    """Serve until standard input ends; the agent is online as long."""
    args = call.args
    tool = TOOLS.get(args.tool, OTHER)
    owner, directory = owner_of(tool), os.getcwd()
    named = call.given_name

    def session_for(conversation: str) -> Session:
        name = named or agent_of(tool, owner, conversation=conversation, directory=directory)
        client = connect(call.settings, acting_as=name, label=f"{tool.title}'s MCP client")
        return Session(tool, name, client, bool(named), directory, lambda: None)

    server = McpServer(session_for, by_conversation=tool.by_conversation and not named, has_channel=args.channel)
    interrupt_on_signals()
    try:
        anyio.run(server.run)
    except* (KeyboardInterrupt, BrokenPipeError):
        pass
    if server.session is not None and server.is_holder and not server.session.is_named:
        with suppress(AiAgentChatError):
            server.session.client.detach(server.session.name)
    os._exit(0)  # with whatever still waits for the daemon in a thread
