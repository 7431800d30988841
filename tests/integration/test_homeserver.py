"""The embedded homeserver against the real Synapse: its life, its walls, its data, and the operator's account."""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiagentchat.config import Paths, Settings, write_private
from aiagentchat.errors import (
    AlreadyRunningError,
    HomeserverStartError,
    HomeserverUnavailableError,
    InvalidRequestError,
    UnauthenticatedError,
)
from aiagentchat.homeserver import ensure_running, process
from aiagentchat.homeserver.embedded import EmbeddedConfig, load_or_create
from aiagentchat.homeserver.lock import acquire, homeserver_lock, is_held
from aiagentchat.homeserver.operator import OperatorAccount, ensure_operator
from aiagentchat.homeserver.ports import any_free_port, is_port_free
from aiagentchat.homeserver.process import Homeserver, find_running, stop_running
from tests.integration.systems import CHEAP_PASSWORDS, start_with

Shared = tuple[Paths, EmbeddedConfig]
Ensure = Callable[[str], Awaitable[OperatorAccount]]

EXIT_S = 20.0

SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from aiagentchat.config import Paths
from aiagentchat.homeserver.embedded import load_or_create
from aiagentchat.homeserver.process import Homeserver

async def main():
    paths = Paths(config_dir=Path(sys.argv[1]), data_dir=Path(sys.argv[1]))
    homeserver = Homeserver(paths, load_or_create(paths, port=0).config)
    await homeserver.start()
    print(homeserver.pid, flush=True)
    await homeserver.wait_exit()

asyncio.run(main())
"""


def paths_in(directory: Path) -> Paths:
    return Paths(config_dir=directory, data_dir=directory)


@pytest.fixture
async def paths(tmp_path: Path) -> AsyncIterator[Paths]:
    """A home of its own; whatever homeserver is left in it is stopped."""
    paths = paths_in(tmp_path)
    yield paths
    await stop_running(paths)


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("used")


@pytest.fixture
async def used(used_home: Path) -> AsyncIterator[Paths]:
    """A home of which another test may have had the homeserver: to make one anew takes half as long again."""
    paths = paths_in(used_home)
    yield paths
    await stop_running(paths)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """One running homeserver for the tests that only look at it or use accounts of their own."""
    paths = paths_in(tmp_path_factory.mktemp("home"))
    config = load_or_create(paths, server_name="example.org", port=0).config
    homeserver = Homeserver(paths, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing there: it is not to be used
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        asyncio.run(start_with(homeserver, CHEAP_PASSWORDS))
    yield paths, config
    asyncio.run(homeserver.stop())


async def call(
    config: EmbeddedConfig, method: str, path: str, *, token: str = "", body: object = None, **query: str
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.request(method, config.base_url + path, json=body, headers=headers, params=query) as response,
    ):
        return response.status, await response.json(content_type=None)


async def versions(config: EmbeddedConfig) -> int:
    return (await call(config, "GET", "/_matrix/client/versions"))[0]


async def exited(homeserver: Homeserver) -> int | None:
    return await asyncio.wait_for(homeserver.wait_exit(), EXIT_S)


def running_pid(homeserver: Homeserver) -> int:
    assert homeserver.pid is not None
    return homeserver.pid


def command_line(pid: int | None) -> str:
    """What every user of the machine can see of a process."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", f"{pid}"], capture_output=True, text=True, check=True
    ).stdout


def addresses() -> set[str]:
    """This machine's own address, if it has one, and a loopback one that a listener on all addresses would have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return {"127.0.0.2", probe.getsockname()[0]}
    return {"127.0.0.2"}


def listen(port: int = 0) -> socket.socket:
    taken = socket.create_server(("127.0.0.1", port))
    taken.listen()
    return taken


# --- life


async def test_it_starts_answers_is_found_and_stops(paths: Paths) -> None:
    said: list[str] = []
    config = load_or_create(paths, port=0).config
    homeserver = Homeserver(paths, config, progress=said.append)
    assert find_running(paths) is None
    await homeserver.start()
    assert await versions(config) == 200
    assert find_running(paths) == homeserver.pid
    assert os.getsid(running_pid(homeserver)) == homeserver.pid  # Ctrl-C at the terminal does not reach it
    assert not homeserver.adopted
    assert any(config.base_url in line for line in said)

    assert await homeserver.stop()
    assert find_running(paths) is None
    assert is_port_free(config.port)
    descriptor = acquire(homeserver_lock(paths))
    assert descriptor is not None
    os.close(descriptor)
    assert not await homeserver.stop()


async def test_two_starts_at_once_make_one_process_which_the_second_adopts_and_may_stop(used: Paths) -> None:
    config = load_or_create(used, port=0).config
    both = Homeserver(used, config), Homeserver(used, load_or_create(used).config)
    await asyncio.gather(*(homeserver.start() for homeserver in both))
    assert both[0].pid == both[1].pid == find_running(used)
    first, second = sorted(both, key=lambda homeserver: homeserver.adopted)
    assert (first.adopted, second.adopted) == (False, True)

    await first.start()
    assert not first.adopted

    waiting = asyncio.create_task(second.wait_exit())
    await second.stop()
    assert await asyncio.wait_for(waiting, EXIT_S) is None
    assert await exited(first) == 0


async def test_a_killed_homeserver_is_known_to_be_dead_and_is_started_again_with_its_accounts(used: Paths) -> None:
    config = load_or_create(used, port=0).config
    homeserver = Homeserver(used, config)
    await homeserver.start()
    before = await ensure_operator(config.base_url, used, config, "alice")
    killed = running_pid(homeserver)
    os.kill(killed, signal.SIGKILL)
    assert await exited(homeserver) == -signal.SIGKILL
    assert find_running(used) is None
    assert homeserver_lock(used).read_text().strip() == str(killed)  # the pid alone would have been believed

    await homeserver.start()
    assert find_running(used) == homeserver.pid != killed
    assert await ensure_operator(config.base_url, used, config, "alice") == before


async def test_it_outlives_a_killed_supervisor_and_the_next_one_adopts_it(used: Paths) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(used.data_dir), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pid = int(await asyncio.wait_for(supervisor.stdout.readline(), 60))
    supervisor.kill()
    await asyncio.wait_for(supervisor.wait(), EXIT_S)

    assert find_running(used) == pid
    homeserver = Homeserver(used, load_or_create(used).config)
    await homeserver.start()
    assert homeserver.adopted
    assert homeserver.pid == pid
    os.kill(pid, signal.SIGKILL)
    assert await exited(homeserver) is None
    assert find_running(used) is None


async def test_a_process_that_has_another_configuration_or_hangs_is_replaced(used: Paths) -> None:
    first = Homeserver(used, load_or_create(used, port=0).config)
    await first.start()
    config = load_or_create(used, port=any_free_port()).config
    assert config.port != first.config.port
    second = Homeserver(used, config)
    await second.start()
    assert not second.adopted
    assert second.pid != first.pid
    assert await exited(first) == 0
    assert await versions(config) == 200

    with listen(second.config.appservice_port):  # which moves, as another program has it now
        third = Homeserver(used, load_or_create(used).config)
        await third.start()
    assert third.config.port == second.config.port
    assert third.config.appservice_port != second.config.appservice_port
    assert not third.adopted

    os.kill(running_pid(third), signal.SIGSTOP)
    fourth = Homeserver(used, load_or_create(used).config)
    await fourth.start(adopt_timeout_s=0.5)
    assert fourth.pid != third.pid
    assert await exited(third) == -signal.SIGKILL
    assert await versions(fourth.config) == 200


async def test_a_cancelled_start_leaves_no_process(paths: Paths) -> None:
    spawned = asyncio.Event()
    config = load_or_create(paths, port=0).config
    starting = asyncio.create_task(Homeserver(paths, config, progress=lambda _: spawned.set()).start())
    await asyncio.wait_for(spawned.wait(), EXIT_S)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_held(homeserver_lock(paths))


async def test_a_supervisor_that_ends_by_itself_leaves_it_running(used: Paths) -> None:
    code = SUPERVISOR.replace("    await homeserver.wait_exit()\n", "")
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(used.data_dir))
    assert await asyncio.wait_for(supervisor.wait(), 60) == 0
    assert find_running(used) is not None
    assert await versions(load_or_create(used).config) == 200


# --- starts that fail


async def test_a_taken_port_is_said_without_a_start(paths: Paths) -> None:
    with listen() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidRequestError, match=f"port {port} is taken"):
            load_or_create(paths, port=port)
    config = load_or_create(paths, port=port).config
    with listen(port), pytest.raises(HomeserverStartError, match=f"port {port} is taken"):
        await Homeserver(paths, config).start()
    assert not is_held(homeserver_lock(paths))


async def test_a_port_that_is_lost_while_synapse_starts_is_shown_from_its_log(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_or_create(paths, port=0).config
    monkeypatch.setattr(process, "is_port_free", lambda _: True)
    with listen(config.port), pytest.raises(HomeserverStartError, match="Address already in use") as caught:
        await Homeserver(paths, config).start()
    assert "--port 0" in caught.value.hint
    assert not is_held(homeserver_lock(paths))


async def test_a_damaged_database_is_shown_from_its_log(paths: Paths) -> None:
    config = load_or_create(paths, port=0).config
    (paths.homeserver / "homeserver.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(HomeserverStartError, match="file is not a database") as caught:
        await Homeserver(paths, config).start()
    assert "backup" in caught.value.hint


async def test_a_start_that_takes_too_long_is_ended(paths: Paths) -> None:
    config = load_or_create(paths, port=0).config
    with pytest.raises(HomeserverStartError, match=r"did not answer within 0\.2 s"):
        await Homeserver(paths, config).start(timeout_s=0.2)
    assert not is_held(homeserver_lock(paths))


# --- data


async def test_data_of_a_newer_synapse_is_refused_with_a_remedy(paths: Paths, shared: Shared) -> None:
    homeserver = Homeserver(paths, load_or_create(paths, port=0).config)
    with (
        contextlib.closing(sqlite3.connect(shared[0].homeserver / "homeserver.db")) as source,
        contextlib.closing(sqlite3.connect(paths.homeserver / "homeserver.db")) as database,
    ):
        source.backup(database)
        with database:
            database.execute("UPDATE schema_version SET version = 9999")
            database.execute("UPDATE schema_compat_version SET compat_version = 9999")
    with pytest.raises(HomeserverStartError, match="too new") as caught:
        await homeserver.start()
    assert "pip install -U" in caught.value.hint


# --- walls


async def test_it_listens_on_loopback_only(shared: Shared) -> None:
    _, config = shared
    assert not is_port_free(config.port)
    for address in addresses():
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((address, config.port)) != 0, address


async def test_nobody_can_register(shared: Shared) -> None:
    _, config = shared
    body = {"username": "mallory", "password": "long enough to pass", "auth": {"type": "m.login.dummy"}}
    status, answer = await call(config, "POST", "/_matrix/client/v3/register", body=body)
    assert (status, answer["errcode"]) == (403, "M_FORBIDDEN")


async def test_federation_is_not_served(shared: Shared) -> None:
    _, config = shared
    for path in ("/_matrix/federation/v1/version", "/_matrix/key/v2/server"):
        assert (await call(config, "GET", path))[0] == 404


async def test_new_rooms_are_not_encrypted_and_have_the_servers_default_version(
    shared: Shared,
) -> None:
    paths, config = shared
    operator = await ensure_operator(config.base_url, paths, config, "alice")
    for preset in ("private_chat", "trusted_private_chat", "public_chat"):
        status, room = await call(
            config, "POST", "/_matrix/client/v3/createRoom", token=operator.access_token, body={"preset": preset}
        )
        assert status == 200
        path = f"/_matrix/client/v3/rooms/{room['room_id']}/state/m.room.encryption/"
        assert (await call(config, "GET", path, token=operator.access_token))[0] == 404


async def test_a_person_is_not_slowed_by_limits_made_for_the_internet(shared: Shared) -> None:
    paths, config = shared
    operator = await ensure_operator(config.base_url, paths, config, "alice")
    _, room = await call(config, "POST", "/_matrix/client/v3/createRoom", token=operator.access_token, body={})
    base = f"/_matrix/client/v3/rooms/{room['room_id']}/send/m.room.message"
    for number in range(30):  # by default the eleventh is refused
        body = {"msgtype": "m.text", "body": str(number)}
        assert (await call(config, "PUT", f"{base}/{number}", token=operator.access_token, body=body))[0] == 200
    password = paths.operator_password.read_text().strip()
    for _ in range(10):  # by default the sixth is refused
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": password,
        }
        assert (await call(config, "POST", "/_matrix/client/v3/login", body=login))[0] == 200


async def test_every_file_is_its_owners_alone(shared: Shared) -> None:
    paths, config = shared
    await ensure_operator(config.base_url, paths, config, "alice")
    found = [paths.homeserver, *paths.homeserver.rglob("*"), paths.operator_password, paths.operator_device]
    names = {path.name for path in found}
    assert {"embedded.json", "homeserver.db", "homeserver.log", "signing.key", "registration.yaml"} <= names
    assert not [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077]


async def test_no_secret_is_in_a_log_or_in_the_process_list(shared: Shared) -> None:
    paths, config = shared
    operator = await ensure_operator(config.base_url, paths, config, "alice")
    secrets = (*config.secrets, operator.access_token, paths.operator_password.read_text().strip())
    listed = command_line(find_running(paths))
    assert "synapse.app.homeserver" in listed
    logs = [path.read_text(errors="replace") for path in paths.homeserver.glob("*.log*")]
    assert any("STARTING SERVER" in log for log in logs)
    for text in (*logs, listed):
        assert not [secret for secret in secrets if secret in text]


# --- the application service


@pytest.fixture
async def receiver(shared: Shared) -> AsyncIterator[list[str]]:
    """Listens where the registration says, and collects who asks."""
    _, config = shared
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path} {request.headers.get('Authorization')}")
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", config.appservice_port).start()
    yield asked
    await runner.cleanup()


async def test_the_application_service_is_reached_past_any_proxy(shared: Shared, receiver: list[str]) -> None:
    _, config = shared
    path = "/_matrix/client/v1/appservice/aiagentchat/ping"
    status, answer = await call(config, "POST", path, token=config.as_token, body={})
    assert (status, answer.get("error")) == (200, None)
    assert f"POST /_matrix/app/v1/ping Bearer {config.hs_token}" in receiver


async def test_an_agent_is_masqueraded_with_a_device_once_both_are_made(shared: Shared, receiver: list[str]) -> None:
    _, config = shared
    user = "@aiagentchat-claude-dev:example.org"
    whoami, token = "/_matrix/client/v3/account/whoami", config.as_token
    register = {"type": "m.login.application_service", "username": "aiagentchat-claude-dev", "inhibit_login": True}
    assert (await call(config, "POST", "/_matrix/client/v3/register", token=token, body=register))[0] == 200
    masquerade = {"user_id": user, "device_id": "D", "org.matrix.msc3202.device_id": "D"}
    status, answer = await call(config, "GET", whoami, token=token, **masquerade)
    assert status == 400
    assert answer["errcode"] in ("M_UNKNOWN_DEVICE", "M_EXCLUSIVE")  # the latter on an older Synapse

    device, named = "/_matrix/client/v3/devices/D", {"display_name": "D"}
    status, _ = await call(config, "PUT", device, token=token, body=named, user_id=user)
    if status == 404:  # an older Synapse makes a device at a login alone
        login = {"type": register["type"], "identifier": {"type": "m.id.user", "user": user}, "device_id": "D"}
        status, _ = await call(config, "POST", "/_matrix/client/v3/login", token=token, body=login)
    assert status in (200, 201)
    assert (await call(config, "PUT", device, token=token, body=named, user_id=user))[0] == 200
    status, answer = await call(config, "GET", whoami, token=token, **masquerade)
    assert (status, answer["user_id"], answer["device_id"]) == (200, user, "D")


async def test_the_application_service_cannot_act_as_a_person(shared: Shared) -> None:
    paths, config = shared
    await ensure_operator(config.base_url, paths, config, "alice")
    whoami = "/_matrix/client/v3/account/whoami"
    assert (await call(config, "GET", whoami, token=config.as_token, user_id="@alice:example.org"))[0] == 403


# --- the operator


@pytest.fixture
def home(shared: Shared, tmp_path: Path) -> Ensure:
    """Operator files of the test's own, on the shared homeserver."""
    _, config = shared
    files = paths_in(tmp_path)

    async def ensure(localpart: str) -> OperatorAccount:
        return await ensure_operator(config.base_url, files, config, localpart)

    return ensure


async def test_the_operators_account_is_made_once(shared: Shared, home: Ensure, tmp_path: Path) -> None:
    _, config = shared
    files = paths_in(tmp_path)
    first = await home("made-once")
    assert await home("made-once") == first
    assert (first.user_id, first.device_id) == ("@made-once:example.org", "AIAGENTCHAT")
    for path in (files.operator_password, files.operator_device):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    status, answer = await call(config, "GET", "/_matrix/client/v3/devices", token=first.access_token)
    assert status == 200
    assert [(device["device_id"], device["display_name"]) for device in answer["devices"]] == [("AIAGENTCHAT", "cchat")]
    assert (await call(config, "GET", "/_synapse/admin/v2/users", token=first.access_token))[0] == 403


async def test_a_token_that_was_logged_out_is_replaced(shared: Shared, home: Ensure) -> None:
    _, config = shared
    first = await home("logged-out")
    assert (await call(config, "POST", "/_matrix/client/v3/logout", token=first.access_token, body={}))[0] == 200
    second = await home("logged-out")
    assert second.user_id == first.user_id
    assert second.access_token != first.access_token
    assert await home("logged-out") == second


async def test_a_crash_between_password_and_account_is_taken_up(home: Ensure, tmp_path: Path) -> None:
    write_private(paths_in(tmp_path).operator_password, "saved before the crash\n")
    assert (await home("crashed")).user_id == "@crashed:example.org"
    assert paths_in(tmp_path).operator_password.read_text() == "saved before the crash\n"


async def test_a_crash_between_account_and_device_is_taken_up(home: Ensure, tmp_path: Path) -> None:
    first = await home("half-made")
    paths_in(tmp_path).operator_device.unlink()
    assert (await home("half-made")).user_id == first.user_id


async def test_a_device_file_that_cannot_be_read_is_made_anew(home: Ensure, tmp_path: Path) -> None:
    first = await home("device-file")
    for text in ("", "{", '{"user_id": "@mallory:example.org"}'):
        write_private(paths_in(tmp_path).operator_device, text)
        assert (await home("device-file")).user_id == first.user_id


async def test_a_missing_password_of_an_existing_account_is_said_and_none_is_invented(
    home: Ensure, tmp_path: Path
) -> None:
    files = paths_in(tmp_path)
    await home("forgot")
    files.operator_password.unlink()
    files.operator_device.unlink()
    with pytest.raises(UnauthenticatedError, match="missing") as caught:
        await home("forgot")
    assert str(files.operator_password) in caught.value.hint
    assert not files.operator_password.exists()


@pytest.mark.parametrize(("password", "said"), [("not the one", "is not the password"), ("", "is empty")])
async def test_a_wrong_password_is_said(home: Ensure, tmp_path: Path, password: str, said: str) -> None:
    files = paths_in(tmp_path)
    localpart = "changed" if password else "emptied"
    await home(localpart)
    files.operator_device.unlink()
    write_private(files.operator_password, password + "\n")
    with pytest.raises(UnauthenticatedError, match=said) as caught:
        await home(localpart)
    assert not password or password not in str(caught.value)


async def test_a_token_that_works_is_used_though_the_password_was_changed(home: Ensure, tmp_path: Path) -> None:
    first = await home("kept-token")
    write_private(paths_in(tmp_path).operator_password, "changed in Element\n")
    assert await home("kept-token") == first


async def test_another_operator_gets_an_account_of_their_own(home: Ensure) -> None:
    await home("first-one")
    assert (await home("second-one")).user_id == "@second-one:example.org"


async def test_an_operator_file_that_others_can_read_is_refused(home: Ensure, tmp_path: Path) -> None:
    write_private(paths_in(tmp_path).operator_password, "seen\n")
    paths_in(tmp_path).operator_password.chmod(0o644)
    with pytest.raises(InvalidRequestError, match="can be read by others"):
        await home("seen")


async def test_a_homeserver_that_does_not_answer_is_unavailable(paths: Paths) -> None:
    config = load_or_create(paths, port=0).config
    with pytest.raises(HomeserverUnavailableError):
        await ensure_operator(config.base_url, paths, config, "alice")


# --- all together


async def test_all_is_running_after_one_call_and_found_by_the_next(paths: Paths) -> None:
    settings = Settings(paths=paths, port=0, operator="alice")
    said: list[str] = []
    first = await ensure_running(settings, said.append)
    assert first.operator.user_id == "@alice:localhost"
    assert said
    second = await ensure_running(settings, said.append)
    assert second.process.adopted
    assert (second.config, second.operator) == (first.config, first.operator)


async def test_the_remembered_server_name_stands_unless_one_is_given_and_the_space_may_have_any_alias_of_it(
    paths: Paths,
) -> None:
    load_or_create(paths, server_name="example.org", port=0)
    given = Settings(paths=paths, server_name="localhost", sources={"server_name": "environment SERVER_NAME"})
    with pytest.raises(InvalidRequestError, match="cannot become"):
        await ensure_running(given, lambda _: None)

    chosen = Settings(paths=paths, operator="alice", space_alias="#team:example.org", sources={"space_alias": "flag"})
    foreign = replace(chosen, space_alias="#team:localhost")
    with pytest.raises(InvalidRequestError, match="of another server"):
        await ensure_running(foreign, lambda _: None)
    running = await ensure_running(chosen, lambda _: None)
    assert running.operator.user_id == "@alice:example.org"
    create, token = {"room_alias_name": "team"}, running.config.as_token
    path = "/_matrix/client/v3/createRoom"
    status, answer = await call(running.config, "POST", path, token=token, body=create)
    assert status == 200, answer


async def test_a_failure_with_the_operator_stops_what_was_started(paths: Paths) -> None:
    write_private(paths.operator_password, "\n")
    with pytest.raises(UnauthenticatedError):
        await ensure_running(Settings(paths=paths, port=0, operator="alice"), lambda _: None)
    assert not is_held(homeserver_lock(paths))


async def test_a_homeserver_in_the_care_of_a_daemon_is_left_alone(paths: Paths) -> None:
    paths.daemon_lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = acquire(paths.daemon_lock)
    assert descriptor is not None
    try:
        paths.daemon_lock.write_text(f"{os.getppid()}\n")
        with pytest.raises(AlreadyRunningError, match=str(os.getppid())):
            await ensure_running(Settings(paths=paths, port=0), lambda _: None)
    finally:
        os.close(descriptor)
    assert not is_held(homeserver_lock(paths))
