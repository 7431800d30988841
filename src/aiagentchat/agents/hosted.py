"""What is known of one agent of this daemon: in use, to be listed, or just booted. `agents.host` keeps these."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiagentchat.agents.bells import Bell
from aiagentchat.agents.inbox import Inbox
from aiagentchat.model import AgentKind, AgentName, DirectoryEntry, Reach, RoomAlias, RoomId, UserId


@dataclass(frozen=True, slots=True)
class Attached:
    """An agent after its boot. `registered` False: the Space is not to be had, and it is listed once it is.

    `taken_over_from`: the room that had the name until now, another daemon's; None: nobody had it.
    """

    name: AgentName
    user_id: UserId
    room_id: RoomId
    alias: RoomAlias
    registered: bool
    taken_over_from: RoomAlias | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants an agent's card to say. An agent that exists keeps its kind; `description` None: as it is."""

    kind: AgentKind = "persistent"
    description: str | None = None


AS_IT_IS = Wish()
"""What is wanted of an agent of which nobody said anything."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An agent that is to be listed, and why it is not yet. `is_final`: not tried again until somebody asks for it."""

    wish: Wish
    reason: str
    is_final: bool = False


class HostedAgent:
    """An agent in use: its room, once verified, and its inbox, once asked for.

    `wish`: what was said of it at its last boot. `expelled`: who took it out of its room on purpose, in a sentence; it
    stays out until it is invited again. `losses`: how often its room was lost, so that one that is lost while it is
    looked for is looked for again.
    """

    def __init__(self, name: AgentName) -> None:
        self.name = name
        self.wish = AS_IT_IS
        self.room_id: RoomId | None = None
        self.inbox: Inbox | None = None
        self.streams = self.stoppable = 0
        self.bell = Bell(name)
        self.status_line = ""
        self.expelled = ""
        self.losses = 0
        self.lock = asyncio.Lock()

    def reach(self, began_ms: int | None) -> Reach:
        """Return how a message reaches the agent, whose time online began then."""
        return "push" if self.streams else "hook" if self.bell.asked_in == began_ms else "poll"

    @contextmanager
    def streaming(self, *, stops: bool) -> Iterator[None]:
        """Count a standing stream: it is how a message reaches the agent at once, and whether it can be stopped."""
        self.streams += 1
        self.stoppable += stops
        try:
            yield
        finally:
            self.streams -= 1
            self.stoppable -= stops


def add_local(
    entry: DirectoryEntry, agent: HostedAgent | None, *, began_ms: int | None, seen_ms: int | None, encrypted: bool
) -> DirectoryEntry:
    """Return a line of `who` with what this daemon knows besides. `agent`: None where it was not in use here.

    `began_ms`: when its present time online began. A line is made for each agent at each `GET /who`, which is why it is
    made at once and not by `dataclasses.replace`, which takes three times as long.
    """
    if agent is None and seen_ms is None and encrypted == entry.encrypted:
        return entry
    reach, status_line = entry.reach, entry.status_line
    if agent is not None and entry.status == "online":
        reach, status_line = agent.reach(began_ms), agent.status_line
    return DirectoryEntry(
        name=entry.name,
        user_id=entry.user_id,
        room_id=entry.room_id,
        alias=entry.alias,
        kind=entry.kind,
        status=entry.status,
        reach=reach,
        description=entry.description,
        status_line=status_line,
        encrypted=encrypted,
        last_seen_ts=seen_ms,
    )
