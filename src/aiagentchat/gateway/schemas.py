"""The bodies, queries and answers of the gateway as pydantic models; `gateway.openapi` publishes them.

Unknown fields and wrong types are refused.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from aiagentchat.agents.asides import OptionKind
from aiagentchat.agents.bells import Moment
from aiagentchat.agents.overview import Said
from aiagentchat.agents.people import Source
from aiagentchat.agents.service import LAST_READ
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import (
    BYTES,
    MIME_TYPE,
    USER_ID,
    AgentKind,
    AgentStatus,
    DirectoryEntry,
    Message,
    Reach,
    Role,
    SenderKind,
)

MOST_WAIT_S = 3600.0
MOST_LIMIT = 500

_EventId = Annotated[str, StringConstraints(pattern=r"^\$.{1,254}$")]
_Name = Annotated[str, StringConstraints(max_length=1000)]
_Wait = Annotated[float, Field(ge=0, le=MOST_WAIT_S, allow_inf_nan=False, description="Seconds to wait.")]
_Limit = Annotated[int, Field(ge=1, le=MOST_LIMIT)]


class _Strict(BaseModel):
    # What it was given is nowhere in an error, which may come to stand in a log.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Query(BaseModel):
    """Queries come as text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileBody(_Strict):
    """What a file is called, and what it is: `image/png`."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    mimetype: Annotated[str, StringConstraints(pattern=MIME_TYPE.pattern)] = BYTES


class SendBody(_Strict):
    """A message. Without `to` and `reply_to` it goes to the broadcast room.

    With a file it is the part `message` of a form, whose part `file` is the file itself.
    """

    body: str = Field(description="With a file: its caption, which may be empty.")
    file: FileBody | None = None
    to: _Name | None = Field(None, description="Name of the agent; `name:server` on another homeserver.")
    format: Literal["plain", "markdown"] = "plain"
    reply_to: _EventId | Literal["last"] | None = Field(
        None, description=f'What this answers; "{LAST_READ}": the message acknowledged last.'
    )
    key: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="The same key of the same sender in the same room is the same message, however often sent."
    )


class AckBody(_Strict):
    """Messages to acknowledge."""

    event_ids: Annotated[list[_EventId], Field(min_length=1, max_length=MOST_LIMIT)]


class AttachBody(_Strict):
    """An agent to attach. Without a name: an ephemeral one, `session-` and six hex digits."""

    name: _Name | None = None
    kind: AgentKind | None = Field(None, description="Default: persistent with a name, ephemeral without.")
    description: Annotated[str, StringConstraints(max_length=500)] | None = None
    session: Literal["timed", "held", "none"] = Field(
        "timed",
        description="timed: until the agent is silent for long. held: as long as this connection, a stream, stands. "
        "none: only boot; GET /events holds a session of its own.",
    )
    take_over: bool = Field(False, description="Take the name though another daemon that is running hosts it.")


class StatusBody(_Strict):
    """What the agent is doing. What is left out stays as it is."""

    line: Annotated[str, StringConstraints(max_length=200)] | None = None
    typing_s: Annotated[float, Field(ge=0, le=120, allow_inf_nan=False)] | None = Field(
        None, description="Seconds to show typing; 0 ends it."
    )


class ProgressBody(_Strict):
    """How far the agent is with a message in its own room: a notice in that message's thread, in Markdown."""

    body: str
    about: _EventId = Field(description="The message.")
    shown: _EventId | None = Field(None, description="The notice that this one takes the place of.")


class ApprovalOption(_Strict):
    """An answer that may be given."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    kind: OptionKind


class ApprovalBody(_Strict):
    """What the agent asks approval for, in Markdown, in its own room."""

    body: Annotated[str, StringConstraints(max_length=20_000)]
    options: Annotated[list[ApprovalOption], Field(min_length=1, max_length=9)]
    timeout_s: Annotated[float, Field(gt=0, le=MOST_WAIT_S, allow_inf_nan=False)] = Field(
        600.0, description="Seconds after which it is refused."
    )
    key: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="The same key is the same request, however often it is made."
    )
    about: _EventId | None = Field(None, description="The message in that room because of which it asks.")
    elsewhere: bool = Field(False, description="It is asked in another place too, and may be answered there.")


class InviteBody(_Strict):
    """Somebody to invite. Who is invited already gets the rooms besides, and the role in place of theirs."""

    user_id: Annotated[str, StringConstraints(pattern=USER_ID.pattern, max_length=255)]
    agents: Annotated[list[_Name], Field(min_length=1, max_length=MOST_LIMIT)] | None = Field(
        None, description="The agents whose rooms alone; without: all rooms, of agents that come later too."
    )
    role: Role | None = Field(None, description="Without: as it is, else talk.")


class JanitorBody(_Strict):
    """What is to be done about passing sessions that have been over for long."""

    dry_run: bool = Field(False, description="Only say what there is.")


class NoQuery(_Query):
    """This route takes no query."""


class ReadQuery(_Query):
    """What to read of the own inbox; with `before`, history instead."""

    wait: _Wait = 0.0
    limit: _Limit = 100
    before: _EventId | None = None
    peek: bool = Field(False, description="Look without being the inbox's reader.")


class EventsQuery(_Query):
    """How the reader deals with what comes."""

    stops: bool = Field(False, description="It ends what it works at when a person writes `!stop`.")


class BellBody(_Strict):
    """When the agent can be told: as its session starts, at a prompt, after a tool, as it stops, or while it idles."""

    moment: Moment
    wait: _Wait = Field(0.0, description="Seconds to wait for something to ring for, at `idle`.")


class SentQuery(_Query):
    """Which own messages: those to one agent, or all; with `event_id`, that one, to `to` or else to everybody."""

    to: _Name | None = None
    limit: _Limit = 20
    event_id: _EventId | None = None
    wait: _Wait = 0.0
    until: Literal["read", "answered"] = Field("answered", description="What to wait for, with `event_id`.")


class RoomQuery(_Query):
    """Which messages of a room: the latest, or those before an event."""

    before: _EventId | None = None
    limit: _Limit = 50


class LookQuery(_Query):
    """How many messages of before there are at first. `receipts`: the operator has read what was handed out."""

    limit: Annotated[int, Field(ge=0, le=MOST_LIMIT)] = 20
    receipts: bool = Field(False, description="Have the operator's read receipt follow.")


class WhoAnswer(_Strict):
    """The directory. `skipped`: entries of the Space that could not be used. `unavailable`: why it is empty.

    `stalled`: why messages do not arrive at this daemon by themselves, so that its agents hear late.
    """

    agents: list[DirectoryEntry]
    skipped: int
    unavailable: str
    stalled: str


class AgentOverview(_Strict):
    """An agent at a glance. Null: it is not known."""

    name: str
    kind: AgentKind
    status: AgentStatus
    reach: Reach
    status_line: str
    unread: int | None = Field(description="Messages in its inbox that it has not acknowledged.")
    unread_more: bool = Field(description="There may be more.")
    per_minute: int | None = Field(description="Messages in its room in the last minute.")
    last: Said | None = Field(description="The latest message in its room; of a long one the beginning.")


class OverviewAnswer(_Strict):
    """All agents at a glance. `unavailable`: why there are none; `stalled`: why they hear late."""

    agents: list[AgentOverview]
    unavailable: str
    stalled: str


class SendAnswer(_Strict):
    """The message is stored on the homeserver."""

    event_id: str
    room_id: str
    state: Literal["stored"]
    quiet: str = Field("", description="Why it wakes nobody: agents have gone on for long without a person.")


class ReadAnswer(_Strict):
    """Messages: unread ones in order, or history."""

    messages: list[Message]


class BellSender(_Strict):
    """Who wrote, and how many of the messages that it rings for."""

    name: str
    kind: SenderKind
    messages: int


class BellAnswer(_Strict):
    """What the doorbell rings for: that somebody wrote, and who; persons first. Nothing is acknowledged by it."""

    messages: int
    senders: list[BellSender]
    online: bool = Field(description="Whether the agent has a session.")
    replaced: bool = Field(False, description="Another waits in place of this call, or it was made to leave.")


class AckAnswer(_Strict):
    """Which of the ids were messages of the inbox; others were acknowledged long before, or never there."""

    acknowledged: list[str]


class AttachAnswer(_Strict):
    """The agent is there. With a held session, the same as the first server-sent event of the stream."""

    name: str
    user_id: str
    room_id: str
    alias: str
    token: str = Field(description="The agent's gateway credential.")
    registered: bool = Field(description="False: the Space is not to be had; it is listed once it is.")
    taken_over_from: str | None = Field(
        None, description="Another daemon's room that had the name until now; what is unread there stays there."
    )


class ProgressAnswer(_Strict):
    """The notice, which the next one may take the place of."""

    event_id: str


class ApprovalAnswer(_Strict):
    """What was decided, by whom and when. `option` null: nobody did in time, and it is refused."""

    event_id: str
    option: str | None
    by: str | None
    ts: int | None


class PersonRoom(_Strict):
    """A room of somebody's, and whether they are in it: Matrix's own word, `none`, or `unknown`."""

    alias: str
    room_id: str
    membership: str


class PersonItem(_Strict):
    """Somebody whom the rooms are for. `source`: the operator, named in the settings, or invited."""

    user_id: str
    role: Role
    source: Source
    agents: list[str] | None = Field(description="The agents whose rooms alone are theirs. Null: all rooms are.")
    rooms: list[PersonRoom]


class PeopleAnswer(_Strict):
    """The operator, those of the settings, and those who were invited."""

    people: list[PersonItem]


class SentItem(_Strict):
    """A message of one's own, how far it came, and what answers it."""

    message: Message
    state: Literal["stored", "read", "answered"]
    to: str | None = Field(description="The agent in whose room it stands. Null: to all, or in the own room.")
    read_by: list[str] = Field(description="The agents that have acknowledged it.")
    answer: Message | None


class SentAnswer(_Strict):
    """Newest first."""

    messages: list[SentItem]


class Done(_Strict):
    """It is done."""

    done: Literal[True] = True


class Condition(_Strict):
    """One thing that must hold for the daemon to be healthy, and what to do when it does not."""

    name: str
    ok: bool
    detail: str
    remedy: str


class HealthAnswer(_Strict):
    """`ok` where every condition holds, else `degraded`. `system`: what `cchat status` shows."""

    status: Literal["ok", "degraded"]
    conditions: list[Condition]
    system: dict[str, Any]


class Problem(_Strict):
    """An error, `application/problem+json` (RFC 9457). `code` is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    retryable: bool

    @classmethod
    def of(cls, error: AiAgentChatError, *, status: int | None = None) -> Self:
        """Return the problem that an error is; `status` in place of the usual one of its code."""
        return cls(
            type=f"urn:aiagentchat:{error.code}",
            title=error.code.replace("_", " "),
            status=status or error.outcome.http_status,
            detail=error.message,
            code=error.code,
            hint=error.hint,
            retryable=error.retryable,
        )
