"""Where the file that came with a message goes, and how it is said. Real ones travel in `tests/integration`."""

import os
import stat
import time
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.adapters import files
from aiagentchat.adapters.files import FileStore, describe_file, explain_file, safe_name
from aiagentchat.connection import GatewayError
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError, DeadlineExceededError

Json = dict[str, Any]
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=300)


class Gateway:
    """As much of the gateway's client as is asked."""

    def __init__(self, data: bytes = b"bytes", error: AiAgentChatError | None = None) -> None:
        self.fetched: list[str] = []
        self.within_s: list[float] = []
        self._data = data
        self._error = error

    def fetch_file(self, event_id: str, *, within_s: float | None) -> bytes:
        self.fetched.append(event_id)
        self.within_s.append(within_s or 0.0)
        if self._error is not None:
            raise self._error
        return self._data


def message(event_id: str = "$1", name: str = "cat.png") -> Json:
    return {"event_id": event_id, "file": {"name": name, "mimetype": "image/png", "size": 5}}


def store(gateway: Gateway, directory: Path) -> FileStore:
    return FileStore(cast("Any", gateway), directory)


def test_a_file_is_fetched_once_for_its_user_alone(tmp_path: Path) -> None:
    gateway = Gateway()
    kept = store(gateway, tmp_path / "files")
    placed = [kept.place(message()) for _ in range(2)]
    assert placed[0] == placed[1]
    path = Path(placed[0]["file"]["path"])
    assert (path.name, path.read_bytes(), gateway.fetched) == ("cat.png", b"bytes", ["$1"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent.parent)} == {0o700}
    assert describe_file(placed[0]) == str(path)
    assert kept.place(message("$2"))["file"]["path"] != str(path)


def test_a_message_without_one_is_left_as_it_is(tmp_path: Path) -> None:
    plain = {"event_id": "$1", "file": None}
    assert store(Gateway(), tmp_path).place(plain) is plain
    assert describe_file(plain) == ""


def test_a_file_that_is_not_to_be_had_is_said_and_one_for_which_the_daemon_is_away_is_not(tmp_path: Path) -> None:
    refused = GatewayError({"code": "file_too_large", "detail": "the file is too large"})
    placed = store(Gateway(error=refused), tmp_path).place(message())
    assert (placed["file"]["path"], placed["file"]["failure"]) == (None, "the file is too large")
    assert describe_file(placed) == "cat.png, not fetched"
    assert explain_file(placed) == (
        "cat.png was not fetched: the file is too large\n  try again with: cchat file '$1' >cat.png"
    )
    assert describe_file(message(name="/etc/passwd")) == "_etc_passwd"
    with pytest.raises(DaemonNotRunningError):
        store(Gateway(error=DaemonNotRunningError("it is away")), tmp_path).place(message(), within_s=9.0)


def test_who_waits_for_files_waits_for_so_long_altogether(tmp_path: Path) -> None:
    late = DeadlineExceededError("it did not answer in time")
    with pytest.raises(DeadlineExceededError):
        store(Gateway(error=late), tmp_path).place(message())
    gateway = Gateway(error=late)
    placed = list(store(gateway, tmp_path).place_all([message("$1"), message("$2")], within_s=9.0))
    assert [each["file"]["failure"] for each in placed] == [late.message] * 2
    assert all(0 < within_s <= 9.0 for within_s in gateway.within_s)
    (placed_late,) = store(Gateway(), tmp_path).place_all([message()], within_s=0.0)
    assert placed_late["file"] == message()["file"] | {
        "path": None,
        "failure": "there was no time left to fetch it",
    }


def test_a_directory_that_takes_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no directory")
    placed = store(Gateway(), tmp_path / "files").place(message())
    assert placed["file"]["path"] is None
    assert "files" in placed["file"]["failure"]


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path.parent, (then, then))


def test_files_are_kept_for_a_week_after_they_were_asked_for(tmp_path: Path) -> None:
    kept = store(Gateway(), tmp_path)
    old, recent, used = (Path(kept.place(message(name))["file"]["path"]) for name in ("$old", "$recent", "$used"))
    for path, days in ((old, 7.1), (recent, 6.9), (used, 7.1)):
        age(path, days * 24 * 3600)
    kept.place(message("$used"))
    kept.place(message("$new"))
    assert (old.parent.exists(), recent.exists(), used.exists()) == (False, True, True)


def test_the_oldest_make_room_for_others_but_for_what_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_KEPT_BYTES", 12)
    kept = store(Gateway(), tmp_path)
    oldest, old, new = (Path(kept.place(message(name))["file"]["path"]) for name in ("$1", "$2", "$3"))
    for path, seconds in ((oldest, 5_000), (old, 4_000), (new, 30)):
        age(path, seconds)
    kept.place(message("$4"))
    assert (oldest.exists(), old.exists(), new.exists()) == (False, False, True)


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
