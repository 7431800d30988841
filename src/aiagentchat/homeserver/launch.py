"""Starts the Synapse process: its command, what it inherits, and where its output goes.

Called by `homeserver.process`.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from aiagentchat.errors import HomeserverStartError
from aiagentchat.homeserver.render import HOMESERVER_FILE

STARTUP_LOG_FILE = "startup.log"
"""What the process printed instead of logging; a file of its own, since the log proper is rotated away under it."""

# The shell writes its pid into the lock file and becomes Synapse, so that whoever finds the lock held finds the pid.
_LAUNCH = 'echo $$ >"$0" && exec "$@"'


class _OutlivingProcess(subprocess.Popen[bytes]):
    """A child that may live on when we forget it, which `Popen` itself would warn of."""

    def __del__(self) -> None:
        if getattr(self, "returncode", 0) is None:
            self.poll()


def spawn_synapse(directory: Path, lock: Path, lock_descriptor: int) -> subprocess.Popen[bytes]:
    """Return a process that becomes Synapse, with the files in `directory`, and that holds the lock from now on.

    Not asyncio's subprocess: its transport kills the child when it is collected or its loop ends, and this one is to
    live on. Takes milliseconds. The caller closes its own `lock_descriptor`.

    Raises:
        HomeserverStartError: the system does not let us start a process.
    """
    command = [sys.executable, "-P", "-m", "synapse.app.homeserver", "-c", str(directory / HOMESERVER_FILE)]
    output = os.open(directory / STARTUP_LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        return _OutlivingProcess(
            ["/bin/sh", "-c", _LAUNCH, str(lock), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=synapse_environment(os.environ),
            pass_fds=(lock_descriptor,),
            start_new_session=True,  # Ctrl-C at the terminal is for us, and then we stop it
            umask=0o077,
        )
    except OSError as error:
        raise HomeserverStartError(f"the homeserver could not be run: {error}") from None
    finally:
        os.close(output)


def synapse_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return what Synapse gets of our environment.

    No proxy, which would carry its pushes to our own loopback port; no `NOTIFY_SOCKET`, through which it would report
    to our service manager in our place; no setting of ours, which could be a credential.
    """
    dropped = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "notify_socket"}
    return {
        name: value
        for name, value in env.items()
        if name.lower() not in dropped and not name.startswith("AIAGENTCHAT_")
    }
