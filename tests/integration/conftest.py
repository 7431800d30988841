"""A real Synapse for each file and mode, and daemons on it. Every test uses names of its own (`fresh_name`).

Only one daemon at a time can run on a Synapse as its application service: it receives where the one registration says.
While none does, an older Synapse waits longer and longer before it pushes again: one for all files would keep a daemon
waiting for minutes after those that need none. A test that stops, breaks or restarts a homeserver has one of its own:
`own_synapse`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.config import Settings
from aiagentchat.matrix.client import MatrixClient
from tests.integration import workers
from tests.integration.fake_homeserver import FakeHomeserver, fake_homeserver
from tests.integration.leaks import SEEN, homes_below, leaks_of
from tests.integration.processes import Agent, System
from tests.integration.systems import RunningDaemon, Synapse, running_daemon, start_synapse

StartSynapse = Callable[[], Awaitable[Synapse]]
StartDaemon = Callable[..., Awaitable[RunningDaemon]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On several processes, leave out what runs no homeserver, or one that `cchat up` has made."""
    if not workers.are_wanted():
        return

    def is_wanted(item: pytest.Item) -> bool:
        fixtures = getattr(item, "fixturenames", ())
        return ("synapse" in fixtures or hasattr(getattr(item, "module", None), "Synapse")) and "system" not in fixtures

    wanted = [item for item in items if is_wanted(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture(scope="session", params=["appservice", "accounts"])
def mode(request: pytest.FixtureRequest) -> str:
    """How the daemon is on the homeserver. A file of tests that are of one mode alone says so, with the reason."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def nothing_of_the_whole_run_shows_a_secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """See, when all have run, that no secret of a home was in a log, an error, a metric or a process's arguments."""
    with SEEN.watching():
        yield
    homes = homes_below(tmp_path_factory.getbasetemp())
    assert [leak for home in homes for leak in leaks_of(home)] + SEEN.leaks(homes) == []


@pytest.fixture(scope="module")
def synapse(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """The homeserver that the tests of a file share, in a mode."""
    system = asyncio.run(start_synapse(tmp_path_factory.mktemp("synapse"), mode=mode))
    yield system
    asyncio.run(system.stop())


@pytest.fixture
async def own_synapse(mode: str, tmp_path: Path) -> AsyncIterator[Synapse]:
    """A homeserver for this test alone."""
    system = await start_synapse(tmp_path, mode=mode)
    yield system
    await system.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


@pytest.fixture
async def fake() -> AsyncIterator[FakeHomeserver]:
    """A homeserver that fails as the test tells it."""
    async with fake_homeserver() as homeserver:
        yield homeserver


@pytest.fixture
def appservice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The application service's own user on the shared homeserver."""
    return synapse.appservice(http)


@pytest.fixture
async def daemon(synapse: Synapse, tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    """A daemon on the shared homeserver, with a home of its own, its Space ready."""
    async with running_daemon(synapse, synapse.settings(tmp_path)) as running:
        yield running


@pytest.fixture
async def start_daemon() -> AsyncIterator[StartDaemon]:
    """Start daemons where and how the test says; whatever still runs is stopped."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(synapse: Synapse, settings: Settings, *, ready: bool = True) -> RunningDaemon:
            return await stack.enter_async_context(running_daemon(synapse, settings, ready=ready))

        yield start


@pytest.fixture(scope="module")
def system(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system of commands for all tests of a file, of which one mode is enough."""
    system = System(tmp_path_factory.mktemp("system"))
    system.up()
    yield system
    system.down()


@pytest.fixture(scope="module")
def writer(system: System) -> Agent:
    """Somebody who writes to others in the tests of a file."""
    return system.join("writer")
