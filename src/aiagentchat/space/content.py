"""The content of every event and account-data type of this project; `docs/protocol.md` publishes these as JSON Schema.

What others wrote is parsed with `parse_content`, which never raises; unknown fields are ignored, so that a newer
version can add some. What we write is made with the same models.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from aiagentchat.model import AgentName, Role

CARD = "io.aiagentchat.agent"
ROSTER = "io.aiagentchat.roster"
LEASE = "io.aiagentchat.lease"
PEOPLE = "io.aiagentchat.people"
CURSOR = "io.aiagentchat.cursor"
IN_REPLY_TO = "io.aiagentchat.in_reply_to"
HOPS = "io.aiagentchat.hops"
CHAIN = "io.aiagentchat.chain"
PICTURES = "io.aiagentchat.pictures"
OFFLINE = "io.aiagentchat.offline"

ROSTER_LIMIT_BYTES = 55_000
ACKED_LIMIT = 128
VISITED_LIMIT = 16

Name = Annotated[AgentName, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
_UserId = Annotated[str, StringConstraints(pattern=r"^@[^:]*:.+$", max_length=255)]
_RoomId = Annotated[str, StringConstraints(pattern=r"^!.+$", max_length=255)]
_EventId = Annotated[str, StringConstraints(pattern=r"^\$.+$", max_length=255)]
_Alias = Annotated[str, StringConstraints(pattern=r"^#[^:]+:.+$", max_length=255)]


_Model = TypeVar("_Model", bound=BaseModel)


class _Content(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Card(_Content):
    """State `io.aiagentchat.agent` in the Space; the state key is the agent's own user id. Written by the agent."""

    name: Name = Field(description="The agent's name.")
    room_id: _RoomId = Field(description="The agent's room.")
    alias: _Alias = Field(description="The alias of the agent's room.")
    kind: Literal["persistent", "ephemeral"] = "persistent"
    description: Annotated[str, StringConstraints(max_length=500)] = ""
    reach: Literal["push", "hook", "poll", "none"] = Field("none", description="How a message reaches the agent.")
    daemon: _UserId = Field(description="The user of the daemon that hosts the agent.")
    encrypted: bool = Field(False, description="The room is encrypted, so nothing is sent into it.")


class Roster(_Content):
    """State `io.aiagentchat.roster` in the Space; the state key is the daemon's user id. Written by the daemon."""

    online: list[Name] = Field(description="The names of the agents that have a session with this daemon.")


class Lease(_Content):
    """State `io.aiagentchat.lease` in the Space; the state key is the daemon's user id. For servers without presence.

    How old it is says the event's `origin_server_ts`; a refresh has to change something, or it is no new event.
    """

    refreshed: Annotated[int, Field(ge=0, lt=2**53, description="A number that each refresh changes.")]


class ListedPerson(_Content):
    """A person that a daemon's rooms are for. Without `agents`: all rooms, of agents that come later too."""

    user_id: _UserId
    role: Role = Field(description="watch: read. talk: write as well. approve: decide what agents ask for as well.")
    agents: list[Name] | None = Field(None, description="The agents whose rooms alone they are in.")


class PeopleList(_Content):
    """State `io.aiagentchat.people` in the Space; the state key is the daemon's user id. Written by the daemon.

    It holds for that daemon's rooms, and for no other's.
    """

    people: list[ListedPerson]


class Cursor(_Content):
    """Room account data `io.aiagentchat.cursor` of an agent: how far it has acknowledged this room."""

    anchor: _EventId = Field(description="Every message up to this event is acknowledged.")
    acked: list[_EventId] = Field(
        default_factory=list, max_length=ACKED_LIMIT, description="Messages after the anchor that are acknowledged."
    )


class InReplyTo(_Content):
    """Field `io.aiagentchat.in_reply_to` of a message: what it answers, in whichever room that stands."""

    room_id: _RoomId
    event_id: _EventId


class Chain(_Content):
    """Field `io.aiagentchat.chain` of an agent's message: what led to it, and whether it is to wake anybody."""

    origin: _UserId = Field(description="Who wrote the message that all this began with.")
    visited: list[_UserId] = Field(
        default_factory=list,
        max_length=VISITED_LIMIT,
        description="The agents whose messages led from that one to this, the latest last.",
    )
    quiet: bool = Field(
        False, description="Agents have gone on for long without a person: it is unread, and wakes nobody."
    )


class SpaceChild(_Content):
    """State `m.space.child`, as far as we read it: a child without `via` is none."""

    via: list[str] = Field(min_length=1)


def parse_content(model: type[_Model], content: object) -> _Model | None:
    """Return foreign content as `model`, or None where it is anything else. Never raises."""
    try:
        return model.model_validate(content)
    except (ValidationError, RecursionError):
        return None


def to_content(model: BaseModel) -> dict[str, Any]:
    """Return what to write to the homeserver: fields at their default are left out."""
    return model.model_dump(mode="json", exclude_defaults=True)
