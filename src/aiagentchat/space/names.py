"""Which user, alias and device belongs to which agent: pure functions of the server name and the daemon's prefix."""

import re
from dataclasses import dataclass

from aiagentchat.model import AgentName, RoomAlias, UserId

DEVICE_ID = "AIAGENTCHAT"
"""The device as which the daemon writes for each agent and for the operator; transaction ids are kept per device."""

_BROADCAST = "_broadcast"
_AGENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Naming:
    """Names on one homeserver. `prefix` is `aiagentchat`, or `aiagentchat.<id>` for a further daemon."""

    server_name: str
    prefix: str = "aiagentchat"

    @property
    def daemon(self) -> UserId:
        return UserId(f"@{self.prefix}:{self.server_name}")

    @property
    def broadcast(self) -> RoomAlias:
        return RoomAlias(f"#aiagentchat-{_BROADCAST}:{self.server_name}")

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
