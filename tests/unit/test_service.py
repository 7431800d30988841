"""The unit of `cchat service`, as systemd itself reads it."""

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.cli.service import UNIT, render_unit, unit_path
from aiagentchat.errors import InvalidRequestError

WORDS = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=("Cs", "Cc")), min_size=1)


def read_back(text: str) -> str:
    """Return a line's value without what systemd expands: it doubles % and $."""
    return text.replace("%%", "%").replace("$$", "$")


@given(st.lists(WORDS, min_size=1), WORDS)
def test_every_word_of_the_command_stands_as_it_is_whatever_is_in_it(command: list[str], home: str) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign] # names keep their case; typeshed has a method there
    unit.read_string(render_unit(command, {"AIAGENTCHAT_HOME": home}))
    service = unit["Service"]
    assert shlex.split(read_back(service["ExecStart"])) == command
    assert shlex.split(service["Environment"].replace("%%", "%")) == [f"AIAGENTCHAT_HOME={home}"]


def test_what_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="cannot stand in a unit file"):
        render_unit(["/a\nExecStartPre=/bin/rm"], {})


def test_it_is_where_systemd_looks_for_a_users_own() -> None:
    assert unit_path({"XDG_CONFIG_HOME": "/c"}) == Path("/c/systemd/user", UNIT)
    for env in ({}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}):
        assert unit_path(env) == Path.home() / ".config/systemd/user" / UNIT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / UNIT
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}

    def verify(text: str) -> subprocess.CompletedProcess[str]:
        file.write_text(text)
        command = ["systemd-analyze", "--user", "verify", str(file)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    unit = render_unit([sys.executable, "-P", "-m", "aiagentchat", "up"], {"AIAGENTCHAT_HOME": "/a b/%h"})
    done = verify(unit)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT in line]) == (0, [])
    done = verify(unit.replace("WatchdogSec=60", "WatchdogSec=soon\nNoSuchOption=1"))
    assert "NoSuchOption" in done.stderr
    assert "Failed to parse sec value" in done.stderr
