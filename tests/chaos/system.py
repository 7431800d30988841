"""What the chaos is done to: a real Synapse, a daemon as a process of its own, and a proxy on each way between them."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from aiagentchat.config import Settings, read_private
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.registration import Registration, new_registration, render_registration
from tests.chaos.faults import Kill, Side
from tests.chaos.proxy import Proxy, running_proxy
from tests.integration.processes import System
from tests.integration.systems import Api, Synapse, start_synapse

DEADLINE_S = 6.0
START_S = 60.0
SERVER_NAME = "example.org"


class Daemon:
    """A daemon as a process, which outlives nobody that stops it."""

    def __init__(self, settings: Settings, environment: dict[str, str]) -> None:
        self._settings = settings
        self.system = System(settings.paths.data_dir, **environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        """What it printed, over all its lives."""
        return self._settings.paths.data_dir / "printed.log"

    @property
    def pid(self) -> int:
        """Of its present life."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it; it is not up yet."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.system.command("daemon"),
                env=self.system.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def wait_up(self) -> Api:
        """Return a client of its gateway once the Space is there."""
        async with asyncio.timeout(START_S):
            while True:
                token = read_private(self._settings.paths.operator_credential) or ""
                api = Api(self._settings.paths.socket, token)
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    answer = await api.call("GET", "/health")
                    if answer.status == 200 and answer.data["system"]["broadcast_id"]:
                        return api
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Stop it, if it runs."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            await self.kill()


@dataclass
class Battered:
    """All of it. `proxies`: by the side that passes through it."""

    synapse: Synapse
    settings: Settings
    daemon: Daemon
    proxies: dict[Side, Proxy]

    async def kill(self, kill: Kill, down_s: float) -> None:
        """End something and start it again."""
        if kill is Kill.DAEMON:
            await self.daemon.kill()
            await asyncio.sleep(down_s)
            await self.daemon.start()
            return
        if kill is Kill.HOMESERVER:
            assert self.synapse.process.pid is not None
            os.kill(self.synapse.process.pid, signal.SIGKILL)
        await self.synapse.stop()
        await asyncio.sleep(down_s)
        await self.synapse.start()


@contextlib.asynccontextmanager
async def running_system(home: Path, mode: str, agents: Iterable[str]) -> AsyncIterator[Battered]:
    """Run it, in a mode (`appservice`, `accounts`), where these agents have accounts; the daemon is up."""
    async with contextlib.AsyncExitStack() as stack:
        proxies: dict[Side, Proxy] = {}
        overrides: dict[str, object] = {}
        registration = None
        if mode == "appservice":
            registration = _registration(any_free_port())
            proxies["transactions"] = await stack.enter_async_context(running_proxy(registration.url))
            seen = home / "registration-of-synapse.yaml"
            _write(seen, registration, proxies["transactions"].url)
            overrides["app_service_config_files"] = [str(seen)]
        synapse = await start_synapse(home / "homeserver", server_name=SERVER_NAME, mode=mode, **overrides)
        stack.push_async_callback(synapse.stop)
        synapse.given_registration = registration
        proxies["requests"] = await stack.enter_async_context(running_proxy(synapse.config.base_url))
        settings = synapse.settings(home / "daemon", AIAGENTCHAT_HOMESERVER_URL=proxies["requests"].url)
        environment = {
            "AIAGENTCHAT_HOMESERVER_URL": proxies["requests"].url,
            "AIAGENTCHAT_DEADLINE": f"{DEADLINE_S:g}",
            "SERVER_NAME": SERVER_NAME,
            "AIAGENTCHAT_AGENT_RATE": "0",
            "AIAGENTCHAT_LOOP_RATE": "0",
        }
        if registration is not None:
            _write(settings.paths.registration, registration, registration.url)
            environment["AIAGENTCHAT_REGISTRATION"] = str(settings.paths.registration)
        daemon = Daemon(settings, environment)
        for agent in agents:
            await synapse.provide_account(settings.paths, agent)
        stack.push_async_callback(daemon.stop)
        await daemon.start()
        yield Battered(synapse, settings, daemon, proxies)


def _registration(port: int) -> Registration:
    tokens = {"as_token": secrets.token_hex(32), "hs_token": secrets.token_hex(32)}
    return new_registration(SERVER_NAME, url=f"http://127.0.0.1:{port}", **tokens)


def _write(path: Path, registration: Registration, url: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(render_registration(registration).replace(registration.url, url))
