"""Which user and alias belongs to which agent of this daemon. `Names` is what the layers above go by.

With an application service they are derived (`Naming`: pure functions of server name and prefix); with ordinary
accounts they are what somebody logged in (`AccountNames`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from aiagentchat.errors import AgentNotFoundError
from aiagentchat.model import AgentName, RoomAlias, UserId, server_of

DEVICE_ID = "AIAGENTCHAT"
"""The device as which the daemon writes for each agent and for the operator; transaction ids are kept per device."""

_BROADCAST = "_broadcast"
_AGENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Names(Protocol):
    """The names of one daemon's agents, on one homeserver. Nobody else can speak as one of these users."""

    def __hash__(self) -> int:
        """What follows from names is kept by them; of accounts, which change, nothing is."""
        ...

    @property
    def server_name(self) -> str: ...

    @property
    def has_own_daemon(self) -> bool:
        """Whether the daemon has a user of its own, whose roster and lease are all its agents'; else each has."""
        ...

    @property
    def makes_space(self) -> bool:
        """Whether this daemon makes the Space where there is none."""
        ...

    @property
    def daemon(self) -> UserId:
        """The user that looks after the Space: the application service's own, or the operator."""
        ...

    @property
    def keeper(self) -> UserId | None:
        """The user whose list says whom the rooms are for: none of an agent; None: nobody is logged in who could."""
        ...

    @property
    def accounts(self) -> Mapping[AgentName, UserId]:
        """The accounts that are logged in for agents, as it is now; none where users are derived."""
        ...

    def user(self, agent: AgentName) -> UserId:
        """Return an agent's user id. Raises `AgentNotFoundError` where it has no account here."""
        ...

    def alias(self, agent: AgentName) -> RoomAlias:
        """Return the alias of an agent's room."""
        ...

    def agent_of(self, user_id: str) -> AgentName | None:
        """Return the agent of this daemon whose user this is, or None: a person, a daemon, somebody else's agent."""
        ...

    def daemon_of(self, agent: AgentName) -> UserId:
        """Return the user whose roster and lease say that the agent is online."""
        ...


@dataclass(frozen=True, slots=True)
class Naming:
    """Derived names. `prefix` is `aiagentchat`, or `aiagentchat.<id>` for a further daemon."""

    server_name: str
    prefix: str = "aiagentchat"

    @property
    def daemon(self) -> UserId:
        return UserId(f"@{self.prefix}:{self.server_name}")

    @property
    def keeper(self) -> UserId | None:
        return self.daemon

    @property
    def has_own_daemon(self) -> bool:
        return True

    @property
    def makes_space(self) -> bool:
        return "." not in self.prefix

    @property
    def accounts(self) -> Mapping[AgentName, UserId]:
        return {}

    def user_localpart(self, agent: AgentName) -> str:
        """Return the localpart of an agent's user."""
        return f"{self.prefix}-{agent}"

    def user(self, agent: AgentName) -> UserId:
        """Return an agent's user id."""
        return UserId(f"@{self.user_localpart(agent)}:{self.server_name}")

    def alias(self, agent: AgentName) -> RoomAlias:
        """Return the alias of an agent's room."""
        return RoomAlias(f"#{self.prefix}-{agent}:{self.server_name}")

    def agent_of(self, user_id: str) -> AgentName | None:
        """Return the agent whose user this is, or None: a person, a daemon, or another server's user."""
        start, end = f"@{self.prefix}-", f":{self.server_name}"
        if not user_id.startswith(start) or not user_id.endswith(end):
            return None
        name = user_id[len(start) : len(user_id) - len(end)]
        return AgentName(name) if _AGENT.fullmatch(name) else None

    def daemon_of(self, agent: AgentName) -> UserId:
        """Return the daemon, whichever agent it is."""
        return self.daemon


class AccountNames:
    """Names of accounts that were logged in; each agent is its own daemon.

    Args:
        users: returns the agents' accounts as they are now. operator: whose account makes the Space; None: nobody's.
    """

    def __init__(
        self, server_name: str, operator: UserId | None, users: Callable[[], Mapping[AgentName, UserId]]
    ) -> None:
        self.server_name = server_name
        self._operator = operator
        self._users = users

    @property
    def keeper(self) -> UserId | None:
        return self._operator

    @property
    def has_own_daemon(self) -> bool:
        return False

    @property
    def makes_space(self) -> bool:
        return self._operator is not None

    @property
    def daemon(self) -> UserId:
        if self._operator is not None:
            return self._operator
        for user_id in self._users().values():
            return user_id
        raise AgentNotFoundError("no account is logged in here", hint="'cchat login --operator' logs yours in")

    @property
    def accounts(self) -> Mapping[AgentName, UserId]:
        return self._users()

    def user(self, agent: AgentName) -> UserId:
        """Return the account that was logged in for an agent."""
        user_id = self._users().get(agent)
        if user_id is None:
            raise AgentNotFoundError(
                f"there is no account for {agent} here", hint=f"log one in with 'cchat login {agent}', then join again"
            )
        return user_id

    def alias(self, agent: AgentName) -> RoomAlias:
        """Return the alias of an agent's room."""
        return RoomAlias(f"#aiagentchat-{agent}:{self.server_name}")

    def agent_of(self, user_id: str) -> AgentName | None:
        """Return the agent whose account this is."""
        return next((agent for agent, user in self._users().items() if user == user_id), None)

    def daemon_of(self, agent: AgentName) -> UserId:
        """Return the agent's own user."""
        return self.user(agent)


def broadcast_alias(space_alias: str) -> RoomAlias:
    """Return the alias of the broadcast room of a Space: it is on the server of the Space's own."""
    return RoomAlias(f"#aiagentchat-{_BROADCAST}:{server_of(space_alias)}")


def broadcast_alias_of_accounts(space_alias: str) -> RoomAlias:
    """Return the alias of the broadcast room where ordinary accounts make it: several teams may be on one server."""
    localpart, server = space_alias.split(":", 1)
    return RoomAlias(f"{localpart}-{_BROADCAST}:{server}")


def shown_name(name: str, user_id: UserId, server_name: str) -> AgentName:
    """Return what an agent is called on a server: `name`, with `:server` behind it where it is on another."""
    server = server_of(user_id)
    return AgentName(name if server == server_name else f"{name}:{server}")
