"""Settings: flags over environment over `config.toml` over defaults, and where each came from.

Also the one place that knows which file lies where (`Paths`). Everything uses this module; it reads files and the
environment and opens no connection. It stays on the standard library, because every `cchat` call loads it.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from aiagentchat.errors import InvalidRequestError

SOCKET_PATH_LIMIT = 100
"""Longest path of a unix socket that every platform takes, in bytes (macOS: 104 with the final NUL)."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where this home keeps its files. Only `config_file` is the person's to write."""

    config_dir: Path
    data_dir: Path

    @property
    def config_file(self) -> Path:
        return self.config_dir / "config.toml"

    @property
    def socket(self) -> Path:
        """The gateway's socket; in a private temporary directory where the home's own path is too long for one."""
        path = self.data_dir / "cchat.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        digest = sha256(os.fsencode(path)).hexdigest()[:16]
        import tempfile  # noqa: PLC0415 - every command would load it, and few need it

        return Path(tempfile.gettempdir()) / f"aiagentchat-{os.getuid()}" / f"{digest}.sock"

    @property
    def daemon_lock(self) -> Path:
        return self.data_dir / "daemon.lock"

    @property
    def daemon_log(self) -> Path:
        return self.data_dir / "daemon.log"

    @property
    def credentials(self) -> Path:
        return self.data_dir / "credentials"

    @property
    def operator_credential(self) -> Path:
        """The operator's gateway credential: one line, mode 0600."""
        return self.credentials / "operator"

    @property
    def operator_device(self) -> Path:
        """The operator's Matrix device, of which the daemon speaks: JSON, mode 0600."""
        return self.credentials / "operator-device.json"

    @property
    def accounts(self) -> Path:
        """The agents' Matrix accounts where there is no application service: JSON, mode 0600, a file each."""
        return self.data_dir / "accounts"

    @property
    def files(self) -> Path:
        """The files that came with messages, for who reads these."""
        return self.data_dir / "files"

    @property
    def landmarks(self) -> Path:
        """Some of the latest events that the homeserver had: JSON."""
        return self.data_dir / "landmarks.json"

    @property
    def rooms_checked(self) -> Path:
        """Which agents' rooms are known to be in order: a digest, and a line for each of the others."""
        return self.data_dir / "rooms-checked"

    @property
    def rooms_shown(self) -> Path:
        """How people see agents' rooms in their list: whose list it is, and a line for each room."""
        return self.data_dir / "rooms-shown"

    @property
    def registration(self) -> Path:
        """The application-service registration for a homeserver of one's own: it holds tokens, mode 0600."""
        return self.data_dir / "registration.yaml"

    @property
    def operator_password(self) -> Path:
        return self.data_dir / "operator-password"

    @property
    def homeserver(self) -> Path:
        """The embedded homeserver's directory."""
        return self.data_dir / "homeserver"

    @property
    def element(self) -> Path:
        """Element Web as `cchat up --element` serves it, and its port."""
        return self.data_dir / "element"


def _identity(text: str) -> str:
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 10_000_000:
        raise ValueError("must be a positive number of seconds")
    return value


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= 65535):
        raise ValueError("must be a port, 0 to 65535")
    return int(text)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError("must be a whole number, 0 to 99999")
    return int(text)


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("must be a whole number of bytes, below 1000000000")
    return int(text)


def _server_name(text: str) -> str:
    if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,230})(:[0-9]{1,5})?", text):
        raise ValueError("must be a Matrix server name, like example.org or localhost")
    return text


def _public_url(text: str) -> str:
    loopback = r"http://(localhost|127\.0\.0\.1|\[::1\])"
    if not re.fullmatch(rf"(https://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{{1,230}})|{loopback})(:[0-9]{{1,5}})?/?", text):
        raise ValueError("must be an address like https://chat.example.org; http:// is for this machine alone")
    return text.rstrip("/")


def _ip_address(text: str) -> str:
    import ipaddress  # noqa: PLC0415 - few calls of cchat need it

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be an IP address of this machine, like 127.0.0.1; 0.0.0.0 is all of them") from None


def _alias(text: str) -> str:
    if not re.fullmatch(r"#[^:\s\x00]+:.+", text) or len(text.encode()) > 255:
        raise ValueError("must be a room alias, like #team:example.org")
    return text


def _room(text: str) -> str:
    if not re.fullmatch(r"![^\s\x00]+", text):
        return _alias(text)
    return text


def _operator(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9._=/+-]{1,200}", text) or text.startswith("aiagentchat"):
        raise ValueError("must be a Matrix localpart (a-z 0-9 . _ = / + -) that does not start with aiagentchat")
    return text


def _people(text: str) -> tuple[str, ...]:
    people = tuple(part.strip() for part in text.split(",") if part.strip())
    for person in people:
        if not re.fullmatch(r"@[^:\s]+:\S+", person):
            raise ValueError(f"{person!r} is not a Matrix user id like @alice:example.org")
    return people


def _one_of(*allowed: str) -> Any:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its environment name, its key in `config.toml`, how its text is read, and what it is for."""

    name: str
    env: str
    parse: Any
    help: str
    secret: bool = False
    env_only: bool = False


UNIX: Final = "unix:"
"""Begins a `listen` or `url` that is a socket of the file system."""

OPTIONS: Final = (
    Option("server_name", "SERVER_NAME", _server_name, "server name of the embedded homeserver"),
    Option("space_alias", "SPACE_ALIAS", _alias, "alias of the Space that holds all agents"),
    Option("port", "AIAGENTCHAT_PORT", _port, "the embedded homeserver's port on loopback; 0: any free one"),
    Option("homeserver_url", "AIAGENTCHAT_HOMESERVER_URL", _identity, "homeserver that the daemon talks to"),
    Option("public_url", "AIAGENTCHAT_PUBLIC_URL", _public_url, "where people's clients reach the homeserver"),
    Option("registration", "AIAGENTCHAT_REGISTRATION", _identity, "application-service registration file"),
    Option("operator", "AIAGENTCHAT_OPERATOR", _operator, "localpart of the operator's Matrix account"),
    Option("people", "AIAGENTCHAT_PEOPLE", _people, "user ids, comma-separated, invited to every room"),
    Option(
        "approvers", "AIAGENTCHAT_APPROVERS", _people, "user ids, comma-separated, that may approve what agents ask"
    ),
    Option("daemons", "AIAGENTCHAT_DAEMONS", _people, "user ids, comma-separated, of further daemons of this Space"),
    Option("shared_room", "MATRIX_ROOM_ID", _room, "an existing room, id or alias, in place of the broadcast room"),
    Option(
        "space_policy", "AIAGENTCHAT_SPACE_POLICY", _one_of("open", "strict"), "strict: only the daemon lists rooms"
    ),
    Option("sidebar", "AIAGENTCHAT_SIDEBAR", _one_of("quiet", "pictures", "off"), "how people see who is online"),
    Option("session_ttl_s", "AIAGENTCHAT_SESSION_TTL", _seconds, "seconds of silence that end a timed session"),
    Option("ephemeral_ttl_s", "AIAGENTCHAT_EPHEMERAL_TTL", _seconds, "seconds until a passing session is cleared away"),
    Option("deadline_s", "AIAGENTCHAT_DEADLINE", _seconds, "seconds after which a command gives up"),
    Option("directory_ttl_s", "AIAGENTCHAT_DIRECTORY_TTL", _seconds, "seconds the daemon trusts its directory unread"),
    Option("loop_hops", "AIAGENTCHAT_LOOP_HOPS", _whole, "answers of agents to each other in a row that wake; 0: any"),
    Option("loop_rate", "AIAGENTCHAT_LOOP_RATE", _whole, "messages from an agent to another an hour that wake; 0: any"),
    Option("agent_rate", "AIAGENTCHAT_AGENT_RATE", _whole, "requests a minute that an agent may keep up; 0: any"),
    Option("file_limit", "AIAGENTCHAT_FILE_LIMIT", _bytes, "most bytes of a file that comes with a message"),
    Option("listen", "AIAGENTCHAT_LISTEN", _identity, "where the gateway also listens: loopback HOST:PORT, unix:PATH"),
    Option("events_host", "AIAGENTCHAT_EVENTS_HOST", _ip_address, "address on which the homeserver's events are taken"),
    Option("url", "AIAGENTCHAT_URL", _identity, "gateway that cchat talks to, instead of the home's socket"),
    Option("log_level", "AIAGENTCHAT_LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "what daemon.log holds"),
    Option("log_format", "AIAGENTCHAT_LOG_FORMAT", _one_of("text", "json"), "form of its lines"),
    Option("agent", "AIAGENTCHAT_AGENT", _identity, "agent that cchat speaks as", env_only=True),
    Option("token", "AIAGENTCHAT_TOKEN", _identity, "an agent's gateway credential", secret=True, env_only=True),
)


def _default_operator() -> str:
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    try:
        return _operator(name.lower())
    except ValueError:
        return "operator"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force. `sources` maps a field to where its value came from, as `cchat config` shows it."""

    paths: Paths
    server_name: str = "localhost"
    space_alias: str = ""
    port: int | None = None
    homeserver_url: str = ""
    public_url: str = ""
    registration: str = ""
    operator: str = field(default_factory=_default_operator)
    people: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    daemons: tuple[str, ...] = ()
    shared_room: str = ""
    space_policy: str = "open"
    sidebar: str = "quiet"
    session_ttl_s: float = 3600.0
    ephemeral_ttl_s: float = 86400.0
    deadline_s: float = 30.0
    directory_ttl_s: float = 300.0
    loop_hops: int = 10
    loop_rate: int = 120
    agent_rate: int = 600
    file_limit: int = 20_000_000
    listen: str = ""
    events_host: str = "127.0.0.1"
    url: str = ""
    log_level: str = "info"
    log_format: str = "text"
    agent: str = ""
    token: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def gateway(self) -> Path | str:
        """Where `cchat` finds the gateway: a socket, or an address."""
        if self.url.startswith(UNIX):
            return Path(self.url.removeprefix(UNIX))
        return self.url or self.paths.socket


def find_paths(env: Mapping[str, str]) -> Paths:
    """Return the directories: all under `AIAGENTCHAT_HOME` when set, else by the platform's convention."""
    if home := env.get("AIAGENTCHAT_HOME"):
        directory = Path(home).expanduser().absolute()
        return Paths(config_dir=directory, data_dir=directory)
    import platformdirs  # noqa: PLC0415 - loaded only where it is needed: it adds to the start of every cchat call

    return Paths(
        config_dir=Path(platformdirs.user_config_dir("aiagentchat", appauthor=False)),
        data_dir=Path(platformdirs.user_data_dir("aiagentchat", appauthor=False)),
    )


def load_settings(env: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Settings:
    """Return the settings in force.

    Args:
        env: the process environment. flags: option name to the text given on the command line.

    Raises:
        InvalidRequestError: a value cannot be read; the message says where it stands.
    """
    paths = find_paths(env)
    file = _read_config_file(paths.config_file)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        if flags and option.name in flags:
            text, source = flags[option.name], f"flag --{option.name.replace('_', '-')}"
        elif option.env in env:
            text, source = env[option.env], f"environment {option.env}"
        elif option.name in file:
            text, source = file[option.name], str(paths.config_file)
        else:
            sources[option.name] = "default"
            continue
        try:
            values[option.name] = option.parse(text)
        except ValueError as error:
            shown = "***" if option.secret else repr(text)
            raise InvalidRequestError(f"{option.name} = {shown} ({source}): {error}") from None
        sources[option.name] = source
    settings = Settings(paths=paths, sources=sources, **values)
    if not settings.space_alias:
        settings = _replace(settings, space_alias=f"#aiagentchat:{settings.server_name}")
    return settings


def _replace(settings: Settings, **changes: Any) -> Settings:
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    return Settings(**(values | changes))


def _read_config_file(path: Path) -> dict[str, str]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    import tomllib  # noqa: PLC0415 - most calls find no file

    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} is not valid TOML: {error}") from None
    known = {option.name for option in OPTIONS if not option.env_only}
    if unknown := sorted(set(table) - known):
        raise InvalidRequestError(
            f"{path}: unknown setting {', '.join(unknown)}", hint=f"known are {', '.join(sorted(known))}"
        )
    return {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in table.items()}


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a private directory, made if missing; for what takes milliseconds.

    Raises:
        InvalidRequestError: it is another user's, or cannot be made or opened.
    """
    ensure_private_dir(directory)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidRequestError(f"the directory {directory} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, data: str | bytes) -> None:
    """Write `data` to `path` with mode 0600, atomically, in a directory of mode 0700 made if missing."""
    ensure_private_dir(path.parent)
    replace_file(path, data, 0o600)


def replace_file(path: Path, data: str | bytes, mode: int) -> None:
    """Write a file, text as UTF-8, as a whole: whoever reads it finds what was there before, or all of `data`."""
    import tempfile  # noqa: PLC0415 - every command would load it, and few need it

    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_private(path: Path) -> str | None:
    """Return the text of a secret file without its final newline, or None where there is none.

    Raises:
        InvalidRequestError: others than its owner can read it, so it must be taken as known.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidRequestError(f"{path} cannot be read: {reason}", hint="remove it, or make it readable") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InvalidRequestError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    return text.rstrip("\n")


def ensure_private_dir(path: Path) -> None:
    """Make `path` and its parents, the last with mode 0700.

    Raises:
        InvalidRequestError: it exists and is another user's, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidRequestError(f"the directory {path} cannot be made: {error.strerror}") from None
    if path.stat().st_uid != os.getuid():
        raise InvalidRequestError(f"{path} belongs to another user")
