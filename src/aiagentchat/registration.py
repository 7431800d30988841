"""The application-service registration: what one daemon claims on a homeserver, made, rendered and read.

One function decides what is claimed (`new_registration`): for the embedded homeserver, and for the team's own, whose
file the command `cchat registration` writes. The daemon reads the file, and so does the homeserver. All but the
reading is pure. The format: https://spec.matrix.org/latest/application-service-api/#registration
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from aiagentchat.config import Settings
from aiagentchat.errors import InvalidRequestError

PREFIX = "aiagentchat"
EMBEDDED_FILE = "registration.yaml"
"""Its name in the directory of the embedded homeserver."""

_URL, _URL_WITH_ID = "http://127.0.0.1:29328", "http://127.0.0.1:29329"
_WRITES_ONE = "'cchat registration --output FILE' writes one that is, which the homeserver has to read too"
_TEXTS = ("id", "url", "as_token", "hs_token", "sender_localpart")


@dataclass(frozen=True, slots=True)
class Registration:
    """What an application-service registration file says. Tokens stay out of `repr`.

    `users` and `aliases` are its patterns; `rate_limited` is true where the file does not say, as on Synapse.
    """

    id: str
    url: str
    sender_localpart: str
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)
    rate_limited: bool = True
    users: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def port(self) -> int:
        """The port of `url`, where the receiver listens. Raises `InvalidRequestError` where it names none."""
        try:
            port = urlsplit(self.url).port
        except ValueError:
            port = None
        if not port:
            raise InvalidRequestError(
                f"the registration's url {self.url!r} names no port", hint="the daemon listens on the port of that url"
            )
        return port

    def claims_user(self, user_id: str) -> bool:
        """Return whether a user is in the namespace."""
        return any(_matches(pattern, user_id) for pattern in self.users)

    def claims_alias(self, alias: str) -> bool:
        """Return whether an alias is in the namespace."""
        return any(_matches(pattern, alias) for pattern in self.aliases)


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.match(pattern, text) is not None  # as Synapse does: from the start, and not to the end
    except re.error:  # of another server's dialect
        return False


def parse_daemon_id(text: str) -> str:
    """Return the id of a further daemon on one homeserver.

    It has neither `.` nor `-`, so that no name of `aiagentchat.<id>-<agent>` can be taken for another daemon's.

    Raises:
        InvalidRequestError: it is none.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,31}", text):
        raise InvalidRequestError(
            f"{text[:80]!r} is no id of a daemon",
            hint="an id has 1 to 32 of a-z, 0-9 and '_', and starts with a letter or a digit",
        )
    return text


def parse_receiver_url(text: str) -> str:
    """Return the address at which a homeserver reaches a daemon, without a final slash.

    Raises:
        InvalidRequestError: it is no http address with a port.
    """
    try:
        url = urlsplit(text)
        is_good = url.scheme in ("http", "https") and bool(url.hostname) and bool(url.port)
    except ValueError:
        is_good = False
    if not is_good or any(mark in text for mark in "?#@") or re.search(r"\s", text):
        raise InvalidRequestError(
            f"{text!r} is no address of a daemon",
            hint=f"it is like {_URL}: the port is where the daemon listens, the host what the homeserver calls it",
        )
    return text.rstrip("/")


def new_registration(
    server_name: str, *, as_token: str, hs_token: str, daemon_id: str = "", url: str = "", space_alias: str = ""
) -> Registration:
    """Return the registration of a daemon: exclusive to our names on this server, and no wider.

    Args:
        daemon_id: of a further daemon on the homeserver; "": the first, which makes the Space and the broadcast room.
        url: where the homeserver reaches the daemon; "": on the same machine.
        space_alias: the Space's, which may be outside of the namespace of our names and is then claimed by itself.

    Synapse matches from the start only, so that each pattern ends with the escaped server name and `$`. Two
    registrations with one alias pattern would each be pushed the messages of the other's rooms.
    """
    prefix = f"{PREFIX}.{daemon_id}" if daemon_id else PREFIX
    ours, server = re.escape(prefix), re.escape(server_name)
    aliases = [f"#{ours}-[^:]*:{server}$" if daemon_id else f"#{ours}(-[^:]*)?:{server}$"]
    if space_alias and not daemon_id and not _matches(aliases[0], space_alias):
        aliases.append(f"{re.escape(space_alias)}$")
    return Registration(
        id=prefix,
        url=url or (_URL_WITH_ID if daemon_id else _URL),
        sender_localpart=prefix,
        as_token=as_token,
        hs_token=hs_token,
        rate_limited=False,
        users=(f"@{ours}-[^:]*:{server}$",),
        aliases=tuple(aliases),
    )


def render_registration(registration: Registration) -> str:
    """Return the file's text; it holds the tokens.

    `io.element.msc4190`: on Synapse before it was always so, a device is made with `PUT /devices/{device_id}` only
    with it. It also means that agents' accounts are made with `inhibit_login` and that no token of theirs exists.
    The older `de.sorunome.msc2409.push_ephemeral` is left out: Synapse would send everything ephemeral twice.
    """
    data = {key: getattr(registration, key) for key in _TEXTS} | {
        "rate_limited": registration.rate_limited,
        "receive_ephemeral": True,
        "io.element.msc4190": True,
        "namespaces": {
            "users": [{"exclusive": True, "regex": regex} for regex in registration.users],
            "aliases": [{"exclusive": True, "regex": regex} for regex in registration.aliases],
            "rooms": [],
        },
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=200)


def registration_file(settings: Settings) -> Path:
    """Return where the registration is: as set, else this home's, else the embedded homeserver's; it may be missing."""
    if settings.registration:
        return Path(settings.registration).expanduser()
    own, embedded = settings.paths.registration, settings.paths.homeserver / EMBEDDED_FILE
    return embedded if embedded.exists() and not own.exists() else own


def read_registration(path: Path) -> Registration:
    """Return the registration in `path`.

    Raises:
        InvalidRequestError: the file is missing, cannot be read, is not YAML, or lacks a key. It quotes nothing of it.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise InvalidRequestError(
            f"there is no registration file at {path}",
            hint="'cchat registration' writes one for a homeserver of your own, AIAGENTCHAT_REGISTRATION names one "
            "that is elsewhere; 'cchat up' brings a homeserver along",
        ) from None
    except OSError as error:
        raise InvalidRequestError(
            f"the registration file {path} cannot be read: {error.strerror}",
            hint="make it readable for the user who runs the daemon, and for nobody else",
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path} is not valid YAML", hint=_WRITES_ONE) from None
    data = _parse_yaml(text, path)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) and data[key] for key in _TEXTS):
        raise InvalidRequestError(
            f"{path} is no registration: it needs {', '.join(_TEXTS)}, each a text", hint=_WRITES_ONE
        )
    namespaces = data.get("namespaces")
    return Registration(
        **{key: data[key] for key in _TEXTS},
        rate_limited=data.get("rate_limited") is not False,
        users=_patterns(namespaces, "users"),
        aliases=_patterns(namespaces, "aliases"),
    )


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # PyYAML lets through what its constructors of dates and numbers raise, and what deep nesting does.
        raise InvalidRequestError(f"{path} is not valid YAML", hint=_WRITES_ONE) from None


def _patterns(namespaces: Any, kind: str) -> tuple[str, ...]:
    entries = namespaces.get(kind) if isinstance(namespaces, dict) else None
    found = [entry.get("regex") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return tuple(regex for regex in found if isinstance(regex, str))
