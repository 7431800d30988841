"""What integration tests start and talk to: a real Synapse, a daemon in this process, and its gateway as a client."""

import asyncio
import atexit
import contextlib
import json
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
import yaml

from aiagentchat.config import Paths, Settings, load_settings, read_private
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.daemon.lock import DaemonLock
from aiagentchat.daemon.main import run_daemon
from aiagentchat.daemon.target import Homeserver
from aiagentchat.errors import InvalidNameError
from aiagentchat.homeserver import process as homeserver_process
from aiagentchat.homeserver.embedded import EmbeddedConfig, embedded_file, load_or_create
from aiagentchat.homeserver.operator import OperatorAccount, ensure_operator
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.homeserver.process import Homeserver as SynapseProcess
from aiagentchat.homeserver.render import DATABASE_FILE, HOMESERVER_FILE, REGISTRATION_FILE, render_files
from aiagentchat.matrix.accounts import Account
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, UserId, parse_agent_name
from aiagentchat.registration import Registration, read_registration
from aiagentchat.space.identities import AppserviceIdentities
from aiagentchat.space.names import DEVICE_ID, Naming
from tests.integration import workers
from tests.integration.leaks import SEEN

OPERATOR = "alice"
APPSERVICE_ALONE = pytest.mark.parametrize("mode", ["appservice"], indirect=True, scope="session")
ACCOUNTS_ALONE = pytest.mark.parametrize("mode", ["accounts"], indirect=True, scope="session")
ON_ONE_PROCESS = pytest.mark.skipif(workers.are_wanted(), reason="looks at what a homeserver of one process has")
IN_ONE_MODE = APPSERVICE_ALONE
"""For a test whose claim has nothing to do with how the daemon is on the homeserver."""
WAIT_S = 60.0
"""Most time for what is to happen. What the homeserver does not push is found after half a minute."""
_METRICS_S = 5.0
UNLIKE_USE = {"AIAGENTCHAT_AGENT_RATE": "0", "AIAGENTCHAT_LOOP_RATE": "0", "AIAGENTCHAT_SIDEBAR": "off"}
"""Tests write more than agents do, and what few of them look at costs the homeserver a third more for each agent."""

CHEAP_PASSWORDS: Mapping[str, object] = {"bcrypt_rounds": 4}
"""To make a password or to see whether it is one takes a homeserver a quarter of a second otherwise."""


def fresh_name(stem: str = "agent") -> AgentName:
    """Return a name that no other test uses."""
    return AgentName(f"{stem}-{secrets.token_hex(4)}")


@dataclass
class Synapse:
    """A running homeserver with an operator, and how to reach it. `overrides`: its own settings, on top of ours."""

    paths: Paths
    config: EmbeddedConfig
    process: SynapseProcess
    operator: OperatorAccount
    mode: str = "appservice"
    accounts: dict[str, Account] = field(default_factory=dict)
    overrides: Mapping[str, object] = field(default_factory=dict)
    given_registration: Registration | None = None

    @property
    def registration(self) -> Registration:
        return self.given_registration or read_registration(self.paths.homeserver / REGISTRATION_FILE)

    @property
    def homeserver(self) -> Homeserver:
        registration = self.registration if self.mode == "appservice" else None
        return Homeserver(self.config.base_url, self.config.server_name, registration)

    def settings(self, home: Path, **environment: str) -> Settings:
        """Return settings for a daemon with its own `home` on this homeserver."""
        env = {
            "AIAGENTCHAT_HOME": str(home),
            "AIAGENTCHAT_HOMESERVER_URL": self.config.base_url,
            "AIAGENTCHAT_OPERATOR": OPERATOR,
            "SERVER_NAME": self.config.server_name,
        }
        settings = load_settings(env | UNLIKE_USE | environment)
        device = read_private(self.paths.operator_device)
        if home != self.paths.data_dir and device is not None:
            settings.paths.credentials.mkdir(mode=0o700, parents=True, exist_ok=True)
            settings.paths.operator_device.touch(mode=0o600)
            settings.paths.operator_device.write_text(device)
        return settings

    async def provide_account(self, paths: Paths, agent: str) -> None:
        """Have an agent's account be there and logged in at a home, where agents have accounts."""
        if self.mode == "accounts" and agent not in self.accounts:
            await self._make_account(agent)
        self.lend_account(paths, agent)

    async def make_user(self, session: aiohttp.ClientSession, agent: str) -> None:
        """Have an agent's user exist before any daemon has seen it."""
        if self.mode == "accounts":
            await self._make_account(agent)
        else:
            naming = Naming(self.config.server_name)
            await AppserviceIdentities(self.appservice(session), naming).ensure_account(AgentName(agent))

    async def _make_account(self, agent: str) -> None:
        home = self.paths.data_dir / "accounts" / agent
        paths = Paths(config_dir=home, data_dir=home)
        made = await ensure_operator(self.config.base_url, paths, self.config, f"{agent}.bot")
        self.accounts[agent] = Account(
            made.user_id, made.device_id, made.access_token, homeserver_url=self.config.base_url
        )

    def lend_account(self, paths: Paths, agent: str) -> None:
        """Have an agent's account, which is there, be logged in at a home."""
        if self.mode == "accounts":
            AccountStore(paths).save(AgentName(agent), self.accounts[agent])

    def appservice(self, session: aiohttp.ClientSession, *, timeout_s: float = 30.0) -> MatrixClient:
        return MatrixClient(self.config.base_url, self.registration.as_token, session, timeout_s=timeout_s)

    def operator_client(self, session: aiohttp.ClientSession) -> MatrixClient:
        return MatrixClient(self.config.base_url, self.operator.access_token, session)

    def agent_client(self, session: aiohttp.ClientSession, agent: str) -> MatrixClient:
        """Return a client that acts as an agent's user."""
        if self.mode == "accounts":
            return MatrixClient(self.config.base_url, self.accounts[agent].access_token, session)
        user = UserId(f"@{self.registration.sender_localpart}-{agent}:{self.config.server_name}")
        return self.appservice(session).as_user(user, DEVICE_ID)

    def keeper_client(self, session: aiohttp.ClientSession) -> MatrixClient:
        """Return a client that acts as who makes the Space."""
        return self.operator_client(session) if self.mode == "accounts" else self.appservice(session)

    async def start(self) -> None:
        """Start it again, on the same data and ports."""
        await start_with(self.process, self.overrides)

    async def stop(self) -> None:
        await self.process.stop()


class MainProcess(SynapseProcess):
    """The main process of several, that takes the others with it when it is stopped."""

    @property
    def cluster(self) -> workers.Cluster:
        return workers.cluster_of(self.log_file.parent, self.config.port)

    async def stop(self, *, timeout_s: float = 10.0) -> bool:
        stopped = await super().stop(timeout_s=timeout_s)
        self.cluster.stop_workers()
        return stopped


_fresh: dict[tuple[str, str], Path] = {}
"""Copies of homeservers that were just made, by server name and mode: to make one takes as long as to start it."""


async def start_synapse(
    home: Path, *, server_name: str = "example.org", mode: str = "appservice", **settings: object
) -> Synapse:
    """Return a homeserver that answers, with its operator's account; `settings` on top of ours.

    In the mode `accounts` it knows no application service. Where one lies at `home`, it is that one.
    """
    settings = {**CHEAP_PASSWORDS} | ({"app_service_config_files": []} if mode == "accounts" else {}) | settings
    paths = Paths(config_dir=home, data_dir=home)
    fresh, is_new = _fresh.get((server_name, mode)), not embedded_file(paths).exists()
    if fresh is not None and is_new:
        _give_copy(fresh, paths)
    config = load_or_create(paths, server_name=server_name, port=0).config
    process = (MainProcess if workers.are_wanted() else SynapseProcess)(paths, config)
    await start_with(process, settings)
    try:
        operator = await ensure_operator(config.base_url, paths, config, OPERATOR)
    except BaseException:
        await process.stop()
        raise
    if fresh is None and is_new and not workers.are_wanted():
        _fresh[server_name, mode] = _keep_copy(paths)
    return Synapse(paths, config, process, operator, mode, overrides=settings)


def _keep_copy(paths: Paths) -> Path:
    """Return where a copy is of a homeserver that runs."""
    directory = Path(tempfile.mkdtemp(prefix="fresh-homeserver-"))
    atexit.register(shutil.rmtree, directory)
    copy = Paths(config_dir=directory, data_dir=directory)
    names = shutil.ignore_patterns(f"{DATABASE_FILE}*", "*.lo*")
    shutil.copytree(paths.homeserver, copy.homeserver, ignore=names)
    with (
        contextlib.closing(sqlite3.connect(paths.homeserver / DATABASE_FILE)) as source,
        contextlib.closing(sqlite3.connect(copy.homeserver / DATABASE_FILE)) as target,
    ):
        source.backup(target)
    for kept, file in (
        (copy.operator_device, paths.operator_device),
        (copy.operator_password, paths.operator_password),
    ):
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(file, kept)
    return directory


def _give_copy(fresh: Path, paths: Paths) -> None:
    """Make a homeserver of a copy, with ports of its own."""
    shutil.copytree(fresh, paths.data_dir, dirs_exist_ok=True)
    file, ports = embedded_file(paths), {"port": any_free_port(), "appservice_port": any_free_port()}
    file.write_text(json.dumps(json.loads(file.read_text()) | ports))


async def start_with(process: SynapseProcess, overrides: Mapping[str, object]) -> None:
    """Start a homeserver with settings of its own on top of ours."""
    if not isinstance(process, MainProcess):
        await _start_main(process, overrides)
        return
    process.cluster.start()
    with mock.patch.object(homeserver_process, "is_port_free", return_value=True):  # it is nginx that has it
        await _start_main(process, {**process.cluster.overrides(), **overrides})
    await process.cluster.start_workers()


async def _start_main(process: SynapseProcess, overrides: Mapping[str, object]) -> None:
    def render(*arguments: Any) -> dict[str, str]:
        files = render_files(*arguments)
        return files | {HOMESERVER_FILE: yaml.safe_dump(yaml.safe_load(files[HOMESERVER_FILE]) | overrides)}

    with mock.patch.object(homeserver_process, "render_files", render):
        await process.start()


@dataclass(frozen=True)
class Answer:
    """What the gateway answered."""

    status: int
    data: Any

    @property
    def code(self) -> str:
        """The stable code of a problem."""
        return str(self.data["code"])


@dataclass
class Api:
    """A client of a gateway; by default with the operator's credential."""

    socket: Path
    token: str
    agent: str = ""
    reader: str = field(default_factory=lambda: secrets.token_hex(4))
    provide_account: Callable[[str], Awaitable[None]] | None = None

    def as_agent(self, agent: str) -> "Api":
        """Return a client that acts as an agent by the operator's leave."""
        return Api(self.socket, self.token, agent)

    async def _provided(self, method: str, path: str, body: object) -> object:
        """Where agents have accounts, have that of the agent to attach be there, as `cchat login` does."""
        if self.provide_account is None or (method, path) != ("POST", "/agents") or not isinstance(body, dict | None):
            return body
        body = body or {}
        if "name" not in body:
            body = {"name": f"session-{secrets.token_hex(3)}", "kind": "ephemeral"} | body
        with contextlib.suppress(InvalidNameError):
            await self.provide_account(parse_agent_name(str(body["name"])))
        return body

    def headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.token}", "AIAgentChat-Reader": self.reader}
        return headers | ({"AIAgentChat-As": self.agent} if self.agent else {})

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        body = await self._provided(method, path, body)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
            session.request(
                method,
                f"http://localhost{path}",
                json=body,
                params=query,
                headers={**self.headers(), **(headers or {})},
                timeout=aiohttp.ClientTimeout(total=90),
            ) as response,
        ):
            text = await response.text()
            if response.status >= 400 or path == "/metrics":
                SEEN.note(text)
            return Answer(response.status, json.loads(text) if "json" in response.content_type else text)

    async def get(self, path: str, **query: str) -> Any:
        """Return the answer to a GET that must succeed."""
        answer = await self.call("GET", path, query=query)
        assert answer.status == 200, answer
        return answer.data

    async def post(self, path: str, **body: object) -> Any:
        """Return the answer to a POST that must succeed."""
        answer = await self.call("POST", path, body)
        assert answer.status == 200, answer
        return answer.data

    async def attach(self, name: str, **body: object) -> "Api":
        """Attach an agent; return a client that holds only its credential."""
        attached = await self.post("/agents", name=name, **body)
        return Api(self.socket, attached["token"])

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, path: str, body: object = None
    ) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
        """Give the server-sent events of a stream, as (event, data)."""
        body = await self._provided(method, path, body)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
            session.request(method, f"http://localhost{path}", json=body, headers=self.headers()) as response,
        ):
            assert response.status == 200, await response.text()
            yield _events(response)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    event = ""
    while line := await response.content.readline():
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


@dataclass
class RunningDaemon:
    """A daemon that runs as a task of the test."""

    synapse: Synapse
    settings: Settings
    api: Api
    ready: asyncio.Event
    task: asyncio.Task[None]
    stopping: asyncio.Event

    async def wait_ready(self) -> None:
        """Return when its Space is there."""
        async with asyncio.timeout(WAIT_S):
            waiting = asyncio.create_task(self.ready.wait())
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if self.task.done():
            await self.task

    async def stop(self) -> None:
        """Stop as SIGTERM does."""
        self.stopping.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait([self.task])

    async def kill(self) -> None:
        """End without any goodbye, as near to `kill -9` as a task can come."""
        self.task.cancel()
        await asyncio.wait([self.task])


@contextlib.asynccontextmanager
async def running_daemon(
    synapse: Synapse, settings: Settings, *, agents: tuple[AgentName, ...] = (), ready: bool = True
) -> AsyncIterator[RunningDaemon]:
    """Run a daemon; `ready` False: without waiting for its Space."""
    is_ready, stop = asyncio.Event(), asyncio.Event()

    async def note_ready() -> None:
        is_ready.set()

    with DaemonLock(settings.paths.daemon_lock):
        task = asyncio.create_task(
            run_daemon(settings, synapse.homeserver, stop=stop, agents=agents, on_ready=note_ready)
        )
        try:
            async with asyncio.timeout(WAIT_S):
                while not settings.paths.operator_credential.exists() or not settings.paths.socket.exists():
                    if task.done():
                        await task
                    await asyncio.sleep(0.01)
            api = Api(
                settings.paths.socket,
                read_private(settings.paths.operator_credential) or "",
                provide_account=lambda agent: synapse.provide_account(settings.paths, agent),
            )
            running = RunningDaemon(synapse, settings, api, is_ready, task, stop)
            if ready:
                await running.wait_ready()
            yield running
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # the test has stopped it, or its homeserver
                async with asyncio.timeout(_METRICS_S):
                    await api.call("GET", "/metrics")
        finally:
            stop.set()
            async with asyncio.timeout(WAIT_S):
                await asyncio.wait([task])
        if not task.cancelled():
            task.result()
