"""What looks for secrets in the logs of a run finds them."""

import json
from pathlib import Path

from tests.integration.leaks import homes_below, leaks_of

SECRET = "0123456789abcdef0123456789abcdef"


def test_a_secret_in_a_log_of_its_home_is_found_wherever_it_is_kept(tmp_path: Path) -> None:
    kept = {
        "operator-password": SECRET,
        "credentials/operator": f"operator:{SECRET}",
        "credentials/operator-device.json": json.dumps({"user_id": "@a:example.org", "access_token": SECRET}),
        "credentials/agents/a.json": json.dumps({"token": f"agent:a:{SECRET}", "detached": True}),
        "accounts/a.json": json.dumps({"refresh_token": SECRET}),
        "homeserver/embedded.json": json.dumps({"server_name": "example.org", "macaroon_secret_key": SECRET}),
    }
    for number, (name, text) in enumerate(kept.items()):
        home = tmp_path / str(number)
        for file, content in ((name, text), ("credentials/none", ""), ("daemon.log.1", f"it is operator:{SECRET}\n")):
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_text(content.replace("operator", "agent:a") if "agents/" in name else content)
    homes = homes_below(tmp_path)
    assert homes == [tmp_path / str(number) for number in range(len(kept))]
    assert [len(list(leaks_of(home))) for home in homes] == [1] * len(kept)


def test_names_and_addresses_are_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    device = {"user_id": "@a-long-name:example.org", "access_token": SECRET}
    (tmp_path / "credentials" / "operator-device.json").write_text(json.dumps(device))
    (tmp_path / "daemon.log").write_text("@a-long-name:example.org wrote")
    assert list(leaks_of(tmp_path)) == []
