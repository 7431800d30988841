"""Events as they come in: whatever JSON a homeserver sends, parsing yields an event, or skips and counts."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.matrix.events import RoomEvent, parse_event, parse_events
from aiagentchat.model import EventId, RoomId, UserId

ROOM = "!room"
MESSAGE: dict[str, Any] = {
    "event_id": "$event",
    "room_id": ROOM,
    "sender": "@alice:example.org",
    "type": "m.room.message",
    "content": {"msgtype": "m.text", "body": "hello"},
    "origin_server_ts": 1_700_000_000_000,
    "unsigned": {"age": 5},
}
STATE = MESSAGE | {"type": "m.room.member", "state_key": "@alice:example.org", "content": {"membership": "join"}}

TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
# Close enough to an event to get past the first checks: some keys as they should be, some gone, some anything.
NEARLY = st.fixed_dictionaries({}, optional={key: st.just(value) | JSON for key, value in STATE.items()})


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


@given(JSON | NEARLY, st.none() | TEXT)
@example(None, None)
@example(STATE | {"room_id": None}, ROOM)
@example(STATE | {"origin_server_ts": True}, None)
def test_any_json_is_an_event_or_none_and_never_an_error(raw: object, room_id: str | None) -> None:
    event = parse_event(raw, room_id)
    if event is not None:
        assert all(map(is_text, (event.event_id, event.room_id, event.sender, event.type)))
        assert isinstance(event.content, dict)
        assert event.state_key is None or isinstance(event.state_key, str)
        assert type(event.ts) is int


@given(JSON | st.lists(JSON | NEARLY, max_size=6), st.none() | TEXT)
@example([], None)
@example([None, MESSAGE, STATE, 7, []], None)
@example({"0": MESSAGE}, None)
def test_every_entry_of_any_json_is_either_parsed_or_counted(raw: object, room_id: str | None) -> None:
    batch = parse_events(raw, room_id)
    entries = raw if isinstance(raw, list) else []
    assert len(batch.events) + batch.skipped == len(entries)
    assert list(batch.events) == [event for entry in entries if (event := parse_event(entry, room_id)) is not None]


@given(JSON | st.lists(JSON | NEARLY, max_size=6))
@example([None, MESSAGE, STATE, 7, []])
def test_of_some_types_alone_come_those_that_would_come_anyway(raw: object) -> None:
    of_some, of_all = parse_events(raw, kinds=(STATE["type"],)), parse_events(raw)
    assert of_some.events == tuple(event for event in of_all.events if event.type == STATE["type"])
    assert of_some.skipped <= of_all.skipped


def test_a_message_is_read_whole_and_is_no_state() -> None:
    assert parse_event(MESSAGE) == RoomEvent(
        event_id=EventId("$event"),
        room_id=RoomId(ROOM),
        sender=UserId("@alice:example.org"),
        type="m.room.message",
        state_key=None,
        content={"msgtype": "m.text", "body": "hello"},
        ts=1_700_000_000_000,
    )


@pytest.mark.parametrize("key", ["@alice:example.org", ""])
def test_state_keeps_its_key_even_the_empty_one(key: str) -> None:
    event = parse_event(STATE | {"state_key": key})
    assert event is not None
    assert event.state_key == key


def test_a_room_id_is_taken_from_the_event_and_only_else_from_the_endpoint() -> None:
    without = {key: value for key, value in MESSAGE.items() if key != "room_id"}
    assert parse_event(without) is None
    inside, outside = parse_event(MESSAGE, "!other"), parse_event(without, "!other")
    assert inside is not None
    assert outside is not None
    assert (inside.room_id, outside.room_id) == (ROOM, "!other")


@pytest.mark.parametrize("key", ["event_id", "room_id", "sender", "type", "content", "origin_server_ts"])
@pytest.mark.parametrize("value", [None, "", 1.5, [], True], ids=repr)
def test_an_event_with_one_field_that_is_wrong_is_skipped_and_the_others_are_not(key: str, value: object) -> None:
    batch = parse_events([MESSAGE, STATE | {key: value}, STATE])
    assert [event.type for event in batch.events] == ["m.room.message", "m.room.member"]
    assert batch.skipped == 1


def test_events_stay_in_the_order_of_their_arrival() -> None:
    numbered = [MESSAGE | {"event_id": f"${number}"} for number in (3, 1, 2)]
    assert [event.event_id for event in parse_events(numbered).events] == ["$3", "$1", "$2"]
