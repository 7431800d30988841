"""The proxies of docs/phone.md, as they stand there, before a homeserver that `cchat up --public-url` started.

Where a proxy is not installed its tests are skipped: `apt-get install caddy nginx-light`.
"""

import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.homeserver.embedded import load_remembered
from aiagentchat.homeserver.ports import any_free_port
from tests.integration.federation import Certificate, make_certificate
from tests.integration.processes import System, wait_until
from tests.integration.systems import OPERATOR

DOCS = Path(__file__).resolve().parents[2] / "docs"
ELSEWHERE = "127.0.0.2"
"""Where the phone is: an address that is not the proxy's own."""


def example(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / "phone.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def caddy(directory: Path, port: int, homeserver: int, certificate: Certificate) -> list[str]:
    """Return the command that runs the Caddy of the page, with a certificate and ports of this test."""
    site = f"https://localhost:{port} {{\n    bind 127.0.0.1\n    tls {certificate.certificate} {certificate.key}"
    text = replaced(example("caddy"), ("chat.example.org {", site), (":8008", f":{homeserver}"))
    config = directory / "Caddyfile"
    config.write_text(f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{text}")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


def nginx(directory: Path, port: int, homeserver: int, certificate: Certificate) -> list[str]:
    """Return the command that runs the nginx of the page, likewise."""
    text = replaced(
        example("nginx"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/ssl/chat.example.org.crt", str(certificate.certificate)),
        ("/etc/ssl/chat.example.org.key", str(certificate.key)),
        (":8008", f":{homeserver}"),
        ("chat.example.org", "localhost"),
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.getuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(
        f"{user}daemon off;\npid {directory}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(config)]


@dataclass
class Phone:
    """A client elsewhere: the proxy's address, and a session that trusts its certificate."""

    url: str
    session: aiohttp.ClientSession
    system: System


@dataclass
class Behind:
    """A homeserver that clients reach by a proxy at a port of this machine."""

    system: System
    port: int

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """One homeserver for both proxies, which have the same port in turn."""
    if not os.path.exists("/proc"):
        pytest.skip("only Linux has all of 127.0.0.0/8")
    behind = Behind(System(tmp_path_factory.mktemp("phone")), any_free_port())
    behind.system.up("--no-echo", "--public-url", behind.url)
    yield behind
    behind.system.down()


@pytest.fixture(scope="module", params=[caddy, nginx], ids=lambda proxy: proxy.__name__)
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Behind, Certificate]]:
    """A homeserver behind a proxy that runs."""
    proxy: Callable[[Path, int, int, Certificate], list[str]] = request.param
    if shutil.which(proxy.__name__) is None:
        pytest.skip(f"{proxy.__name__} is not installed here")
    behind: Behind = request.getfixturevalue("behind")
    directory = tmp_path_factory.mktemp("proxy")
    certificate, config = make_certificate(directory), load_remembered(behind.system.paths)
    assert config is not None
    environment = os.environ | {"HOME": str(directory), "XDG_DATA_HOME": str(directory)}
    command = proxy(directory, behind.port, config.port, certificate)
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or is_listening(behind.port))
            assert process.poll() is None, (directory / "log").read_text()
            yield behind, certificate
        finally:
            process.terminate()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def phone(proxied: tuple[Behind, Certificate]) -> AsyncIterator[Phone]:
    behind, certificate = proxied
    trust = ssl.create_default_context(cafile=str(certificate.certificate))
    connector = aiohttp.TCPConnector(ssl=trust, local_addr=(ELSEWHERE, 0), family=socket.AF_INET)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield Phone(behind.url, session, behind.system)


async def test_a_phone_finds_the_homeserver_signs_in_and_sees_the_rooms(phone: Phone) -> None:
    async with phone.session.get(f"{phone.url}/.well-known/matrix/client") as answer:
        told = json.loads(await answer.text())
    base = told["m.homeserver"]["base_url"]
    assert base == f"{phone.url}/"
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": OPERATOR},
        "password": phone.system.paths.operator_password.read_text().strip(),
    }
    spoofed = {"X-Forwarded-For": "203.0.113.6"}
    async with phone.session.post(f"{base}_matrix/client/v3/login", json=login, headers=spoofed) as answer:
        account = await answer.json()
    assert account["well_known"]["m.homeserver"]["base_url"] == base
    spoofed["Authorization"] = f"Bearer {account['access_token']}"
    async with phone.session.get(f"{base}_matrix/client/v3/sync", headers=spoofed) as answer:
        assert phone.system.status()["space_id"] in (await answer.json())["rooms"]["join"]
    async with phone.session.post(
        f"{base}_matrix/media/v3/upload", data=io.BytesIO(os.urandom(5_000_000)), headers=spoofed
    ) as answer:
        assert answer.status == 200
    async with phone.session.get(f"{base}_matrix/client/v3/devices/{account['device_id']}", headers=spoofed) as answer:
        assert (await answer.json())["last_seen_ip"] == ELSEWHERE


@pytest.mark.parametrize("path", ["_synapse/admin/v1/register", "_synapse/admin/v1/server_version", "", "health"])
async def test_a_phone_reaches_nothing_that_is_not_for_clients(phone: Phone, path: str) -> None:
    config = load_remembered(phone.system.paths)
    assert config is not None
    async with phone.session.get(f"{phone.url}/{path}") as answer:
        text = await answer.text()
        assert "nonce" not in text
        assert answer.status == 404 or not text  # Caddy answers what it has no rule for with nothing
