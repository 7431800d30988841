"""The sync filter: own room whole, the Space for its state, the broadcast room for its messages, nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.matrix.filters import render_sync_filter
from aiagentchat.model import RoomId

OWN, SPACE, BROADCAST = RoomId("!own"), RoomId("!space:example.org"), RoomId("!broadcast")
CARD = "io.aiagentchat.agent"
MESSAGES = {"m.room.message", "m.sticker", "m.poll.start", "org.matrix.msc3381.poll.start", "m.room.encrypted"}
MESSAGES |= {"m.poll.end", "org.matrix.msc3381.poll.end", "m.room.redaction"}
OPTIONAL_ROOM = st.none() | st.text(min_size=1).map(RoomId)


def render(space: RoomId | None = SPACE, broadcast: RoomId | None = BROADCAST, own: RoomId = OWN) -> dict[str, Any]:
    """Return the filter as the server reads it."""
    text = render_sync_filter(own_room=own, space=space, broadcast=broadcast, state_types=(CARD, "m.space.child"))
    parsed: dict[str, Any] = json.loads(text)
    return parsed


@pytest.mark.parametrize("space", [SPACE, None])
@pytest.mark.parametrize("broadcast", [BROADCAST, None])
def test_only_the_rooms_that_are_there_are_let_through(space: RoomId | None, broadcast: RoomId | None) -> None:
    room = render(space, broadcast)["room"]
    present = {OWN, space, broadcast} - {None}
    assert set(room["rooms"]) == set(room["timeline"]["rooms"]) == present
    assert set(room["state"]["rooms"]) == present - {BROADCAST}, "the broadcast room is there for its messages alone"


def test_messages_arrive_and_so_does_state_as_it_changes() -> None:
    types = set(render()["room"]["timeline"]["types"])
    assert types >= MESSAGES | {CARD, "m.space.child", "m.room.member", "m.room.tombstone", "m.room.encryption"}


def test_state_at_first_is_that_which_was_asked_for_without_messages_or_the_members_of_a_large_space() -> None:
    state = render()["room"]["state"]
    assert {CARD, "m.space.child", "m.room.encryption"} <= set(state["types"])
    assert set(state["types"]).isdisjoint({*MESSAGES, "m.room.member"})
    assert "lazy_load_members" not in state, "Synapse then names members of rooms outside the filter"


@pytest.mark.parametrize("path", [("presence",), ("account_data",), ("room", "account_data"), ("room", "ephemeral")])
def test_what_no_agent_reads_from_a_sync_is_cut_off(path: tuple[str, ...]) -> None:
    part = render()
    for key in path:
        part = part[key]
    assert part["types"] == []


def test_a_room_that_was_left_does_not_come() -> None:
    assert render()["room"]["include_leave"] is False


def test_every_field_that_an_event_is_parsed_from_is_kept() -> None:
    assert {"type", "content", "sender", "state_key", "event_id", "origin_server_ts"} <= set(render()["event_fields"])


@given(st.text(min_size=1).map(RoomId), OPTIONAL_ROOM, OPTIONAL_ROOM)
def test_the_same_rooms_give_the_same_filter_whatever_their_ids_look_like(
    own: RoomId, space: RoomId | None, broadcast: RoomId | None
) -> None:
    first, second = render(space, broadcast, own), render(space, broadcast, own)
    assert first == second
    assert first["room"]["rooms"] == [room for room in (own, space, broadcast) if room is not None]


def test_who_does_not_follow_the_space_is_sent_none_of_its_types() -> None:
    room = render(space=None)["room"]
    assert {CARD, "m.space.child"}.isdisjoint({*room["timeline"]["types"], *room["state"]["types"]})
