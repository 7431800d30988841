"""`cchat registration`: what it writes, that it overwrites nothing and shows no secret, and what it says to do."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiagentchat.cli.main import main
from aiagentchat.registration import read_registration

SERVER = ("--server-name", "example.org")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SERVER_NAME", "SPACE_ALIAS", "AIAGENTCHAT_REGISTRATION", "AIAGENTCHAT_HOMESERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIAGENTCHAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; return its exit code, its output and its errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["registration", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_file_is_for_its_owner_alone_and_its_tokens_are_not_shown(home: Path, run: Any) -> None:
    code, out, err = run(*SERVER)
    file = home / "registration.yaml"
    registration = read_registration(file)
    assert (code, err) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert registration.as_token != registration.hs_token
    for token in (registration.as_token, registration.hs_token):
        assert re.fullmatch("[0-9a-f]{64}", token)
        assert token not in out


def test_it_says_what_goes_into_the_homeservers_configuration_and_into_the_environment(home: Path, run: Any) -> None:
    _, out, _ = run(*SERVER)
    for said in (f"wrote {home}/registration.yaml", "app_service_config_files:", "Restart Synapse", "cchat doctor"):
        assert said in out
    assert "export SERVER_NAME=example.org" in out
    assert "export AIAGENTCHAT_HOMESERVER_URL=http://127.0.0.1:8008" in out
    assert "AIAGENTCHAT_REGISTRATION" not in out  # it is where the daemon looks
    assert "SPACE_ALIAS" not in out  # it is the default


def test_two_are_never_given_the_same_tokens(home: Path, run: Any) -> None:
    run(*SERVER)
    run(*SERVER, "--output", str(home / "two.yaml"))
    one, two = read_registration(home / "registration.yaml"), read_registration(home / "two.yaml")
    assert len({one.as_token, one.hs_token, two.as_token, two.hs_token}) == 4


def test_a_file_that_is_there_is_left_as_it_is_and_the_same_is_said(home: Path, run: Any) -> None:
    _, first, _ = run(*SERVER, "--url", "http://daemon.test:9")
    file = home / "registration.yaml"
    before = file.read_bytes()
    for url in ((), ("--url", "http://daemon.test:9/")):  # an address that nobody asks for may be any
        code, again, err = run(*SERVER, *url)
        assert (code, err, file.read_bytes()) == (0, "", before)
        assert again.splitlines()[1:] == first.splitlines()[1:]
        assert "nothing was changed" in again


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--server-name", "example.com"), "example.com"),
        ((*SERVER, "--id", "lab"), "aiagentchat.lab"),
        ((*SERVER, "--url", "http://daemon.test:10"), "http://daemon.test:10"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_left_as_it_is(
    home: Path, run: Any, asked: tuple[str, ...], said: str
) -> None:
    run(*SERVER, "--url", "http://daemon.test:9")
    before = (home / "registration.yaml").read_bytes()
    code, out, err = run(*asked)
    assert (code, out) == (5, "")
    assert said in err
    assert "--output" in err
    assert (home / "registration.yaml").read_bytes() == before


def test_a_file_that_does_not_claim_the_spaces_alias_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*SERVER)
    monkeypatch.setenv("SPACE_ALIAS", "#team:example.org")
    code, _, err = run(*SERVER)
    assert code == 5
    assert "#team:example.org" in err


def test_a_file_that_is_no_registration_is_left_as_it_is(home: Path, run: Any) -> None:
    home.mkdir(mode=0o700)
    (home / "registration.yaml").write_text("notes: mine")
    code, _, err = run(*SERVER)
    assert code == 2
    assert "is no registration" in err
    assert (home / "registration.yaml").read_text() == "notes: mine"


def test_the_name_of_the_homeserver_has_to_be_given(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "--server-name" in err
    assert "SERVER_NAME" in err
    monkeypatch.setenv("SERVER_NAME", "localhost")  # given, even if it is what would be assumed
    assert run()[0] == 0


def test_a_space_outside_of_our_names_is_claimed_and_said(
    home: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ALIAS", "#team's:example.org")
    _, out, _ = run(*SERVER)
    assert read_registration(home / "registration.yaml").claims_alias("#team's:example.org")
    assert """export SPACE_ALIAS='#team'"'"'s:example.org'""" in out


def test_it_is_written_where_the_daemon_is_told_to_look(
    home: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIAGENTCHAT_REGISTRATION", str(tmp_path / "set.yaml"))
    _, out, _ = run(*SERVER)
    assert f"export AIAGENTCHAT_REGISTRATION={tmp_path}/set.yaml" in out
    assert (tmp_path / "set.yaml").exists()
    run(*SERVER, "--output", str(tmp_path / "asked.yaml"))
    assert (tmp_path / "asked.yaml").exists()
    assert not home.exists()


def test_a_further_daemon_has_names_and_a_port_of_its_own(home: Path, run: Any) -> None:
    run(*SERVER)
    code, out, _ = run(*SERVER, "--id", "lab", "--output", str(home / "lab.yaml"), "--json")
    first, further = read_registration(home / "registration.yaml"), read_registration(home / "lab.yaml")
    assert code == 0
    assert (further.id, further.port != first.port) == ("aiagentchat.lab", True)
    said = json.loads(out)
    assert said == {
        "path": str(home / "lab.yaml"),
        "is_new": True,
        "id": "aiagentchat.lab",
        "server_name": "example.org",
        "url": further.url,
        "environment": {
            "SERVER_NAME": "example.org",
            "AIAGENTCHAT_HOMESERVER_URL": "http://127.0.0.1:8008",
            "AIAGENTCHAT_REGISTRATION": str(home / "lab.yaml"),
        },
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--id", "a-b"), "no id of a daemon"),
        (("--id", ""), "no id of a daemon"),
        (("--url", "http://daemon.test"), "no address of a daemon"),
        (("--url", ""), "no address of a daemon"),
        (("--output", "no/such/directory/file.yaml"), "cannot be written: No such file or directory"),
        (("--as", "coder"), "speaks for nobody"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    home: Path, run: Any, asked: tuple[str, ...], said: str
) -> None:
    code, out, err = run(*SERVER, *asked)
    assert (code, out) == (2, "")
    assert said in err
    assert not (home / "registration.yaml").exists()


def test_the_file_says_in_its_first_line_whose_it_is(home: Path, run: Any) -> None:
    run(*SERVER)
    text = (home / "registration.yaml").read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["id"] == "aiagentchat"
