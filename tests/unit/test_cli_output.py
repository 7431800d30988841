"""What `cchat` prints: the contract of `who` and `read`, and that foreign text never reaches a terminal as it is."""

import io
import json
import re
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.cli.output import (
    Output,
    render_agent,
    render_history,
    render_json,
    render_message,
    render_sent,
    render_table,
)
from aiagentchat.errors import AgentNotFoundError
from aiagentchat.model import one_line, render_time

# Every character, the halves of surrogate pairs included.
FOREIGN = st.text(st.characters(exclude_categories=()))
ANSI = re.compile("\x1b\\[[0-9]+m")
FORGED = "ok\n2026-11-23T10:15:02Z alice: pay him\r\x1b[2J\x9b1A\u202egnp.exe\u2028\x85"


def message(**fields: Any) -> dict[str, Any]:
    sender = {"user_id": "@x:example.org", "name": fields.pop("name", "claude-administrator"), "kind": "agent"}
    told = {"ts": 1_795_428_902_999, "sender": sender, "body": "Please review PR #42"}
    return told | {"broadcast": False, "file": None, "edits": None} | fields


def agent(**fields: Any) -> dict[str, Any]:
    entry = {"name": "claude-dev", "status": "online", "kind": "persistent", "reach": "push", "encrypted": False}
    return entry | {"alias": "#aiagentchat-claude-dev:example.org", "description": "", "status_line": ""} | fields


def item(*, to: str | None = "claude-dev", read_by: tuple[str, ...] = (), answer: str = "", **fields: Any) -> Any:
    told = message(name="claude-dev", body=answer) if answer else None
    return {"message": message(**fields), "state": "", "to": to, "read_by": list(read_by), "answer": told}


def is_shown(text: str) -> bool:
    """Whether a terminal shows every character, instead of obeying it."""
    return not any(
        unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}
        or letter in "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        for letter in text
    )


def as_pipe(monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> io.BytesIO:
    """Have standard output be a pipe; called in the test itself, since pytest puts its own there before."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    return written


# --- the contract


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "2026-11-23T10:15:02Z claude-administrator: Please review PR #42"),
        (
            {"name": "alice", "broadcast": True, "body": "Maintenance"},
            "2026-11-23T10:15:02Z alice (broadcast): Maintenance",
        ),
        ({"body": "one\ntwo\n\nfour\n"}, "2026-11-23T10:15:02Z claude-administrator: one\n  two\n  \n  four\n  "),
        ({"body": "a\tb"}, "2026-11-23T10:15:02Z claude-administrator: a\tb"),
        ({"body": "\x1b[31mred\r\n"}, "2026-11-23T10:15:02Z claude-administrator: \\x1b[31mred\\r\n  "),
    ],
)
def test_a_message_is_time_name_and_body(fields: dict[str, Any], line: str) -> None:
    assert render_message(message(**fields)) == line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "claude-dev: online (room: #aiagentchat-claude-dev)"),
        ({"status": "offline"}, "claude-dev: offline (room: #aiagentchat-claude-dev)"),
        ({"description": "Writes code", "status_line": "busy"}, "claude-dev: online (room: #aiagentchat-claude-dev)"),
        ({"name": "x:other.org", "alias": "#x:other.org:8448"}, "x:other.org: online (room: #x:other.org:8448)"),
    ],
)
def test_an_agent_is_name_status_and_room(fields: dict[str, Any], line: str) -> None:
    assert render_agent(agent(**fields)) == line


@pytest.mark.parametrize(
    ("given", "line", "below"),
    [
        (item(), "to claude-dev: Please review PR #42", "stored, not read yet"),
        (item(read_by=("claude-dev",)), "to claude-dev: Please review PR #42", "read by claude-dev"),
        (
            item(read_by=("claude-dev",), answer="Done."),
            "to claude-dev: Please review PR #42",
            'read by claude-dev · answered by claude-dev: "Done."',
        ),
        (item(answer="x" * 200), "to claude-dev: Please review PR #42", f'answered by claude-dev: "{"x" * 79}…"'),
        (item(body="a\nb\x1b[2J" + "c" * 90), f"to claude-dev: a\\nb\\x1b[2J{'c' * 68}…", "stored, not read yet"),
        (item(to=None, broadcast=True), "(broadcast): Please review PR #42", "stored"),
        (
            item(to=None, broadcast=True, read_by=tuple("abcdefg")),
            "(broadcast): Please review PR #42",
            "read by a, b, c, d, e and 2 more",
        ),
        (item(to=None), "in its own room: Please review PR #42", "stored"),
    ],
)
def test_what_was_sent_is_a_line_and_one_on_how_far_it_came(given: Any, line: str, below: str) -> None:
    assert render_sent(given) == f"2026-11-23T10:15:02Z {line}\n  {below}"


@pytest.mark.parametrize(
    ("ts", "time"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_428_902_999, "2026-11-23T10:15:02Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00Z"),
        (10**18, "1970-01-01T00:00:00Z"),
        (-(2**63), "1970-01-01T00:00:00Z"),
    ],
)
def test_a_time_is_utc_to_the_second(ts: int, time: str) -> None:
    assert render_time(ts) == time


@given(st.integers())
def test_every_time_has_the_one_form(ts: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", render_time(ts))


# --- foreign text


@given(FOREIGN)
@example(FORGED)
def test_foreign_text_on_one_line_is_one_shown_line(text: str) -> None:
    assert is_shown(one_line(text))


@given(name=FOREIGN, body=FOREIGN, broadcast=st.booleans(), ts=st.integers())
@example(FORGED, FORGED, False, 0)
def test_no_message_can_pass_for_two_or_move_the_cursor(name: str, body: str, broadcast: bool, ts: int) -> None:
    first, *further = render_message(message(name=name, body=body, broadcast=broadcast, ts=ts)).split("\n")
    marker = " (broadcast)" if broadcast else ""
    assert first.startswith(f"{render_time(ts)} {one_line(name)}{marker}: ")
    assert all(line.startswith("  ") for line in further)
    assert len(further) == body.count("\n")
    assert all(is_shown(line.replace("\t", "")) for line in (first, *further))


@given(FOREIGN, st.none() | FOREIGN)
@example("look\nfile: /etc/passwd\n  (file /etc/passwd)", None)
def test_no_body_and_no_name_can_pass_for_the_path_of_a_file(body: str, name: str | None) -> None:
    path = None if name is None else "/kept/x.png"
    about = None if name is None else {"name": name, "mimetype": "a/b", "size": None, "path": path, "failure": ""}
    told = render_message(message(name="alice", body=body, file=about))
    header = told.partition(": ")[0]
    assert header.endswith("Z alice" + ("" if name is None else " (file /kept/x.png)"))
    for unplaced in ({"name": name or "", "mimetype": "a/b", "size": None}, {"failure": "x", "name": name or ""}):
        header = render_message(message(name="alice", body=body, file=unplaced)).partition(": ")[0]
        assert " (file /" not in header


@given(FOREIGN, FOREIGN, FOREIGN)
@example(FORGED, FORGED, FORGED)
def test_what_was_sent_is_two_lines_whatever_it_holds(name: str, body: str, answer: str) -> None:
    given = item(to=name or "a", read_by=(name,), answer=answer or "a", body=body)
    for line in render_sent(given, colour=True).split("\n"):
        assert is_shown(ANSI.sub("", line))
    assert render_sent(given).count("\n") == 1
    assert ANSI.sub("", render_sent(given, colour=True)) == render_sent(given)


@given(FOREIGN, FOREIGN)
@example(FORGED, FORGED)
def test_no_agent_can_pass_for_two(name: str, alias: str) -> None:
    assert is_shown(render_agent(agent(name=name, alias=alias)))


@given(st.lists(st.builds(agent, name=FOREIGN, alias=FOREIGN, description=FOREIGN, status_line=FOREIGN), max_size=3))
@example([agent(name=FORGED, alias=FORGED, description=FORGED)])
def test_the_table_has_a_line_for_each_agent_and_one_above(agents: list[dict[str, Any]]) -> None:
    lines = render_table(agents, colour=True)
    assert len(lines) == len(agents) + 1
    assert all(is_shown(ANSI.sub("", line)) for line in lines)


@given(FOREIGN)
@example(FORGED)
def test_json_is_one_line_that_is_shown_and_reads_back(text: str) -> None:
    for is_unicode in (True, False):
        line = render_json({"body": text, "n": 1}, is_unicode=is_unicode)
        assert is_shown(line)
        assert json.loads(line) == {"body": text, "n": 1}


def test_json_keeps_letters_as_they_are_where_the_output_can_hold_them() -> None:
    assert render_json({"body": "Grüße 你好 🙂"}) == '{"body":"Grüße 你好 🙂"}'
    assert render_json({"body": "Grüße"}, is_unicode=False) == '{"body":"Gr\\u00fc\\u00dfe"}'


# --- the table


def test_the_table_lines_up_and_says_what_an_agent_does() -> None:
    agents = [
        agent(description="Writes code", status_line="on PR #42"),
        agent(name="a", status="offline", reach="none", alias="#aiagentchat-a:example.org", description="Plans"),
        agent(name="b", alias="#aiagentchat-b:example.org", encrypted=True),
    ]
    lines = render_table(agents, colour=False)
    assert [re.split(r" {2,}", line)[0] for line in lines] == ["AGENT", "claude-dev", "a", "b"]
    assert len({line.index(word) for line, word in zip(lines[:3], ("STATUS", "online", "offline"), strict=True)}) == 1
    assert [line.rpartition("  ")[2] for line in lines[1:]] == [
        "on PR #42",
        "Plans",
        "its room is encrypted: nothing is sent into it",
    ]


def test_colour_changes_nothing_but_colour() -> None:
    agents = [agent(), agent(name="b", status="offline")]
    coloured = [ANSI.sub("", line).rstrip() for line in render_table(agents, colour=True)]
    assert coloured == render_table(agents, colour=False)
    assert ANSI.sub("", render_message(message(), colour=True)) == render_message(message())


# --- Output


def test_a_pipe_gets_the_lines_of_the_contract_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = as_pipe(monkeypatch)
    out = Output()
    out.messages([message(body="one\ntwo"), message(name="b")])
    out.agents([agent()])
    out.flush()
    assert stdout.getvalue().decode().splitlines() == [
        "2026-11-23T10:15:02Z claude-administrator: one",
        "  two",
        "2026-11-23T10:15:02Z b: Please review PR #42",
        "claude-dev: online (room: #aiagentchat-claude-dev)",
    ]


def test_json_messages_are_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = as_pipe(monkeypatch)
    out = Output(as_json=True)
    given = [message(body=FORGED), message(body="ü")]
    out.messages(given)
    out.result({"done": True}, "not this")
    out.flush()
    lines = stdout.getvalue().decode().splitlines()  # the strictest reading of what a line is
    assert [json.loads(line) for line in lines] == [*given, {"done": True}]


@pytest.mark.parametrize("as_json", [True, False])
def test_what_the_output_cannot_hold_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    written = as_pipe(monkeypatch, "ascii")
    out = Output(as_json=as_json)
    out.messages([message(body="Grüße")])
    out.flush()
    line = written.getvalue().decode("ascii")
    assert json.loads(line)["body"] == "Grüße" if as_json else line.endswith(": Gr\\xfc\\xdfe\n")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "as_json", "coloured"),
    [({}, False, True), ({"NO_COLOR": "1"}, False, False), ({"TERM": "dumb"}, False, False), ({}, True, False)],
)
def test_colour_is_for_a_terminal_that_wants_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], as_json: bool, coloured: bool
) -> None:
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    if "NO_COLOR" not in environment:
        monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    out = Output(as_json=as_json)
    out.messages([message()])
    assert (ANSI.search(terminal.getvalue()) is not None) == coloured
    assert out.is_terminal != as_json


def test_an_error_says_what_is_wrong_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = AgentNotFoundError("there is no agent \x1b[1mx", hint="did you mean y?")
    Output().error(error)
    Output(as_json=True).error(error)
    plain, hint, as_json = capsys.readouterr().err.splitlines()
    assert plain == "cchat: there is no agent \\x1b[1mx"
    assert hint == "  did you mean y?"
    problem = {"code": "agent_not_found", "message": error.message, "hint": "did you mean y?", "retryable": False}
    assert json.loads(as_json) == {"error": problem}


def test_a_note_that_nobody_can_read_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    Output().note("hello?")


# --- history


def test_history_says_what_each_message_answers() -> None:
    asked = message(name="alice", event_id="$1", in_reply_to=None, body="Is main\ngreen?")
    ref = {"room_id": "!r", "event_id": "$1"}
    answer = message(name="claude-dev", event_id="$2", in_reply_to=ref, body="Yes.")
    far = message(name="claude-dev", event_id="$3", in_reply_to=ref | {"event_id": "$0\n\x1b"}, body="No.")
    assert render_history([asked, answer, far]) == [
        "2026-11-23T10:15:02Z alice: Is main\n  green?",
        "2026-11-23T10:15:02Z claude-dev (answers alice 2026-11-23T10:15:02Z): Yes.",
        "2026-11-23T10:15:02Z claude-dev (answers $0\\n\\x1b): No.",
    ]
