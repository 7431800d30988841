"""What a daemon needs before it starts: the lock of its home, and a homeserver that its settings name."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiagentchat.config import load_settings
from aiagentchat.daemon.lock import DaemonLock, running_pid
from aiagentchat.daemon.target import find_homeserver
from aiagentchat.errors import AlreadyRunningError, InvalidRequestError

REGISTRATION = "{id: a, url: 'http://127.0.0.1:9', sender_localpart: aiagentchat, as_token: a, hs_token: h}"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "home" / "daemon.lock"


def look(lock: Path) -> int:
    """Return a descriptor that holds the lock as a passing look does."""
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def test_a_second_daemon_is_refused_and_told_which_one_runs(lock: Path) -> None:
    with DaemonLock(lock):
        assert running_pid(lock) == os.getpid()
        with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
            DaemonLock(lock)
    assert running_pid(lock) is None
    with DaemonLock(lock):
        assert running_pid(lock) == os.getpid()


def test_no_daemon_runs_where_none_ever_did(lock: Path) -> None:
    assert running_pid(lock) is None
    assert not lock.parent.exists()


def test_two_who_look_at_once_do_not_see_each_other_as_a_daemon(lock: Path) -> None:
    with DaemonLock(lock):
        pass
    lock.write_text("1\n")  # of one that was killed: by now another program may have the pid
    looking = look(lock)
    assert running_pid(lock) is None
    os.close(looking)


def test_a_passing_look_does_not_keep_a_daemon_from_starting(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DaemonLock(lock):
        pass
    looking = look(lock)
    monkeypatch.setattr("aiagentchat.daemon.lock.time.sleep", lambda _s: os.close(looking))
    with DaemonLock(lock):
        assert running_pid(lock) == os.getpid()


@pytest.mark.parametrize("text", ["", "²", "-1", "soon", "\xff"])
def test_a_lock_that_names_no_pid_is_held_all_the_same(lock: Path, text: str) -> None:
    with DaemonLock(lock):
        lock.write_text(text)
        assert running_pid(lock) is None
        with pytest.raises(AlreadyRunningError, match="pid unknown"):
            DaemonLock(lock)


@pytest.mark.parametrize("url", ["https://matrix.example.org", "http://127.0.0.1:8008/", "http://[::1]:8008"])
def test_the_configured_homeserver_is_found(tmp_path: Path, url: str) -> None:
    (tmp_path / "registration.yaml").write_text(REGISTRATION)
    env = {
        "AIAGENTCHAT_HOME": str(tmp_path / "home"),
        "AIAGENTCHAT_HOMESERVER_URL": url,
        "AIAGENTCHAT_REGISTRATION": str(tmp_path / "registration.yaml"),
        "SERVER_NAME": "example.org",
    }
    homeserver = find_homeserver(load_settings(env))
    assert (homeserver.url, homeserver.server_name, homeserver.shown_url) == (url, "example.org", url)


@pytest.mark.parametrize(
    "url", ["", "localhost:8008", "matrix.example.org", "http://", "http://host:port", "http://[::1", "ftp://host"]
)
def test_what_is_no_address_of_a_homeserver_is_refused_with_a_hint(tmp_path: Path, url: str) -> None:
    (tmp_path / "registration.yaml").write_text(REGISTRATION)
    env = {"AIAGENTCHAT_REGISTRATION": str(tmp_path / "registration.yaml"), "AIAGENTCHAT_HOMESERVER_URL": url}
    with pytest.raises(InvalidRequestError) as refused:
        find_homeserver(load_settings({"AIAGENTCHAT_HOME": str(tmp_path)} | env))
    assert "AIAGENTCHAT_HOMESERVER_URL" in refused.value.hint


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    code = (
        "import resource; from aiagentchat.cli.system import _allow_connections; _allow_connections();"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    limited = ["sh", "-c", 'ulimit -Sn 64; exec "$0" -c "$1"', sys.executable, code]
    soft, hard = map(int, subprocess.run(limited, capture_output=True, check=True, encoding="utf-8").stdout.split())
    assert soft == min(hard, 65_536)
