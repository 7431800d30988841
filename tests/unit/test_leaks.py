"""What looks for secrets in the logs of a run finds them."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.integration.leaks import Seen, homes_below, leaks_of

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not where the homes of other tests lie, which are looked through when all have run."""
    with TemporaryDirectory() as name:
        yield Path(name)


def test_a_secret_in_a_log_of_its_home_is_found_wherever_it_is_kept(directory: Path) -> None:
    kept = {
        "operator-password": SECRET,
        "credentials/operator": f"operator:{SECRET}",
        "credentials/operator-device.json": json.dumps({"user_id": "@a:example.org", "access_token": SECRET}),
        "credentials/agents/a.json": json.dumps({"token": f"agent:a:{SECRET}", "detached": True}),
        "accounts/a.json": json.dumps({"refresh_token": SECRET}),
        "homeserver/embedded.json": json.dumps({"server_name": "example.org", "macaroon_secret_key": SECRET}),
        "homeserver/signing.key": f"ed25519 a_1 {SECRET}",
        "homeserver/registration.yaml": f"url: http://127.0.0.1:1\nhs_token: {SECRET}",
        "registration.yaml.new": f"as_token: {SECRET}",
    }
    for number, (name, text) in enumerate(kept.items()):
        home = directory / str(number)
        for file, content in ((name, text), ("credentials/none", ""), ("daemon.log.1", f"it is operator:{SECRET}\n")):
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_text(content.replace("operator", "agent:a") if "agents/" in name else content)
    homes = homes_below(directory)
    assert homes == [directory / str(number) for number in range(len(kept))]
    assert [len(list(leaks_of(home))) for home in homes] == [1] * len(kept)


def test_names_and_addresses_are_no_secrets(directory: Path) -> None:
    (directory / "credentials").mkdir()
    device = {"user_id": "@a-long-name:example.org", "access_token": SECRET}
    (directory / "credentials" / "operator-device.json").write_text(json.dumps(device))
    (directory / "daemon.log").write_text("@a-long-name:example.org wrote")
    assert list(leaks_of(directory)) == []


def test_what_a_test_has_put_in_the_place_of_a_secret_file_stops_nothing(directory: Path) -> None:
    (directory / "operator-password").write_text("[" * 100_000)
    (directory / "daemon.log").write_text("nothing\n")
    assert list(leaks_of(directory)) == []


def test_a_secret_that_a_daemon_logs_a_command_says_or_a_process_is_given_is_found(directory: Path) -> None:
    secrets = [f"{number}{SECRET}" for number in range(4)]
    for number, secret in enumerate(secrets):
        (directory / str(number) / "credentials").mkdir(parents=True)
        (directory / str(number) / "credentials" / "operator").write_text(secret)
    homes, seen = homes_below(directory), Seen()
    with seen.watching():
        logging.getLogger("aiagentchat.x").debug("it is %s", secrets[0])
        seen.note(f"error: it is {secrets[1]}\n")
        # It runs for as long as several looks at the processes take.
        said = subprocess.run(
            [sys.executable, "-c", "import time; time.sleep(0.6)", secrets[2]], capture_output=True, check=True
        )
    assert said.returncode == 0
    found = seen.leaks(homes)
    assert [f"what is in {directory / str(number)}/" in "".join(found) for number in range(4)] == [True] * 3 + [False]
