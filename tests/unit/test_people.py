"""Who is on the list of people, which power level that is, and how it is shown. `tests/integration/test_people.py` has
people try what they may.
"""

import io
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.cli import people as commands
from aiagentchat.cli.invocation import Invocation
from aiagentchat.cli.output import Output
from aiagentchat.config import load_settings
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError, InvalidRequestError, RefusedError
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.model import AgentName, EventId, Role, RoomId, UserId
from aiagentchat.space.content import PEOPLE, PeopleList, parse_content, to_content
from aiagentchat.space.directory import Directory
from aiagentchat.space.layout import (
    Layout,
    agent_room_spec,
    broadcast_spec,
    render_level,
    space_spec,
    wanted_power_levels,
)
from aiagentchat.space.names import AccountNames, Names, Naming, broadcast_alias
from aiagentchat.space.people import Person, merge_people, parse_people, render_people
from tests.unit.test_layout import AGENT, ALIAS, ALICE, BOB, NAMING, SPACE

CAROL = UserId("@carol:example.org")
OTHER = AgentName("claude-review")
AGENTS = st.none() | st.frozensets(st.sampled_from([AGENT, OTHER]))
ROLES: st.SearchStrategy[Role] = st.sampled_from(["watch", "talk", "approve"])
PEOPLE_OF_A_LIST = st.lists(
    st.builds(Person, st.sampled_from([BOB, CAROL]), ROLES, AGENTS), unique_by=lambda p: p.user_id
)


@given(PEOPLE_OF_A_LIST)
def test_a_list_is_read_as_it_was_written(people: list[Person]) -> None:
    content = json.loads(json.dumps(to_content(render_people(people))))
    read = parse_content(PeopleList, content)
    assert read is not None
    assert parse_people(read) == tuple(people)


@pytest.mark.parametrize(
    ("before", "agents", "role", "after"),
    [
        (Person(BOB, "watch"), None, None, Person(BOB, "watch")),
        (Person(BOB, "watch"), None, "talk", Person(BOB, "talk")),
        (Person(BOB, "approve"), frozenset({AGENT}), None, Person(BOB, "approve")),
        (
            Person(BOB, "talk", frozenset({AGENT})),
            frozenset({OTHER}),
            None,
            Person(BOB, "talk", frozenset({AGENT, OTHER})),
        ),
        (Person(BOB, "talk", frozenset({AGENT})), None, "approve", Person(BOB, "approve")),
    ],
)
def test_another_invite_adds_rooms_and_replaces_a_role_that_is_named(
    before: Person, agents: frozenset[AgentName] | None, role: Role | None, after: Person
) -> None:
    assert before.invited_to(agents, role) == after


def test_what_the_settings_say_of_somebody_counts_and_not_the_list() -> None:
    fixed = (Person(BOB, "talk"),)
    assert merge_people(fixed, (Person(BOB, "approve"), Person(CAROL, "watch"))) == (*fixed, Person(CAROL, "watch"))


PEOPLE_HERE = (Person(BOB, "watch"), Person(CAROL, "talk", frozenset({AGENT})))


def test_rooms_are_made_for_their_people_and_who_watches_is_below_everybody() -> None:
    layout = Layout(ALICE, PEOPLE_HERE)
    space = space_spec(ALIAS, NAMING.daemon, layout)
    broadcast = broadcast_spec(broadcast_alias(ALIAS), NAMING.daemon, layout, SPACE)
    own, other = (agent_room_spec(agent, NAMING, layout, SPACE) for agent in (AGENT, OTHER))
    assert [spec.invite for spec in (space, broadcast, own, other)] == [
        (ALICE, BOB),
        (ALICE, BOB),
        (ALICE, CAROL, BOB),
        (ALICE, BOB),
    ]
    for spec in (space, broadcast, own, other):
        assert wanted_power_levels(spec, "12", {}, spec.creator)["users"] == {ALICE: 50, BOB: -1}


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        ({BOB: 0}, {BOB: -1}),
        ({BOB: 75}, {BOB: -1}),
        ({BOB: 100}, {BOB: 100}),  # which may not be ours to take
        ({BOB: -1, CAROL: -1}, {BOB: -1, CAROL: 0}),
        ({CAROL: 75}, {BOB: -1, CAROL: 75}),
    ],
)
def test_a_mended_room_has_the_levels_of_its_people(present: dict[str, int], wanted: dict[str, int]) -> None:
    spec = agent_room_spec(AGENT, NAMING, Layout(ALICE, PEOPLE_HERE), SPACE)
    levels = wanted_power_levels(spec, "12", {"users": present}, spec.creator)
    assert levels["users"] == {ALICE: 50} | wanted


@pytest.mark.parametrize(
    ("present", "role", "wanted"),
    [
        ({}, "watch", {BOB: -1}),
        ({BOB: 50, CAROL: 7}, "watch", {BOB: -1, CAROL: 7}),
        ({BOB: -1, CAROL: -1}, "talk", {CAROL: -1}),
        ({BOB: -1}, None, {}),
        ({BOB: 75}, "talk", {BOB: 75}),
        ({}, "approve", {}),
    ],
)
def test_a_role_has_its_level(present: dict[str, int], role: Role | None, wanted: dict[str, int]) -> None:
    assert render_level({"users": present, "ban": 50}, BOB, role) == {"users": wanted, "ban": 50}


def test_a_level_that_cannot_be_taken_is_no_level_to_watch_at() -> None:
    with pytest.raises(RefusedError, match="has power level 100"):
        render_level({"users": {BOB: 100}}, BOB, "watch")


def listing(key: str, sender: str, *user_ids: str) -> RoomEvent:
    content = {"people": [{"user_id": user_id, "role": "approve"} for user_id in user_ids]}
    return RoomEvent(EventId(f"${key}{sender}"), RoomId("!space"), UserId(sender), PEOPLE, key, content, 1)


ACCOUNTS = AccountNames("example.org", ALICE, lambda: {AGENT: UserId("@claude-dev:example.org")})
NOBODYS = AccountNames("example.org", None, lambda: {AGENT: UserId("@claude-dev:example.org")})


@pytest.mark.parametrize(("names", "keeper"), [(NAMING, NAMING.daemon), (ACCOUNTS, ALICE)])
def test_the_list_of_ones_own_daemon_counts_and_no_other(names: Names, keeper: UserId) -> None:
    others = [NAMING.user(AGENT), "@aiagentchat.lab:example.org", "@claude-dev:example.org", BOB]
    directory = Directory(names, ttl_s=300)
    directory.load([listing(other, other, BOB) for other in others] + [listing(keeper, BOB, BOB)])
    assert directory.people() is None
    directory.apply(listing(keeper, keeper, CAROL))
    assert directory.people() == (Person(CAROL, "approve"),)


def test_without_an_operator_no_account_of_an_agent_keeps_a_list() -> None:
    directory = Directory(NOBODYS, ttl_s=300)
    directory.load([listing(NOBODYS.daemon, NOBODYS.daemon, BOB)])
    assert directory.people() is None


def test_a_daemon_of_another_name_has_a_list_of_its_own() -> None:
    directory = Directory(Naming("example.org", "aiagentchat.lab"), ttl_s=300)
    directory.load([listing(NAMING.daemon, NAMING.daemon, BOB)])
    assert directory.people() is None


# --- what is shown


class Events:
    """A stream that ends."""

    def __init__(self, *events: tuple[str, Any]) -> None:
        self._events = events

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter([(event, dict(data)) for event, data in self._events])


class Gateway:
    """Answers as the gateway does, with what the test gives."""

    def __init__(self, *events: tuple[str, Any], people: tuple[dict[str, Any], ...] = ()) -> None:
        self._events, self._people = Events(*events), people

    def invite(self, *_: object, **__: object) -> Events:
        return self._events

    def uninvite(self, *_: object) -> Events:
        return self._events

    def people(self) -> list[dict[str, Any]]:
        return list(self._people)


def call(
    monkeypatch: pytest.MonkeyPatch, gateway: Gateway, *, user_id: str = BOB, as_json: bool = False, **fields: Any
) -> Invocation:
    monkeypatch.setattr(Invocation, "client", lambda _: gateway)
    args = Namespace(**{"user_id": user_id, "agent": [], "role": None} | fields)
    return Invocation(args, load_settings({"AIAGENTCHAT_HOME": "/nowhere"}), Output(as_json=as_json))


def room(alias: str, did: str, reason: str = "") -> tuple[str, dict[str, Any]]:
    return "room", {"alias": alias, "room_id": f"!{alias}", "did": did, "reason": reason, "of": 3}


PERSON = ("person", {"user_id": BOB, "role": "talk", "agents": None, "warning": ""})
DONE = ("done", {"user_id": BOB})


def test_an_invite_says_what_was_done_and_each_reason_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms = [room("#a:x", "invited"), room("#b:x", "failed", "denied\x1b[2J"), room("#c:x", "failed", "denied\x1b[2J")]
    with pytest.raises(AiAgentChatError, match="was not brought into 2 of 3 rooms") as failed:
        commands.invite(call(monkeypatch, Gateway(PERSON, *rooms, DONE)))
    printed = capsys.readouterr()
    assert printed.out == f"{BOB}: talk (all rooms; invited to 1 room)\n"
    assert printed.err == "#b:x and 1 more: denied\\x1b[2J\n"
    assert failed.value.outcome.exit_code == 1


@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({}, f"cchat invite {BOB}"),
        ({"agent": ["a", "b"], "role": "watch"}, f"cchat invite {BOB} --agent a --agent b --role watch"),
    ],
)
def test_what_failed_is_to_be_done_again_for_the_same_rooms_in_the_same_role(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], again: str
) -> None:
    gateway = Gateway(PERSON, room("#a:x", "invited"), room("#b:x", "failed", "denied"), DONE)
    with pytest.raises(AiAgentChatError) as failed:
        commands.invite(call(monkeypatch, gateway, **fields))
    assert failed.value.hint == f"again, for these: {again}"


def test_who_could_be_invited_nowhere_has_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AiAgentChatError, match="1 of 1 room"):
        commands.invite(call(monkeypatch, Gateway(PERSON, room("#a:x", "failed", "denied"), DONE)))
    assert capsys.readouterr().out == ""


def test_json_has_all_rooms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands.invite(call(monkeypatch, Gateway(PERSON, room("#a:x", "invited"), DONE), as_json=True))
    printed = json.loads(capsys.readouterr().out)
    done = [{"alias": "#a:x", "room_id": "!#a:x", "did": "invited", "reason": ""}]
    assert printed == {"user_id": BOB, "role": "talk", "agents": None, "warning": "", "rooms": done}


def test_a_stream_that_breaks_off_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DaemonNotRunningError):
        commands.uninvite(call(monkeypatch, Gateway(PERSON, room("#a:x", "removed"))))


@pytest.mark.parametrize("user_id", ["bob", "@bob", "bob:example.org", "@bob :example.org", ""])
def test_what_is_no_user_id_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch, user_id: str) -> None:
    for command in (commands.invite, commands.uninvite):
        with pytest.raises(InvalidRequestError, match="is no Matrix user id"):
            command(call(monkeypatch, Gateway(), user_id=user_id))


def entry(source: str = "invited", agents: list[str] | None = None, *memberships: str) -> dict[str, Any]:
    rooms = [{"alias": "#a:x", "room_id": "!a", "membership": each} for each in memberships]
    return {"user_id": BOB, "role": "watch", "source": source, "agents": agents, "rooms": rooms}


@pytest.mark.parametrize(
    ("person", "line"),
    [
        (entry("invited", None, "join", "join"), f"{BOB}: watch (all rooms; joined)"),
        (entry("operator", None, "join"), f"{BOB}: watch, operator (all rooms; joined)"),
        (entry("invited", ["a", "b"], "join", "invite"), f"{BOB}: watch (a, b; joined 1, invited 1)"),
        (entry("settings", None, "leave", "ban"), f"{BOB}: watch, settings (all rooms; left 1, banned 1)"),
        (entry("invited", ["a"]), f"{BOB}: watch (a; no room yet)"),
        (
            entry("invited", None, "none", "unknown", "odd\n"),
            f"{BOB}: watch (all rooms; not invited 1, not known 1, odd\\n 1)",
        ),
    ],
)
def test_a_person_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], person: dict[str, Any], line: str
) -> None:
    commands.people(call(monkeypatch, Gateway(people=(person,))))
    assert capsys.readouterr().out == f"{line}\n"


def test_at_a_terminal_people_are_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    commands.people(
        call(monkeypatch, Gateway(people=(entry("invited", None, "join"), entry("invited", ["a"], "invite"))))
    )
    assert terminal.getvalue().splitlines() == [
        "PERSON            ROLE   ROOMS      STATE",
        f"{BOB}  watch  all rooms  joined",
        f"{BOB}  watch  a          invited",
    ]
