"""What the operator sees in an agent's room: a `Message`, or one of these. `agents.onlooker` yields them."""

from dataclasses import dataclass

from aiagentchat.model import AgentStatus, EventId, Message, RoomId, Sender, UserId


@dataclass(frozen=True, slots=True)
class Edited:
    """A message says something else now."""

    event_id: EventId
    sender: Sender
    ts: int
    body: str


@dataclass(frozen=True, slots=True)
class Removed:
    """A message was taken back, or removed by another. `sender`: by whom."""

    event_id: EventId
    sender: Sender


@dataclass(frozen=True, slots=True)
class Read:
    """Messages that the agent has acknowledged."""

    event_ids: tuple[EventId, ...]


@dataclass(frozen=True, slots=True)
class State:
    """What the agent does. `typing`: as it says of itself; of somebody else's agent it is not known."""

    status: AgentStatus
    status_line: str
    typing: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """An option of an approval. `answer`: what to answer for it; None: no answer would give it."""

    name: str
    kind: str
    sign: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """An approval that is waited for. `approvers`: whose answers count."""

    event_id: EventId
    body: str
    choices: tuple[Choice, ...]
    approvers: tuple[UserId, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """An approval that is waited for no more, and what came of it in a sentence."""

    event_id: EventId
    outcome: str


@dataclass(frozen=True, slots=True)
class Live:
    """What follows happens now. `user_id`: the agent's. `operator`: who looks on, where they have a device here."""

    room_id: RoomId
    user_id: UserId
    operator: UserId | None


Sight = Message | Edited | Removed | Read | State | Asked | Settled | Live
