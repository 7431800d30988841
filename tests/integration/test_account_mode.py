"""Ordinary accounts from a person's side: `cchat login`, `up`, limits as strict as Synapse's own, tokens that end."""

import asyncio
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import pytest

from aiagentchat.config import Paths, read_private
from aiagentchat.errors import MatrixForbiddenError
from aiagentchat.homeserver.operator import ensure_operator
from aiagentchat.model import RoomId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Json, attach, matrix, person, until
from tests.integration.processes import AccountSystem, System, wait_until
from tests.integration.systems import Synapse, fresh_name, start_synapse
from tests.integration.test_external_agent import bodies_of
from tests.integration.test_several_daemons import until_listed

ENDS_AFTER_S = 2.0
SYNAPSE_S_OWN_LIMITS: dict[str, Any] = {
    "rc_message": {"per_second": 0.2, "burst_count": 10},
    "rc_joins": {"local": {"per_second": 0.1, "burst_count": 10}, "remote": {"per_second": 0.01, "burst_count": 10}},
    "rc_joins_per_room": {"per_second": 1, "burst_count": 10},
    "rc_invites": {
        "per_room": {"per_second": 0.3, "burst_count": 10},
        "per_user": {"per_second": 0.003, "burst_count": 5},
        "per_issuer": {"per_second": 0.3, "burst_count": 10},
    },
    "rc_room_creation": {"per_second": 0.016, "burst_count": 10},
}


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A homeserver without an application service, where tokens that can be renewed end soon."""
    synapse = asyncio.run(
        start_synapse(
            tmp_path_factory.mktemp("synapse"),
            mode="accounts",
            refreshable_access_token_lifetime=f"{ENDS_AFTER_S:.0f}s",
            login_via_existing_session={"enabled": True, "require_ui_auth": False},
        )
    )
    yield synapse
    asyncio.run(synapse.stop())


@dataclass(frozen=True)
class Account:
    """An account that somebody made at the homeserver."""

    localpart: str
    password: str
    access_token: str


def make_account(synapse: Synapse, home: Path, stem: str) -> Account:
    paths, localpart = Paths(config_dir=home / stem, data_dir=home / stem), fresh_name(stem)
    made = asyncio.run(ensure_operator(synapse.config.base_url, paths, synapse.config, localpart))
    return Account(localpart, str(read_private(paths.operator_password)), made.access_token)


def log_in(system: System, synapse: Synapse, name: str, account: Account, *flags: str, secret: str = "") -> None:
    """Log an account in as a person does, the first one with the homeserver's address."""
    system.cchat(
        "login",
        name,
        "--homeserver",
        synapse.config.base_url,
        "--user",
        account.localpart,
        *flags,
        stdin=f"{secret or account.password}\n",
    )


@dataclass(frozen=True)
class Home:
    """A system that is up, with its operator logged in, and two agents by their accounts."""

    system: System
    asker: Account
    answerer: Account
    told: str

    def file(self, account: Account) -> Path:
        return self.system.paths.accounts / f"{account.localpart}.json"

    def kept(self, account: Account) -> dict[str, Any]:
        """Return what is kept of the account of an agent."""
        return dict(json.loads(self.file(account).read_text()))


@pytest.fixture(scope="module")
def home(synapse: Synapse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home for all tests whose daemon may be one: started once all had logged in, with its Space's own alias.

    Who does something to an account does it to one that the test made, and leaves all others well.
    """
    directory = tmp_path_factory.mktemp("home")
    system = System(directory / "home", SPACE_ALIAS=f"#{fresh_name('space')}:example.org")
    log_in(system, synapse, "--operator", make_account(synapse, directory, "carol"))
    asker, answerer = [make_account(synapse, directory, stem) for stem in ("asker", "answerer")]
    for account in (asker, answerer):
        log_in(system, synapse, account.localpart, account)
    yield Home(system, asker, answerer, system.up().out)
    system.down()


@pytest.fixture
def online(home: Home) -> Iterator[tuple[str, str]]:
    """The names of the two agents, which are online for this test."""
    names = home.asker.localpart, home.answerer.localpart
    for name in names:
        home.system.client().attach(name)
    yield names
    for name in names:
        home.system.client().detach(name)


def log_out(synapse: Synapse, file: Path) -> None:
    """End the device whose token is kept in a file, as its person can elsewhere; the token may end meanwhile."""
    path = ("_matrix", "client", "v3", "logout")

    def is_out() -> bool:
        token = json.loads(file.read_text())["access_token"]
        return asyncio.run(matrix(synapse, token, "POST", *path, body={}, ok=False)) == {}

    wait_until(is_out)


def failing(system: System) -> dict[str, Json]:
    """Return the conditions that are not met, by their names."""
    return {each["name"]: each for each in system.status()["conditions"] if not each["ok"]}


def test_from_login_to_an_answer(home: Home) -> None:
    system, asker, answerer = home.system, home.asker.localpart, home.answerer.localpart
    assert "aiagentchat is up" in home.told
    for name in (asker, answerer):
        joined = system.cchat("join", name, "--detach", "--json").data[0]
        assert joined["user_id"] == f"@{name}:example.org"
        assert joined["alias"] == f"#aiagentchat-{name}:example.org"
    status = system.status()
    assert (status["mode"], status["health"], status["agents"]) == ("accounts", "ok", [answerer, asker])
    assert (status["operator"].partition("-")[0], status["server_name"]) == ("@carol", "example.org")
    with system.running("--as", answerer, "read", "--wait", "30") as reading:
        system.cchat("--as", asker, "send", "--to", answerer, "is main green?")
        assert reading.line("is main green?").endswith(f"{asker}: is main green?")
        assert reading.wait() == 0
    system.cchat("--as", answerer, "reply", "it is")
    assert system.cchat("--as", asker, "read", "--wait", "30").lines[-1].endswith(f"{answerer}: it is")
    with system.running("ask", answerer, "--timeout", "30", "and for me?") as asking:
        system.cchat("--as", answerer, "read", "--wait", "30")
        system.cchat("--as", answerer, "reply", "for you too")
        asking.line("for you too")
        assert asking.wait() == 0
    nobody = system.cchat("join", "nobody", "--detach", code=4)
    assert "there is no account for nobody" in nobody.err
    assert "cchat login nobody" in nobody.err
    held = [str(json.loads(file.read_text())["access_token"]) for file in system.paths.accounts.iterdir()]
    listed = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, encoding="utf-8", check=True).stdout
    assert [token for token in held if token in listed or token in system.paths.daemon_log.read_text()] == []
    for name in (asker, answerer):
        system.cchat("leave", name)


def test_tokens_that_end_are_renewed_and_kept(home: Home, online: tuple[str, str]) -> None:
    system, (asker, answerer) = home.system, online
    before = home.kept(home.asker)
    assert before["refresh_token"]
    wait_until(lambda: home.kept(home.asker)["access_token"] != before["access_token"])
    system.cchat("--as", asker, "send", "--to", answerer, "still here")
    assert system.cchat("--as", answerer, "read", "--wait", "30").lines[-1].endswith("still here")
    system.down()
    system.up()
    system.cchat("--as", asker, "send", "--to", answerer, "and after a restart")
    assert home.file(home.asker).stat().st_mode & 0o777 == 0o600


def test_an_account_that_is_logged_out_elsewhere_is_said_and_stops_no_other(
    home: Home, online: tuple[str, str], synapse: Synapse, tmp_path: Path
) -> None:
    system, (_, answerer) = home.system, online
    account = make_account(synapse, tmp_path, "ended")
    log_in(system, synapse, ended := account.localpart, account)
    system.cchat("join", ended, "--detach")
    log_out(synapse, home.file(account))
    wait_until(lambda: f"cchat login {ended}" in failing(system).get("transport", {}).get("remedy", ""))
    system.cchat("send", "--to", answerer, "the rest goes on")
    assert system.cchat("--as", answerer, "read", "--wait", "30").lines[-1].endswith("the rest goes on")
    system.cchat("leave", ended)


def test_where_the_operator_is_logged_out_elsewhere_agents_hear_of_what_changes_in_the_space(
    synapse: Synapse, tmp_path: Path
) -> None:
    system = System(tmp_path / "home", SPACE_ALIAS=f"#{fresh_name('space')}:example.org")
    operator, *accounts = [make_account(synapse, tmp_path, stem) for stem in ("dora", "first", "second")]
    log_in(system, synapse, "--operator", operator)
    for account in accounts:
        log_in(system, synapse, account.localpart, account)
    system.up()
    try:
        for account in accounts:
            system.cchat("join", account.localpart, "--detach")
        log_out(synapse, system.paths.operator_device)
        wait_until(lambda: "cchat login --operator" in failing(system).get("transport", {}).get("remedy", ""))
        space, removed = system.cchat("status", "--json").data[0]["space_id"], f"@{accounts[0].localpart}:example.org"
        kick = ("_matrix", "client", "v3", "rooms", space, "kick")
        asyncio.run(matrix(synapse, operator.access_token, "POST", *kick, body={"user_id": removed}))
        wait_until(lambda: f"removed {removed}" in failing(system).get("memberships", {}).get("detail", ""))
        log_in(system, synapse, "--operator", operator)
        wait_until(lambda: "transport" not in failing(system), timeout_s=20)
    finally:
        system.down()


def test_who_logs_in_while_the_daemon_runs_joins_at_once_and_logged_in_anew_goes_on_hearing_at_once(
    home: Home, synapse: Synapse, tmp_path: Path
) -> None:
    system, account = home.system, make_account(synapse, tmp_path, "again")
    log_in(system, synapse, name := account.localpart, account)
    first = home.kept(account)
    system.cchat("join", name, "--detach")
    assert system.who()[name]["status"] == "online"
    with system.running("--as", name, "read", "--follow") as following:
        system.cchat("send", "--to", name, "before")
        following.line("before")
        log_in(system, synapse, name, account)
        assert first["device_id"] != home.kept(account)["device_id"]
        whoami = (
            "_matrix",
            "client",
            "v3",
            "account",
            "whoami",
        )  # the device that the daemon has used so far has ended
        answer = asyncio.run(matrix(synapse, first["access_token"], "GET", *whoami, ok=False))
        assert answer["errcode"] == "M_UNKNOWN_TOKEN"
        system.cchat("send", "--to", name, "after")
        following.line("after")
    wait_until(lambda: system.status()["health"] == "ok")
    system.cchat("leave", name)


def test_each_way_to_log_in(synapse: Synapse, tmp_path: Path) -> None:
    system = System(tmp_path / "home")
    account = make_account(synapse, tmp_path, "many")
    get_token = ("_matrix", "client", "v1", "login", "get_token")
    login_token = asyncio.run(matrix(synapse, account.access_token, "POST", *get_token, body={}))["login_token"]
    for way, secret in (("login-token", login_token), ("access-token", account.access_token)):
        log_in(system, synapse, account.localpart, account, "--with", way, secret=secret)
        kept = json.loads((system.paths.accounts / f"{account.localpart}.json").read_text())
        assert kept["user_id"] == f"@{account.localpart}:example.org"
    account = make_account(synapse, tmp_path, "sso")  # a login token a minute is all that an account gets
    login_token = asyncio.run(matrix(synapse, account.access_token, "POST", *get_token, body={}))["login_token"]
    with system.running("login", account.localpart, "--with", "sso") as browsing:
        address = browsing.line("/_matrix/client/v3/login/sso/redirect?", of="err").strip()
        [back] = parse_qs(urlsplit(address).query)["redirectUrl"]
        with pytest.raises(urllib.error.HTTPError, match="404"):  # another page does not know where to
            urllib.request.urlopen(re.sub(r"/[^/]*$", "/guess", back) + "?loginToken=stolen", timeout=10)
        with urllib.request.urlopen(f"{back}?loginToken={quote(login_token)}", timeout=10) as page:
            assert b"go back to the terminal" in page.read()
        assert browsing.wait() == 0
        browsing.line("logged in as")


@pytest.mark.parametrize(
    ("arguments", "secret", "code", "said"),
    [
        (["a", "--homeserver", "{url}", "--user", "{user}"], "wrong", 5, "did not accept the login"),
        (["a", "--homeserver", "{url}", "--user", "{user}", "--with", "access-token"], "wrong", 5, "does not accept"),
        (["a", "--homeserver", "{url}", "--user", "{user}"], "", 2, "no password was given"),
        (["a", "--homeserver", "http://127.0.0.1:1"], "x", 6, "did not answer"),
        (["a"], "x", 2, "which homeserver?"),
        (["a", "--homeserver", "example.org"], "x", 2, "is no address of a homeserver"),
        (["Not A Name", "--homeserver", "{url}"], "x", 2, "is not an agent's name"),
        ([], "x", 2, "for one agent, NAME, or for the operator"),
        (["a", "--operator"], "x", 2, "for one agent, NAME, or for the operator"),
    ],
)
def test_what_cannot_be_logged_in_says_why_and_leaves_nothing(
    synapse: Synapse, tmp_path: Path, arguments: list[str], secret: str, code: int, said: str
) -> None:
    system, user = System(tmp_path / "home", AIAGENTCHAT_DEADLINE="3"), fresh_name("nobody")
    filled = [each.format(url=synapse.config.base_url, user=user) for each in arguments]
    ended = system.cchat("login", *filled, stdin=f"{secret}\n", code=code)
    assert said in ended.err
    assert not system.paths.accounts.exists()


def test_one_account_is_for_one_agent(home: Home) -> None:
    name, password = home.asker.localpart, home.asker.password
    refused = home.system.cchat("login", "another", "--user", name, stdin=f"{password}\n", code=2)
    assert f"is {name}'s already" in refused.err


# --- on a homeserver with Synapse's own limits


async def test_under_synapse_s_own_limits_it_is_slower_loses_nothing_and_says_so(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    synapse = await start_synapse(tmp_path / "synapse", mode="accounts", **SYNAPSE_S_OWN_LIMITS)
    try:
        daemon = await start_daemon(synapse, synapse.settings(tmp_path / "home"))
        writer, target = await attach(daemon, "writer"), await attach(daemon, "target")
        bodies = [f"message {number}" for number in range(3)]  # one in five seconds: booting took the ten that are free
        sent = await asyncio.gather(*(writer.send(body, to=target.name) for body in bodies))
        assert len({each["event_id"] for each in sent}) == 3
        assert sorted(await target.bodies(limit="100")) == sorted(bodies)
        conditions = {each["name"]: each for each in (await daemon.api.get("/health"))["conditions"]}
        assert not conditions["limits"]["ok"]
        assert "limits the rate" in conditions["limits"]["detail"]
        assert [name for name, each in conditions.items() if not each["ok"]] == ["limits"]

        impatient = await start_daemon(synapse, synapse.settings(tmp_path / "other", AIAGENTCHAT_DEADLINE="2"))
        there = writer.on(impatient)
        refused = [await there.api.call("POST", "/send", {"body": "now", "to": target.name}) for _ in range(3)]
        assert {each.code for each in refused if each.status != 200} == {"rate_limited"}
        stored = [each.data["event_id"] for each in refused if each.status == 200]
        there_now = [message["event_id"] for message in await target.unread(limit="100")]
        assert len(there_now) == 3 + len(stored), "what failed was not sent"
    finally:
        await synapse.stop()


# --- what a room of an account shows to whom


async def test_an_agents_room_takes_in_who_is_in_the_space_and_shows_what_is_written_while_one_is_there(
    synapse: Synapse,
    start_daemon: StartDaemon,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiagentchat.agents.visits.IDLE_S", 0.5)
    daemon = await start_daemon(
        synapse, synapse.settings(tmp_path / "home", SPACE_ALIAS=f"#{fresh_name('space')}:example.org")
    )
    agent, writer = await attach(daemon), await attach(daemon, "writer")
    member, outsider = [await person(synapse, http, tmp_path, stem) for stem in ("member", "outsider")]
    await daemon.api.post("/send", body="before", to=agent.name)
    space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    await synapse.operator_client(http).invite(space, (await member.whoami())[0])
    await member.join_room(space)
    with pytest.raises(MatrixForbiddenError):
        await outsider.join_room(agent.room_id)
    await member.join_room(agent.room_id)
    await daemon.api.post("/send", body="while it is there", to=agent.name)
    assert await bodies_of(member, agent.room_id) == ["while it is there"]

    await writer.send("a visit", to=agent.name)

    async def has_left() -> bool:
        return str((await member.get_state(agent.room_id, "m.room.member", writer.user_id))["membership"]) == "leave"

    await until(has_left)
    await daemon.api.post("/send", body="when it has left", to=agent.name)
    as_writer = synapse.agent_client(http, writer.name)
    assert await bodies_of(as_writer, agent.room_id) == ["a visit"]
    await writer.send("another visit", to=agent.name)
    sent = (await writer.api.get("/sent", to=agent.name))["messages"]
    assert [each["message"]["body"] for each in sent] == ["another visit", "a visit"]


# --- without the operator, and on two machines


async def test_without_the_operator_an_agents_own_room_works_and_the_list_says_what_is_missing(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    settings = synapse.settings(tmp_path / "home", SPACE_ALIAS=f"#{fresh_name('space')}:example.org")
    settings.paths.operator_device.unlink()
    name = fresh_name("alone")
    await synapse.provide_account(settings.paths, name)
    daemon = await start_daemon(synapse, settings, ready=False)
    agent = await attach(daemon, name=name)
    assert await agent.bodies() == []

    async def is_said() -> bool:
        return "there is no Space" in (await daemon.api.get("/who"))["unavailable"]

    await until(is_said)
    refused = await daemon.api.call("POST", "/send", {"body": "hello", "to": agent.name})
    assert (refused.status, refused.code) == (403, "forbidden")


async def test_an_account_on_another_machine_is_let_in_by_an_invite_to_the_space(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    alias = f"#{fresh_name('space')}:example.org"
    here = await start_daemon(synapse, synapse.settings(tmp_path / "here", SPACE_ALIAS=alias))
    ours = await attach(here, "ours")
    settings = synapse.settings(tmp_path / "there", SPACE_ALIAS=alias)
    settings.paths.operator_device.unlink()
    name = fresh_name("theirs")
    await synapse.provide_account(settings.paths, name)
    there = await start_daemon(synapse, settings, ready=False)

    async def is_said() -> bool:
        return "is not invited to the Space" in (await there.api.get("/who"))["unavailable"]

    await until(is_said)
    space = RoomId((await here.api.get("/health"))["system"]["space_id"])
    await synapse.operator_client(http).invite(space, synapse.accounts[name].user_id)
    await there.wait_ready()
    theirs = await attach(there, name=name)

    for daemon in (here, there):
        for each in (ours, theirs):
            await until_listed(daemon, each.name, status="online")
    asked = await ours.send("hello there", to=theirs.name)
    assert await theirs.bodies(wait="20") == ["hello there"]
    await theirs.send("hello here", reply_to=asked["event_id"])
    assert await ours.bodies(wait="20") == ["hello here"]
    await there.stop()

    await until_listed(here, theirs.name, status="offline")


def test_doctor_in_a_home_with_accounts_says_whether_their_tokens_hold(synapse: Synapse, tmp_path: Path) -> None:
    system = AccountSystem(tmp_path / "home", synapse)
    system.provide(name := fresh_name())
    states = {check["name"]: check["state"] for check in system.cchat("doctor", "--json").data}
    assert len(states) == 5
    for of_a_token in ("tokens", "room version"):  # where it has ended, it is renewed when it is used
        assert states.pop(of_a_token) in ("ok", "warning")
    assert set(states.values()) == {"ok"}
    file = system.paths.accounts / f"{name}.json"
    account = json.loads(file.read_text())
    file.write_text(json.dumps(account | {"access_token": "ended"}))
    failed = {check["name"]: check for check in system.cchat("doctor", "--json", code=1).data}
    assert failed["tokens"]["state"] == "failed"
    assert f"the token of {name}" in failed["tokens"]["detail"]
    file.write_text("{}")
    failed = {check["name"]: check for check in system.cchat("doctor", "--json", code=1).data}
    assert (failed["accounts"]["state"], failed["homeserver"]["state"]) == ("failed", "skipped")
    assert str(file) in failed["accounts"]["detail"]


# --- while a daemon runs


def test_a_file_of_an_account_that_cannot_be_read_stops_nobody(
    home: Home, online: tuple[str, str], synapse: Synapse, tmp_path: Path
) -> None:
    system, (_, answerer) = home.system, online
    account = make_account(synapse, tmp_path, "spoilt")
    log_in(system, synapse, spoilt := account.localpart, account)
    system.cchat("join", spoilt, "--detach")
    (bad := system.paths.accounts / "bad.json").write_bytes(b"\xff\xfe\x00")
    home.file(account).write_text("not an account")
    system.cchat("--as", answerer, "send", "--to", spoilt, "still here")
    assert system.cchat("--as", spoilt, "read", "--wait", "30").lines[-1].endswith("still here")
    system.cchat("leave", spoilt)
    assert system.who()[answerer]["status"] == "online"
    assert system.daemon_pid is not None
    for file in (bad, home.file(account)):
        file.unlink()


async def test_an_agent_that_may_not_write_in_the_space_keeps_nobody_else_off_the_list(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    alias = f"#{fresh_name('space')}:example.org"
    here = await start_daemon(synapse, synapse.settings(tmp_path / "here", SPACE_ALIAS=alias))
    there = await start_daemon(synapse, synapse.settings(tmp_path / "there", SPACE_ALIAS=alias))
    first = await attach(here, "a")
    space = (await here.api.get("/health"))["system"]["space_id"]
    kick = ("_matrix", "client", "v3", "rooms", space, "kick")
    await matrix(synapse, synapse.operator.access_token, "POST", *kick, body={"user_id": first.user_id})

    async def is_said() -> bool:
        conditions = {each["name"]: each for each in (await here.api.get("/health"))["conditions"]}
        return f"removed {first.user_id} from the Space" in conditions["memberships"]["detail"]

    await until(is_said)
    await here.api.call("DELETE", f"/agents/{first.name}")
    later = await attach(here, "z")
    await until_listed(there, later.name, status="online")
    again = await here.api.post("/agents", name=first.name, description="another")
    assert again["registered"] is False
    conditions = {each["name"]: each for each in (await here.api.get("/health"))["conditions"]}
    assert "may not write in the Space any more" in conditions["registration"]["detail"]


def test_in_a_home_whose_agents_need_no_account_none_is_logged_in(tmp_path: Path) -> None:
    system = System(tmp_path / "home")
    system.paths.homeserver.mkdir(parents=True)
    for who, said in (("a", "needs no account"), ("--operator", "'cchat up' logs the operator")):
        refused = system.cchat("login", who, "--homeserver", "http://127.0.0.1:1", stdin="x\n", code=2)
        assert said in refused.err
        assert "AIAGENTCHAT_HOME" in refused.err
    system = System(tmp_path / "other")
    system.cchat("registration", "--server-name", "example.org")
    assert "needs no account" in system.cchat("login", "a", "--homeserver", "http://127.0.0.1:1", code=2).err
