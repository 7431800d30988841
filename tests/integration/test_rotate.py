"""`cchat rotate` in a system that is in use: what was good before is refused, and no message is lost or doubled."""

import json
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from aiagentchat.config import write_private
from aiagentchat.connection import GatewayError
from aiagentchat.homeserver.embedded import SIGNING_KEY_FILE, load_remembered
from aiagentchat.registration import new_registration, read_registration, render_registration
from tests.integration.processes import Agent, Json, Person, System, wait_until
from tests.integration.systems import IN_ONE_MODE, fresh_name


def rotate(system: System, *what: str) -> Json:
    """Return what was done and is left to do."""
    [said] = system.cchat("rotate", *what, "--json").data
    return said


def secrets_of(system: System) -> dict[str, str]:
    """Return each secret of the home by its name."""
    config = load_remembered(system.paths)
    assert config is not None
    device = json.loads(system.paths.operator_device.read_text())
    agents = {path.stem: json.loads(path.read_text())["token"] for path in system.paths.credentials.glob("agents/*")}
    files = (system.paths.operator_credential, system.paths.operator_password)
    return (
        agents
        | {path.name: path.read_text().strip() for path in files}
        | {"device": device["access_token"], "signing key": (system.homeserver / SIGNING_KEY_FILE).read_text()}
        | {f"homeserver {number}": secret for number, secret in enumerate(config.secrets)}
    )


@IN_ONE_MODE
def test_all_is_replaced_and_what_waits_and_who_waits_get_their_messages_once(system: System, writer: Agent) -> None:
    agent, reader = system.join("agent"), system.join("reader")
    system.send("unread", to=agent.name, of=writer.name)
    before, device = secrets_of(system), Person(system, agent.joined["room_id"])
    with (
        system.running("--as", reader.name, "read", "--wait", "60") as waiting,
        system.running("run", name := fresh_name("upper"), "--", "tr", "a-z", "A-Z"),
    ):
        wait_until(lambda: system.who().get(name, {}).get("status") == "online")
        assert system.ask(name, "first", of=writer.name) == "FIRST"
        rotate(system, "agents", "operator")
        rotate(system, "password")
        system.send("while it waits", to=reader.name)
        waiting.line("while it waits")
        assert waiting.wait() == 0
        assert reader.unread() == []
        rotate(system, "homeserver")
        system.send("again", to=agent.name, of=writer.name)
        assert system.ask(name, "second", of=writer.name) == "SECOND"
    after = secrets_of(system)
    assert {secret for secret in before if after.get(secret) == before[secret]} == set()
    assert [name for name, secret in before.items() if secret in system.paths.daemon_log.read_text()] == []
    assert agent.take() == ["unread", "again"]
    assert agent.take() == []
    for token in (before["operator"], before[agent.name], before[reader.name]):
        refused = system.cchat("who", code=5, env={"AIAGENTCHAT_TOKEN": token})
        assert "is not, or no longer, valid" in refused.err
    assert agent.name in system.cchat("who", env={"AIAGENTCHAT_TOKEN": after[agent.name]}).out
    with pytest.raises(OSError, match="401"):
        device.timeline()
    assert system.status()["health"] == "ok"


@IN_ONE_MODE
def test_what_was_begun_with_a_credential_ends_with_it(system: System, writer: Agent) -> None:
    agent = system.join("agent")
    own = {"AIAGENTCHAT_TOKEN": agent.joined["token"]}
    system.send("for who has the old one", to=agent.name, of=writer.name)
    with system.running("read", "--follow", env=own) as following:
        following.line("for who has the old one")
        rotate(system, "agents")
        system.send("for who has the new one", to=agent.name, of=writer.name)
        assert following.wait() == 5
        assert not following.has_line()
    with system.client(agent.name).events() as stream:
        events = iter(stream)
        assert next(events)[1]["body"] == "for who has the new one"
        rotate(system, "operator")
        system.send("not for a stream of before", to=agent.name, of=writer.name)
        with pytest.raises(GatewayError, match="is not, or no longer, valid"):
            next(events)
    assert agent.take() == ["for who has the new one", "not for a stream of before"]


@IN_ONE_MODE
def test_a_password_of_a_crash_in_between_is_taken_up_whichever_it_is(system: System) -> None:
    password = system.paths.operator_password
    fresh = password.with_name("operator-password.new")
    for was_told in (False, True):
        ours = password.read_text()
        write_private(fresh, ours if was_told else "never told")
        write_private(password, "of before" if was_told else ours)
        rotate(system, "password")
        assert not fresh.exists()
        assert password.read_text() not in (ours, "never told", "of before")
        assert stat.S_IMODE(password.stat().st_mode) == 0o600


def can_sign_in(system: System, password: str) -> bool:
    """Whether the homeserver takes it for the operator's."""
    device = json.loads(system.paths.operator_device.read_text())
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": device["user_id"]}}
    data = json.dumps(body | {"password": password}).encode()
    request = urllib.request.Request(f"{system.homeserver_url}/_matrix/client/v3/login", data=data)
    try:
        with urllib.request.urlopen(request):
            return True
    except urllib.error.HTTPError as error:
        if error.code != 403:
            raise
        return False


@IN_ONE_MODE
def test_the_password_is_replaced_where_the_homeserver_runs_elsewhere_with_the_secrets_of_this_home(
    system: System, tmp_path: Path
) -> None:
    """As in containers, where `deploy/stack.py` keeps them."""
    here = System(tmp_path, AIAGENTCHAT_HOMESERVER_URL=system.homeserver_url)
    ours = (system.paths.operator_password, system.paths.operator_device)
    kept = {here.homeserver / "embedded.json": system.homeserver / "embedded.json"}
    kept |= {here.home / path.relative_to(system.home): path for path in ours}
    for copy, path in kept.items():
        write_private(copy, path.read_text())
    before = ours[0].read_text().strip()
    write_private(here.paths.registration, render_registration(new_registration("x", as_token="a" * 64, hs_token="b")))
    assert "the operator's password" in rotate(here, "password")["left"][0], "another homeserver is told no password"
    write_private(here.paths.registration, (system.homeserver / "registration.yaml").read_text())
    rotate(here, "password")
    for copy, path in kept.items():
        write_private(path, copy.read_text())
    assert [can_sign_in(system, password) for password in (before, ours[0].read_text().strip())] == [False, True]
    assert system.status()["health"] == "ok"


def test_a_registration_of_a_homeserver_of_ones_own_stays_until_a_person_has_put_the_new_one_in_place(
    tmp_path: Path,
) -> None:
    system = System(tmp_path)
    old = new_registration("example.org", as_token="of before", hs_token="of before")
    system.paths.registration.write_text(render_registration(old))
    system.paths.registration.chmod(0o600)
    said = rotate(system)
    fresh = tmp_path / "registration.yaml.new"
    assert (said["done"], len(said["left"])) == ([], 1)
    assert f"mv {fresh} {system.paths.registration}" in said["left"][0]
    assert read_registration(system.paths.registration) == old
    made = fresh.read_text()
    assert "of before" not in made
    assert rotate(system) == said
    assert fresh.read_text() == made  # the homeserver may have it by now


def test_secrets_are_the_operators_and_a_home_without_any_says_so(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert "there is no secret here yet" in system.cchat("rotate").out
    assert "this home has no password" in system.cchat("rotate", "password", code=2).err
    system.cchat("rotate", code=5, env={"AIAGENTCHAT_TOKEN": "agent:x:y"})
    system.cchat("--as", "x", "rotate", code=2)
