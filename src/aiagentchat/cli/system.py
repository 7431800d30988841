"""`cchat up`, `down`, `status` and `daemon`: the only commands that load the daemon and the homeserver."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from aiagentchat.adapters.echo import NAME as ECHO
from aiagentchat.adapters.echo import Echo
from aiagentchat.cli.browser import open_in_browser
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.cli.report import FdReport, Report, TerminalReport, follow_report
from aiagentchat.client import connect
from aiagentchat.config import Paths, Settings, ensure_private_dir, load_settings
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.daemon.lock import DaemonLock, running_pid
from aiagentchat.daemon.logs import log_to
from aiagentchat.daemon.main import run_daemon
from aiagentchat.daemon.service_manager import ServiceManager
from aiagentchat.daemon.target import Homeserver, find_homeserver, find_homeserver_of_accounts
from aiagentchat.errors import AiAgentChatError, AlreadyRunningError, InvalidRequestError
from aiagentchat.homeserver import RunningHomeserver, ensure_running
from aiagentchat.homeserver.element import ElementServer
from aiagentchat.homeserver.element_archive import ensure_element
from aiagentchat.homeserver.embedded import EmbeddedConfig, load_remembered
from aiagentchat.homeserver.operator import LOGIN_TOKEN_S, issue_login_token
from aiagentchat.homeserver.process import stop_running
from aiagentchat.homeserver.render import OLD_LOGS, REGISTRATION_FILE
from aiagentchat.model import parse_agent_name

log = logging.getLogger(__name__)

_LOG_BYTES = 10 * 1024 * 1024
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 128 * 1024
MOST_OPEN_FILES = 65_536
"""To which a daemon raises its limit, where the system allows as many: macOS does not."""
_STOP_S = 15.0
_POLL_S = 0.05
_RESTART_S = (1.0, 2.0, 5.0, 15.0)


# --- up


def up(call: Invocation) -> None:
    """Start homeserver and daemon, and run until told to stop; detached, have a process of its own do so."""
    settings = call.settings
    wanted = _wanted_element(call)
    if call.args.detach:
        _up_detached(call, wanted)
        return
    _log_to_file(settings)
    fd = call.args.report_fd
    report = TerminalReport(call.out) if fd is None else FdReport(fd)
    _settle_memory()
    _allow_connections()
    try:
        asyncio.run(_Up(settings, report, with_echo=not call.args.no_echo, element=wanted).run())
    except AiAgentChatError as error:
        report.failed(error)
        raise


def _settle_memory() -> None:
    """Have memory that is free again be used again, or given back, in a process that runs for weeks.

    A full garbage collection is only due when what is new since the last makes a quarter of all that there is: with the
    modules counted, megabytes of cycles would pile up. And glibc takes large blocks, such as answers of the homeserver,
    from a heap that their gaps have grow, as soon as one of that size was given back (mallopt(3), M_MMAP_THRESHOLD).
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _allow_connections() -> None:
    """Raise the limit of open files as far as may be: each agent that waits is a connection, and 1,024 is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # where the system allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_OPEN_FILES)), hard))


@dataclass(frozen=True, slots=True)
class _WantedElement:
    """How Element Web is asked for."""

    archive: Path | None
    sha256: str
    with_browser: bool


def _wanted_element(call: Invocation) -> _WantedElement | None:
    args = call.args
    if not args.element:
        given = {"--element-archive": args.element_archive, "--element-sha256": args.element_sha256}
        for flag, value in (given | {"--no-browser": args.no_browser}).items():
            if value:
                raise InvalidRequestError(f"{flag} is for Element", hint="give --element as well")
        return None
    archive = Path(args.element_archive).absolute() if args.element_archive else None
    return _WantedElement(archive, args.element_sha256, with_browser=not (args.no_browser or call.out.as_json))


@dataclass(frozen=True, slots=True)
class _Up:
    """One run of `cchat up`. `element` None: without Element Web."""

    settings: Settings
    report: Report
    with_echo: bool
    element: _WantedElement | None

    async def run(self) -> None:
        stop = asyncio.Event()
        with _stopped_by_signals(stop), DaemonLock(self.settings.paths.daemon_lock):
            if load_remembered(self.settings.paths) is None:
                elsewhere = find_homeserver_of_accounts(self.settings)
                if elsewhere is not None:
                    if self.element is not None:
                        raise InvalidRequestError(
                            f"--element is for a homeserver that 'cchat up' starts, and here it is {elsewhere.url}",
                            hint="sign in there with any Element",
                        )
                    await self._run_daemon_elsewhere(elsewhere, stop)
                    return
            again = self.element and replace(self.element, with_browser=False)
            await self.run_once(stop)
            while not stop.is_set():
                await replace(self, element=again).run_once(stop)

    async def run_once(self, stop: asyncio.Event) -> None:
        """Run homeserver and daemon until told to stop, or until `cchat rotate` has given them other secrets."""
        starting = asyncio.create_task(self._start())
        if not await _unless_stopped(starting, stop):
            await stop_running(self.settings.paths)  # also one that it only found, from a run before
            return
        homeserver, files = starting.result()
        ending = asyncio.Event()
        supervising = asyncio.create_task(_supervise(homeserver, self.settings.paths, ending))
        stopping = asyncio.create_task(_pass_on(stop, ending))
        try:
            await self._run_daemon(homeserver, files, ending)
        finally:
            supervising.cancel()
            stopping.cancel()
            await asyncio.gather(supervising, stopping, return_exceptions=True)
            self.report.progress("stopping the homeserver")
            await homeserver.process.stop()

    async def _start(self) -> tuple[RunningHomeserver, Path | None]:
        """Start the homeserver, once the files of Element Web are there that are to be served beside it."""
        settings, wanted, files = self.settings, self.element, None
        if wanted is not None:
            files = await ensure_element(
                settings.paths.element, archive=wanted.archive, sha256=wanted.sha256, progress=self.report.progress
            )
        return await ensure_running(settings, self.report.progress), files

    async def _run_daemon_elsewhere(self, homeserver: Homeserver, stop: asyncio.Event) -> None:
        """Run a daemon for the accounts that were logged in, on whose homeserver there is nothing to start."""

        settings, echo = self.settings, list[Echo]()

        async def on_ready() -> None:
            if self.with_echo and parse_agent_name(ECHO) in AccountStore(settings.paths).agents():
                echo.append(await self._start_echo(settings))
            self.report.ready(
                f"aiagentchat is up, on {homeserver.url}.\n"
                "'cchat join NAME' brings an agent online whose account was logged in; 'cchat status' shows the rest."
            )

        self.report.progress(f"starting the daemon, for accounts on {homeserver.url}")
        try:
            await run_daemon(settings, homeserver, stop=stop, on_ready=on_ready, on_waiting=self._on_waiting)
        finally:
            for each in echo:
                each.stop()

    def _on_waiting(self, reason: str) -> None:
        self.report.progress(f"the Space is not to be had yet: {reason}")

    async def _run_daemon(self, homeserver: RunningHomeserver, files: Path | None, stop: asyncio.Event) -> None:
        config = homeserver.config
        embedded = {
            "server_name": config.server_name,
            "homeserver_url": config.base_url,
            "public_url": homeserver.public_url,
            "registration": str(self.settings.paths.homeserver / REGISTRATION_FILE),
        }
        settings = load_settings(os.environ, embedded)
        where = find_homeserver(settings)
        echo: Echo | None = None
        element: ElementServer | None = None
        if files is not None:
            element = ElementServer(
                settings.paths.element,
                files,
                homeserver_url=homeserver.public_url,
                server_name=config.server_name,
                user_id=homeserver.operator.user_id,
                room=settings.space_alias,
                taken=config.appservice_port,
            )
            await element.start()
            where = replace(where, element_url=element.url)

        async def on_ready() -> None:
            nonlocal echo
            if self.with_echo:
                echo = await self._start_echo(settings)
            shown, link = "", ""
            if element is not None:
                shown, link = await self._offer_element(homeserver, element)
            summary = _summary(settings, where, homeserver.operator.user_id, with_echo=self.with_echo)
            self.report.ready(f"{shown}{summary}", **({"element": link} if link else {}))

        self.report.progress("starting the daemon")
        try:
            await run_daemon(settings, where, stop=stop, on_ready=on_ready, on_waiting=self._on_waiting)
        finally:
            if echo is not None:
                echo.stop()
            if element is not None:
                await element.stop()

    async def _offer_element(self, homeserver: RunningHomeserver, element: ElementServer) -> tuple[str, str]:
        """Open Element, signed in; return what the person is told, and the link."""
        try:
            token = await issue_login_token(homeserver.config.base_url, self.settings.paths, homeserver.operator)
        except AiAgentChatError as error:
            self.report.progress(f"Element does not sign you in: {error.message}")
            return f"\nElement is at {element.url}, where you sign in as below.\n", element.url
        link = element.link(token)
        opens, once = "", "Once"
        if self.element is not None and self.element.with_browser and open_in_browser(element.write_page(link)):
            opens, once = " and opens in your browser, signed in", "If it does not: once"
        shown = f"Element is at {element.url}{opens}. {once}, within {LOGIN_TOKEN_S // 60} minutes, this signs you in:"
        return f"\n{shown}\n\n  {link}\n", link

    async def _start_echo(self, settings: Settings) -> Echo:
        self.report.progress(f"starting the agent {ECHO}")
        # Through this daemon's own socket and as the operator, whatever gateway and agent the caller's shell names.
        own = replace(settings, url="", token="")
        echo = Echo(connect(own, acting_as=ECHO, label="echo"))
        try:
            await asyncio.to_thread(echo.attach)
        except AiAgentChatError as error:
            self.report.progress(f"{ECHO} is not there yet: {error.message}")
        echo.start()
        return echo


async def _unless_stopped(task: asyncio.Task[Any], stop: asyncio.Event) -> bool:
    """Wait for a task; False: it was told to stop before it was done, and is cancelled."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return False


def _has_other_secrets(paths: Paths, config: EmbeddedConfig) -> bool:
    try:
        remembered = load_remembered(paths)
    except InvalidRequestError as error:
        log.error("%s", error.message)
        return False
    return remembered is not None and remembered.secrets != config.secrets


async def _pass_on(stop: asyncio.Event, ending: asyncio.Event) -> None:
    await stop.wait()
    ending.set()


async def _supervise(homeserver: RunningHomeserver, paths: Paths, ending: asyncio.Event) -> None:
    """Start the homeserver again whenever it ends. The daemon waits for it by itself.

    Where it was given other secrets meanwhile, all is to end: the daemon needs them as well.
    """
    failures = 0
    while True:
        code = await homeserver.process.wait_exit()
        if _has_other_secrets(paths, homeserver.config):
            log.info("the homeserver was given other secrets; starting all anew")
            ending.set()
            return
        log.error("the homeserver ended (exit code %s); starting it again", code)
        await asyncio.sleep(_RESTART_S[min(failures, len(_RESTART_S) - 1)])
        try:
            await homeserver.process.start()
        except (AiAgentChatError, OSError) as error:  # whatever it is, a later attempt may succeed
            failures += 1
            log.error("it could not be started: %s", error)
        else:
            failures = 0


def _summary(settings: Settings, homeserver: Homeserver, operator: str, *, with_echo: bool) -> str:
    lines = [
        "",
        "aiagentchat is up. In Element, choose 'Edit' beside the homeserver when signing in, and give it:",
        "",
        f"  homeserver  {homeserver.shown_url}",
        f"  user        {operator}",
        f"  password    in {settings.paths.operator_password}",
        "",
        f"The agents are rooms of the Space AIChatSpace ({settings.space_alias}).",
    ]
    if with_echo:
        lines.append(f'Try it: write to the room {ECHO} there, or here: cchat ask {ECHO} "hello"')
    return "\n".join(lines)


def _up_detached(call: Invocation, wanted: _WantedElement | None) -> None:
    """Start the same command as a process of its own, show its progress, and return when it is up."""
    paths = call.settings.paths
    ensure_private_dir(paths.data_dir)
    reading, writing = os.pipe()
    command = [sys.executable, "-P", "-m", "aiagentchat", "up", "--report-fd", str(writing)]
    for flag, value in (
        ("--port", call.args.port),
        ("--server-name", call.args.server_name),
        ("--public-url", call.args.public_url),
    ):
        command += [flag, value] if value is not None else []
    command += ["--no-echo"] if call.args.no_echo else []
    if wanted is not None:
        command += ["--element", "--no-browser"]
        command += ["--element-archive", str(wanted.archive)] if wanted.archive is not None else []
        command += ["--element-sha256", wanted.sha256] if wanted.sha256 else []
    interrupt_on_signals()
    output = os.open(paths.daemon_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            start_new_session=True,  # it outlives this terminal
        )
    finally:
        os.close(output)
        os.close(writing)
    try:
        follow_report(reading, TerminalReport(call.out, hint="'cchat down' stops it"))
    except BaseException:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_S)
        raise


# --- daemon


def daemon(call: Invocation) -> None:
    """Run a daemon against the configured homeserver until told to stop."""
    settings = call.settings
    agents = tuple(dict.fromkeys(parse_agent_name(name) for name in call.args.agent))
    homeserver = find_homeserver(settings)
    log_to(logging.StreamHandler(), settings)

    async def on_ready() -> None:
        call.out.note(f"the daemon is up: {settings.space_alias} on {homeserver.url}")

    def on_waiting(reason: str) -> None:
        call.out.note(f"the Space is not to be had yet: {reason}")

    async def run() -> None:
        stop = asyncio.Event()
        with _stopped_by_signals(stop), DaemonLock(settings.paths.daemon_lock):
            call.out.note(f"starting a daemon on {homeserver.url}")
            await run_daemon(settings, homeserver, stop=stop, agents=agents, on_ready=on_ready, on_waiting=on_waiting)

    _settle_memory()
    _allow_connections()
    asyncio.run(run())


@contextlib.contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on Ctrl-C, SIGTERM and, unless it runs under `nohup`, the end of its terminal."""

    def end() -> None:
        # Not where a daemon ends: after `cchat rotate` another one begins, in a process that is not to be waited for.
        ServiceManager(os.environ).tell("STOPPING=1")
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, end)
    yield


def _log_to_file(settings: Settings) -> None:
    ensure_private_dir(settings.paths.data_dir)
    settings.paths.daemon_log.touch(mode=0o600)
    log_to(RotatingFileHandler(settings.paths.daemon_log, maxBytes=_LOG_BYTES, backupCount=OLD_LOGS), settings)


# --- down and status


def down(call: Invocation) -> None:
    """Stop this home's daemon and its homeserver, whoever started them."""
    call.refuse_agents("stopping everything")
    paths = call.settings.paths
    pid = running_pid(paths.daemon_lock)
    if pid is not None:
        call.out.note(f"stopping the daemon (pid {pid})")
        _stop_process(call, pid)
    ran = asyncio.run(stop_running(paths))
    stopped = pid is not None or ran
    call.out.result({"stopped": stopped}, "stopped" if stopped else "nothing was running")


def _stop_process(call: Invocation, pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            if running_pid(call.settings.paths.daemon_lock) != pid:
                return
            time.sleep(_POLL_S)
        call.out.note(f"it did not stop within {_STOP_S:g} s")
    raise AlreadyRunningError(f"the daemon (pid {pid}) could not be stopped")


def status(call: Invocation) -> None:
    """Print what runs and what is wrong."""
    if call.acting_as:
        raise InvalidRequestError("status speaks for nobody: leave --as out")
    health = connect(replace(call.settings, agent=""), label="cchat status").health()
    system = health["system"]
    if call.out.as_json:
        call.out.data(system | {"conditions": health["conditions"]})
        return
    password = f" (password in {system['password_file']})" if system["password_file"] else ""
    rows = {
        "homeserver": system["homeserver_url"],
        **({"Element": system["element_url"]} if system["element_url"] else {}),
        "server name": system["server_name"],
        "operator": f"{system['operator']}{password}" if system["operator"] else "none: the daemon makes the rooms",
        "Space": f"{system['space_alias']} ({system['space_id'] or 'not to be had'})",
        "mode": system["mode"],
        "online": ", ".join(system["agents"]) or "nobody",
        "daemon": f"pid {system['daemon_pid']}",
        "health": system["health"],
    }
    for name, text in rows.items():
        call.out.line(f"{name.ljust(12)} {text}")
    for condition in health["conditions"]:
        if not condition["ok"]:
            call.out.line(f"  {condition['name']}: {condition['detail']}")
            call.out.line(f"    {condition['remedy']}")
