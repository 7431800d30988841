"""Where the file that came with a message goes, and how it is said. Real ones travel in `tests/integration`."""

import os
import stat
import time
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.adapters.files import FileStore, describe_file, safe_name
from aiagentchat.client import GatewayError
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError

Json = dict[str, Any]
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=300)


class Gateway:
    """As much of the gateway's client as is asked."""

    def __init__(self, data: bytes = b"bytes", error: AiAgentChatError | None = None) -> None:
        self.fetched: list[str] = []
        self._data = data
        self._error = error

    def fetch_file(self, event_id: str) -> bytes:
        self.fetched.append(event_id)
        if self._error is not None:
            raise self._error
        return self._data


def message(event_id: str = "$1", name: str = "cat.png") -> Json:
    return {"event_id": event_id, "file": {"name": name, "mimetype": "image/png", "size": 5}}


def store(gateway: Gateway, directory: Path) -> FileStore:
    return FileStore(cast("Any", gateway), directory)


def test_a_file_is_fetched_once_for_its_user_alone(tmp_path: Path) -> None:
    gateway = Gateway()
    files = store(gateway, tmp_path / "files")
    placed = [files.place(message()) for _ in range(2)]
    assert placed[0] == placed[1]
    path = Path(placed[0]["file"]["path"])
    assert (path.name, path.read_bytes(), gateway.fetched) == ("cat.png", b"bytes", ["$1"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent.parent)} == {0o700}
    assert describe_file(placed[0]) == str(path)
    assert files.place(message("$2"))["file"]["path"] != str(path)


def test_a_message_without_one_is_left_as_it_is(tmp_path: Path) -> None:
    plain = {"event_id": "$1", "file": None}
    assert store(Gateway(), tmp_path).place(plain) is plain
    assert describe_file(plain) == ""


def test_a_file_that_is_not_to_be_had_is_said_and_one_for_which_the_daemon_is_away_is_not(tmp_path: Path) -> None:
    refused = GatewayError({"code": "file_too_large", "detail": "the file is too large"})
    placed = store(Gateway(error=refused), tmp_path).place(message())
    assert (placed["file"]["path"], placed["file"]["failure"]) == (None, "the file is too large")
    assert describe_file(placed) == "cat.png (image/png, 5 bytes), not fetched: the file is too large"
    with pytest.raises(DaemonNotRunningError):
        store(Gateway(error=DaemonNotRunningError("it is away")), tmp_path).place(message())


def test_a_directory_that_takes_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no directory")
    placed = store(Gateway(), tmp_path / "files").place(message())
    assert placed["file"]["path"] is None
    assert "files" in placed["file"]["failure"]


def test_files_are_kept_for_a_week(tmp_path: Path) -> None:
    files = store(Gateway(), tmp_path)
    old, recent = (Path(files.place(message(event_id))["file"]["path"]) for event_id in ("$old", "$recent"))
    for path, days in ((old, 7.1), (recent, 6.9)):
        then = time.time() - days * 24 * 3600
        os.utime(path.parent, (then, then))
    files.place(message("$new"))
    assert (old.parent.exists(), recent.exists()) == (False, True)


@given(name=ANYTHING)
@example("../../etc/passwd")
@example("..")
@example("-rf")
@example(".bashrc")
@example("a\x00b")
@example("\U0001d54f" * 300)
def test_no_name_leads_elsewhere_or_is_an_option(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert not set(safe) & set("/\\\0 \n\t\"'$`;&|<>*?")
    assert safe[0] not in ".-"
    assert len(os.fsencode(safe)) <= 255


def test_a_name_that_is_long_keeps_its_ending() -> None:
    assert safe_name("é" * 500 + ".tar.gz").endswith("é.tar.gz")
