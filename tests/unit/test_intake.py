"""What `Intake` keeps of the events that it sorts. What it does with them, the integration tests see."""

from typing import Any, cast
from unittest.mock import Mock

from aiagentchat.agents.intake import Intake
from aiagentchat.matrix.events import EventBatch, RoomEvent
from aiagentchat.model import AgentName, EventId, RoomId, UserId
from aiagentchat.space.names import Naming


async def test_the_latest_event_is_kept_of_the_rooms_of_this_daemons_agents_alone() -> None:
    names = Naming("example.org")
    manager = Mock(names=names, space_id=RoomId("!space"), broadcast_id=RoomId("!broadcast"))
    host = Mock(
        manager=manager,
        names=names,
        owner_of=lambda room_id: AgentName(room_id.removeprefix("!")),
        is_known=lambda agent: agent == "own",
        inboxes_of=lambda _room_id: [],
        in_use={},
    )
    intake = Intake(cast("Any", host))
    own, other = (
        RoomEvent(EventId(f"${room}"), RoomId(f"!{room}"), UserId("@a:b"), "m.room.topic", "", {}, 1)
        for room in ("own", "other")
    )
    await intake.take(EventBatch((own, other)))
    assert [each.event_id for each in intake.landmarks.values()] == ["$own"]
    assert intake.landmarks["agent"].user_id == names.user(AgentName("own"))
    assert intake.has_taken(EventId("$other"))
    assert intake.skipped_events == 0
