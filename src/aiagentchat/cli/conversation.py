"""A conversation with an agent as `cchat chat` shows it: what is printed of what happens, and what a line means. Pure.

The events are those of the gateway's stream of a room. All foreign text is made visible.
"""

import re
import shlex
from dataclasses import dataclass, replace
from typing import Any

from aiagentchat.adapters.files import describe_file
from aiagentchat.cli.output import BOLD, CYAN, DIM, GREEN, RESET, YELLOW, to_local
from aiagentchat.model import one_line, shortened, visible

Json = Any

HELP = (
    "Enter sends, Alt-Enter begins a new line, Ctrl-D or Ctrl-C leaves",
    "/approve and /deny answer what the agent asks, and so does the number of an option",
    "//word sends /word",
)
_COMMAND = re.compile(r"/[a-z]+")
_NOTHING_YET = "nothing was written here yet; Ctrl-D leaves, /help says more"
_SHORT = 60
_MOST_DIGITS = 2
"""No approval has more options; and Python reads no number of more than 4,300 digits."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a line means: a message to send, in answer to `reply_to` if there is one; or only something to `say`."""

    body: str = ""
    reply_to: str | None = None
    say: tuple[str, ...] = ()
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class _Shown:
    """A message that was shown, as it reads now. `name`: of who wrote it."""

    user_id: str
    name: str
    ts: int
    body: str


class Conversation:
    """What is known of it.

    Args:
        name: the agent's. colour: whether what is printed may have any.
    """

    def __init__(self, name: str, *, colour: bool = False) -> None:
        self.name = name
        self.is_live = False
        self.sending = 0
        self.away = ""  # why nothing comes now
        self.operator: str | None = None
        self._colour = colour
        self._agent = ""
        self._known: dict[str, _Shown] = {}
        self._own: list[str] = []
        self._read: set[str] = set()
        self._asked: dict[str, Json] = {}
        self._settled: set[str] = set()
        self._state: Json = None
        self._progress = ""
        self._latest = ""
        self._day = ""
        self._held: list[tuple[str, Json]] = []
        self._is_new = True

    # --- what happens

    def take(self, event: str, data: Json) -> list[str]:
        """Return the lines to print of an event."""
        if event == "live":
            return self._take_live(data)
        if not self.is_live and event in ("message", "approval"):  # whose is known once it is live
            self._held.append((event, data))
            return []
        taken = {
            "message": self._take_message,
            "edited": self._take_edit,
            "removed": self._take_removal,
            "read": self._take_read,
            "state": self._take_state,
            "approval": self._take_request,
            "settled": self._take_outcome,
        }.get(event)
        return [] if taken is None else taken(data)

    def begin_again(self) -> None:
        """The stream begins anew: what was shown comes once more, and is not shown again."""
        self.is_live = False
        self._asked.clear()

    def _take_live(self, data: Json) -> list[str]:
        self.is_live, self.away = True, ""
        self.operator, self._agent = data["operator"], data["user_id"]
        held, self._held = self._held, []
        lines = [line for event, each in held for line in self.take(event, each)]
        if self._is_new:
            self._is_new = False
            lines.append(self._dim("Ctrl-D leaves, /help says more" if lines else _NOTHING_YET))
        return lines

    def _take_message(self, message: Json) -> list[str]:
        event_id, sender = message["event_id"], message["sender"]
        if event_id in self._known:  # it is told again; it may have been edited meanwhile
            is_edited = message["body"] != self._known[event_id].body
            return self._take_edit(message) if is_edited else []
        lines = self._date_line(message["ts"])
        answered = message["in_reply_to"] and message["in_reply_to"]["event_id"]
        if answered in self._known and answered != self._latest:
            known = self._known[answered]
            lines.append(self._dim(f'  to {known.name}: "{shortened(known.body, _SHORT)}"'))
        is_own = sender["user_id"] == self.operator
        if is_own:
            self._own.append(event_id)
        elif sender["user_id"] == self._agent:
            self._progress = ""
            if answered:
                self._read.add(answered)
        lines.append(self._render(message, is_own=is_own))
        if message["file"] is not None:
            lines.append(self._dim(f"  its file: cchat file {shlex.quote(one_line(event_id))} >FILE"))
        self._known[event_id] = _Shown(sender["user_id"], one_line(sender["name"]), message["ts"], message["body"])
        self._latest = event_id
        return lines

    def _render(self, message: Json, *, is_own: bool) -> str:
        time, name = _time(message["ts"]), one_line(message["sender"]["name"])
        mark = " ✓" if is_own and message["event_id"] in self._read else ""
        file = f" (file {where})" if (where := describe_file(message)) else ""
        body = visible(message["body"]).replace("\n", "\n  ")
        name = self._paint(GREEN if is_own else CYAN, f"{BOLD}{name}" if self._colour else name)
        return f"{self._dim(time)} {name}{self._dim(mark) if mark else ''}{file}: {body}"

    def _date_line(self, ts: int) -> list[str]:
        day = f"{to_local(ts):%A, %d %B %Y}"
        if day == self._day:
            return []
        self._day = day
        return [self._dim(f"── {day} ──")]

    def _take_edit(self, data: Json) -> list[str]:
        """Take what a message says now: from an edit, or from the message itself."""
        if data["event_id"] in self._known:
            self._known[data["event_id"]] = replace(self._known[data["event_id"]], body=data["body"])
        if data["event_id"] in self._asked or data["event_id"] in self._settled:
            return []  # it says what was decided, which is told anyway
        if data["sender"]["user_id"] == self._agent:
            said = [line for line in data["body"].splitlines() if line.strip()]
            self._progress = said[-1] if said else ""
            return []
        name, body = one_line(data["sender"]["name"]), visible(data["body"]).replace("\n", "\n  ")
        return [f"{self._dim(_time(data['ts']))} {name} (edited): {body}"]

    def _take_removal(self, data: Json) -> list[str]:
        event_id, by = data["event_id"], data["sender"]
        if event_id in self._own:
            self._own.remove(event_id)
        known = self._known.pop(event_id, None)
        if known is None:
            return []
        name, time = one_line(by["name"]), _time(known.ts)
        if by["user_id"] == known.user_id:
            return [self._dim(f"  {name} took back the message of {time}")]
        return [self._dim(f"  {name} removed the message of {known.name} of {time}")]

    def _take_read(self, data: Json) -> list[str]:
        self._read.update(data["event_ids"])
        return []

    def _take_state(self, data: Json) -> list[str]:
        before, self._state = self._state, data
        if not data["typing"]:
            self._progress = ""
        if before is None or before["status"] == data["status"]:
            return []
        return [self._dim(f"{self.name} is {data['status']}")]

    # --- approvals

    def _take_request(self, data: Json) -> list[str]:
        event_id = data["event_id"]
        if event_id in self._asked:
            return []
        self._asked[event_id] = data
        lines = []
        if event_id not in self._known:
            lines.append(visible(data["body"]))
        choices = [
            f"{number} {each['sign']} {one_line(each['name'])}" for number, each in enumerate(data["choices"], 1)
        ]
        lines.append(self._paint(YELLOW, f"  {self.name} waits for approval: {' · '.join(choices)}"))
        if self.may_decide(data):
            lines.append(self._dim("  answer with /approve, /deny or a number"))
        else:
            who = ", ".join(one_line(each) for each in data["approvers"]) or "nobody"
            lines.append(self._dim(f"  that is for {who} to decide"))
        return lines

    def _take_outcome(self, data: Json) -> list[str]:
        self._settled.add(data["event_id"])
        if self._asked.pop(data["event_id"], None) is None:
            return []
        return [self._paint(YELLOW, f"  {one_line(data['outcome'])}")]

    def may_decide(self, request: Json) -> bool:
        """Whether the operator's answer counts."""
        return self.operator in request["approvers"]

    @property
    def pending(self) -> str | None:
        """The request that an answer is for: the one that has waited longest, of those that the operator decides."""
        return next((event_id for event_id, each in self._asked.items() if self.may_decide(each)), None)

    # --- what is written

    def read_line(self, text: str, aimed_at: str | None) -> Line:
        """Return what a line means that the operator wrote while the request `aimed_at` was pending, if any was."""
        said = text.strip()
        if not said:
            return Line()
        if said == "/quit":
            return Line(leaves=True)
        if said == "/help":
            return Line(say=HELP)
        if said in ("/approve", "/deny") or (aimed_at is not None and said.isascii() and said.isdigit()):
            return self._decide(said, aimed_at)
        if said.startswith("//"):
            return Line(body=text.replace("//", "/", 1))
        if _COMMAND.fullmatch(said):
            return Line(say=(f"there is no {said} here, and nothing was sent; /{said} sends it, /help says more",))
        return Line(body=text)

    def _decide(self, said: str, aimed_at: str | None) -> Line:
        request = self._asked.get(aimed_at or "")
        if request is None:
            if self.pending is not None:
                return Line(say=("that request came while you wrote: look at it, and answer again",))
            return Line(say=("nothing waits for your approval now; nothing was sent",))
        choices = request["choices"]
        if said.startswith("/"):
            kinds = ("allow_once", "allow_always") if said == "/approve" else ("reject_once", "reject_always")
            found = [each for kind in kinds for each in choices if each["kind"] == kind]
        else:
            number = int(said) if len(said) <= _MOST_DIGITS else 0
            found = choices[number - 1 :][:1] if number else []
        if not found or found[0]["answer"] is None:
            return Line(say=(f"{shortened(said, _SHORT)} is none of its options; nothing was sent",))
        return Line(body=found[0]["answer"], reply_to=aimed_at)

    # --- how it stands

    def status(self) -> str:
        """Return the line at the bottom."""
        if self.away:
            return one_line(self.away)
        if self._state is None:
            return self.name
        parts = [f"{self.name}: {self._state['status']}"]
        if self._state["typing"]:
            parts.append("typing…")
        if self.sending:
            parts.append("sending…")
        elif self._own:
            unread = sum(event_id not in self._read for event_id in self._own)
            parts.append(f"has not read {_messages(unread)} of yours" if unread else "✓ has read what you wrote")
        parts += [shortened(said, _SHORT) for said in (self._progress, self._state["status_line"]) if said]
        return " · ".join(parts)

    def prompt(self) -> str:
        """Return what stands before the line that one writes."""
        return "answer> " if self.pending is not None else "> "

    def _dim(self, text: str) -> str:
        return self._paint(DIM, text)

    def _paint(self, code: str, text: str) -> str:
        return f"{code}{text}{RESET}" if self._colour else text


def _messages(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"


def _time(ts: int) -> str:
    return f"{to_local(ts):%H:%M}"
