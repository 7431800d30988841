"""Who a request is: the operator's credential (may do all) and an agent's (that agent alone).

Kept as files of mode 0600 in one private directory. Agents' are read when presented, so that a start costs nothing per
agent. `cchat rotate` replaces them, whether a daemon runs or not.
"""

import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from aiagentchat.config import Paths, alone_in, read_private, write_private
from aiagentchat.errors import InvalidNameError, UnauthenticatedError
from aiagentchat.model import AgentName, parse_agent_name

_OPERATOR = "operator"
_AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a credential stands for; `agent` None: the operator."""

    agent: AgentName | None


@dataclass(frozen=True, slots=True)
class _Stored:
    token: str
    detached: bool


class _PrivateFiles:
    """Files of secrets as they are now, each read again only when it is another."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[int, int], str | None]] = {}

    def text(self, path: Path) -> str | None:
        """Return what `read_private` does, and raise the same."""
        try:
            status = path.stat()
        except OSError:
            self._read.pop(path, None)
            return read_private(path)
        version = status.st_ino, status.st_mtime_ns
        if path not in self._read or self._read[path][0] != version:
            self._read[path] = version, read_private(path)
        return self._read[path][1]


class Credentials:
    """Issues, verifies and revokes; takes up what `cchat rotate` writes meanwhile.

    Tokens are `operator:SECRET` and `agent:NAME:SECRET`, 256 random bits each.
    """

    def __init__(self, paths: Paths) -> None:
        self._operator = paths.operator_credential
        self._directory = _directory(paths)
        self._files = _PrivateFiles()
        if not read_private(self._operator):
            write_private(self._operator, _new_token(_OPERATOR))

    def verify(self, token: str) -> Holder:
        """Return whom a token stands for.

        Raises:
            UnauthenticatedError: nobody.
        """
        given = token.encode(errors="surrogatepass")  # aiohttp makes bytes that are no text into halves of pairs
        kind, _, rest = token.partition(":")
        operator = self._files.text(self._operator) if kind == _OPERATOR else None
        if operator and hmac.compare_digest(given, operator.encode()):
            return Holder(None)
        if kind == _AGENT:
            try:
                name = parse_agent_name(rest.partition(":")[0])
            except InvalidNameError:
                raise _unknown() from None
            stored = self._load(name)
            if stored is not None and hmac.compare_digest(given, stored.token.encode()):
                return Holder(name)
        raise _unknown()

    def issue(self, name: AgentName, *, detached: bool) -> str:
        """Return the agent's credential, made if there is none. `detached`: its calls open a timed session."""
        with alone_in(self._directory):
            stored = self._load(name)
            token = stored.token if stored is not None else _new_token(f"{_AGENT}:{name}")
            if stored != _Stored(token, detached):
                _save(self._path(name), _Stored(token, detached))
        return token

    def is_detached(self, name: AgentName) -> bool:
        """Whether the agent joined for timed sessions."""
        stored = self._load(name)
        return stored is not None and stored.detached

    def revoke(self, name: AgentName) -> None:
        """Make the agent's credential worthless."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: AgentName) -> Path:
        return self._directory / f"{name}.json"

    def _load(self, name: AgentName) -> _Stored | None:
        return _parse(self._files.text(self._path(name)))


def rotate_operator(paths: Paths) -> None:
    """Give the operator another credential; a daemon that runs takes it up."""
    write_private(paths.operator_credential, _new_token(_OPERATOR))


def rotate_agents(paths: Paths) -> list[str]:
    """Give every agent that has a credential another one, and return their names; a daemon that runs takes them up."""
    directory, names = _directory(paths), list[str]()
    with alone_in(directory):
        for path in sorted(directory.glob("*.json")):
            stored = _parse(read_private(path))
            if stored is not None:
                _save(path, _Stored(_new_token(f"{_AGENT}:{path.stem}"), stored.detached))
                names.append(path.stem)
    return names


def _directory(paths: Paths) -> Path:
    return paths.credentials / "agents"


def _new_token(holder: str) -> str:
    return f"{holder}:{secrets.token_urlsafe(32)}"


def _save(path: Path, stored: _Stored) -> None:
    write_private(path, json.dumps(asdict(stored)) + "\n")


def _parse(text: str | None) -> _Stored | None:
    try:
        data = json.loads(text or "")
        return _Stored(str(data["token"]), bool(data["detached"]))
    except (ValueError, KeyError, TypeError):
        return None


def _unknown() -> UnauthenticatedError:
    return UnauthenticatedError("this credential is not, or no longer, valid", hint="join again to get a new one")
