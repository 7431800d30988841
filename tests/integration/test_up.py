"""`cchat up`, `down` and `daemon` as processes: what is shown, what a signal stops, and what a `kill -9` leaves.

Every system here has a home of its own; whatever is still in it at the end of a test is stopped.
"""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiagentchat.daemon.doctor import CHECKS
from aiagentchat.errors import DaemonNotRunningError
from tests.integration.processes import PROCESS_S, Running, System, wait_until
from tests.integration.systems import fresh_name

STOP_S = 5.0


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A home that is empty."""
    system = System(tmp_path / "home")
    yield system
    system.down()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A home in which each test stops what it starts: empty for the first of them alone."""
    system = System(tmp_path_factory.mktemp("used"))
    yield system
    system.down()


def end_in_time(up: Running, number: signal.Signals) -> int:
    """Return the exit code of a process that ends within what the design says, and not a moment later."""
    began = time.monotonic()
    code = up.end(number)
    assert time.monotonic() - began < STOP_S
    return code


def answers(system: System) -> bool:
    with contextlib.suppress(DaemonNotRunningError):
        return bool(system.status())
    return False


def is_gone(system: System) -> bool:
    return (system.daemon_pid, system.homeserver_pid) == (None, None)


# --- in the foreground


@pytest.fixture
def few_files() -> Iterator[None]:
    """What is started may have few files open, as is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1_024), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_in_the_foreground_it_runs_until_a_signal_and_all_is_there_again_the_next_time(system: System) -> None:
    with system.running("up", "--port", "0") as up:
        for step in ("starting the homeserver", "is ready at", "starting the daemon", "starting the agent echo"):
            assert up.line(step, of="err").startswith("… ")
        url = up.line("homeserver  ").split()[-1]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert up.line("user  ").split()[-1] == "@alice:localhost"
        assert up.line("password  ").split()[-1] == str(system.paths.operator_password)
        up.line("Ctrl-C stops it.")
        first = system.status()
        assert (first["homeserver_url"], first["daemon_pid"], first["health"]) == (url, up.pid, "ok")
        if sys.platform == "linux":
            soft, hard = resource.prlimit(up.pid, resource.RLIMIT_NOFILE)
            assert soft == min(hard, 65_536), "each agent that waits is a connection"
        agent = system.join()
        agent.tell("read", "kept", "and this")
        agent.cchat("read", "--limit", "1")
        wait_until(lambda: system.roster() == sorted([agent.name, "echo"]))
        with system.running("join", held := fresh_name("held")) as joined:
            joined.line(held)
            assert end_in_time(up, signal.SIGINT) == 0
            assert joined.wait() == 3
            assert "the daemon stopped" in joined.line("cchat", of="err")
    assert is_gone(system)
    assert system.roster() == []
    assert not system.paths.socket.exists()

    with system.running("up", "--no-echo") as up:
        up.line("Ctrl-C stops it.")
        second, directory = system.status(), system.who()
        assert second["agents"] == []
        same = ("homeserver_url", "space_id", "broadcast_id", "operator")
        assert [second[key] for key in same] == [first[key] for key in same]
        assert directory[agent.name]["room_id"] == agent.joined["room_id"]
        assert {entry["status"] for entry in directory.values()} == {"offline"}
        unread = agent.cchat("read", "--json").data
        assert [(message["body"], message["late"]) for message in unread] == [("kept", True), ("and this", True)]
        assert end_in_time(up, signal.SIGTERM) == 0
    assert is_gone(system)
    assert "Traceback" not in system.paths.daemon_log.read_text()


def test_it_goes_on_when_nobody_reads_what_it_prints_until_its_terminal_is_closed(used: System) -> None:
    with subprocess.Popen(
        used.command("up", "--port", "0", "--no-echo"),
        env=used.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as up:
        assert up.stdout is not None
        assert b"starting" in up.stdout.readline()
        up.stdout.close()
        wait_until(lambda: answers(used))
        assert up.poll() is None
        up.send_signal(signal.SIGHUP)
        assert up.wait(PROCESS_S) in (0, 1)  # 1: of its output, which it could not write
    assert is_gone(used)


@pytest.mark.parametrize(
    ("arguments", "at", "number", "code"),
    [
        ([], "starting the homeserver", signal.SIGINT, 0),
        ([], "starting the daemon", signal.SIGTERM, 0),
        ([], "starting the agent echo", signal.SIGINT, 0),
        ([], "starting the homeserver", None, 0),
        (["--detach"], "starting the homeserver", signal.SIGTERM, 130),
    ],
)
def test_a_start_that_is_stopped_by_a_signal_or_by_down_leaves_no_process(
    used: System, arguments: list[str], at: str, number: signal.Signals | None, code: int
) -> None:
    with used.running("up", "--port", "0", *arguments) as up:
        up.line(at, of="err")
        wait_until(lambda: used.homeserver_pid is not None)
        if number is None:
            used.down()
            assert up.wait() == code
        else:
            assert up.end(number) == code
    assert is_gone(used)


def test_a_detached_start_that_fails_says_why(used: System) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} is taken" in used.cchat("up", "--detach", "--port", port, code=2).err
        listen = {"AIAGENTCHAT_LISTEN": f"127.0.0.1:{port}"}
        assert f"127.0.0.1:{port}" in used.cchat("up", "--detach", "--port", "0", code=5, env=listen).err
    assert is_gone(used)
    assert not used.paths.socket.exists()


# --- what a kill leaves


def test_whatever_is_killed_is_taken_over_or_replaced(system: System) -> None:
    system.up("--no-echo")
    first = system.status()
    agent = system.join()
    agent.tell("stored before")

    homeserver = system.homeserver_pid
    system.kill(system.daemon_pid)
    assert system.homeserver_pid == homeserver
    assert system.cchat("who", code=3).out == ""
    assert "runs already" in system.up("--no-echo").err
    assert system.homeserver_pid == homeserver

    system.kill(homeserver)  # under a daemon that runs, which starts another
    wait_until(lambda: system.homeserver_pid not in (None, homeserver))
    wait_until(lambda: answers(system) and system.status()["health"] == "ok")
    agent.cchat("send", "to all")
    assert agent.unread() == ["stored before"]

    system.kill(system.daemon_pid, system.homeserver_pid)
    assert "starting the homeserver" in system.up("--no-echo").err
    assert agent.unread() == ["stored before"]
    last = system.status()
    same = ("homeserver_url", "space_id", "broadcast_id", "operator")
    assert [last[key] for key in same] == [first[key] for key in same]

    system.kill(system.daemon_pid)
    assert system.cchat("down").out == "stopped\n"
    assert is_gone(system)


# --- two at once


@pytest.fixture(scope="module")
def two_systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, System]]:
    """Started at the same time, from a shell that names another gateway; the second with a server name of its own.

    The first is started twice at once, of which one start is refused.
    """
    stray = {"AIAGENTCHAT_TOKEN": "agent:x:stray", "AIAGENTCHAT_URL": "http://127.0.0.1:9"}
    first = System(tmp_path_factory.mktemp("first"))
    second = System(tmp_path_factory.mktemp("second"), SERVER_NAME="overruled.example")
    up = ("up", "--detach", "--port", "0")
    with (
        first.running(*up, env=stray) as one,
        first.running(*up, env=stray) as again,
        second.running(*up, "--server-name", "chat.example", env=stray) as other,
    ):
        assert sorted([one.wait(), again.wait()]) == [0, 5]
        assert other.wait() == 0
    yield first, second
    first.down()
    second.down()


def test_two_systems_run_side_by_side_each_in_its_home(two_systems: tuple[System, System]) -> None:
    first, second = two_systems
    agent = first.join()
    assert agent.name in first.who()
    assert list(second.who()) == ["echo"]
    second.cchat("send", "--to", agent.name, "hi", code=4)
    assert second.cchat("ask", "echo", "hello").out == "hello\n"
    statuses = first.status(), second.status()
    assert [status["server_name"] for status in statuses] == ["localhost", "chat.example"]
    assert [status["space_alias"] for status in statuses] == ["#aiagentchat:localhost", "#aiagentchat:chat.example"]
    assert len({status["homeserver_url"] for status in statuses}) == 2


def test_echo_stays_away_when_it_was_told_to_leave(two_systems: tuple[System, System]) -> None:
    system, _ = two_systems
    system.cchat("leave", "echo")
    wait_until(lambda: "echo" not in system.roster())
    refused = system.cchat("ask", "--timeout", "2.5", "echo", "are you there?", code=7)  # it would try again after 2 s
    assert "echo is offline" in refused.err


def test_the_homeserver_of_up_is_examined_where_no_other_is_named(two_systems: tuple[System, System]) -> None:
    checks = two_systems[0].cchat("doctor", "--json").data
    assert [(check["name"], check["state"]) for check in checks] == [(name, "ok") for name in CHECKS]
    assert ["reached the daemon" in check["detail"] for check in checks if check["name"] == "ping"] == [True]


def test_a_server_name_stays_and_another_is_refused(two_systems: tuple[System, System]) -> None:
    _, system = two_systems
    system.down()
    refused = system.cchat("up", "--detach", "--server-name", "another.example", code=2)
    assert "cannot become 'another.example'" in refused.err
    assert is_gone(system)


# --- without a homeserver


def test_a_daemon_without_a_homeserver_says_what_to_set(used: System) -> None:
    nowhere = System(used.home / "nowhere")
    assert "AIAGENTCHAT_REGISTRATION" in nowhere.cchat("daemon", code=2).err
    no_file = {"AIAGENTCHAT_REGISTRATION": os.devnull}
    assert "is no registration" in nowhere.cchat("daemon", code=2, env=no_file).err
    assert "not an agent's name" in nowhere.cchat("daemon", "--agent", "A B", code=2).err
