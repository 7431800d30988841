"""What the process uses is told on Linux, and left out elsewhere."""

import os
import sys
from pathlib import Path

import pytest

from aiagentchat.daemon.usage import Usage, read_usage


def lay_out(proc: Path) -> None:
    for name in ("fd/0", "fd/1", "fd/2", "task/100"):
        (proc / name).mkdir(parents=True)
    (proc / "statm").write_text("9000 1000 500 1 0 800 0\n")


def test_what_the_process_uses_is_read(tmp_path: Path) -> None:
    lay_out(tmp_path)
    assert read_usage(tmp_path) == Usage(1000 * os.sysconf("SC_PAGE_SIZE"), open_files=3, threads=1)


def test_nothing_is_told_where_there_is_no_proc(tmp_path: Path) -> None:
    assert read_usage(tmp_path / "none") == Usage(None, None, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no such /proc")
def test_an_open_file_counts() -> None:
    before = read_usage().open_files
    with open(os.devnull):
        assert before is not None
        assert read_usage().open_files == before + 1
