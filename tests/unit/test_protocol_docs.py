"""docs/protocol.md: its schemas are those of the models, say what the code does, and fit the examples beside them."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from aiagentchat.agents.messages import MOST_HOPS, parse_message
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.model import EventId, EventRef, RoomId, UserId
from aiagentchat.space.content import (
    ACKED_LIMIT,
    CARD,
    CHAIN,
    CURSOR,
    HOPS,
    IN_REPLY_TO,
    LEASE,
    PEOPLE,
    ROSTER,
    VISITED_LIMIT,
    parse_content,
    to_content,
)
from aiagentchat.space.directory import Directory
from aiagentchat.space.names import Naming
from scripts.protocol_schemas import MODELS, PAGE, render_schemas, with_schemas

SCHEMAS = render_schemas()
SENDER_OF = Directory(Naming("example.org"), ttl_s=300).sender_of
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
EXAMPLE = re.compile(r"^<!-- example: (\S+) -->\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [(name, json.loads(text)) for name, text in EXAMPLE.findall(PAGE.read_text())]

# No line breaks: whether `$` and `.` of a pattern meet them differs between JSON Schema's, Python's and Rust's regexes.
LINE = st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\u2028\u2029")


def identifier(sigil: str, middle: str = "") -> st.SearchStrategy[str]:
    return st.text(LINE, min_size=1, max_size=240).map(lambda rest: f"{sigil}{middle}{rest}")


NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
ROOM_IDS, EVENT_IDS = identifier("!"), identifier("$")
USER_IDS, ALIASES = identifier("@", "user:"), identifier("#", "alias:")
JUNK: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(LINE) | st.lists(st.text(LINE), max_size=3) | st.just({})
)
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    CARD: {
        "name": NAMES,
        "room_id": ROOM_IDS,
        "alias": ALIASES,
        "kind": st.sampled_from(["persistent", "ephemeral"]),
        "description": st.text(LINE, max_size=500),
        "reach": st.sampled_from(["push", "hook", "poll", "none"]),
        "daemon": USER_IDS,
        "encrypted": st.booleans(),
    },
    ROSTER: {"online": st.lists(NAMES)},
    LEASE: {"refreshed": st.integers(0, 2**53 - 1)},
    PEOPLE: {
        "people": st.lists(
            st.fixed_dictionaries(
                {"user_id": USER_IDS, "role": st.sampled_from(["watch", "talk", "approve"])},
                optional={"agents": st.none() | st.lists(NAMES)},
            )
        )
    },
    CURSOR: {"anchor": EVENT_IDS, "acked": st.lists(EVENT_IDS, max_size=ACKED_LIMIT)},
    IN_REPLY_TO: {"room_id": ROOM_IDS, "event_id": EVENT_IDS},
    CHAIN: {
        "origin": USER_IDS,
        "visited": st.lists(USER_IDS, max_size=VISITED_LIMIT),
        "quiet": st.booleans(),
    },
    "m.space.child": {"via": st.lists(st.text(LINE), min_size=1)},
}
GOOD: dict[str, dict[str, Any]] = {
    CARD: {"name": "a", "room_id": "!r", "alias": "#a:b", "daemon": "@d:b"},
    ROSTER: {"online": []},
    LEASE: {"refreshed": 1},
    PEOPLE: {"people": []},
    CURSOR: {"anchor": "$e"},
    IN_REPLY_TO: {"room_id": "!r", "event_id": "$e"},
    CHAIN: {"origin": "@a:b"},
    "m.space.child": {"via": ["b"]},
}


def message(content: dict[str, Any]) -> RoomEvent:
    user, room = UserId("@alice:example.org"), RoomId("!here")
    return RoomEvent(EventId("$it"), room, user, "m.room.message", None, {"body": "text"} | content, 0)


def test_the_schemas_in_the_page_are_those_of_the_models() -> None:
    page = PAGE.read_text()
    assert with_schemas(page) == page, "run python scripts/protocol_schemas.py --write"


def test_a_page_that_lacks_a_schema_is_refused() -> None:
    page = PAGE.read_text().replace(f"<!-- schema: {CARD} -->", "", 1)
    with pytest.raises(ValueError, match="the page has schemas for"):
        with_schemas(page)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one_of_draft_2020_12_and_has_an_example(name: str) -> None:
    assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert name in dict(EXAMPLES)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_in_the_page_fits_its_schema(name: str, example: object) -> None:
    VALIDATORS[name].validate(example)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (CARD, {"name": "Claude"}),
        (CARD, {"room_id": "#alias:example.org"}),
        (CARD, {"daemon": "aiagentchat"}),
        (CARD, {"reach": "pigeon"}),
        (CARD, {"description": "a" * 501}),
        (CARD, {"encrypted": "no"}),
        (ROSTER, {"online": "claude-dev"}),
        (ROSTER, {"online": ["no spaces"]}),
        (PEOPLE, {"people": [{"user_id": "@bob:example.org", "role": "rule"}]}),
        (PEOPLE, {"people": [{"user_id": "bob", "role": "talk"}]}),
        (PEOPLE, {"people": [{"user_id": "@bob:example.org"}]}),
        (CURSOR, {"anchor": None}),
        (CURSOR, {"acked": ["$event"] * (ACKED_LIMIT + 1)}),
        (IN_REPLY_TO, {"event_id": "event"}),
        (CHAIN, {"origin": "alice"}),
        (CHAIN, {"visited": ["@a:b"] * (VISITED_LIMIT + 1)}),
        (CHAIN, {"quiet": 1}),
        ("m.space.child", {"via": []}),
    ],
)
def test_an_example_with_one_bad_field_does_not_fit(name: str, change: dict[str, Any]) -> None:
    bad = dict(EXAMPLES)[name] | change
    assert not VALIDATORS[name].is_valid(bad)
    assert parse_content(MODELS[name], bad) is None


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, good in GOOD.items() for field in good])
def test_no_required_field_may_be_missing(name: str, field: str) -> None:
    content = GOOD[name]
    VALIDATORS[name].validate(content)
    assert not VALIDATORS[name].is_valid({key: value for key, value in content.items() if key != field})


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
def test_what_is_made_with_a_model_fits_its_schema(name: str, data: st.DataObject) -> None:
    required = {field: FIELDS[name][field] for field in GOOD[name]}
    optional = {field: values for field, values in FIELDS[name].items() if field not in required}
    fields = data.draw(st.fixed_dictionaries(required, optional=optional))
    VALIDATORS[name].validate(to_content(MODELS[name](**fields)))
    VALIDATORS[name].validate(fields | {"a field of tomorrow": 1})


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
def test_schema_and_model_take_the_same_content(name: str, data: st.DataObject) -> None:
    anything = st.fixed_dictionaries({}, optional={field: good | JUNK for field, good in FIELDS[name].items()})
    content = data.draw(anything | st.just(GOOD[name]) | JUNK)
    assert VALIDATORS[name].is_valid(content) == (parse_content(MODELS[name], content) is not None)


@given(JUNK | st.integers(-2, 3) | st.integers(MOST_HOPS - 2, MOST_HOPS + 2))
def test_hops_that_do_not_fit_are_read_as_none(value: object) -> None:
    read = parse_message(message({HOPS: value}), SENDER_OF, None)
    assert read is not None
    assert read.hops == (value if VALIDATORS[HOPS].is_valid(value) else 0)


@given(room_id=ROOM_IDS | JUNK, event_id=EVENT_IDS | JUNK)
def test_what_is_answered_is_read_where_it_fits_and_else_from_matrix_own_field(room_id: Any, event_id: Any) -> None:
    ours = {"room_id": room_id, "event_id": event_id}
    content = {IN_REPLY_TO: ours, "m.relates_to": {"m.in_reply_to": {"event_id": "$parent"}}}
    read = parse_message(message(content), SENDER_OF, None)
    fits = VALIDATORS[IN_REPLY_TO].is_valid(ours)
    assert read is not None
    assert read.in_reply_to == (EventRef(room_id, event_id) if fits else EventRef(RoomId("!here"), EventId("$parent")))
