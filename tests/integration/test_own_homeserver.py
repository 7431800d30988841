"""A homeserver of one's own: the files of `cchat registration` on a real Synapse, and what `cchat doctor` says of it.

The Synapse here has four registrations; each test has a home whose registration is one of them, or differs from it as
the test says.
"""

import asyncio
import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from packaging.version import Version

from aiagentchat.daemon.doctor import CHECKS
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.matrix.appservice import AppserviceReceiver
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import EventId, RoomId, UserId
from aiagentchat.registration import Registration, read_registration
from tests.integration.processes import Done, System, wait_until
from tests.integration.systems import ON_ONE_PROCESS, WAIT_S, Synapse, fresh_name, start_synapse

SERVER = "example.org"
STOP_S = 5.0
LIMITS = {"rc_presence": {"per_user": {"per_second": 0.1, "burst_count": 10}}}
"""Such that no machine is slow enough to stay within them."""


def write_registration(directory: Path, name: str, *arguments: str) -> Path:
    """Have the command write a registration whose daemon has a port of its own; return the file."""
    path = directory / f"{name}.yaml"
    url = f"http://127.0.0.1:{any_free_port()}"
    said = System(directory).cchat(
        "registration", "--server-name", SERVER, "--url", url, "--output", str(path), "--json", *arguments
    )
    assert said.data[0]["is_new"]
    return path


def change(path: Path, to: Path, **changes: object) -> Path:
    """Write a copy of a registration that differs; None takes a key out."""
    data = yaml.safe_load(path.read_text()) | changes
    to.touch(mode=0o600)
    to.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return to


@dataclass(frozen=True)
class Own:
    """A Synapse, and the files that the command wrote: as its daemons have them, by name."""

    synapse: Synapse
    files: dict[str, Path]

    def registration(self, name: str) -> Registration:
        return read_registration(self.files[name])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """`first` and `lab` are as they were written; the homeserver's copy of `limited` and of `nameless` differs."""
    directory = tmp_path_factory.mktemp("own")
    files = {"first": write_registration(directory, "first")}
    for name in ("lab", "limited", "nameless"):
        files[name] = write_registration(directory, name, "--id", name)
    copies = [
        files["first"],
        files["lab"],
        change(files["limited"], directory / "limited-copy.yaml", rate_limited=None),
        change(files["nameless"], directory / "nameless-copy.yaml", namespaces={}),
    ]
    settings: dict[str, Any] = {"app_service_config_files": list(map(str, copies)), **LIMITS}
    synapse = asyncio.run(start_synapse(directory / "synapse", server_name=SERVER, **settings))
    yield Own(synapse, files)
    asyncio.run(synapse.stop())


NewHome = Callable[..., System]


@pytest.fixture
def new_home(tmp_path: Path, own: Own) -> Iterator[NewHome]:
    """Make a home for a daemon with one of the registrations, or with the file that is given."""
    systems: list[System] = []

    def new(registration: str | Path = "first", **environment: str) -> System:
        path = own.files[registration] if isinstance(registration, str) else registration
        usual = {
            "AIAGENTCHAT_REGISTRATION": str(path),
            "AIAGENTCHAT_HOMESERVER_URL": own.synapse.config.base_url,
            "SERVER_NAME": SERVER,
        }
        systems.append(System(tmp_path / f"home{len(systems)}", **usual | environment))
        return systems[-1]

    yield new
    assert [system.daemon_pid for system in systems] == [None] * len(systems)


def examine(home: System, *, code: int) -> dict[str, dict[str, str]]:
    """Return the checks by name; every one is told, once."""
    return by_name(home.cchat("doctor", "--json", code=code))


def by_name(done: Done) -> dict[str, dict[str, str]]:
    checks = done.data
    assert [check["name"] for check in checks] == list(CHECKS)
    return {check["name"]: check for check in checks}


def states(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the states that are not "ok"."""
    return {name: check["state"] for name, check in checks.items() if check["state"] != "ok"}


def told(check: dict[str, str]) -> str:
    """Return all that a check says; one that failed says what to do."""
    assert check["remedy"]
    return f"{check['detail']}\n{check['remedy']}"


# --- all is well


@pytest.mark.parametrize(
    ("name", "space"), [("first", "#aiagentchat:example.org"), ("lab", "#aiagentchat.lab-space:example.org")]
)
def test_all_is_well_with_the_file_that_the_command_wrote(own: Own, new_home: NewHome, name: str, space: str) -> None:
    checks = examine(new_home(name, SPACE_ALIAS=space), code=0)
    assert states(checks) == {}
    assert "in the daemon's place" in checks["ping"]["detail"]
    assert own.registration(name).url in checks["ping"]["detail"]


def test_the_text_has_a_line_for_each_check(new_home: NewHome) -> None:
    home = new_home()
    done = home.cchat("doctor")
    assert [line.split()[0] for line in done.lines] == ["ok"] * len(CHECKS)
    assert done.err == ""
    assert "speaks for nobody" in home.cchat("--as", "coder", "doctor", code=2).err


@ON_ONE_PROCESS
def test_nothing_is_left_behind_but_one_account(own: Own, new_home: NewHome) -> None:
    def made() -> list[Any]:
        uri = f"file:{own.synapse.paths.homeserver / 'homeserver.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            columns = ("name FROM users", "room_alias FROM room_aliases", "room_id FROM rooms", "user_id FROM devices")
            return [database.execute(f"SELECT {column} ORDER BY 1").fetchall() for column in columns]

    examine(new_home(), code=0)
    users, *others = made()
    examine(new_home(), code=0)
    assert made() == [users, *others]
    assert ("@aiagentchat-_doctor:example.org",) in users
    assert "doctor" not in str(others)


@ON_ONE_PROCESS
def test_a_daemon_that_runs_is_what_the_homeserver_reaches_and_is_not_disturbed(own: Own, new_home: NewHome) -> None:
    home, other, names = new_home(), new_home("lab"), sorted([fresh_name(), fresh_name()])
    with home.running("daemon", "--agent", names[0], "--agent", names[1]) as daemon:
        daemon.line("the daemon is up", of="err")
        wait_until(lambda: {name for name, entry in home.who().items() if entry["status"] == "online"} == set(names))
        checks = examine(home, code=0)
        assert "reached the daemon" in checks["ping"]["detail"]
        assert "in the registration" in checks["space alias"]["detail"]
        assert "exists" in examine(other, code=0)["space alias"]["detail"]
        assert [(name, entry["status"]) for name, entry in sorted(home.who().items())] == [
            (name, "online") for name in names
        ]
        assert home.status()["health"] == "ok"

        home.cchat("--as", names[0], "send", "--to", names[1], "hi")
        assert home.cchat("--as", names[1], "read").out.endswith(f" {names[0]}: hi\n")
        assert "--as NAME" in home.cchat("send", "--to", names[0], "hi", code=5).err  # it has no operator
        assert "pid" in home.cchat("daemon", code=5).err
        assert "one registration is for one daemon" in new_home().cchat("daemon", code=5).err
        began = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - began < STOP_S
    assert home.cchat("who", code=3).out == ""
    assert set(names) & set(System(own.synapse.paths.data_dir).roster()) == set()


# --- what is pushed


@contextlib.asynccontextmanager
async def receiving(registration: Registration) -> AsyncIterator["asyncio.Queue[EventId]"]:
    """Listen in a daemon's place, and give the ids of events as they come."""
    receiver = AppserviceReceiver(registration)
    events: asyncio.Queue[EventId] = asyncio.Queue()

    async def take() -> None:
        async with contextlib.aclosing(receiver.batches()) as batches:
            async for batch in batches:
                for event in batch.events:
                    events.put_nowait(event.event_id)

    await receiver.start()
    taking = asyncio.create_task(take())
    try:
        yield events
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await receiver.stop()


async def until(wanted: EventId, events: "asyncio.Queue[EventId]") -> list[EventId]:
    """Return what came, up to an event."""
    came: list[EventId] = []
    async with asyncio.timeout(WAIT_S):
        while wanted not in came:
            came.append(await events.get())
    return came


async def say(own: Own, name: str, http: aiohttp.ClientSession, agent: str) -> tuple[MatrixClient, EventId]:
    """Have an agent of a registration write into a room of its own, under its alias."""
    registration = own.registration(name)
    localpart = f"{registration.sender_localpart}-{agent}"
    client = MatrixClient(own.synapse.config.base_url, registration.as_token, http)
    await client.register_appservice_user(localpart)
    acting = client.as_user(UserId(f"@{localpart}:{SERVER}"))
    room: RoomId = await acting.create_room({"room_alias_name": localpart})
    return client, await acting.send(room, "m.room.message", {"msgtype": "m.text", "body": "hi"}, f"{agent} 1")


async def test_what_came_while_no_daemon_ran_is_not_lost_to_the_doctor(
    own: Own, new_home: NewHome, http: aiohttp.ClientSession
) -> None:
    client, event = await say(own, "lab", http, "waiting")
    home = new_home("lab")
    await asyncio.to_thread(home.cchat, "doctor", code=None)
    async with receiving(own.registration("lab")) as events:
        await client.ping_appservice(own.registration("lab").id)
        await until(event, events)


async def test_neither_of_two_daemons_on_a_homeserver_is_pushed_the_others_messages(
    own: Own, http: aiohttp.ClientSession
) -> None:
    async with receiving(own.registration("first")) as firsts, receiving(own.registration("lab")) as labs:
        of_first, of_lab = [await say(own, name, http, "private") for name in ("first", "lab")]
        for name, (client, _) in (("first", of_first), ("lab", of_lab)):
            await client.ping_appservice(own.registration(name).id)
        after_first = (await say(own, "first", http, "later"))[1]
        after_lab = (await say(own, "lab", http, "later"))[1]
        assert of_lab[1] not in await until(after_first, firsts)
        assert of_first[1] not in await until(after_lab, labs)


# --- what is wrong, one at a time


def test_a_homeserver_that_is_down_is_said_and_ends_with_6(new_home: NewHome) -> None:
    home = new_home(AIAGENTCHAT_HOMESERVER_URL=f"http://127.0.0.1:{any_free_port()}")
    done = home.cchat("doctor", "--json", code=6)
    checks = by_name(done)
    assert "does not answer" in told(checks["homeserver"])
    expected = dict.fromkeys(CHECKS[2:], "skipped") | {"homeserver": "failed"}
    assert states(checks) == expected
    assert json.loads(done.err)["error"]["code"] == "homeserver_unavailable"


@pytest.mark.parametrize("url", ["", "example.org", "http://[::1"])
def test_what_is_no_address_of_a_homeserver_is_said(new_home: NewHome, url: str) -> None:
    checks = examine(new_home(AIAGENTCHAT_HOMESERVER_URL=url), code=6 if url else 1)
    assert "AIAGENTCHAT_HOMESERVER_URL" in told(checks["homeserver"])


def test_another_web_server_is_no_homeserver(own: Own, new_home: NewHome) -> None:
    home = new_home(AIAGENTCHAT_HOMESERVER_URL=f"{own.synapse.config.base_url}/elsewhere")
    assert "not as a Matrix homeserver" in told(examine(home, code=6)["homeserver"])


def test_a_registration_that_is_not_there_says_how_to_get_one(new_home: NewHome, tmp_path: Path) -> None:
    checks = examine(new_home(tmp_path / "none.yaml"), code=1)
    assert "cchat registration" in told(checks["registration"])
    assert checks["homeserver"]["state"] == "ok"
    assert states(checks) == dict.fromkeys(CHECKS[2:], "skipped") | {"registration": "failed"}


def test_a_registration_that_everybody_can_read_is_warned_of_and_no_failure(
    own: Own, new_home: NewHome, tmp_path: Path
) -> None:
    path = change(own.files["first"], tmp_path / "open.yaml")
    path.chmod(0o644)
    checks = examine(new_home(path), code=0)
    assert states(checks) == {"registration": "warning"}
    assert "chmod" in told(checks["registration"])


def test_an_as_token_that_the_homeserver_has_not_read_is_said(own: Own, new_home: NewHome, tmp_path: Path) -> None:
    checks = examine(new_home(change(own.files["first"], tmp_path / "new.yaml", as_token="unknown-as")), code=1)
    assert states(checks) == dict.fromkeys(CHECKS[3:], "skipped") | {"as_token": "failed"}
    assert "restart Synapse" in told(checks["as_token"])


def test_another_hs_token_than_the_homeservers_is_said(own: Own, new_home: NewHome, tmp_path: Path) -> None:
    checks = examine(new_home(change(own.files["first"], tmp_path / "new.yaml", hs_token="other-hs")), code=1)
    assert states(checks) == {"ping": "failed"}
    assert "another hs_token" in told(checks["ping"])


def test_a_homeserver_that_has_another_url_does_not_reach_the_daemon(
    own: Own, new_home: NewHome, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{any_free_port()}"
    checks = examine(new_home(change(own.files["first"], tmp_path / "new.yaml", url=url)), code=1)
    assert states(checks) == {"ping": "failed"}
    assert "does not reach" in told(checks["ping"])
    assert url in told(checks["ping"])


def test_a_port_that_another_program_has_is_said(own: Own, new_home: NewHome) -> None:
    with socket.create_server(("127.0.0.1", own.registration("first").port)):
        checks = examine(new_home(), code=1)  # the homeserver gets no answer from it either
    assert states(checks) == {"ping": "failed"}
    assert str(own.registration("first").port) in told(checks["ping"])


def test_another_id_than_the_homeservers_is_said(own: Own, new_home: NewHome, tmp_path: Path) -> None:
    checks = examine(new_home(change(own.files["first"], tmp_path / "new.yaml", id="another")), code=1)
    assert states(checks) == {"ping": "failed"}
    assert "under another id than another" in told(checks["ping"])


def test_another_server_name_than_the_homeservers_is_said(new_home: NewHome) -> None:
    checks = examine(new_home(SERVER_NAME="example.com", SPACE_ALIAS="#aiagentchat:example.org"), code=1)
    assert states(checks) == {"server name": "failed"}
    assert "set SERVER_NAME=example.org" in told(checks["server name"])


def test_a_space_that_is_not_there_and_cannot_be_made_is_said(new_home: NewHome) -> None:
    checks = examine(new_home(SPACE_ALIAS="#team:example.org"), code=1)
    assert states(checks) == {"space alias": "failed"}
    assert "SPACE_ALIAS" in told(checks["space alias"])


@pytest.mark.skipif(
    Version(version("matrix-synapse")) < Version("1.163"), reason="1.97.0 limits no presence: there is nothing to find"
)
def test_limits_that_only_the_homeservers_copy_has_are_found(new_home: NewHome) -> None:
    checks = examine(new_home("limited", SPACE_ALIAS="#aiagentchat.limited-space:example.org"), code=1)
    assert states(checks) == {"rate limits": "failed"}
    assert "limits the rate of agents" in told(checks["rate limits"])


def test_names_that_only_the_homeservers_copy_does_not_claim_are_found(new_home: NewHome) -> None:
    checks = examine(new_home("nameless", SPACE_ALIAS="#aiagentchat.nameless-space:example.org"), code=1)
    assert states(checks) == {"namespace": "failed", "presence": "skipped", "rate limits": "skipped"}
    assert "refuses the user @aiagentchat.nameless-_doctor:example.org" in told(checks["namespace"])


async def test_a_homeserver_that_is_set_up_otherwise_is_found(tmp_path: Path) -> None:
    wide = {"users": [{"exclusive": True, "regex": "@aiagentchat.*"}], "aliases": [{"exclusive": True, "regex": "#.*"}]}
    path = change(write_registration(tmp_path, "first"), tmp_path / "wide.yaml", namespaces=wide)
    settings: dict[str, Any] = {
        "presence": {"enabled": False},
        "default_room_version": "9",
        "app_service_config_files": [str(path)],
    }
    synapse = await start_synapse(tmp_path / "synapse", server_name=SERVER, **settings)
    try:
        environment = {"AIAGENTCHAT_HOMESERVER_URL": synapse.config.base_url, "SERVER_NAME": SERVER}
        home = System(tmp_path / "home", AIAGENTCHAT_REGISTRATION=str(path), **environment)
        checks = await asyncio.to_thread(examine, home, code=1)
    finally:
        await synapse.stop()
    assert states(checks) == {"room version": "failed", "presence": "failed", "namespace": "warning"}
    assert "default_room_version" in told(checks["room version"])
    assert "presence: {enabled: true}" in told(checks["presence"])
    assert "cchat registration" in told(checks["namespace"])
