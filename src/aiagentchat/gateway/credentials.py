"""Who a request is: the operator's credential (may do all) and an agent's (that agent alone).

Kept as files of mode 0600 in one private directory. Agents' are read when first presented, so that a start costs
nothing per agent.
"""

import hmac
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from aiagentchat.config import Paths, read_private, write_private
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


class Credentials:
    """Issues, verifies and revokes.

    Tokens are `operator:SECRET` and `agent:NAME:SECRET`, 256 random bits each.
    """

    def __init__(self, paths: Paths) -> None:
        self._directory = paths.credentials / "agents"
        self._operator = read_private(paths.operator_credential)
        if not self._operator:
            self._operator = f"{_OPERATOR}:{secrets.token_urlsafe(32)}"
            write_private(paths.operator_credential, self._operator + "\n")
        self._agents: dict[AgentName, _Stored] = {}

    def verify(self, token: str) -> Holder:
        """Return whom a token stands for.

        Raises:
            UnauthenticatedError: nobody.
        """
        given = token.encode(errors="surrogatepass")  # aiohttp makes bytes that are no text into halves of pairs
        kind, _, rest = token.partition(":")
        if kind == _OPERATOR and hmac.compare_digest(given, str(self._operator).encode()):
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
        stored = self._load(name)
        token = stored.token if stored is not None else f"{_AGENT}:{name}:{secrets.token_urlsafe(32)}"
        fresh = _Stored(token, detached)
        if fresh != stored:
            write_private(self._path(name), json.dumps({"token": token, "detached": detached}) + "\n")
            self._agents[name] = fresh
        return token

    def is_detached(self, name: AgentName) -> bool:
        """Whether the agent joined for timed sessions."""
        stored = self._load(name)
        return stored is not None and stored.detached

    def revoke(self, name: AgentName) -> None:
        """Make the agent's credential worthless."""
        self._path(name).unlink(missing_ok=True)
        self._agents.pop(name, None)

    def _path(self, name: AgentName) -> Path:
        return self._directory / f"{name}.json"

    def _load(self, name: AgentName) -> _Stored | None:
        if name not in self._agents:
            text = read_private(self._path(name))
            if text is None:
                return None
            try:
                data = json.loads(text)
                self._agents[name] = _Stored(str(data["token"]), bool(data["detached"]))
            except (ValueError, KeyError, TypeError):
                return None
        return self._agents[name]


def _unknown() -> UnauthenticatedError:
    return UnauthenticatedError("this credential is not, or no longer, valid", hint="join again to get a new one")
