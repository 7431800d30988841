"""What `cchat top` draws of all agents at a glance."""

import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.cli.output import RESET
from aiagentchat.cli.top import _width, render_overview, render_screen

ANSI = re.compile("\x1b\\[[0-9]+m")


def agent(name: str, **fields: Any) -> dict[str, Any]:
    told = {"name": name, "kind": "persistent", "status": "online", "reach": "push", "status_line": "", "unread": 0}
    return told | {"unread_more": False, "per_minute": 0, "last": None} | fields


def said(body: str, name: str = "alice") -> dict[str, Any]:
    return {"ts": 1_795_428_902_999, "sender": {"user_id": "@a:b", "name": name, "kind": "person"}, "body": body}


def overview(*agents: dict[str, Any], unavailable: str = "", stalled: str = "") -> dict[str, Any]:
    return {"agents": list(agents), "unavailable": unavailable, "stalled": stalled}


def test_who_is_online_comes_first_and_what_is_not_known_is_a_dash() -> None:
    lines = render_overview(
        overview(
            agent("a", status="offline", reach="none", unread=None, per_minute=None),
            agent("c", unread=12, per_minute=3, last=said("Is main\ngreen?")),
            agent("b", unread=3, unread_more=True),
        ),
        colour=False,
    )
    assert lines == [
        "AGENT  STATUS   REACH  UNREAD  /MIN  LAST MESSAGE",
        "b      online   push       3+     0  –",
        "c      online   push       12     3  2026-11-23 alice: Is main\\ngreen?",
        "a      offline  none        –     –  –",
    ]


def test_what_an_agent_does_has_a_column_where_one_says_it_and_wide_letters_keep_the_columns() -> None:
    lines = render_overview(overview(agent("a", status_line="見る"), agent("b", status_line="reads")), colour=False)
    assert lines == [
        "AGENT  STATUS  REACH  UNREAD  /MIN  DOING  LAST MESSAGE",
        "a      online  push        0     0  見る   –",
        "b      online  push        0     0  reads  –",
    ]


def test_the_screen_says_how_it_stands_and_what_is_wrong() -> None:
    agents = agent("a", per_minute=2), agent("b", status="offline", per_minute=None)
    top, *rest = render_screen(overview(*agents, stalled="no pushes"), "the daemon went away", colour=False)
    assert re.fullmatch(r"2 agents, 1 online · 2/min · \d\d:\d\d:\d\d · q leaves", top)
    assert rest[:3] == ["the daemon went away", "no pushes", ""]


@pytest.mark.parametrize("columns", [5, 12, 20, 40, 60])
def test_no_line_is_broader_than_the_terminal_and_colours_end(columns: int) -> None:
    shown = overview(agent("a-long-name", status_line="見る", last=said("日本" * 99)), agent("b", status="offline"))
    plain = render_screen(shown, "x" * 99, colour=False, columns=columns)
    assert max(map(_width, plain)) <= columns
    for line, coloured in zip(plain[1:], render_screen(shown, "x" * 99, colour=True, columns=columns)[1:], strict=True):
        assert ANSI.sub("", coloured) == line
        assert coloured.count(RESET) * 2 == coloured.count("\x1b")


def test_a_message_of_today_has_its_time() -> None:
    today = said("hi") | {"ts": int(time.time() * 1000)}
    assert re.search(r" \d\d:\d\d:\d\d alice: hi$", render_overview(overview(agent("a", last=today)), colour=False)[1])


@given(st.text(st.characters(exclude_categories=())))
def test_no_foreign_text_is_obeyed_by_a_terminal(text: str) -> None:
    shown = overview(agent("a", status_line=text, last=said(text, text)), unavailable=text, stalled=text)
    plain = render_screen(shown, text, colour=False)
    coloured = [ANSI.sub("", line) for line in render_screen(shown, text, colour=True)]
    assert coloured[1:] == plain[1:]
    for line in plain:
        assert not [letter for letter in line if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")]
        assert "\u202e" not in line
