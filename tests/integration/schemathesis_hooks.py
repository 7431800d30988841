"""What Schemathesis is told of the gateway; that program loads it, and `test_openapi` runs the program.

Who calls stands in its environment: arguments are what every user of the machine can see. Half of the texts that it
makes up are replaced by what there is, so that a request comes further than to a name that nobody has. What would wait
for somebody does so for a moment, since an answer that takes long is a failure to it.
"""

import os
from typing import Any
from zlib import crc32

import schemathesis
from schemathesis import Case, HookContext

TOKEN, AGENT, EVENT, ACTS = (os.environ.get(f"CALLER_{name}", "") for name in ("TOKEN", "AGENT", "EVENT", "ACTS"))
"""`ACTS`: "yes" where the credential is the operator's, who acts as the agent in about half of the requests."""

THERE_IS = {"name": AGENT, "to": AGENT, "event_id": EVENT, "before": EVENT, "about": EVENT, "reply_to": EVENT}
MOMENT_S = 0.05


def is_chosen(text: str) -> bool:
    """Whether a text is one of about half of all, the same each time."""
    return crc32(text.encode(errors="replace")) % 2 == 0


def put_in_place(fields: dict[str, Any]) -> None:
    """Replace what there is, and shorten what would wait."""
    for name, value in fields.items():
        if name in THERE_IS and isinstance(value, str) and is_chosen(value):
            fields[name] = THERE_IS[name]
        elif name in ("wait", "timeout_s") and isinstance(value, int | float) and not isinstance(value, bool):
            fields[name] = min(value, MOMENT_S)
    if fields.get("session") == "held":
        fields["session"] = "timed"  # a stream that goes on as long as it stands
    if isinstance(user_id := fields.get("user_id"), str) and ":" in user_id:
        fields["user_id"] = user_id.partition(":")[0] + ":example.org"  # no other server is asked who that is


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], **_kwargs: Any) -> None:
    """Change a request before it is made."""
    case.headers["Authorization"] = f"Bearer {TOKEN}"
    made_up = str(case.headers.pop("AIAgentChat-As", ""))
    if ACTS and is_chosen(f"{made_up}{case.query}{case.path_parameters}"):
        case.headers["AIAgentChat-As"] = AGENT
    if case.path == "/approvals" and isinstance(case.body, dict):
        case.body.setdefault("timeout_s", MOMENT_S)
    if case.method == "DELETE" and case.path_parameters.get("name") == AGENT:
        case.path_parameters["name"] = "nobody"  # who has left has no credential for what comes after
    for fields in (case.path_parameters, case.query, case.body):
        if isinstance(fields, dict) and case.method != "DELETE":
            put_in_place(fields)
