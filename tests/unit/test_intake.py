"""What `Intake` keeps of the events that it sorts. What it does with them, the integration tests see."""

from typing import Any, cast
from unittest.mock import Mock

from aiagentchat.agents.host import AgentHost
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
        inboxes_of=lambda *_: [] if inbox is None else [inbox],
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


BROADCAST = RoomId("!broadcast")


def host_with_inboxes(names: Any) -> tuple[AgentHost, dict[str, Mock]]:
    """Return a host of two agents, and their inboxes, which follow the broadcast room."""
    manager = Mock(names=names, space_id=RoomId("!space"), broadcast_id=BROADCAST)
    host, inboxes = AgentHost(manager, Mock()), {name: Mock() for name in ("a", "b")}
    host._agents = {AgentName(name): Mock(inbox=inbox) for name, inbox in inboxes.items()}
    return host, inboxes


async def take_gap(host: AgentHost, user_id: UserId | None, *events: RoomEvent) -> None:
    await Intake(host).take(EventBatch(events, gaps=frozenset({BROADCAST}), user_id=user_id))


async def test_what_is_missing_in_a_room_of_all_is_so_for_all_or_for_the_one_whose_sync_it_was() -> None:
    names = Naming("example.org")
    host, inboxes = host_with_inboxes(names)
    await take_gap(host, None)
    assert [inbox.doubt.call_count for inbox in inboxes.values()] == [1, 1]
    await take_gap(host, names.user(AgentName("a")))
    assert [inbox.doubt.call_count for inbox in inboxes.values()] == [2, 1]
    await take_gap(host, UserId("@alice:example.org"))
    assert [inbox.doubt.call_count for inbox in inboxes.values()] == [2, 1]
    assert not any(inbox.distrust.called for inbox in inboxes.values())


async def test_of_what_comes_after_something_missing_nobody_is_handed_anything_out_of_turn() -> None:
    names = Naming("example.org")
    host, inboxes = host_with_inboxes(names)
    later = RoomEvent(EventId("$1"), BROADCAST, UserId("@x:y"), "m.room.topic", "", {}, 1)
    await take_gap(host, names.user(AgentName("a")), later)
    assert [inbox.doubt.call_count for inbox in inboxes.values()] == [1, 0]
    assert [inbox.distrust.call_count for inbox in inboxes.values()] == [0, 1]
