"""The content of our event types: foreign JSON never raises, and what we write is read back as it was."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from aiagentchat.model import CONTENT_LIMIT_BYTES, AgentName
from aiagentchat.space.content import (
    ACKED_LIMIT,
    ROSTER_LIMIT_BYTES,
    Card,
    Cursor,
    InReplyTo,
    Roster,
    SpaceChild,
    parse_content,
    to_content,
)

# Every character, the halves of surrogate pairs included: JSON from a homeserver can hold them.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
FIELDS = st.sampled_from(sorted({name for model in (Card, Roster, Cursor, InReplyTo) for name in model.model_fields}))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | TEXT, inner, max_size=4),
    max_leaves=15,
)
MODELS: tuple[type[BaseModel], ...] = (Card, Roster, Cursor, InReplyTo, SpaceChild)

CARD = {
    "name": "claude-dev",
    "room_id": "!room:example.org",
    "alias": "#aiagentchat-claude-dev:example.org",
    "daemon": "@aiagentchat:example.org",
}
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).map(AgentName)
EVENT_IDS = st.from_regex(r"\$[A-Za-z0-9_-]{1,43}", fullmatch=True)
CARDS = st.builds(
    Card,
    name=NAMES,
    room_id=st.just("!version12-without-a-server") | st.just("!room:example.org"),
    alias=NAMES.map("#aiagentchat-{}:example.org".format),
    daemon=st.sampled_from(["@aiagentchat:example.org", "@:example.org"]),
    kind=st.sampled_from(["persistent", "ephemeral"]),
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=500),
    reach=st.sampled_from(["push", "hook", "poll", "none"]),
    encrypted=st.booleans(),
)
CONTENTS = st.one_of(
    CARDS,
    st.builds(Roster, online=st.lists(NAMES, max_size=50)),
    st.builds(Cursor, anchor=EVENT_IDS, acked=st.lists(EVENT_IDS, max_size=ACKED_LIMIT)),
    st.builds(InReplyTo, room_id=st.just("!room"), event_id=EVENT_IDS),
)


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value


@given(JSON | st.dictionaries(FIELDS, JSON))
@example({"name": "\ud800"})
@example({"online": ["a" * 10**6]})
@example({"acked": [["$a"]], "anchor": "$a"})
@example(2**64)
def test_foreign_content_is_a_model_or_nothing_and_never_raises(content: object) -> None:
    for model in MODELS:
        parsed = parse_content(model, content)
        assert parsed is None or isinstance(parsed, model)


def test_content_of_any_depth_is_refused_without_raising() -> None:
    for model in MODELS:
        for content in ({name: nested(100_000) for name in model.model_fields}, nested(100_000)):
            assert parse_content(model, content) is None


@given(st.fixed_dictionaries({}, optional={name: st.just(CARD.get(name)) | JSON for name in Card.model_fields}))
def test_a_card_with_one_field_astray_is_a_good_card_or_none(content: dict[str, Any]) -> None:
    card = parse_content(Card, content)
    if card is not None:
        assert card.name == content["name"]
        assert len(card.description) <= 500
        assert parse_content(Card, to_content(card)) == card


@given(CONTENTS)
def test_what_we_write_is_read_back_as_it_was(model: BaseModel) -> None:
    assert parse_content(type(model), to_content(model)) == model


@given(CARDS, st.dictionaries(TEXT.filter(lambda key: key not in Card.model_fields), JSON, max_size=3))
def test_fields_of_a_newer_version_change_nothing(card: Card, extra: dict[str, Any]) -> None:
    assert parse_content(Card, to_content(card) | extra) == card


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Claude"),
        ("name", "_broadcast"),
        ("name", "a" * 64),
        ("name", "claude\n"),
        ("name", "\u0430gent"),  # a Cyrillic letter that looks like a Latin one
        ("name", 7),
        ("name", None),
        ("room_id", "#alias:example.org"),
        ("room_id", ""),
        ("room_id", "!" + "a" * 255),
        ("alias", "aiagentchat-claude-dev:example.org"),
        ("daemon", "aiagentchat"),
        ("daemon", "@" + "a" * 255 + ":example.org"),
        ("kind", "immortal"),
        ("reach", "telepathy"),
        ("description", "a" * 501),
        ("description", ["a"]),
        ("encrypted", "no"),
        ("encrypted", 0),
    ],
)
def test_a_card_is_refused_for_one_bad_field(field: str, value: object) -> None:
    assert parse_content(Card, CARD) is not None
    assert parse_content(Card, {**CARD, field: value}) is None


@pytest.mark.parametrize("content", [{}, {"via": []}, {"via": "example.org"}, {"via": [7]}, {"via": None}])
def test_a_child_without_via_is_none(content: dict[str, Any]) -> None:
    assert parse_content(SpaceChild, {"via": ["example.org"]}) is not None
    assert parse_content(SpaceChild, content) is None


def test_the_cursor_holds_so_many_and_no_more() -> None:
    ids = [f"${number}" for number in range(ACKED_LIMIT + 1)]
    assert parse_content(Cursor, {"anchor": "$a", "acked": ids[1:]}) is not None
    assert parse_content(Cursor, {"anchor": "$a", "acked": ids}) is None
    largest = Cursor(anchor="$" + "a" * 254, acked=["$" + "a" * 254] * ACKED_LIMIT)
    assert len(largest.model_dump_json()) < CONTENT_LIMIT_BYTES > ROSTER_LIMIT_BYTES


def test_defaults_are_left_out_of_what_is_written() -> None:
    assert to_content(Card.model_validate(CARD)) == CARD
    assert to_content(Roster(online=[])) == {"online": []}
