"""`cchat service` with a real systemd of a user, in a mount namespace where the system looks booted by it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiagentchat.cli.service import UNIT
from tests.integration.processes import System, wait_until

NEEDED = ("systemd", "systemctl", "unshare", "nsenter", "dbus-daemon")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or None in map(shutil.which, NEEDED), reason=f"needs root and {', '.join(NEEDED)}"
)
CONFINED = ("NoNewPrivs:\t1", "Seccomp:\t2", "Umask:\t0077")
"""What the kernel says of a process that the unit's options hold for."""
BEGIN = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec systemd --user"


class Service(System):
    """A home whose commands find a service manager."""

    def __init__(self, home: Path, manager: int, **environment: str) -> None:
        super().__init__(home, **environment)
        self._inside = ["nsenter", "--mount", f"--target={manager}"]

    def command(self, *arguments: str) -> list[str]:
        return [*self._inside, *super().command(*arguments)]

    def pid(self) -> int:
        return int(self.cchat("service", "status", "--json").data[0]["pid"] or 0)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    user = {"XDG_RUNTIME_DIR": str(runtime), "XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}
    user["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    command = ["unshare", "--mount", "sh", "-c", BEGIN]
    with subprocess.Popen(command, env=os.environ | user, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as manager:
        try:
            wait_until((runtime / "systemd" / "private").exists)
            home = tmp_path / "home"
            home.mkdir()
            (home / "config.toml").write_text('port = "0"\n')
            yield Service(home, manager.pid, **user)
        finally:
            manager.terminate()  # it stops its services first


def test_the_service_runs_is_started_again_after_a_crash_and_can_be_taken_off(service: Service, tmp_path: Path) -> None:
    unit = tmp_path / "config" / "systemd" / "user" / UNIT
    missing = service.cchat("service", "status", code=4)
    assert "'cchat service install'" in missing.err
    installed = service.cchat("service", "install", env={"AIAGENTCHAT_LOG_LEVEL": "debug"})
    assert "unknown to the service: AIAGENTCHAT_OPERATOR, AIAGENTCHAT_LOG_LEVEL" in installed.err
    assert unit.exists()
    assert service.cchat("ask", "echo", "are you there?").out == "are you there?\n"
    before = service.pid()
    assert before == service.daemon_pid
    for pid in (before, service.homeserver_pid):
        status = Path(f"/proc/{pid}/status").read_text()
        assert [line for line in CONFINED if line not in status] == []

    service.kill(before)
    wait_until(lambda: service.pid() not in (0, before))
    wait_until(lambda: service.cchat("ask", "echo", "again?", code=None).out == "again?\n")
    said = service.cchat("service", "status").out
    assert "active (running)" in said
    wait_until(lambda: "is there" in service.cchat("service", "status").out)
    assert service.cchat("service", "status", "--json").data[0]["restarts"] == 1

    service.cchat("service", "uninstall")
    assert {service.daemon_pid, service.homeserver_pid} == {None}
    assert not unit.exists()
    service.cchat("service", "uninstall", code=4)


def test_a_daemon_or_a_unit_of_the_persons_own_is_left_alone(service: Service, tmp_path: Path) -> None:
    unit = tmp_path / "config" / "systemd" / "user" / UNIT
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    for action in ("install", "uninstall"):
        refused = service.cchat("service", action, code=5)
        assert f"{unit} is not of 'cchat service install'" in refused.err
    unit.unlink()
    service.up("--no-echo")
    try:
        assert "'cchat down'" in service.cchat("service", "install", code=5).err
        assert not unit.exists()
    finally:
        service.down()


def test_new_secrets_of_the_homeserver_are_taken_up_by_the_same_process_which_goes_on(service: Service) -> None:
    service.cchat("service", "install")
    before = service.pid(), service.homeserver_pid
    service.cchat("rotate", "homeserver")
    said = service.cchat("service", "status", "--json").data[0]
    assert (said["state"], said["pid"], said["restarts"]) == ("active", before[0], 0), "nobody waits for its end"
    assert service.homeserver_pid not in (None, before[1])
    assert service.cchat("ask", "echo", "are you there?").out == "are you there?\n"
    service.cchat("service", "uninstall")


def test_a_daemon_that_says_no_more_that_it_goes_on_is_started_anew(service: Service) -> None:
    service.cchat("service", "install", "--no-echo")
    before = service.pid()
    override = service.paths.data_dir.parent / "config" / "systemd" / "user" / f"{UNIT}.d" / "soon.conf"
    override.parent.mkdir()
    override.write_text("[Service]\nWatchdogSec=3\n")
    service.cchat("service", "install", "--no-echo")
    before = service.pid()
    time.sleep(5.0)  # longer than it may say nothing
    assert service.pid() == before, "it says so in time"
    os.kill(before, 19)  # SIGSTOP: nothing of it goes on
    wait_until(lambda: service.pid() not in (0, before))
    service.cchat("service", "uninstall")
