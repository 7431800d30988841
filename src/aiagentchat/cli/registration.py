"""`cchat registration`: writes the file that a homeserver of one's own needs, and says where it goes."""

import os
import secrets
import shlex
from pathlib import Path

from aiagentchat.cli.invocation import Invocation
from aiagentchat.config import Settings, ensure_private_dir
from aiagentchat.errors import AiAgentChatError, InvalidRequestError, RefusedError
from aiagentchat.registration import (
    Registration,
    new_registration,
    parse_daemon_id,
    parse_receiver_url,
    read_registration,
    render_registration,
)

_HEADER = "# An application service's registration, for the homeserver and for the daemon. It holds secrets.\n"
_HOMESERVER_URL = "http://127.0.0.1:8008"


def write(call: Invocation) -> None:
    """Write the registration where there is none, and print what to do with it."""
    if call.acting_as:
        raise InvalidRequestError("registration speaks for nobody: leave --as out")
    settings, args = call.settings, call.args
    if settings.sources["server_name"] == "default":
        raise InvalidRequestError(
            "the name of the homeserver is needed: it stands in all that is claimed there",
            hint="--server-name example.org, or SERVER_NAME: what comes after the colon in its user ids",
        )
    url = "" if args.url is None else parse_receiver_url(args.url)
    asked = new_registration(
        settings.server_name,
        as_token=secrets.token_hex(32),
        hs_token=secrets.token_hex(32),
        daemon_id="" if args.id is None else parse_daemon_id(args.id),
        url=url,
        space_alias=settings.space_alias,
    )
    path = _path(settings, args.output)
    is_new = _create(path, _HEADER + render_registration(asked))
    held = asked if is_new else read_registration(path)
    if not is_new:
        _refuse_another(asked, held, path, settings, url=url)
    _show(call, held, path, is_new=is_new)


def _path(settings: Settings, output: str | None) -> Path:
    if output is None and not settings.registration:
        ensure_private_dir(settings.paths.data_dir)
        return settings.paths.registration
    return Path(output or settings.registration).expanduser().absolute()


def _create(path: Path, text: str) -> bool:
    """Write a file that only its owner can read; False: there is one already, which is left as it is."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise InvalidRequestError(
            f"{path} cannot be written: {error.strerror}", hint="--output names a file in a directory that is there"
        ) from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise AiAgentChatError(f"{path} cannot be written: {error.strerror}", hint="nothing is left of it") from None
    return True


def _refuse_another(asked: Registration, held: Registration, path: Path, settings: Settings, *, url: str) -> None:
    """Refuse to take a file for what was asked when it holds something else. The homeserver may have its tokens."""
    name = f"{asked.sender_localpart}-a:{settings.server_name}"
    another = ""
    if held.id != asked.id:
        another = f"is the registration {held.id}, not {asked.id}"
    elif not held.claims_user(f"@{name}") or not held.claims_alias(f"#{name}"):
        another = f"claims no names of agents on {settings.server_name}"
    elif len(asked.aliases) > 1 and not held.claims_alias(settings.space_alias):
        another = f"does not claim the Space's alias {settings.space_alias}"
    elif url and held.url != url:
        another = f"is for a daemon at {held.url}, not at {url}"
    if another:
        raise RefusedError(
            f"{path} {another}",
            hint="nothing was changed, since the homeserver may use it: write another with --output, or move it away, "
            "write it anew, and give the homeserver the new one",
        )


def _show(call: Invocation, held: Registration, path: Path, *, is_new: bool) -> None:
    settings = call.settings
    environment = {
        "SERVER_NAME": settings.server_name,
        "AIAGENTCHAT_HOMESERVER_URL": settings.homeserver_url or _HOMESERVER_URL,
    }
    if settings.space_alias != f"#aiagentchat:{settings.server_name}":
        environment["SPACE_ALIAS"] = settings.space_alias
    if path != settings.paths.registration:
        environment["AIAGENTCHAT_REGISTRATION"] = str(path)
    said = {
        "path": str(path),
        "is_new": is_new,
        "id": held.id,
        "server_name": settings.server_name,
        "url": held.url,
        "environment": environment,
    }
    lines = _instructions(held, path, environment, settings.events_host, is_new=is_new)
    call.out.result(said, "\n".join(lines))


def _instructions(
    held: Registration, path: Path, environment: dict[str, str], events_host: str, *, is_new: bool
) -> list[str]:
    exports = [f"     export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return [
        f"{'wrote' if is_new else 'nothing was changed: there is'} {path}, the registration {held.id} for "
        f"{environment['SERVER_NAME']}.",
        "It holds secrets: give it to nobody but the homeserver. What there is to do:",
        "",
        "1. Put a copy where Synapse, and nobody else, can read it, and name that in homeserver.yaml:",
        "",
        "     app_service_config_files:",
        f"       - /etc/matrix-synapse/{held.id}.yaml",
        "",
        "   Agents' rooms must not be encrypted: leave encryption_enabled_by_default_for_room_type off, its default.",
        "",
        "2. Restart Synapse. It reads registrations only when it starts.",
        "",
        "3. Set for the daemon, with the address at which it reaches the homeserver:",
        "",
        *exports,
        "",
        *_of_further_daemon(held, environment["SERVER_NAME"]),
        "4. 'cchat doctor' proves that all of it fits; then 'cchat daemon'.",
        "",
        f"The homeserver will send events to {held.url}. The daemon listens on that port of {events_host}:",
        "to a homeserver on another machine forward it, to one in a container set AIAGENTCHAT_EVENTS_HOST. Each daemon",
        "needs a port of its own (--url).",
    ]


def _of_further_daemon(held: Registration, server_name: str) -> list[str]:
    """Return what has to be said of a daemon with an id, which joins the Space of the one without."""
    if "." not in held.sender_localpart:
        return []
    return [
        "   It joins the Space of the daemon without an id: start that one with",
        "",
        f"     export AIAGENTCHAT_DAEMONS=@{held.sender_localpart}:{server_name}",
        "",
    ]
