"""The embedded Synapse as a process: started, found again, supervised, stopped.

The process outlives whoever started it: after a `kill -9` of the daemon the next run adopts it. It is found through
`homeserver.lock`, never through a remembered pid, and so a process that we started and one that we adopted are
handled alike. Called by `homeserver.ensure_running` and by the command that stops everything.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import aiohttp

from aiagentchat.config import Paths, ensure_private_dir, write_private
from aiagentchat.errors import HomeserverStartError
from aiagentchat.homeserver.embedded import EmbeddedConfig
from aiagentchat.homeserver.failures import explain_failure, read_tail
from aiagentchat.homeserver.launch import STARTUP_LOG_FILE, spawn_synapse
from aiagentchat.homeserver.lock import acquire, holder_pid, homeserver_lock, is_held
from aiagentchat.homeserver.ports import is_port_free
from aiagentchat.homeserver.readiness import POLL_S, answers, answers_within
from aiagentchat.homeserver.render import LOG_FILE, render_files

_SUPERVISE_POLL_S = 0.25
_PORT_RELEASE_S = 2.0
_HUNG_STOP_S = 3.0


def _nobody(_message: str) -> None:
    pass


class Homeserver:
    """Controls the one homeserver of a home, whoever started it.

    Args:
        space_alias: the Space's, for the registration. public_url: as in `render_files`. progress: told each step, in
            a sentence for who waits.
    """

    def __init__(
        self,
        paths: Paths,
        config: EmbeddedConfig,
        *,
        space_alias: str = "",
        public_url: str = "",
        progress: Callable[[str], None] = _nobody,
    ) -> None:
        self._paths = paths
        self.config = config
        self._space_alias = space_alias
        self._public_url = public_url
        self._progress = progress
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process that `start` began or adopted."""
        return self._pid

    @property
    def adopted(self) -> bool:
        """Whether `start` found it running."""
        return self._pid is not None and self._child is None

    @property
    def log_file(self) -> Path:
        """Synapse's own log."""
        return self._paths.homeserver / LOG_FILE

    async def start(self, *, timeout_s: float = 60.0, adopt_timeout_s: float = 15.0) -> None:
        """Return when the homeserver answers with the configuration wanted; adopt, replace or start it as needed.

        Args:
            timeout_s: for a process that is started. adopt_timeout_s: how long one that is found running may take to
                answer before it is taken for hung, and replaced.

        Cancelled or failed, it leaves no process of its own behind.

        Raises:
            HomeserverStartError: it ended, or does not answer; the message ends with the tail of its log.
        """
        ensure_private_dir(self._paths.homeserver)
        deadline = monotonic() + timeout_s + adopt_timeout_s
        while (descriptor := acquire(homeserver_lock(self._paths))) is None:
            if await self._adopt(adopt_timeout_s):
                return
            if monotonic() > deadline:
                raise HomeserverStartError("a homeserver of this home runs, and could be neither used nor stopped")
        try:
            await self._spawn(descriptor)
        finally:
            os.close(descriptor)
        try:
            await self._wait_ready(timeout_s)
        except BaseException:
            if self._is_running():  # else the lock may be another's by now
                await self.stop()
            raise

    async def stop(self, *, timeout_s: float = 10.0) -> bool:
        """Stop this home's homeserver and return whether one ran; as `stop_running`."""
        stopped = await stop_running(self._paths, timeout_s=timeout_s)
        self._reap()
        self._child = self._pid = None
        return stopped

    async def wait_exit(self) -> int | None:
        """Return when the process that `start` began or adopted has ended: its exit code, None for an adopted one."""
        while self._is_running():  # noqa: ASYNC110 - it may be another's child: nothing portable would tell us
            await asyncio.sleep(_SUPERVISE_POLL_S)
        return None if self._child is None else self._child.returncode

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._pid is not None and find_running(self._paths) == self._pid

    async def _adopt(self, timeout_s: float) -> bool:
        """Take over the process that holds the lock, or stop it; False: try to start again."""
        lock = homeserver_lock(self._paths)
        pid = holder_pid(lock)
        if pid is None:  # ended, or has not come as far as writing its pid
            await asyncio.sleep(POLL_S)
            return False
        if not self._is_as_wanted():
            self._progress(f"replacing the running homeserver (pid {pid}): its configuration is another")
            await self.stop()
            return False
        if not await answers_within(self.config.base_url, timeout_s):
            self._progress(f"replacing the running homeserver (pid {pid}): it does not answer")
            await self.stop(timeout_s=_HUNG_STOP_S)
            return False
        if holder_pid(lock) != pid:
            return False
        if self._child is not None and self._child.pid != pid:
            self._reap()
            self._child = None
        self._pid = pid
        self._progress(f"the homeserver runs already (pid {pid}) at {self.config.base_url}")
        return True

    def _is_as_wanted(self) -> bool:
        """Whether the running process was started with what we would write: its files are only written before one."""
        directory = self._paths.homeserver
        for name, text in self._render_files().items():
            try:
                if (directory / name).read_text() != text:
                    return False
            except (OSError, UnicodeDecodeError):
                return False
        return True

    def _render_files(self) -> dict[str, str]:
        return render_files(self.config, self._paths.homeserver, self._space_alias, self._public_url)

    async def _spawn(self, lock_descriptor: int) -> None:
        directory = self._paths.homeserver
        deadline = monotonic() + _PORT_RELEASE_S
        while not is_port_free(self.config.port):
            if monotonic() > deadline:
                raise HomeserverStartError(
                    f"port {self.config.port} is taken by another program", hint="use '--port 0' for any free one"
                )
            await asyncio.sleep(POLL_S)
        for name, text in self._render_files().items():
            write_private(directory / name, text)
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._progress("starting the homeserver (Synapse)")
        self._child = spawn_synapse(directory, homeserver_lock(self._paths), lock_descriptor)
        self._pid = self._child.pid

    async def _wait_ready(self, timeout_s: float) -> None:
        child = self._child
        assert child is not None
        began = monotonic()
        async with aiohttp.ClientSession() as session:
            while not (await answers(session, self.config.base_url) and child.poll() is None):
                if child.poll() is not None:
                    raise self._start_error(f"the homeserver ended with exit code {child.returncode}")
                if monotonic() - began > timeout_s:
                    raise self._start_error(f"the homeserver did not answer within {timeout_s:g} s")
                await asyncio.sleep(POLL_S)
        self._progress(f"the homeserver is ready at {self.config.base_url} ({monotonic() - began:.1f} s)")

    def _start_error(self, what: str) -> HomeserverStartError:
        hide = self.config.secrets
        return explain_failure(
            what,
            printed=read_tail(self._paths.homeserver / STARTUP_LOG_FILE, hide=hide),
            logged=read_tail(self.log_file, start=self._log_start, hide=hide),
            log_file=self.log_file,
        )

    def _reap(self) -> None:
        """Collect the exit code of a child that ended, so that it is no zombie."""
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(POLL_S)


def find_running(paths: Paths) -> int | None:
    """Return the pid of this home's homeserver, None where none runs. True after any kill of anyone."""
    return holder_pid(homeserver_lock(paths))


async def stop_running(paths: Paths, *, timeout_s: float = 10.0) -> bool:
    """Stop this home's homeserver, whoever started it, and return whether one ran.

    SIGTERM, after `timeout_s` SIGKILL; returns when its lock is free, so that another can be started at once.

    Raises:
        HomeserverStartError: even a killed process is still there.
    """
    lock = homeserver_lock(paths)
    signalled: tuple[int, int] | None = None
    ran = False
    began = monotonic()
    while is_held(lock):
        waited = monotonic() - began
        if waited > timeout_s + 10:
            raise HomeserverStartError(f"the homeserver (lock {lock}) could not be stopped")
        number = signal.SIGTERM if waited < timeout_s else signal.SIGKILL
        pid = holder_pid(lock)
        if pid is not None and signalled != (pid, number):
            ran = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            signalled = (pid, number)
        await asyncio.sleep(POLL_S / 2)
    return ran
