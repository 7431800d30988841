"""`cchat doctor`: shows, check by check, whether the homeserver and the registration fit together."""

import asyncio
from contextlib import aclosing
from dataclasses import asdict, replace

from aiagentchat.cli.invocation import Invocation
from aiagentchat.config import Settings
from aiagentchat.daemon.doctor import CHECKS, CHECKS_OF_ACCOUNTS, examine
from aiagentchat.daemon.lock import running_pid
from aiagentchat.daemon.verdicts import Check
from aiagentchat.errors import AiAgentChatError, HomeserverUnavailableError, InvalidRequestError
from aiagentchat.homeserver.embedded import load_remembered
from aiagentchat.homeserver.render import REGISTRATION_FILE
from aiagentchat.model import visible

_STATE_WIDTH, _NAME_WIDTH = len("skipped"), max(map(len, CHECKS + CHECKS_OF_ACCOUNTS))


def doctor(call: Invocation) -> None:
    """Print each check as it is made. Raises `AiAgentChatError` when one failed."""
    if call.acting_as:
        raise InvalidRequestError("doctor speaks for nobody: leave --as out")
    settings = _of_embedded(call.settings)
    checks = asyncio.run(_show_all(call, settings))
    failed = [check.name for check in checks if check.state == "failed"]
    if not failed:
        return
    message = f"what has failed: {', '.join(failed)}"
    if "homeserver" in failed and settings.homeserver_url:
        raise HomeserverUnavailableError(message, hint="mend the homeserver first: the rest needs it")
    raise AiAgentChatError(message, hint="mend the first one first, and run 'cchat doctor' again")


def _of_embedded(settings: Settings) -> Settings:
    """Return the settings as `cchat up` completes them, in a home that has a homeserver and names no other."""
    embedded = None if settings.homeserver_url else load_remembered(settings.paths)
    if embedded is None:
        return settings
    return replace(
        settings,
        server_name=embedded.server_name,
        homeserver_url=embedded.base_url,
        registration=str(settings.paths.homeserver / REGISTRATION_FILE),
    )


async def _show_all(call: Invocation, settings: Settings) -> list[Check]:
    shown = []
    async with aclosing(examine(settings, daemon_runs=running_pid(settings.paths.daemon_lock) is not None)) as checks:
        async for check in checks:
            _show(call, check)
            shown.append(check)
    return shown


def _show(call: Invocation, check: Check) -> None:
    if call.out.as_json:
        call.out.data(asdict(check))
    else:
        call.out.line(f"{check.state.ljust(_STATE_WIDTH)}  {check.name.ljust(_NAME_WIDTH)}  {visible(check.detail)}")
        if check.remedy:
            call.out.line(f"{' ' * (_STATE_WIDTH + _NAME_WIDTH + 4)}-> {visible(check.remedy)}")
    call.out.flush()
