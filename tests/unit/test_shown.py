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
QUIET = "quiet @alice:example.org"


def seen(shown: Shown) -> list[bool | None]:
    return [shown.is_online(room_id) for room_id in (ONE, OTHER, THIRD)]


def test_the_next_daemon_knows_it_of_the_same_person_and_the_same_way_alone(tmp_path: Path) -> None:
    first = Shown(tmp_path / "shown", QUIET)
    assert seen(first) == [None, None, None]
    first.note(ONE, online=True)
    first.note(OTHER, online=False)
    assert seen(first) == seen(Shown(tmp_path / "shown", QUIET)) == [True, False, None]
    assert seen(Shown(tmp_path / "shown", "pictures @alice:example.org")) == [None, None, None]


def test_what_is_being_changed_and_what_nobody_has_any_more_is_not_known(tmp_path: Path) -> None:
    shown = Shown(tmp_path / "shown", QUIET)
    for room_id in (ONE, OTHER, THIRD):
        shown.note(room_id, online=True)
    shown.forget((ONE,))
    shown.keep_only({ONE, OTHER})
    assert seen(shown) == seen(Shown(tmp_path / "shown", QUIET)) == [None, True, None]


def test_it_is_written_when_something_has_changed_alone(tmp_path: Path) -> None:
    shown = Shown(tmp_path / "shown", QUIET)
    shown.note(ONE, online=True)
    (tmp_path / "shown").unlink()
    shown.note(ONE, online=True)
    shown.forget((OTHER,))
    shown.keep_only((ONE, OTHER))
    assert not (tmp_path / "shown").exists()


def test_where_nothing_is_kept_it_is_known_all_the_same() -> None:
    shown = Shown(None, QUIET)
    shown.note(ONE, online=False)
    assert shown.is_online(ONE) is False


def test_a_file_that_others_can_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "shown").write_text(f"{QUIET}\nonline {ONE}\n")
    (tmp_path / "shown").chmod(0o644)
    assert Shown(tmp_path / "shown", QUIET).is_online(ONE) is None


def test_what_could_not_be_written_leaves_nothing_behind_that_is_not_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown(tmp_path / "shown", QUIET)
    shown.note(ONE, online=True)
    monkeypatch.setattr("aiagentchat.agents.shown.write_private", full)
    shown.forget((ONE,))
    assert Shown(tmp_path / "shown", QUIET).is_online(ONE) is None


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@given(st.text())
def test_whatever_stands_in_the_file_is_nothing_of_ours(text: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "shown"
        write_private(file, text)
        assert seen(Shown(file, QUIET)) == [None, None, None]


@given(st.text())
def test_after_our_own_first_line_whatever_follows_is_no_fault(text: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "shown"
        write_private(file, f"{QUIET}\n{text}\noffline {OTHER}\n")
        assert Shown(file, QUIET).is_online(OTHER) is False
