"""What `cchat logs` shows of files that are rotated while it reads them."""

import logging
from contextlib import closing
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.cli.logs import Tail
from aiagentchat.cli.main import main
from aiagentchat.errors import NotFoundError


def numbered(first: int, count: int) -> list[str]:
    return [f"line {number}" for number in range(first, first + count)]


def write(handler: logging.Handler, lines: list[str]) -> None:
    for line in lines:
        handler.emit(logging.LogRecord("", logging.INFO, "", 0, line, (), None))


def rotating(path: Path) -> RotatingFileHandler:
    """Return what rotates after ten lines or fewer, and keeps three files besides."""
    return RotatingFileHandler(path, maxBytes=90, backupCount=3)


@given(counts=st.lists(st.integers(0, 24), min_size=1, max_size=12))
def test_however_often_it_is_rotated_each_line_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    handler = rotating(path := tmp_path_factory.mktemp("log") / "daemon.log")
    with closing(handler), closing(Tail(path)) as tail:
        written, seen = 0, tail.last(5)
        for count in counts:
            write(handler, numbered(written, count))
            written += count
            seen += tail.new()
    assert seen == numbered(0, written)


@pytest.mark.parametrize("count", [0, 1, 15, 1000])
def test_the_last_lines_are_those_of_older_files_too(tmp_path: Path, count: int) -> None:
    with closing(rotating(path := tmp_path / "daemon.log")) as handler:
        write(handler, numbered(0, 30))
    with closing(Tail(path)) as tail:
        assert tail.last(count) == (numbered(0, 30)[-count:] if count else [])


def test_a_line_comes_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_bytes(b"one\ntw")
    with closing(Tail(path)) as tail:
        assert tail.last(10) == ["one"]
        assert tail.new() == []
        with path.open("ab") as file:
            file.write(b"o\n\xff three")
        assert tail.new() == ["two"]
        assert tail.rest() == ["\ufffd three"]


def test_a_file_that_was_emptied_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("one\ntwo\n")
    with closing(Tail(path)) as tail:
        assert tail.last(1) == ["two"]
        path.write_text("new\n")
        assert tail.new() == ["new"]


def test_where_there_is_no_log_it_is_said_who_writes_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Tail(tmp_path / "daemon.log")
    assert "cchat up" in caught.value.hint


def test_what_a_terminal_would_obey_is_made_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIAGENTCHAT_HOME", str(tmp_path))
    (tmp_path / "daemon.log").write_bytes(b"\x1b[2J cleared\n\xff and no end")
    assert main(["logs"]) == 0
    assert capsys.readouterr().out == "\\x1b[2J cleared\n\ufffd and no end\n"
