"""What is measured: a homeserver with its metrics, a daemon as a process of its own, and bare users beside them."""

import asyncio
import contextlib
import json
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import yaml

from aiagentchat.config import Paths, Settings
from aiagentchat.homeserver.embedded import embedded_file, load_or_create
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.homeserver.render import DATABASE_FILE, REGISTRATION_FILE
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId, UserId
from aiagentchat.registration import Registration, read_registration
from bench.database import has_updates
from bench.machine import parse_requests
from bench.pushes import PushCounter
from tests.chaos.system import Daemon
from tests.integration.systems import Api, Synapse, start_synapse

SERVER_NAME = "example.org"
AT_ONCE = 8
CALM_S = 3.0
"""After something was done, its last consequences are over."""
ROUND_S = 30.0
"""The homeserver sums up this often what waits for it."""
BUILT = Path(__file__).parents[1] / "build" / "bench"
"""What was built once and is used again. A new version of the homeserver is no reason to build it anew."""
FORMAT = 2
"""To be raised when what `prepare` builds is another: what was built before is not used any more."""
_SHOWN_S = 2.0
"""By the agent, most time until it is known how its room is shown in the operator's list."""

T = TypeVar("T")
R = TypeVar("R")

Note = Callable[[str], None]
"""Tells the person how far it is."""


@dataclass
class Bench:
    """A homeserver with a daemon that is up. `bare`: an application service of bare clients, beside the daemon's."""

    synapse: Synapse
    settings: Settings
    daemon: Daemon
    api: Api
    bare: Registration
    metrics_url: str

    @property
    def homeserver_pid(self) -> int:
        pid = self.synapse.process.pid
        assert pid is not None
        return pid

    @property
    def daemon_user(self) -> UserId:
        """The daemon's own user, of an application service."""
        return UserId(f"@{self.synapse.registration.sender_localpart}:{SERVER_NAME}")

    async def space_id(self) -> RoomId:
        """Return the Space."""
        return RoomId((await self.api.get("/health"))["system"]["space_id"])

    async def broadcast_id(self) -> RoomId:
        """Return the broadcast room."""
        return RoomId((await self.api.get("/health"))["system"]["broadcast_id"])

    async def requests(self) -> Counter[str]:
        """Return how many requests the homeserver has received since it started, by servlet."""
        async with aiohttp.ClientSession() as session, session.get(self.metrics_url) as answer:
            return parse_requests(await answer.text())

    async def bare_user(self, session: aiohttp.ClientSession, name: str) -> tuple[UserId, MatrixClient]:
        """Return a user of the bare application service, made now, and what acts as it."""
        client = MatrixClient(self.synapse.config.base_url, self.bare.as_token, session)
        user = UserId(f"@bare-{name}:{SERVER_NAME}")
        await client.register_appservice_user(f"bare-{name}")
        return user, client.as_user(user)

    async def attach(self, names: Iterable[str], note: Note | None = None) -> list[Api]:
        """Attach agents, some at once; return a client of each."""
        wanted = list(names)
        if self.synapse.mode == "accounts":
            for name in wanted:
                await self.synapse.provide_account(self.settings.paths, name)
            # each that comes wakes all that sync already, and the homeserver answers them one after the other
            return await some_at_once(wanted, self.api.attach, note, at_once=2)
        return await some_at_once(wanted, self.api.attach, note)

    async def restart_daemon(self, homeserver_url: str) -> None:
        """Stop the daemon, start it with another way to its homeserver, and wait until it is up."""
        await self.daemon.stop()
        self.daemon.system.environment["AIAGENTCHAT_HOMESERVER_URL"] = homeserver_url
        await self.daemon.start()
        self.api = await self.daemon.wait_up()


async def some_at_once(
    items: list[T], act: Callable[[T], Awaitable[R]], note: Note | None = None, *, at_once: int = AT_ONCE
) -> list[R]:
    """Do something for each, some at a time; return what came of each, in order."""
    results: dict[int, R] = {}
    left = iter(enumerate(items))

    async def work() -> None:
        for index, item in left:
            results[index] = await act(item)
            if note is not None and len(results) % 50 == 0:
                note(f"{len(results)} of {len(items)}")

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return [results[index] for index in range(len(items))]


@contextlib.asynccontextmanager
async def running(
    mode: str = "appservice",
    *,
    prepared: Path | None = None,
    home: Path | None = None,
    pushes: PushCounter | None = None,
    **environment: str,
) -> AsyncIterator[Bench]:
    """Run a homeserver and a daemon, in a directory of their own.

    Args:
        prepared: what `prepare` has given: they begin with a copy of it. home: the directory, kept afterwards.
        pushes: through which the homeserver's pushes to the daemon go; a homeserver that was prepared.
        environment: settings of the daemon.
    """
    async with contextlib.AsyncExitStack() as stack:
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if prepared is not None:
            shutil.copytree(prepared, home, dirs_exist_ok=True)
        paths = Paths(config_dir=home / "homeserver", data_dir=home / "homeserver")
        if prepared is not None:
            _give_ports(embedded_file(paths))
        config = load_or_create(paths, server_name=SERVER_NAME, port=0).config
        metrics_port, bare = any_free_port(), _write_bare(home / "bare.yaml")
        ours = [str(paths.homeserver / REGISTRATION_FILE)] if mode == "appservice" else []
        registrations = ours
        if pushes is not None:
            url = f"http://127.0.0.1:{config.appservice_port}"
            registrations = [await stack.enter_async_context(pushes.beside(Path(ours[0]), url))]
        local = {"bind_addresses": ["127.0.0.1"]}
        overrides = {
            "enable_metrics": True,
            "listeners": [
                local | {"type": "http", "port": config.port, "resources": [{"names": ["client"]}]},
                local | {"type": "metrics", "port": metrics_port},
            ],
            "app_service_config_files": [*registrations, str(home / "bare.yaml")],
        }
        synapse = await start_synapse(paths.data_dir, server_name=SERVER_NAME, mode=mode, **overrides)
        stack.push_async_callback(synapse.stop)
        settings = synapse.settings(home / "daemon")
        given = {
            "AIAGENTCHAT_HOMESERVER_URL": config.base_url,
            "SERVER_NAME": SERVER_NAME,
            "AIAGENTCHAT_AGENT_RATE": "0",
            "AIAGENTCHAT_LOOP_RATE": "0",
        }
        if ours:
            given["AIAGENTCHAT_REGISTRATION"] = ours[0]
        else:
            await synapse.provide_account(settings.paths, names_of(1)[0])  # by which a daemon knows its mode
        daemon = Daemon(settings, given | environment)
        stack.push_async_callback(daemon.stop)
        await daemon.start()
        yield Bench(
            synapse, settings, daemon, await daemon.wait_up(), bare, f"http://127.0.0.1:{metrics_port}/_synapse/metrics"
        )


async def prepare(agents: int, note: Note) -> Path:
    """Return a directory with a homeserver that has this many agents: `agent-0`, `agent-1`, …. Built once.

    The daemon's home, with it, knows of each agent's room how it is shown: a start has none to look at.
    """
    built = BUILT / f"{agents}-agents-{FORMAT}"
    if not built.exists():
        note(f"building a homeserver with {agents} agents, once")
        making = BUILT / "making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        async with running(home=making) as bench:
            await bench.attach(names_of(agents), note)
            await _wait_shown(bench.settings.paths.rooms_shown, agents)
            await _settle(bench.synapse.paths.homeserver / DATABASE_FILE)
        making.rename(built)
    return built


async def _wait_shown(rooms_shown: Path, agents: int) -> None:
    """Return when a daemon's home knows of as many rooms how they are shown: four a second."""
    async with asyncio.timeout(60 + agents * _SHOWN_S):
        while number_shown(rooms_shown) < agents:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(1.0)


def number_shown(rooms_shown: Path) -> int:
    """Return of how many rooms a daemon's home knows how they are shown: its file has a line for each, after one."""
    return max(0, len(rooms_shown.read_text().splitlines()) - 1) if rooms_shown.exists() else 0


async def _settle(database: Path) -> None:
    """Wait until the homeserver is through with what it does by itself with what is new."""
    while await asyncio.to_thread(has_updates, database):  # noqa: ASYNC110 - another process does them
        await asyncio.sleep(CALM_S)
    await asyncio.sleep(2 * ROUND_S)


def names_of(agents: int) -> list[str]:
    """Return the names of the agents of a prepared homeserver."""
    return [f"agent-{number}" for number in range(agents)]


def _give_ports(embedded: Path) -> None:
    ports = {"port": any_free_port(), "appservice_port": any_free_port()}
    embedded.write_text(json.dumps(json.loads(embedded.read_text()) | ports))


def _write_bare(path: Path) -> Registration:
    """Return the registration of an application service whose users are bare clients; where there is one, that."""
    url = f"http://127.0.0.1:{any_free_port()}"
    data = yaml.safe_load(path.read_text()) if path.exists() else _new_bare()
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(data | {"url": url}))
    return read_registration(path)


def _new_bare() -> dict[str, object]:
    users, aliases = ([{"exclusive": True, "regex": f"{sign}bare-.*:{SERVER_NAME}$"}] for sign in "@#")
    claims = {"users": users, "aliases": aliases, "rooms": list[str]()}
    tokens = {"as_token": secrets.token_hex(32), "hs_token": secrets.token_hex(32)}
    kind = {"id": "bare", "sender_localpart": "bare-", "rate_limited": False, "io.element.msc4190": True}
    return {**kind, "namespaces": claims, **tokens}
