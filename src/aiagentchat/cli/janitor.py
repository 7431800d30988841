"""`cchat janitor`: clears away what passing sessions have left behind."""

from typing import Any

from aiagentchat.cli.invocation import Invocation
from aiagentchat.cli.output import to_local
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError
from aiagentchat.model import one_line

Json = Any


def janitor(call: Invocation) -> None:
    """Print what is cleared away, as it is; one JSON object a line with `--json`."""
    out, seen, failed = call.out, 0, 0
    with call.client().janitor(dry_run=call.args.dry_run) as events:
        for event, data in events:
            if event == "done":
                break
            if event != "agent":
                continue
            seen, failed = seen + 1, failed + (data["state"] == "failed")
            if out.as_json:
                out.data(data)
            else:
                out.line(_line(data))
        else:
            raise DaemonNotRunningError("the daemon stopped before all was done", hint="the same again does the rest")
    if not seen and not out.as_json:
        out.line("there is nothing to clear away")
    if failed:
        raise AiAgentChatError(f"{failed} of {seen} were not cleared away", hint="the same again tries them again")


def _line(data: Json) -> str:
    state = {"found": "would be cleared away", "cleared": "cleared away"}.get(data["state"], one_line(data["state"]))
    why = f": {one_line(data['detail'])}" if data["detail"] else ""
    return f"{one_line(data['agent'])}: {state} (nothing since {to_local(data['since_ms']):%Y-%m-%d %H:%M}){why}"
