"""`Shown`: what is known of how people see rooms, and what a file that is none of ours makes of it: nothing."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.agents.shown import Shown
from aiagentchat.config import write_private
from aiagentchat.model import RoomId

ONE, OTHER, THIRD = RoomId("!one"), RoomId("!other"), RoomId("!third")
ALL = (ONE, OTHER, THIRD)


def begin(file: Path | None, whose: str = "quiet @alice:example.org") -> Shown:
    shown = Shown(file, whose)
    shown.recall(ALL)
    return shown


def seen(shown: Shown) -> list[bool | None]:
    return [shown.is_online(room_id) for room_id in ALL]


def test_the_next_daemon_knows_it_of_the_same_person_and_the_same_way_alone(tmp_path: Path) -> None:
    first = begin(tmp_path / "shown")
    assert seen(first) == [None, None, None]
    assert seen(begin(tmp_path / "shown")) == [None, None, None], "none was looked at meanwhile"
    first.note(ONE, True)
    first.note(OTHER, False)
    assert seen(begin(tmp_path / "shown")) == [True, False, None]
    assert seen(begin(tmp_path / "shown", "pictures @alice:example.org")) == [None, None, None]


def test_a_room_that_nobody_has_any_more_is_not_kept(tmp_path: Path) -> None:
    shown = begin(tmp_path / "shown")
    shown.forget(ONE)
    shown.forget(ONE)
    assert shown.is_online(ONE) is None
    assert str(ONE) not in (tmp_path / "shown").read_text()


def test_in_doubt_each_has_to_be_looked_at(tmp_path: Path) -> None:
    shown = begin(tmp_path / "shown")
    for room_id in ALL:
        shown.note(room_id, True)
    shown.doubt()
    assert seen(shown) == seen(begin(tmp_path / "shown")) == [None, None, None]


def test_it_is_written_when_something_has_changed_alone(tmp_path: Path) -> None:
    shown = begin(tmp_path / "shown")
    (tmp_path / "shown").unlink()
    shown.note(ONE, None)
    assert not (tmp_path / "shown").exists()


@pytest.mark.parametrize("mode", [0o700, 0o644])
def test_a_file_that_cannot_be_written_or_read_stops_nobody(tmp_path: Path, mode: int) -> None:
    if mode == 0o700:
        (tmp_path / "shown").mkdir()
    else:
        (tmp_path / "shown").write_text("quiet @alice:example.org\n")
        (tmp_path / "shown").chmod(mode)
    shown = begin(tmp_path / "shown")
    assert seen(shown) == [None, None, None]
    shown.note(ONE, False)
    assert shown.is_online(ONE) is False


@given(st.text())
def test_whatever_stands_in_the_file_is_nothing_of_ours(text: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "shown"
        write_private(file, text)
        assert seen(begin(file)) == [None, None, None]


@given(st.text())
def test_after_our_own_first_line_whatever_follows_is_no_fault(text: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "shown"
        write_private(file, f"quiet @alice:example.org\n{text}\noffline {OTHER}\n")
        assert begin(file).is_online(OTHER) is False
