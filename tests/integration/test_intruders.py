"""Who is no user of the home, and what is larger than it looks: another user of the machine, bodies that are bombs."""

import asyncio
import json
import os
import resource
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.errors import FileTooLargeError
from aiagentchat.gateway.routes import ROUTES
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Json, attach, say
from tests.integration.fake_homeserver import Answer, FakeHomeserver
from tests.integration.systems import IN_ONE_MODE, WAIT_S, RunningDaemon, Synapse
from tests.integration.test_gateway import what_is_anothers

NOBODY = 65534
PYTHON = Path("/usr/bin/python3")
BOMB_BYTES = 300_000_000
MOST_KIB = 100_000
"""What the process may grow by at its peak, in the unit of `getrusage`."""

# A program of the other user: it tries what it is told, and prints what came of it.
INTRUDER = """
import http.client, json, socket, sys
told = json.load(sys.stdin)
found = {"read": [], "connected": [], "answers": []}
for path in told["files"]:
    try:
        open(path, "rb").read()
        found["read"].append(path)
    except OSError:
        pass
try:
    socket.socket(socket.AF_UNIX).connect(told["socket"])
    found["connected"].append(told["socket"])
except OSError:
    pass
for method, path, body, headers in told["requests"]:
    connection = http.client.HTTPConnection("127.0.0.1", told["port"], timeout=30)
    connection.request(method, path, body, headers)
    found["answers"].append(connection.getresponse().status)
print(json.dumps(found))
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user of the machine can enter."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@IN_ONE_MODE
@pytest.mark.skipif(
    os.geteuid() != 0 or not PYTHON.exists(), reason="only root can be another user, with its own Python"
)
async def test_another_user_with_one_agents_credential_has_that_agent_and_nothing_of_the_home(
    synapse: Synapse, start_daemon: StartDaemon, open_directory: Path, http: aiohttp.ClientSession
) -> None:
    home = open_directory / "home"
    daemon = await start_daemon(synapse, synapse.settings(home, AIAGENTCHAT_LISTEN="127.0.0.1:0"))
    first, second = await attach(daemon, "first"), await attach(daemon, "second")
    alice = synapse.operator_client(http)
    uri = await alice.upload(b"private", name="private.txt", mimetype="text/plain")
    private = await say(alice, second.room_id, "private", msgtype="m.file", url=uri)
    port = int(str((await daemon.api.get("/health"))["system"]["listening"]).partition(":")[2])
    own = {"Authorization": f"Bearer {first.api.token}", "Content-Type": "application/json"}
    as_second = own | {"AIAgentChat-As": second.name}
    requests = [[route.method, route.path.replace("{", "").replace("}", ""), "{}", as_second] for route in ROUTES]
    refused = what_is_anothers(first.name, second.name, private)
    others = [[method, path, None if body is None else json.dumps(body), own] for method, _, path, body, _ in refused]
    told: Json = {
        "files": [str(path) for path in home.rglob("*") if path.is_file()],
        "socket": str(daemon.settings.paths.socket),
        "port": port,
        "requests": [["GET", "/read", None, own], *others, *requests],
    }
    process = await asyncio.create_subprocess_exec(
        *(str(PYTHON), "-I", "-c", INTRUDER),
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_S):
        printed, _ = await process.communicate(json.dumps(told).encode())
    found = json.loads(printed)
    assert len(told["files"]) >= 4
    assert (found["read"], found["connected"]) == ([], [])
    assert found["answers"] == [200, *(status for *_, status in refused), *[403] * len(ROUTES)]


# --- what is larger than it looks


def bomb() -> bytes:
    """Return gzip of a very long JSON text, a thousandth of its size."""
    packer = zlib.compressobj(wbits=31)
    begun = packer.compress(b'{"body": "')
    return begun + b"".join(packer.compress(bytes(1_000_000)) for _ in range(BOMB_BYTES // 1_000_000)) + packer.flush()


@pytest.fixture
def memory() -> Iterator[None]:
    """See that the process has not grown at its peak."""
    unit = 1024 if sys.platform == "darwin" else 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit - before < MOST_KIB


@IN_ONE_MODE
async def test_a_request_that_unpacks_to_more_than_may_come_is_refused_before_it_has(
    daemon: RunningDaemon, memory: None
) -> None:
    headers = daemon.api.headers() | {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.api.socket))) as session,
        session.post("http://localhost/send", data=bomb(), headers=headers) as response,
    ):
        assert (response.status, (await response.json(content_type=None))["code"]) == (413, "body_too_large")


async def test_a_file_that_unpacks_to_more_than_may_come_is_refused_before_it_has(
    fake: FakeHomeserver, http: aiohttp.ClientSession, memory: None
) -> None:
    fake.always = Answer(200, bomb(), {"Content-Encoding": "gzip"})
    with pytest.raises(FileTooLargeError):
        await fake.client(http).download("mxc://example.org/bomb", most_bytes=1_000_000)
