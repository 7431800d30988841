"""What the embedded homeserver was once given and keeps: its name, its ports, its secrets. One file, mode 0600.

`<home>/homeserver/embedded.json` is the only copy; Synapse's own files are rendered from it before each start.
Called by `homeserver.ensure_running`, and by whoever needs the remembered server name.
"""

import json
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from aiagentchat.config import Paths, alone_in, ensure_private_dir, read_private, write_private
from aiagentchat.errors import InvalidRequestError
from aiagentchat.homeserver.lock import homeserver_lock, is_held
from aiagentchat.homeserver.ports import any_free_port, choose_port, is_port_free

DEFAULT_SERVER_NAME = "localhost"
SIGNING_KEY_FILE = "signing.key"


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """The choices that stay. Secrets stay out of `repr`."""

    server_name: str
    port: int
    appservice_port: int
    registration_shared_secret: str = field(repr=False)
    macaroon_secret_key: str = field(repr=False)
    form_secret: str = field(repr=False)
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)

    @property
    def base_url(self) -> str:
        """Where it is reached on this machine, without a final slash; browsers trust this address without TLS.

        No name: a browser first asks for `localhost` at `::1`, where another user of the machine could listen.
        """
        return f"http://127.0.0.1:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that must not be shown."""
        return tuple(getattr(self, name) for name in _SECRETS)


_PORTS = ("port", "appservice_port")
_SECRETS = ("registration_shared_secret", "macaroon_secret_key", "form_secret", "as_token", "hs_token")


class LoadedConfig(NamedTuple):
    """The choices in force, and sentences for the person on what was chosen otherwise than expected."""

    config: EmbeddedConfig
    notices: tuple[str, ...]


def embedded_file(paths: Paths) -> Path:
    """Where the choices are kept."""
    return paths.homeserver / "embedded.json"


def load_remembered(paths: Paths) -> EmbeddedConfig | None:
    """Return what an earlier run chose; None before the first.

    Raises:
        InvalidRequestError: the file cannot be read, or others can read it too.
    """
    text = read_private(embedded_file(paths))
    return None if text is None else parse_embedded(text, embedded_file(paths))


def parse_embedded(text: str, path: Path) -> EmbeddedConfig:
    """Return the choices in `text`; `path` is named in errors.

    Raises:
        InvalidRequestError: it is not what `load_or_create` wrote.
    """
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise _unreadable(path, "it is not JSON") from None
    if not isinstance(data, dict):
        raise _unreadable(path, "it is not an object")
    values = {item.name: data.get(item.name) for item in fields(EmbeddedConfig)}
    for name, value in values.items():
        if name in _PORTS:
            good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
        else:
            good = isinstance(value, str) and bool(value)
        if not good:
            raise _unreadable(path, f"its {name} is missing or wrong")
    return EmbeddedConfig(**{name: value for name, value in values.items() if value is not None})


def load_or_create(paths: Paths, *, server_name: str | None = None, port: int | None = None) -> LoadedConfig:
    """Return the choices in force, made on the first call and kept from then on.

    Args:
        server_name: None: the remembered one, else `localhost`. port: as in `ports.choose_port`.

    No daemon of this home may be listening for the application service: its port would count as taken, and another
    would be chosen. Looks at ports of this machine, and writes the file where something changed.

    Raises:
        InvalidRequestError: the server name is not the remembered one, the port that was asked for is taken, or the
            file cannot be read.
    """
    ensure_private_dir(paths.homeserver)
    paths.homeserver.chmod(0o700)
    with alone_in(paths.homeserver):
        remembered = load_remembered(paths)
        if remembered is not None and server_name not in (None, remembered.server_name):
            raise InvalidRequestError(
                f"this homeserver is {remembered.server_name!r} and cannot become {server_name!r}: a Matrix server "
                "name stands in every user, room and event",
                hint="leave the server name out, or use another AIAGENTCHAT_HOME for another server",
            )
        choice = choose_port(
            port,
            None if remembered is None else remembered.port,
            ours=is_held(homeserver_lock(paths)),
            is_free=is_port_free,
            any_free=any_free_port,
        )
        appservice_port = _choose_appservice_port(remembered, choice.port)
        if remembered is None:
            config = _create(server_name or DEFAULT_SERVER_NAME, choice.port, appservice_port)
        else:
            config = replace(remembered, port=choice.port, appservice_port=appservice_port)
        if config != remembered:
            _save(paths, config)
    return LoadedConfig(config, (choice.notice,) if choice.notice else ())


def renew_secrets(paths: Paths) -> bool:
    """Choose all secrets anew; False: nothing was chosen yet. They are in force once the homeserver is started again.

    It makes itself another signing key then: nobody else knows it by that, as it talks to no other server.

    Raises:
        InvalidRequestError: as `load_remembered`.
    """
    ensure_private_dir(paths.homeserver)
    with alone_in(paths.homeserver):
        remembered = load_remembered(paths)
        if remembered is not None:
            _save(paths, EmbeddedConfig(**(asdict(remembered) | _new_secrets())))
            (paths.homeserver / SIGNING_KEY_FILE).unlink(missing_ok=True)
    return remembered is not None


def _save(paths: Paths, config: EmbeddedConfig) -> None:
    write_private(embedded_file(paths), json.dumps(asdict(config), indent=2) + "\n")


def _choose_appservice_port(remembered: EmbeddedConfig | None, homeserver_port: int) -> int:
    if remembered is not None and (port := remembered.appservice_port) != homeserver_port and is_port_free(port):
        return port
    while (port := any_free_port()) == homeserver_port:
        pass
    return port


def _create(server_name: str, port: int, appservice_port: int) -> EmbeddedConfig:
    return EmbeddedConfig(server_name, port, appservice_port, **_new_secrets())


def _new_secrets() -> dict[str, str]:
    return {name: secrets.token_hex(32) for name in _SECRETS}


def _unreadable(path: Path, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{path} cannot be used: {reason}",
        hint="move it away and start with the same server name: new secrets are made, and accounts and rooms stay",
    )
