"""`cchat who`, `join` and `leave`."""

from typing import Any

from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.errors import DaemonNotRunningError
from aiagentchat.model import one_line

Json = Any


def who(call: Invocation) -> None:
    """Print the directory."""
    directory = call.client().who()
    if call.out.as_json:
        call.out.data(directory)
    else:
        call.out.agents(directory["agents"])
    for agent in directory["agents"]:
        if agent["encrypted"]:
            call.out.note(
                f"{one_line(agent['name'])}: its room is encrypted, and nothing is sent into it ('cchat status' says "
                "what to do)"
            )
    if directory["unavailable"]:
        call.out.note(f"the directory is empty: {one_line(directory['unavailable'])} ('cchat status' says what to do)")
    elif directory["stalled"]:
        call.out.note(f"agents hear late: {one_line(directory['stalled'])} ('cchat status' says what to do)")
    elif not directory["agents"] and call.out.is_terminal:
        call.out.note("nobody is here yet: 'cchat join NAME' adds an agent")


def join(call: Invocation) -> None:
    """Bring an agent online: as long as this runs, or, detached, until it is silent for long."""
    args, client = call.args, call.client()
    kind = "ephemeral" if args.ephemeral else None
    if args.detach:
        attached = client.attach(args.name, kind=kind, description=args.description, take_over=args.take_over)
        _show_joined(call, attached)
        return
    interrupt_on_signals()
    try:
        with client.hold(args.name, kind=kind, description=args.description, take_over=args.take_over) as events:
            for event, data in events:
                if event == "attached":
                    _show_joined(call, data)
                elif event == "ended":
                    call.out.taken_off(data["name"])
                    return
    except KeyboardInterrupt:
        return
    raise DaemonNotRunningError("the daemon stopped", hint="join again when it is back")


def _show_joined(call: Invocation, attached: dict[str, Json]) -> None:
    name = attached["name"]
    call.out.result(attached, f"{name}: online (room: {attached['alias'].split(':', 1)[0]})")
    call.out.flush()
    if not attached["registered"]:
        call.out.note("the Space is not to be had now: it is listed there as soon as it is")
    if attached["taken_over_from"]:
        call.out.note(f"the name was another's: what is unread there stays in {one_line(attached['taken_over_from'])}")
    if call.out.is_terminal and call.args.detach:
        call.out.note(f"speak as it with 'cchat --as {name} …', or after: export AIAGENTCHAT_AGENT={name}")
    elif call.out.is_terminal:
        call.out.note("Ctrl-C ends the session")


def leave(call: Invocation) -> None:
    """Take an agent offline and make its credential worthless."""
    call.client().detach(call.args.name)
    call.out.result({"name": call.args.name, "done": True}, f"{call.args.name}: offline")
