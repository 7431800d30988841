"""`cchat acp`: an agent that speaks the Agent Client Protocol answers in a room, as long as the command runs."""

import asyncio
import logging
import shutil
from pathlib import Path

from aiagentchat.adapters.acp import AcpRunner
from aiagentchat.adapters.acp_peer import AcpProgram
from aiagentchat.adapters.sessions import SessionStore
from aiagentchat.cli.answering import answering
from aiagentchat.cli.invocation import Invocation
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import one_line


def acp(call: Invocation) -> None:
    """Have the program answer each message to the agent."""
    args = call.args
    if shutil.which(args.words[0]) is None:
        raise InvalidRequestError(f"there is no program {one_line(args.words[0])!r}")
    logging.basicConfig(handlers=[logging.NullHandler()])  # the SDK logs what is said here in other words
    program = AcpProgram(tuple(args.words), Path.cwd(), args.timeout, args.approval_timeout)
    with answering(call) as agent:
        sessions = SessionStore(call.settings.paths.data_dir / "acp" / f"{agent.name}.json")
        files = call.files(agent.client)
        runner = AcpRunner(
            agent.name, program, agent.client, files, agent.attach, sessions, tell=agent.tell, on_handled=agent.show
        )
        asyncio.run(runner.run())
