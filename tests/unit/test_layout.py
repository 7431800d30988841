"""What each room is made of: power levels, who is named in them by room version, and the body of its creation.

What these levels allow and forbid is tried on a homeserver in `tests/integration/test_permissions.py`.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.model import AgentKind, AgentName, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CARD, LEASE, PEOPLE, ROSTER, Card
from aiagentchat.space.layout import (
    Layout,
    RoomSpec,
    agent_room_spec,
    broadcast_spec,
    is_creator_listed,
    order_of,
    render_child,
    render_creation,
    render_parent,
    render_topic,
    space_spec,
    wanted_power_levels,
)
from aiagentchat.space.names import Naming, broadcast_alias
from aiagentchat.space.people import Person
from tests.unit.test_content import JSON

NAMING = Naming("example.org")
ALICE, BOB = UserId("@alice:example.org"), UserId("@bob:example.org")
SPACE = RoomId("!space:example.org")
AGENT = AgentName("claude-dev")
ALIAS = RoomAlias("#aiagentchat:example.org")


def spec_of(room: str, operator: UserId | None = ALICE, policy: str = "open") -> RoomSpec:
    layout = Layout(operator, (Person(BOB),), policy)
    specs = {
        "space": space_spec(ALIAS, NAMING.daemon, layout),
        "agent": agent_room_spec(AGENT, NAMING, layout, SPACE),
        "broadcast": broadcast_spec(broadcast_alias(ALIAS), NAMING.daemon, layout, SPACE),
    }
    return specs[room]


ROOMS = pytest.mark.parametrize("room", ["space", "agent", "broadcast"])


@pytest.mark.parametrize(
    ("version", "listed"), [("1", True), ("9", True), ("10", True), ("11", True), ("12", False), ("13", False)]
)
def test_the_creator_is_named_up_to_version_11_and_never_from_12_on(version: str, listed: bool) -> None:
    assert is_creator_listed(version) == listed
    for spec in (spec_of("space"), spec_of("agent"), spec_of("broadcast")):
        levels = wanted_power_levels(spec, version, {}, spec.creator)
        assert levels["users"] == {ALICE: 50} | ({spec.creator: 100} if listed else {})


@pytest.mark.parametrize("version", ["", "org.matrix.hydra.11", "\u0661\u0662", "-1", "1.5"])
def test_a_version_that_is_no_plain_number_is_taken_for_a_new_one(version: str) -> None:
    assert not is_creator_listed(version)


@ROOMS
def test_levels_are_those_of_the_design(room: str) -> None:
    levels = spec_of(room).power_levels
    assert {kind: levels[kind] for kind in ("invite", "kick", "ban", "state_default", "users_default")} == {
        "invite": 50,
        "kick": 50,
        "ban": 50,
        "state_default": 50,
        "users_default": 0,
    }
    assert levels["events_default"] == (50 if room == "space" else 0)
    of_space = {CARD: 0, ROSTER: 0, LEASE: 0, PEOPLE: 0, "m.space.child": 0} if room == "space" else {}
    assert levels["events"] == {
        "m.room.power_levels": 100,
        "m.room.join_rules": 100,
        "m.room.history_visibility": 100,
        "m.room.encryption": 150,
        "m.room.encrypted": 150,
        "m.room.tombstone": 150,
        **of_space,
    }


def test_a_strict_space_leaves_its_children_to_the_daemon_and_the_operator() -> None:
    assert spec_of("space", policy="strict").power_levels["events"]["m.space.child"] == 50


@ROOMS
def test_creation_says_all_in_one_call_and_invites_nobody(room: str) -> None:
    spec = spec_of(room)
    body = render_creation(spec, "12", "example.org")
    state = {(event["type"], event["state_key"]): event["content"] for event in body["initial_state"]}
    rule: dict[str, Any] = {"join_rule": "invite"}
    if room == "broadcast":
        rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": SPACE}]}
    assert state[("m.room.join_rules", "")] == rule
    assert state[("m.room.history_visibility", "")] == {"history_visibility": "shared"}
    assert state[("m.room.guest_access", "")] == {"guest_access": "forbidden"}
    assert (("m.space.parent", SPACE) in state) == (room != "space")
    assert body["creation_content"] == ({"type": "m.space"} if room == "space" else {})
    assert (body["preset"], body["visibility"], body["room_version"]) == ("public_chat", "private", "12")
    assert body["power_level_content_override"] == wanted_power_levels(spec, "12", {}, spec.creator)
    assert spec.alias == f"#{body['room_alias_name']}:example.org"
    assert ":" not in body["room_alias_name"]
    assert "invite" not in body
    json.dumps(body, allow_nan=False)


@pytest.mark.parametrize("server", ["localhost:8448", "[2001:db8::1]:8448"])
def test_the_local_part_of_an_alias_ends_where_the_server_begins(server: str) -> None:
    spec = agent_room_spec(AGENT, Naming(server), Layout(), None)
    assert render_creation(spec, "12", server)["room_alias_name"] == "aiagentchat-claude-dev"


@ROOMS
def test_everybody_configured_is_invited_once_the_operator_first(room: str) -> None:
    assert spec_of(room).invite == (ALICE, BOB)
    assert spec_of(room, operator=None).invite == (BOB,)
    assert spec_of(room, operator=None).power_levels["users"] == {}


def test_an_agents_room_needs_no_space() -> None:
    spec = agent_room_spec(AGENT, NAMING, Layout(ALICE), None)
    kinds = [event["type"] for event in render_creation(spec, "11", "example.org")["initial_state"]]
    assert "m.space.parent" not in kinds


@pytest.mark.parametrize(
    ("version", "made_by", "present", "users"),
    [
        ("11", NAMING.daemon, {BOB: 75}, {NAMING.daemon: 100, ALICE: 50, BOB: 75}),
        ("11", NAMING.daemon, {NAMING.daemon: 0, ALICE: 0}, {NAMING.daemon: 100, ALICE: 50}),
        ("11", NAMING.daemon, {ALICE: 100}, {NAMING.daemon: 100, ALICE: 100}),
        ("11", BOB, {BOB: 100}, {NAMING.daemon: 100, ALICE: 50, BOB: 100}),
        ("12", NAMING.daemon, {BOB: 75}, {ALICE: 50, BOB: 75}),
        ("12", BOB, {}, {NAMING.daemon: 100, ALICE: 50}),
        ("12", ALICE, {BOB: 7}, {NAMING.daemon: 100, BOB: 7}),
    ],
)
def test_other_peoples_levels_stay_and_ours_are_as_they_should_be(
    version: str, made_by: UserId, present: dict[str, int], users: dict[str, int]
) -> None:
    assert wanted_power_levels(spec_of("space"), version, {"users": present}, made_by)["users"] == users


@pytest.mark.parametrize(
    ("version", "made_by", "there", "wanted"),
    [
        ("11", NAMING.daemon, {"m.room.encryption": 150, "m.room.join_rules": 0}, {"m.room.encryption": 150}),
        ("11", NAMING.daemon, {}, {"m.room.encryption": 100}),
        ("11", NAMING.daemon, {"m.room.encryption": 120}, {"m.room.encryption": 120}),
        ("12", NAMING.daemon, {}, {"m.room.encryption": 150}),
        ("12", BOB, {}, {"m.room.encryption": 100}),
    ],
)
def test_no_level_is_wanted_that_our_user_could_not_set(
    version: str, made_by: UserId, there: dict[str, int], wanted: dict[str, int]
) -> None:
    levels = wanted_power_levels(spec_of("space"), version, {"events": there}, made_by)
    assert levels["events"].items() >= ({"m.room.join_rules": 100} | wanted).items()


@given(st.dictionaries(st.sampled_from(["users", "events"]) | st.text(), JSON), st.sampled_from(["1", "11", "12"]))
def test_whatever_power_levels_are_present_the_wanted_ones_are_ours(present: dict[str, Any], version: str) -> None:
    spec = spec_of("agent")
    wanted = wanted_power_levels(spec, version, present, spec.creator)
    ours = {key: value for key, value in spec.power_levels.items() if key not in ("users", "events")}
    assert {key: value for key, value in wanted.items() if key not in ("users", "events")} == ours
    for kind, level in spec.power_levels["events"].items():
        assert min(level, 100) <= wanted["events"][kind] <= level
    assert wanted["users"][ALICE] >= 50
    assert (wanted["users"].get(spec.creator) == 100) == (version != "12")


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True))
def test_a_childs_order_is_what_matrix_takes(name: str) -> None:
    child = render_child("example.org", order_of(card(name)))
    assert child["via"] == render_parent("example.org")["via"] == ["example.org"]
    assert 1 <= len(child["order"]) <= 50
    assert all(" " <= letter <= "~" for letter in child["order"])
    assert child["order"] > render_child("example.org", order_of(None))["order"]


def card(name: str, kind: AgentKind = "persistent") -> Card:
    alias, daemon = f"#aiagentchat-{name}:example.org", NAMING.daemon
    return Card(
        name=AgentName(name), room_id="!room", alias=alias, kind=kind, reach="none", daemon=daemon, encrypted=False
    )


def test_agents_that_pass_stand_after_all_that_stay() -> None:
    cards = [card("zoe"), card("bob", "ephemeral"), card("9"), card("alice", "ephemeral"), card("alice")]
    in_order = sorted(cards, key=lambda each: order_of(each))
    assert [(each.name, each.kind[0]) for each in in_order] == [
        ("9", "p"),
        ("alice", "p"),
        ("zoe", "p"),
        ("alice", "e"),
        ("bob", "e"),
    ]


def test_a_room_that_is_made_has_its_picture_from_the_start() -> None:
    spec = agent_room_spec(AGENT, NAMING, Layout(), None, picture="mxc://example.org/a")
    (picture,) = [
        each["content"]
        for each in render_creation(spec, "12", "example.org")["initial_state"]
        if each["type"] == "m.room.avatar"
    ]
    assert picture == {"url": "mxc://example.org/a", "io.aiagentchat.pictures": {"online": "mxc://example.org/a"}}


@given(st.text(max_size=500))
def test_a_topic_is_one_line_whatever_the_description(description: str) -> None:
    topic = render_topic(AGENT, "persistent", description, "devbox")
    assert len(topic.splitlines()) == 1
    assert topic.endswith("'cchat leave claude-dev' stops it.")
