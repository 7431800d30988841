"""What `cchat` writes: results to standard output, all else to standard error.

The plain form of `who` and `read` is a contract that other programs parse. Colour and tables are for a terminal only.
Foreign text is made visible, never passed on as it is.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiagentchat.adapters.fence import fence
from aiagentchat.adapters.files import describe_file, explain_file
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import one_line, render_time, shortened, visible

Json = Any

_SHORTENED = 80
"""Most characters of a body where many are listed."""
_MOST_NAMES = 5

BOLD, DIM, GREEN, YELLOW, CYAN, RESET = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[0m"


class Output:
    """Writes for a program (`as_json`), for a pipe, or for a person at a terminal."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.is_terminal = sys.stdout.isatty() and not as_json
        self.has_colour = self.is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # what it cannot hold is no reason to read nothing

    def line(self, text: str) -> None:
        """Write a line of the result."""
        print(text)

    def data(self, value: Json) -> None:
        """Write a value as one line of JSON."""
        print(render_json(value, is_unicode=self._is_unicode))

    def result(self, value: Json, text: str) -> None:
        """Write a result in the form that was asked for."""
        if self.as_json:
            self.data(value)
        else:
            self.line(text)

    def flush(self) -> None:
        """Have everything written, so that it can be acknowledged. Raises `BrokenPipeError` where nobody reads."""
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell the person something beside the result. That nobody is there to be told is no error."""
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    def error(self, error: AiAgentChatError) -> None:
        """Say what is wrong and what to do."""
        if self.as_json:
            problem = {"code": error.code, "message": error.message, "hint": error.hint, "retryable": error.retryable}
            self.note(render_json({"error": problem}))
            return
        self.note(f"cchat: {visible(error.message)}")
        if error.hint:
            self.note(f"  {visible(error.hint)}")

    def taken_off(self, name: str) -> None:
        """Say why a command that holds an agent online ends by itself."""
        self.note(f"{name} was taken off: by 'cchat leave {name}', or by another daemon that has the name now")

    def messages(self, messages: Iterable[dict[str, Json]], *, fenced: bool = False) -> None:
        """Write messages: one JSON object a line, or the lines of the contract; `fenced`: as a model is to get them."""
        for message in messages:
            if self.as_json:
                self.data(message)
            else:
                self.line(fence(message) if fenced else render_message(message, colour=self.has_colour))
                if why := explain_file(message):
                    self.note(why)

    def history(self, messages: Sequence[dict[str, Json]]) -> None:
        """Write what was written in a room: one JSON object a line, or lines as those of `messages`."""
        if self.as_json:
            self.messages(messages)
            return
        for line in render_history(messages, colour=self.has_colour):
            self.line(line)

    def sent(self, items: Iterable[dict[str, Json]]) -> None:
        """Write own messages: one JSON object a line, or for each a line and one below it on how far it came."""
        for item in items:
            if self.as_json:
                self.data(item)
            else:
                self.line(render_sent(item, colour=self.has_colour))

    def agents(self, agents: Sequence[dict[str, Json]]) -> None:
        """Write the directory: a table at a terminal, else the lines of the contract."""
        lines = render_table(agents, colour=self.has_colour) if self.is_terminal else map(render_agent, agents)
        for line in lines:
            self.line(line)


def to_local(ts: int) -> datetime:
    """Return milliseconds since the epoch as the person's own time; an impossible time as the epoch."""
    try:
        return datetime.fromtimestamp(ts // 1000, UTC).astimezone()
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC).astimezone()


def render_json(value: Json, *, is_unicode: bool = True) -> str:
    """Return a value as one line of JSON in which nothing is that a terminal obeys: as `\\u009b`, say, if need be."""
    text = json.dumps(value, ensure_ascii=not is_unicode, separators=(",", ":"))
    return text if visible(text) == text else json.dumps(value, separators=(",", ":"))


def render_message(message: dict[str, Json], *, colour: bool = False, about: str = "") -> str:
    """Return `TIME NAME: body`, after the name `(broadcast)`, `(edit of EVENT)` and `(file PATH)`.

    Further lines of the body are indented. No body can pass for a path there. `about`: what it answers, behind the name
    too.
    """
    time, name = render_time(message["ts"]), one_line(message["sender"]["name"])
    if colour:
        time, name = f"{DIM}{time}{RESET}", f"{BOLD}{CYAN}{name}{RESET}"
    marker = " (broadcast)" if message["broadcast"] else ""
    if message["edits"] is not None:
        marker += f" (edit of {one_line(message['edits'])})"
    file = f" (file {where})" if (where := describe_file(message)) else ""
    body = visible(message["body"]).replace("\n", "\n  ")
    return f"{time} {name}{marker}{f' ({about})' if about else ''}{file}: {body}"


def render_history(messages: Sequence[dict[str, Json]], *, colour: bool = False) -> list[str]:
    """Return messages as `read` prints them, with who wrote, and when, what each answers; else that one's id."""
    known = {message["event_id"]: message for message in messages}
    lines = []
    for message in messages:
        about = ""
        if (answered := message["in_reply_to"]) is not None:
            to = known.get(answered["event_id"])
            who = one_line(answered["event_id"])
            if to is not None:
                who = f"{one_line(to['sender']['name'])} {render_time(to['ts'])}"
            about = f"answers {who}"
        lines.append(render_message(message, colour=colour, about=about))
    return lines


def render_sent(item: dict[str, Json], *, colour: bool = False) -> str:
    """Return `TIME to NAME: body`, and on a second line who has read it and what answered it, each shortened."""
    message, answer = item["message"], item["answer"]
    time = render_time(message["ts"])
    to = "(broadcast)" if message["broadcast"] else f"to {one_line(item['to'])}" if item["to"] else "in its own room"
    came = [f"read by {_names(item['read_by'])}"] if item["read_by"] else []
    if answer is not None:
        came.append(f'answered by {one_line(answer["sender"]["name"])}: "{shortened(answer["body"], _SHORTENED)}"')
    came = came or ["stored" if message["broadcast"] or not item["to"] else "stored, not read yet"]
    below = " · ".join(came)
    if colour:
        time, to, below = f"{DIM}{time}{RESET}", f"{BOLD}{CYAN}{to}{RESET}", f"{DIM}{below}{RESET}"
    return f"{time} {to}: {shortened(message['body'], _SHORTENED)}\n  {below}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name) for name in names[:_MOST_NAMES])
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown


def render_agent(agent: dict[str, Json]) -> str:
    """Return `NAME: STATUS (room: #ALIAS)`, the alias without its server unless that is another one."""
    return f"{one_line(agent['name'])}: {agent['status']} (room: {_room(agent)})"


def render_table(agents: Sequence[dict[str, Json]], *, colour: bool) -> list[str]:
    """Return the directory as a table for a person."""
    header = ("AGENT", "STATUS", "KIND", "REACH", "ROOM", "")
    rows = [header, *(_row(agent) for agent in agents)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        if colour and row is header:
            cells = [f"{DIM}{cell}{RESET}" for cell in cells]
        elif colour:
            cells[1] = f"{GREEN if row[1] == 'online' else DIM}{cells[1]}{RESET}"
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def _row(agent: dict[str, Json]) -> tuple[str, ...]:
    remark = one_line(agent["status_line"] or agent["description"])
    if agent["encrypted"]:
        remark = "its room is encrypted: nothing is sent into it"
    return one_line(agent["name"]), agent["status"], agent["kind"], agent["reach"], _room(agent), remark


def _room(agent: dict[str, Json]) -> str:
    is_far = ":" in agent["name"]
    return one_line(agent["alias"] if is_far else agent["alias"].split(":", 1)[0])
