"""An inbox of two rooms, of which one cannot be read."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from aiagentchat.agents.inbox import Inbox
from aiagentchat.errors import AiAgentChatError, HomeserverUnavailableError, MatrixError, MatrixForbiddenError
from aiagentchat.model import EventId

OWN, OTHER = EventId("$own"), EventId("$other")


@dataclass
class Room:
    """As much of a room's inbox as the inbox asks of it. `holds`: ids that are in its window."""

    holds: set[EventId] = field(default_factory=set)
    failure: AiAgentChatError | None = None
    is_own_room: bool = False
    needs_reading: bool = True
    acknowledged: set[EventId] = field(default_factory=set)

    async def read_on(self) -> None:
        if self.failure is not None:
            raise self.failure

    def unread(self) -> list[Any]:
        return []

    async def plan(self, event_ids: frozenset[EventId]) -> Any:
        return (event_ids & self.holds) or None

    def known(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        return frozenset(event_ids & self.holds)

    async def carry_out(self, plan: Any) -> None:
        self.acknowledged |= plan


def inbox_of(own: Room, broadcast: Room | None) -> Inbox:
    inbox = Inbox(cast("Any", own), on_acknowledged=lambda: None)
    if broadcast is not None:
        inbox.add_broadcast(cast("Any", broadcast))
    return inbox


@pytest.mark.parametrize(
    "broadcast", [None, Room(failure=MatrixError(500, "M_UNKNOWN", "broken"))], ids=["not there yet", "broken"]
)
async def test_what_may_stand_in_a_room_that_cannot_be_read_is_not_said_to_be_acknowledged(
    broadcast: Room | None,
) -> None:
    own = Room({OWN}, is_own_room=True)
    inbox = inbox_of(own, broadcast)
    with pytest.raises(AiAgentChatError) as raised:
        await inbox.acknowledge(frozenset({OWN, OTHER}))
    assert raised.value.retryable
    assert own.acknowledged == set()
    assert await inbox.acknowledge(frozenset({OWN})) == {OWN}


async def test_a_broadcast_room_that_the_agent_was_taken_out_of_for_good_holds_nothing_up() -> None:
    own = Room({OWN}, is_own_room=True)
    inbox = inbox_of(own, Room(failure=MatrixForbiddenError(403, "M_FORBIDDEN", "not in the room")))
    assert await inbox.acknowledge(frozenset({OWN, OTHER})) == {OWN}
    assert own.acknowledged == {OWN}


async def test_an_own_room_that_cannot_be_read_is_said() -> None:
    inbox = inbox_of(Room(failure=HomeserverUnavailableError("away"), is_own_room=True), Room())
    with pytest.raises(HomeserverUnavailableError):
        await inbox.acknowledge(frozenset({OWN}))
