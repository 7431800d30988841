"""The embedded homeserver: Synapse from its Python package, on loopback, under this home's directory.

`ensure_running` is what `cchat up` calls; `process.stop_running` and `process.find_running` are for `cchat down` and
`cchat status`. Beneath it: `embedded` keeps the choices and secrets, `render` turns them into Synapse's files,
`process` and `lock` control the process, `operator` makes the operator's account. The package knows nothing of Spaces
and agents, and nothing above the command that starts a homeserver imports it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from aiagentchat.config import Settings
from aiagentchat.errors import AlreadyRunningError, InvalidRequestError
from aiagentchat.homeserver.embedded import EmbeddedConfig, load_or_create
from aiagentchat.homeserver.lock import holder_pid
from aiagentchat.homeserver.operator import OperatorAccount, ensure_operator
from aiagentchat.homeserver.process import Homeserver


@dataclass(frozen=True, slots=True)
class RunningHomeserver:
    """A homeserver that answers, and the operator's account on it. `process` supervises and stops it.

    `public_url` is what people's clients are told, without a final slash.
    """

    process: Homeserver
    config: EmbeddedConfig
    operator: OperatorAccount
    public_url: str


async def ensure_running(settings: Settings, progress: Callable[[str], None]) -> RunningHomeserver:
    """Return this home's homeserver, running and with its operator: found, replaced or started.

    A server name that is only the default gives way to the one that this home's homeserver has: take it from the
    returned `config`. Cancelled or failed, it leaves no process behind that it started.

    Args:
        progress: told each step, in a sentence for the person who waits.

    Raises:
        AlreadyRunningError: another process runs this home's daemon, and so has the homeserver in its care.
        InvalidRequestError: server name, port or a file cannot be used. HomeserverStartError: Synapse did not start.
        UnauthenticatedError: the operator's saved password is not the account's.
    """
    daemon = holder_pid(settings.paths.daemon_lock)
    if daemon not in (None, os.getpid()):
        raise AlreadyRunningError(
            f"a daemon runs here already (pid {daemon})", hint="'cchat status' shows it, 'cchat down' stops it"
        )
    given = settings.sources.get("server_name", "default") != "default"
    config, notices = load_or_create(
        settings.paths, server_name=settings.server_name if given else None, port=settings.port
    )
    for notice in notices:
        progress(notice)
    process = Homeserver(
        settings.paths,
        config,
        space_alias=_space_alias(settings, config),
        public_url=settings.public_url,
        progress=progress,
    )
    await process.start()
    try:
        operator = await ensure_operator(config.base_url, settings.paths, config, settings.operator)
    except BaseException:
        if not process.adopted:
            await process.stop()
        raise
    return RunningHomeserver(process, config, operator, settings.public_url or config.base_url)


def _space_alias(settings: Settings, config: EmbeddedConfig) -> str:
    """Return the Space's alias where it was chosen, else ""."""
    if settings.sources.get("space_alias", "default") == "default":
        return ""
    server_name = settings.space_alias.split(":", 1)[1]
    if server_name != config.server_name:
        raise InvalidRequestError(
            f"the Space's alias {settings.space_alias} is of another server than this homeserver, {config.server_name}",
            hint=f"SPACE_ALIAS is like #team:{config.server_name}",
        )
    return settings.space_alias
