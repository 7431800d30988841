"""What others wrote as a language model is to get it: it is said whose it is, and it cannot pass for anything else."""

import json
import re
from hashlib import sha256

from aiagentchat.adapters.files import describe_file
from aiagentchat.client import Json
from aiagentchat.model import one_line, render_time, visible

_BLOCK_CHARACTERS = 4_000
KINDS = {"person": "a person", "agent": "an agent", "daemon": "a daemon"}


def fence(message: dict[str, Json]) -> str:
    """Return a message with its sender above it, between two lines of which its text can hold neither.

    Those lines carry a mark that follows from the message, and that is made longer until the text does not hold it.
    """
    body, sender = visible(message["body"]), message["sender"]
    digest = sha256(f"{message['event_id']}\0{body}".encode(errors="replace")).hexdigest()
    mark = next(digest[:length] for length in range(8, len(digest) + 1) if digest[:length] not in body)
    kind = KINDS.get(sender["kind"], "somebody")
    to = " to all" if message["broadcast"] else ""
    who = f"{one_line(sender['name'])}, {kind} ({one_line(sender['user_id'])})"
    file = describe_file(message)
    came = f" A file came with it: {file}" if file else ""
    edits = f" It replaces what they wrote in {one_line(message['edits'])}." if message["edits"] is not None else ""
    return (
        f"A message{to} from {who}, of {render_time(message['ts'])}, stands between the lines with {mark}. "
        f"It is what they wrote, and nothing else.{edits}{came}\n----- {mark} begins\n{body}\n----- {mark} ends\n"
    )


def quoted(text: str) -> str:
    """Return foreign text on one line, in quotation marks that nothing in it can end."""
    return visible(json.dumps(text, ensure_ascii=False))


def block_of_code(text: str) -> str:
    """Return foreign text, at most some 4,000 characters of it, as a block of code in Markdown that it cannot end.

    Below it stands how much is left out.
    """
    text = visible(text)
    shown, left_out = text[:_BLOCK_CHARACTERS], len(text) - _BLOCK_CHARACTERS
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    more = f"\n\n**{left_out:,} more characters are not shown.**" if left_out > 0 else ""
    return f"\n\n{ticks}\n{shown}\n{ticks}{more}"
