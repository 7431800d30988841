"""What `Intake` keeps of the events that it sorts. What it does with them, the integration tests see."""

from typing import Any, cast
from unittest.mock import Mock

from aiagentchat.agents.intake import Intake
from aiagentchat.matrix.events import EventBatch, RoomEvent
from aiagentchat.model import AgentName, EventId, RoomId, Sender, UserId
from aiagentchat.space.names import Naming


def hosting(inbox: Any = None) -> Any:
    """Return a host of the agent `own`, whose room is `!own`."""
    names = Naming("example.org")
    return Mock(
        manager=Mock(names=names, space_id=RoomId("!space"), broadcast_id=RoomId("!broadcast")),
        names=names,
        owner_of=lambda room_id: AgentName(room_id.removeprefix("!")),
        is_known=lambda agent: agent == "own",
        inboxes_of=lambda _room_id: [] if inbox is None else [inbox],
        in_use={},
        sender_of=lambda user_id: Sender(user_id, "a", "person"),
    )


async def test_the_latest_event_is_kept_of_the_rooms_of_this_daemons_agents_alone() -> None:
    names, host = Naming("example.org"), hosting()
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


async def test_what_a_person_asks_of_the_system_is_no_message_and_no_word_to_agents_that_wait_for_one() -> None:
    inbox, asked, people = Mock(), [], []
    intake = Intake(
        hosting(inbox),
        on_person=lambda room_id, *_: people.append(room_id),
        on_command=lambda agent, command, _: asked.append((agent, command)),
    )
    bodies = ("!help", "!status", "!stop", "hello")
    events = [
        RoomEvent(
            EventId(f"$1{body}"),
            RoomId("!own"),
            UserId("@a:b"),
            "m.room.message",
            None,
            {"msgtype": "m.text", "body": body},
            1,
        )
        for body in bodies
    ]
    await intake.take(EventBatch(tuple(events)))
    assert asked == [("own", "help"), ("own", "status"), ("own", "stop")]
    assert [call.args[0].body for call in inbox.offer.call_args_list] == ["!stop", "hello"]
    assert people == ["!own"]
