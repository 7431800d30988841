"""As whom this daemon acts, and how an agent comes by its account: the two sides of application service and accounts.

`space.manager` and the layers above use `Identities`, and do not know which of the two they have.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from aiagentchat.errors import MatrixError, MatrixNotFoundError
from aiagentchat.matrix.accounts import DEVICE_NAME
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, UserId
from aiagentchat.space.names import DEVICE_ID, AccountNames, Names, Naming

_AFTER_THE_OTHER_S = 0.1, 0.5


class Identities(Protocol):
    """The users of one daemon."""

    @property
    def names(self) -> Names: ...

    @property
    def daemon(self) -> MatrixClient:
        """A client that acts as the user who looks after the Space."""
        ...

    def client_of(self, agent: AgentName) -> MatrixClient:
        """Return a client that acts as an agent. Raises `AgentNotFoundError` where it has no account here."""
        ...

    def client_as(self, user_id: UserId) -> MatrixClient:
        """Return a client that acts as the daemon's own user, or as one of its agents'."""
        ...

    async def ensure_account(self, agent: AgentName) -> None:
        """Have an agent's account exist."""
        ...


class AppserviceIdentities:
    """Users of the application service's namespace, made as needed."""

    def __init__(self, client: MatrixClient, naming: Naming) -> None:
        self.daemon = client
        self.names = naming

    def client_of(self, agent: AgentName) -> MatrixClient:
        """Return a view that acts as an agent, through its fixed device."""
        return self.daemon.as_user(self.names.user(agent), DEVICE_ID)

    def client_as(self, user_id: UserId) -> MatrixClient:
        """Return the client of the daemon's own user, or a view that acts as an agent."""
        return self.daemon if user_id == self.names.daemon else self.daemon.as_user(user_id, DEVICE_ID)

    async def ensure_account(self, agent: AgentName) -> None:
        """Make account and device where there are none."""
        await self.daemon.register_appservice_user(self.names.user_localpart(agent))
        try:
            await self._put_device(self.client_of(agent))
        except MatrixNotFoundError:  # an older Synapse makes a device at a login alone; the token is thrown away
            await self.daemon.log_in(
                {
                    "type": "m.login.application_service",
                    "identifier": {"type": "m.id.user", "user": self.names.user(agent)},
                    "device_id": DEVICE_ID,
                    "initial_device_display_name": DEVICE_NAME,
                }
            )

    async def _put_device(self, client: MatrixClient) -> None:
        try:
            await client.put_device(DEVICE_ID, DEVICE_NAME)
        except MatrixError as error:
            if error.status != 500:
                raise
            # So Synapse answers one of two who make it at the same time, on PostgreSQL. After the other it is there.
            await asyncio.sleep(random.uniform(*_AFTER_THE_OTHER_S))
            await client.put_device(DEVICE_ID, DEVICE_NAME)


class AccountIdentities:
    """Ordinary accounts, logged in beforehand.

    Args:
        client_as: returns the client of an account that was logged in, the same one each time.
    """

    def __init__(self, names: AccountNames, client_as: Callable[[UserId], MatrixClient]) -> None:
        self.names = names
        self.client_as = client_as

    @property
    def daemon(self) -> MatrixClient:
        return self.client_as(self.names.daemon)

    def client_of(self, agent: AgentName) -> MatrixClient:
        """Return the client of the agent's account."""
        return self.client_as(self.names.user(agent))

    async def ensure_account(self, agent: AgentName) -> None:
        """Nothing to make: raises `AgentNotFoundError` where none was logged in."""
        self.names.user(agent)
