"""`cchat run`: a program answers for an agent, as long as the command runs."""

import shutil

from aiagentchat.adapters.run import Program, Runner
from aiagentchat.cli.answering import answering
from aiagentchat.cli.invocation import Invocation
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import one_line


def run(call: Invocation) -> None:
    """Run the program for each message to the agent."""
    program = _program(call)
    with answering(call) as agent:
        files = call.files(agent.client)
        Runner(agent.name, program, agent.client, files, agent.attach, tell=agent.tell, on_handled=agent.show).run()


def _program(call: Invocation) -> Program:
    args = call.args
    command = tuple(args.words)
    if not args.shell and shutil.which(command[0]) is None:
        raise InvalidRequestError(
            f"there is no program {one_line(command[0])!r}", hint="with --shell, CMD is a line for the shell"
        )
    return Program(command, args.shell, args.timeout, "markdown" if args.markdown else "plain", args.fenced)
