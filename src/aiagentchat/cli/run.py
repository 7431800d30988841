"""`cchat run`: a program answers for an agent, as long as the command runs."""

import shutil
from contextlib import suppress

from aiagentchat.adapters.run import Handled, Program, Runner
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.cli.output import render_agent
from aiagentchat.client import Json, connect
from aiagentchat.errors import AiAgentChatError, InvalidRequestError
from aiagentchat.model import one_line, parse_agent_name


def run(call: Invocation) -> None:
    """Run the program for each message to the agent."""
    args, name = call.args, parse_agent_name(call.args.name)
    if call.acting_as not in ("", name):
        raise InvalidRequestError(f"--as {call.acting_as} is not {name}", hint="leave out --as")
    program = _program(call)
    client = connect(call.settings, acting_as=name, label="cchat run")
    kind = "ephemeral" if args.ephemeral else None

    def attach() -> dict[str, Json]:
        return client.attach(name, session="none", kind=kind, description=args.description)

    attached, is_new = attach(), True

    def tell(error: AiAgentChatError | None) -> None:
        nonlocal is_new
        if error is not None:
            call.out.error(error)
            return
        if not is_new:
            call.out.note(f"{name}: online again")
        elif not call.out.as_json:
            call.out.line(render_agent(attached | {"status": "online"}))
            call.out.flush()
        is_new = False

    runner = Runner(name, program, client, attach, tell=tell, on_handled=lambda each: _show(call, each))
    interrupt_on_signals()
    try:
        runner.run()
        call.out.taken_off(name)
    except KeyboardInterrupt:
        if args.ephemeral:
            with suppress(AiAgentChatError):
                client.detach(name)


def _program(call: Invocation) -> Program:
    args = call.args
    command = tuple(args.words)
    if not args.shell and shutil.which(command[0]) is None:
        raise InvalidRequestError(
            f"there is no program {one_line(command[0])!r}", hint="with --shell, CMD is a line for the shell"
        )
    return Program(command, args.shell, args.timeout, "markdown" if args.markdown else "plain", args.fenced)


def _show(call: Invocation, handled: Handled) -> None:
    """Say what was answered; of a failure all that the program said."""
    message, ending = handled.message, handled.ending
    if ending is None:
        return
    if call.out.as_json:
        call.out.data(
            {
                "event_id": message["event_id"],
                "sender": message["sender"],
                "seconds": round(ending.seconds, 3),
                "failure": ending.failure,
                "errors": ending.errors if ending.failure else "",
            }
        )
    else:
        call.out.messages([message])
        came = f"no answer: {ending.failure}" if ending.failure else "answered"
        call.out.line(f"  {came}, after {ending.seconds:.1f} s")
    call.out.flush()
    if ending.failure and ending.errors and not call.out.as_json:
        call.out.note(ending.errors)
