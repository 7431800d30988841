"""`cchat up --element` as a process: what is served, whom the link signs in and how often, and what is refused."""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from aiagentchat.config import write_private
from aiagentchat.errors import AiAgentChatError
from aiagentchat.homeserver import element_archive
from aiagentchat.homeserver.element_archive import fetch
from aiagentchat.homeserver.embedded import load_remembered
from tests.archives import FILES, make_archive, sum_of
from tests.integration.processes import PROCESS_S, Json, System, wait_until
from tests.integration.systems import OPERATOR

ARCHIVE = make_archive()
PUBLIC_URL = "https://chat.example.org"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How a command names an archive, and vouches for it."""
    file = tmp_path_factory.mktemp("archive") / "element.tar.gz"
    file.write_bytes(ARCHIVE)
    return ["--element-archive", str(file), "--element-sha256", sum_of(ARCHIVE)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, archive: list[str]) -> Iterator[tuple[System, str]]:
    """A system in the background, and the link that it printed."""
    system = System(tmp_path_factory.mktemp("element"))
    told = system.up("--element", *archive).out
    yield system, link_in(told)
    system.down()


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, archive: list[str]) -> Iterator[tuple[System, str]]:
    """A system in the background of which clients elsewhere are told a URL, and what was printed."""
    system = System(tmp_path_factory.mktemp("public"))
    yield system, system.up("--no-echo", "--public-url", f"{PUBLIC_URL}/", "--element", *archive).out
    system.down()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A home where nothing runs yet."""
    system = System(tmp_path / "home")
    yield system
    system.down()


@pytest.fixture(scope="module")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A home where nothing is ever started."""
    system = System(tmp_path_factory.mktemp("unused"))
    yield system
    assert not system.paths.homeserver.exists()
    assert (system.daemon_pid, system.homeserver_pid) == (None, None)


def link_in(told: str) -> str:
    (link,) = re.findall(r"http://127\.0\.0\.1:\d+/start#token=\S+", told)
    return str(link)


def token_of(link: str) -> str:
    return parse_qs(urlsplit(link).fragment)["token"][0]


def ask(url: str, content: Json = None, *, code: int = 200, token: str = "") -> tuple[bytes, Message]:
    """Return body and headers of an answer that has this status."""
    data = None if content is None else json.dumps(content).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=PROCESS_S) as answer:
            body, found, told = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            body, found, told = error.read(), error.code, error.headers
    assert found == code, body
    return body, told


def log_in(system: System, token: str, *, code: int = 200) -> Json:
    url = f"{system.status()['homeserver_url']}/_matrix/client/v3/login"
    return json.loads(ask(url, {"type": "m.login.token", "token": token}, code=code)[0])


# --- what is served


def test_the_files_of_the_archive_are_served_with_a_configuration_of_its_own(running: tuple[System, str]) -> None:
    system, link = running
    base = link.partition("start#")[0]
    kinds = {".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm"}
    for name, data in FILES.items():
        if name != "config.json":
            answer, headers = ask(base + name)
            assert answer == data
            assert headers.get_content_type() == kinds.get(Path(name).suffix, headers.get_content_type())
    assert ask(base)[0] == FILES["index.html"]
    for name in ("config.json", "config.127.0.0.1.json"):
        server = json.loads(ask(base + name)[0])["default_server_config"]["m.homeserver"]
        assert server == {"base_url": system.status()["homeserver_url"], "server_name": "localhost"}


@pytest.mark.parametrize("path", ["", "start", "start.js", "config.json", "bundles/1f/bundle.js", "none"])
def test_every_answer_has_the_strict_headers(running: tuple[System, str], path: str) -> None:
    system, link = running
    _, headers = ask(link.partition("start#")[0] + path, code=404 if path == "none" else 200)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; " in policy
    assert f"connect-src 'self' blob: data: {system.status()['homeserver_url']};" in policy
    assert "frame-ancestors 'self'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["../port", "..%2fport", "%2e%2e/port", "bundles/../../port", "/etc/passwd", "..\\port", "../../operator-password"],
)
def test_nothing_beside_the_files_is_served(running: tuple[System, str], path: str) -> None:
    address = urlsplit(running[1])
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 40[034] ", answer)


@pytest.mark.skipif(not os.path.exists("/proc"), reason="only Linux has all of 127.0.0.0/8")
def test_nothing_of_the_system_listens_beyond_the_loopback_address(running: tuple[System, str]) -> None:
    system, link = running
    config = load_remembered(system.paths)
    assert config is not None
    for port in (config.port, config.appservice_port, urlsplit(link).port):
        socket.create_connection(("127.0.0.1", int(port or 0))).close()
        with pytest.raises(ConnectionRefusedError):  # what listens on all addresses would answer here
            socket.create_connection(("127.0.0.2", int(port or 0)))


# --- whom the link signs in


def test_the_link_signs_the_operator_in_once(running: tuple[System, str]) -> None:
    system, link = running
    page = ask(link.partition("#")[0])[0].decode()
    script = ask(link.partition("start#")[0] + "start.js")[0].decode()
    assert '<script src="start.js">' in page
    homeserver, user, room = re.findall(r'"((?:[@#]|http)[^"]*)"', script.splitlines()[0].replace('"#/room/"', ""))
    status = system.status()
    assert (homeserver, user, room) == (status["homeserver_url"], status["operator"], status["space_alias"])
    token = token_of(link)
    assert log_in(system, token)["user_id"] == f"@{OPERATOR}:localhost"
    assert log_in(system, token, code=403)["errcode"] == "M_FORBIDDEN"


def test_an_access_token_alone_makes_no_login_token(running: tuple[System, str]) -> None:
    system, _ = running
    device = json.loads(system.paths.operator_device.read_text())
    url = f"{system.status()['homeserver_url']}/_matrix/client/v1/login/get_token"
    asked = json.loads(ask(url, {}, code=401, token=device["access_token"])[0])
    assert asked["flows"] == [{"stages": ["m.login.password"]}]


def test_the_token_is_in_no_file_and_in_no_list_of_processes(running: tuple[System, str]) -> None:
    system, link = running
    token = token_of(link).encode()
    base = link.partition("start#")[0]
    ask(f"{base}?loginToken={token.decode()}")
    ask(base)  # by then all is written that was to be written of the one before
    database = system.paths.homeserver / "homeserver.db"
    texts = [path for path in system.home.rglob("*") if path.is_file() and not path.name.startswith(database.name)]
    assert system.paths.daemon_log in texts
    assert [path for path in texts if token in path.read_bytes()] == []
    for pid in (system.daemon_pid, system.homeserver_pid):
        if Path("/proc").exists():
            assert token not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_browser_is_given_a_page_that_leads_there_and_the_address_stays(
    system: System, archive: list[str], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{seen}.new\nmv {seen}.new {seen}\n')
    browser.chmod(0o700)
    env = {"BROWSER": str(browser)}
    with system.running("up", "--port", "0", "--no-echo", "--element", *archive, env=env) as up:
        assert "opens in your browser, signed in. If it does not: once" in up.line("Element is at ")
        shown = up.line("#token=").strip()
        wait_until(seen.exists)
        (argument,) = seen.read_text().splitlines()
        page = Path(urlsplit(argument).path)
        assert argument == page.as_uri()
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        link = re.findall(r'url=([^"]+)"', page.read_text())[0]
        assert link == shown
        up.line("Ctrl-C stops it.")
        assert system.status()["element_url"] in link
        assert f"Element      {system.status()['element_url']}\n" in system.cchat("status").out
        assert log_in(system, token_of(link))["user_id"] == f"@{OPERATOR}:localhost"
        assert up.end(signal.SIGINT) == 0
    assert not page.exists()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(link)

    given = json.loads(system.cchat("--json", "up", "--detach", "--no-echo", "--element", *archive[2:]).out)
    assert urlsplit(given["element"]).netloc == urlsplit(link).netloc
    assert log_in(system, token_of(given["element"]))["user_id"] == f"@{OPERATOR}:localhost"
    assert log_in(system, token_of(link), code=403)


# --- what is refused


def test_an_archive_with_another_sum_starts_nothing_and_both_sums_are_said(unused: System, archive: list[str]) -> None:
    refused = unused.cchat("up", "--detach", "--port", "0", "--element", *archive[:3], "0" * 64, code=2)
    assert "0" * 64 in refused.err
    assert sum_of(ARCHIVE) in refused.err
    assert (unused.daemon_pid, unused.homeserver_pid) == (None, None)
    assert not unused.paths.homeserver.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-browser"], "--no-browser is for Element"),
        (["--element-sha256", "0" * 64], "--element-sha256 is for Element"),
        (["--element", "--element-archive", "none.tar.gz"], "cannot be read: No such file"),
        (["--element", "--element-archive", os.curdir], "cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_meant_is_refused(unused: System, arguments: list[str], said: str) -> None:
    assert said in unused.cchat("up", "--port", "0", *arguments, code=2).err


def test_where_accounts_are_on_another_homeserver_there_is_nothing_to_serve(tmp_path: Path, archive: list[str]) -> None:
    system = System(tmp_path / "home")
    account = {"user_id": "@bot:example.org", "device_id": "D", "access_token": "t"}
    account |= {"homeserver_url": "https://matrix.example.org"}
    write_private(system.paths.accounts / "claude-dev.json", json.dumps(account))
    refused = system.cchat("up", "--element", *archive, code=2)
    assert "here it is https://matrix.example.org" in refused.err


# --- what clients elsewhere are told, and one that is not signed in


def test_a_public_url_is_what_every_client_is_told_and_programs_here_do_without(
    public: tuple[System, str],
) -> None:
    (system, printed), url = public, PUBLIC_URL
    assert f"homeserver  {url}\n" in printed
    assert system.status()["homeserver_url"] == url
    base = link_in(printed).partition("start#")[0]
    assert json.loads(ask(base + "config.json")[0])["default_server_config"]["m.homeserver"]["base_url"] == url
    assert f" {url};" in ask(base)[1]["Content-Security-Policy"]
    config = load_remembered(system.paths)
    assert config is not None
    told = json.loads(ask(f"{config.base_url}/.well-known/matrix/client")[0])
    assert told["m.homeserver"] == {"base_url": f"{url}/"}
    assert system.cchat("who", "--json").data[0]["unavailable"] == ""


def test_a_password_that_was_changed_costs_the_link_and_not_the_rest(
    public: tuple[System, str], archive: list[str]
) -> None:
    system, _ = public
    password = system.paths.operator_password.read_text()
    system.kill(system.daemon_pid)
    write_private(system.paths.operator_password, "of another time\n")
    done = system.up("--no-echo", "--public-url", f"{PUBLIC_URL}/", "--element", *archive)
    write_private(system.paths.operator_password, password)
    assert "Element does not sign you in: the operator's password file" in done.err
    (url,) = re.findall(r"Element is at (\S+), where you sign in", done.out)
    assert ask(url)[0] == FILES["index.html"]


# --- fetching a release


async def served(body: bytes, *, status: int = 200, length: int | None = None) -> tuple[web.AppRunner, str]:
    """Serve one body at any address; `length`: what its header claims instead."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        response.content_length = len(body) if length is None else length
        await response.prepare(request)
        await response.write(body)
        assert request.transport is not None
        request.transport.close()
        return response

    application = web.Application()
    application.router.add_get("/{name}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/element.tar.gz"


async def test_a_release_is_fetched_and_its_progress_said(tmp_path: Path) -> None:
    body = os.urandom(20 * 1024 * 1024)
    runner, url = await served(body)
    said: list[str] = []
    with (tmp_path / "release").open("w+b") as file:
        await fetch(url, file, said.append)
    await runner.cleanup()
    assert await asyncio.to_thread((tmp_path / "release").read_bytes) == body
    assert said == [
        f"fetching Element Web of 20 MiB: {url}",
        *(f"fetching Element Web: {n} of 20 MiB" for n in (8, 16)),
    ]


@pytest.mark.parametrize(
    ("body", "status", "length", "reason"),
    [(b"", 404, None, "404"), (b"half", 200, 8, "ContentLength"), (b"x" * 5000, 200, None, "more than")],
)
async def test_what_does_not_come_whole_or_is_too_large_is_said_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int, length: int | None, reason: str
) -> None:
    monkeypatch.setattr(element_archive, "_MAX_ARCHIVE", 4000)
    runner, url = await served(body, status=status, length=length)
    with (tmp_path / "release").open("w+b") as file, pytest.raises(AiAgentChatError, match=reason) as failed:
        await fetch(url, file, lambda text: None)
    await runner.cleanup()
    assert url in failed.value.message
    assert "--element-archive" in failed.value.hint
