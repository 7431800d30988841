"""`cchat rotate`: other secrets in the place of those that somebody may know, and no message is lost by it.

A daemon and a homeserver that run take up what is written here; the commands and adapters of this home do so too.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aiagentchat.cli.arguments import SECRETS
from aiagentchat.cli.invocation import Invocation
from aiagentchat.client import connect
from aiagentchat.config import Settings, read_private, write_private
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.daemon.lock import running_pid
from aiagentchat.errors import AiAgentChatError, InvalidRequestError, RefusedError
from aiagentchat.gateway.credentials import rotate_agents, rotate_operator
from aiagentchat.homeserver.embedded import load_remembered, renew_secrets
from aiagentchat.homeserver.operator import renew_password
from aiagentchat.homeserver.process import find_running, stop_running
from aiagentchat.registration import read_registration, registration_file, render_registration

_UP_S = 90.0
_POLL_S = 0.1


@dataclass(slots=True)
class _Rotation:
    """What was done, and what is left to the person: sentences."""

    call: Invocation
    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.call.settings


def rotate(call: Invocation) -> None:
    """Replace the secrets that are named, else all, and say what is left to do."""
    if call.acting_as:
        raise InvalidRequestError("rotate speaks for nobody: leave --as out")
    if call.settings.token:
        raise RefusedError(
            "an agent's credential is set, and secrets are the operator's", hint="unset AIAGENTCHAT_TOKEN"
        )
    rotation = _Rotation(call)
    here = [name for name in SECRETS if _is_here(call.settings, name)]
    for name in call.args.what:
        if name not in here:
            raise InvalidRequestError(f"this home has no {name} to rotate", hint=f"it has {', '.join(here) or 'none'}")
    for name in here:
        if not call.args.what or name in call.args.what:
            _WORK[name](rotation)
    lines = [*(f"new: {each}" for each in rotation.done), *(f"to do: {each}" for each in rotation.left)]
    call.out.result({"done": rotation.done, "left": rotation.left}, "\n".join(lines) or "there is no secret here yet")


def _is_here(settings: Settings, name: str) -> bool:
    """Whether a home has such secrets of its own."""
    paths = settings.paths
    if name in ("password", "homeserver"):
        return load_remembered(paths) is not None
    if name == "registration":
        return load_remembered(paths) is None and registration_file(settings).exists()
    return AccountStore(paths).has_any() if name == "accounts" else paths.operator_credential.exists()


def _password(rotation: _Rotation) -> None:
    paths = rotation.settings.paths
    url = _homeserver_with_our_secrets(rotation.settings)
    if not url:
        rotation.left.append("the operator's password: 'cchat rotate password', when the homeserver runs ('cchat up')")
        return
    asyncio.run(renew_password(url, paths))
    rotation.done.append(f"the operator's password, in {paths.operator_password}, and the token of the daemon's device")
    rotation.left.append("sign in anew in Element: all your devices were signed out")


def _homeserver_with_our_secrets(settings: Settings) -> str:
    """Return where the homeserver answers that was given this home's secrets; "": it does not run.

    That is the embedded one, or one in another container (`deploy/stack.py`). No other that is configured passes for it
    and is told the password: the home's own registration has the same token.
    """
    config, registration = load_remembered(settings.paths), settings.paths.registration
    if config is None:
        return ""
    if find_running(settings.paths) is not None:
        return config.base_url
    is_ours = registration.exists() and read_registration(registration).as_token == config.as_token
    return settings.homeserver_url if is_ours else ""


def _homeserver(rotation: _Rotation) -> None:
    paths = rotation.settings.paths
    renew_secrets(paths)
    before, daemon = find_running(paths), running_pid(paths.daemon_lock)
    rotation.done.append("the homeserver's own secrets, and the tokens between it and the daemon")
    if before is not None:
        rotation.call.out.note("… starting homeserver and daemon anew")
        asyncio.run(stop_running(paths))  # 'cchat up', whose it is, starts all anew
        if daemon is not None and not _is_up_again(rotation.settings, before):
            rotation.left.append("'cchat up': homeserver and daemon are not up again; daemon.log says why")


def _is_up_again(settings: Settings, before: int) -> bool:
    """Whether there is another homeserver, and then a daemon, in time: the one of before has ended by then."""
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline:
        if find_running(settings.paths) not in (None, before):
            with contextlib.suppress(AiAgentChatError):
                connect(replace(settings, agent=""), label="cchat rotate").health()
                return True
        time.sleep(_POLL_S)
    return False


def _registration(rotation: _Rotation) -> None:
    """Write another registration beside the one in force, which stays so until a person puts the new one in place."""
    path = registration_file(rotation.settings)
    held, fresh = read_registration(path), path.with_name(f"{path.name}.new")
    if read_private(fresh) is None:
        renewed = replace(held, as_token=secrets.token_hex(32), hs_token=secrets.token_hex(32))
        write_private(fresh, render_registration(renewed))
    rotation.left.append(
        f"give the homeserver {fresh} in place of {path}; stop the daemon; restart the homeserver; mv {fresh} {path}; "
        "start the daemon; 'cchat doctor' proves it. Until then the old one works"
    )


def _accounts(rotation: _Rotation) -> None:
    for name, account in AccountStore(rotation.settings.paths).all().items():
        who = "--operator" if name is None else name
        rotation.left.append(f"'cchat login {who}' gives {account.user_id} another token and ends this one")


def _agents(rotation: _Rotation) -> None:
    names = rotate_agents(rotation.settings.paths)
    if names:
        rotation.done.append(f"the gateway credentials of {', '.join(names)}")
        rotation.left.append(
            "give each agent that holds its own the new one: cchat --json join NAME --detach | jq -r .token"
        )


def _operator(rotation: _Rotation) -> None:
    rotate_operator(rotation.settings.paths)
    rotation.done.append(f"the operator's gateway credential, in {rotation.settings.paths.operator_credential}")


_WORK: dict[str, Callable[[_Rotation], None]] = {
    "password": _password,
    "homeserver": _homeserver,
    "registration": _registration,
    "accounts": _accounts,
    "agents": _agents,
    "operator": _operator,
}
