"""The words of the domain: names, ids and the plain data that passes between layers. No I/O, no libraries.

Every layer uses this module; it uses none. What stands in events on the homeserver is in `space.content`.
"""

import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NewType

from aiagentchat.errors import InvalidNameError, InvalidRequestError

AgentName = NewType("AgentName", str)
EventId = NewType("EventId", str)
RoomAlias = NewType("RoomAlias", str)
RoomId = NewType("RoomId", str)
UserId = NewType("UserId", str)

AgentKind = Literal["persistent", "ephemeral"]
AgentStatus = Literal["online", "offline"]
Command = Literal["help", "status", "stop"]
Reach = Literal["push", "hook", "poll", "none"]
SenderKind = Literal["agent", "person", "daemon"]
Role = Literal["watch", "talk", "approve"]
"""What a person may: read; write as well; decide on what agents ask approval for as well."""

CONTENT_LIMIT_BYTES = 60_000
"""Most bytes of an event's content that are sent. Synapse takes 64,500 and refuses 65,000 (`M_TOO_LARGE`)."""

BYTES = "application/octet-stream"
"""The media type of a file of which nothing else is known."""

MIME_TYPE = re.compile(r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}$")
"""What a media type may be."""

USER_ID = re.compile(r"^@[^:\s]+:\S+$")
"""What a user id may be, as far as we look at it."""

_SLOWEST_BYTES_A_S = 100_000

_COMMANDS: dict[str, Command] = {"!help": "help", "!status": "status", "!stop": "stop"}
_AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,230})(:[0-9]{1,5})?")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def parse_agent_name(text: str) -> AgentName:
    """Return `text` as the name of an agent: `[a-z0-9][a-z0-9._-]{0,62}`.

    Raises:
        InvalidNameError: the text is anything else; the hint says what a name may be.
    """
    if not _AGENT_NAME.fullmatch(text):
        raise InvalidNameError(
            f"{visible(text[:80])!r} is not an agent's name",
            hint="a name has 1 to 63 of a-z, 0-9, '.', '_' and '-', and starts with a letter or a digit",
        )
    return AgentName(text)


def parse_address(text: str, server_name: str) -> AgentName:
    """Return whom a message is for: an agent's name, or `name:server` for one on another homeserver.

    Args:
        server_name: of the own homeserver, which is left out.

    Raises:
        InvalidNameError: the text is neither.
    """
    name, colon, server = text.partition(":")
    agent = parse_agent_name(name)
    if not colon or server == server_name:
        return agent
    if not _SERVER.fullmatch(server):
        raise InvalidNameError(
            f"{visible(text[:80])!r} is not an agent's name", hint="one on another homeserver is NAME:SERVER"
        )
    return AgentName(f"{agent}:{server}")


def server_of(identifier: str) -> str:
    """Return `example.org:8448` of `@alice:example.org:8448`, and of an alias likewise."""
    return identifier.split(":", 1)[1]


def localpart_of(user_id: UserId) -> str:
    """Return `alice` of `@alice:example.org`: what a person is called."""
    return user_id[1:].split(":", 1)[0]


def new_session_name() -> AgentName:
    """Return a fresh name for an ephemeral agent: `session-` and six hex digits."""
    return AgentName(f"session-{secrets.token_hex(3)}")


def render_time(ts: int) -> str:
    """Return milliseconds since the epoch as `2026-11-23T10:15:02Z`; an impossible time as the epoch."""
    try:
        return datetime.fromtimestamp(ts // 1000, UTC).replace(tzinfo=None).isoformat() + "Z"
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00Z"


def visible(text: str) -> str:
    """Return foreign text with control characters, terminal escapes and direction marks made visible.

    Newline and tab stay; everything else that could move a cursor or reorder a line becomes `\\x1b`, `\\u202e`.
    """
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def one_line(text: str) -> str:
    """Return foreign text on one line, with nothing in it that a terminal obeys."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def shortened(text: str, most: int) -> str:
    """Return foreign text on one line of at most so many characters."""
    shown = one_line(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def parse_command(text: str) -> Command | None:
    """Return what a person's message asks of the system itself, `!status` for one; None: it is for the agent alone."""
    said = "\n".join(line for line in text.splitlines() if not line.startswith(">"))  # before that, what it answers
    return _COMMANDS.get(said.strip().casefold())


def is_called(name: str, text: str) -> bool:
    """Whether a text names an agent, as a word: what is for all concerns those that it names."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", text, re.IGNORECASE) is not None


def parse_text(text: str, what: str) -> str:
    """Return text that somebody gave, its lines ended by newlines; `what` is named in errors.

    Raises:
        InvalidRequestError: it holds a control character other than newline and tab, or half a surrogate pair.
    """
    text = text.replace("\r\n", "\n")
    found = _CONTROL.search(text)
    if found is not None:
        place = f"U+{ord(found.group()):04X} at character {found.start() + 1}"
        raise InvalidRequestError(
            f"{what} holds {place}, which is no text; nothing was sent",
            hint="send plain text: colours and other terminal codes can mostly be left out with --color=never",
        )
    return text


@dataclass(frozen=True, slots=True)
class Sender:
    """Who wrote a message, as the homeserver verified it. `name` is an agent's name or a person's localpart."""

    user_id: UserId
    name: str
    kind: SenderKind


@dataclass(frozen=True, slots=True)
class File:
    """A file that comes with a message, as its sender describes it. `size` in bytes; None: it is not said."""

    name: str
    mimetype: str
    size: int | None


def transfer_s(size: int) -> float:
    """Return how many seconds longer than others a request may take that carries a file of so many bytes."""
    return size / _SLOWEST_BYTES_A_S


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file to send."""

    name: str
    mimetype: str
    data: bytes | bytearray = field(repr=False)


@dataclass(frozen=True, slots=True)
class EventRef:
    """Names one event."""

    room_id: RoomId
    event_id: EventId


@dataclass(frozen=True, slots=True)
class Message:
    """A message as its reader gets it. `ts` is the homeserver's, in milliseconds since the epoch.

    `late`: it was stored before the reader's session began. `hops`: how many agents' answers led to it. `quiet`: it
    wakes nobody, since agents have gone on for long without a person. `edits`: the message whose text this replaces.
    """

    event_id: EventId
    room_id: RoomId
    sender: Sender
    ts: int
    body: str
    format: Literal["plain", "html"] = "plain"
    in_reply_to: EventRef | None = None
    thread: EventId | None = None
    broadcast: bool = False
    late: bool = False
    hops: int = 0
    quiet: bool = False
    file: File | None = None
    edits: EventId | None = None


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One line of `who`. `last_seen_ts` in milliseconds since the epoch, None where nothing is known."""

    name: str
    user_id: UserId
    room_id: RoomId
    alias: RoomAlias
    kind: AgentKind
    status: AgentStatus
    reach: Reach
    description: str
    status_line: str = ""
    encrypted: bool = False
    last_seen_ts: int | None = None
