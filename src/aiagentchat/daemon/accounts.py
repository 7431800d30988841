"""The accounts of this home: the operator's device, and the agents' where there is no application service.

Each is a file of mode 0600 that `cchat login` writes. A daemon that runs takes up what is written meanwhile.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from aiagentchat.config import Paths, ensure_private_dir, read_private, write_private
from aiagentchat.errors import InvalidNameError, InvalidRequestError
from aiagentchat.matrix.accounts import Account, RenewedToken, parse_account, render_account
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, UserId, parse_agent_name


class AccountStore:
    """Reads and writes them."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._agents: dict[AgentName, Account] = {}
        self._read_at_ns = -1

    def file_of(self, agent: AgentName | None) -> Path:
        """Return where an agent's account is kept, or (None) the operator's."""
        return self._paths.operator_device if agent is None else self._paths.accounts / f"{agent}.json"

    def operator(self) -> Account | None:
        """Return the operator's, None where there is none.

        Raises:
            InvalidRequestError: the file is none of ours, or others can read it.
        """
        return self._read(self.file_of(None))

    def agents(self) -> Mapping[AgentName, Account]:
        """Return the agents' accounts by name, as the files are now.

        Raises:
            InvalidRequestError: a file is none of ours, or others can read it.
        """
        try:
            changed_at_ns = os.stat(self._paths.accounts).st_mtime_ns
        except FileNotFoundError:
            return {}
        if changed_at_ns != self._read_at_ns:
            found: dict[AgentName, Account] = {}
            for file in sorted(self._paths.accounts.glob("*.json")):
                account = self._read(file)
                if account is not None:
                    found[_name_of(file)] = account
            self._agents, self._read_at_ns = found, changed_at_ns
        return self._agents

    def all(self) -> dict[AgentName | None, Account]:
        """Return the accounts of this home by agent, and (None) the operator's where `cchat login` kept it.

        Raises:
            InvalidRequestError: as `operator` and `agents`.
        """
        operator = self.operator()
        found: dict[AgentName | None, Account] = dict(self.agents().items())
        return found | ({None: operator} if operator is not None and operator.homeserver_url else {})

    def has_any(self) -> bool:
        """Whether there is a file of an account, whatever it holds."""
        return any(self._paths.accounts.glob("*.json")) or bool(self.operator_url())

    def operator_url(self) -> str:
        """Return the homeserver of the operator's account, "" where `cchat login` kept none that can be read."""
        try:
            operator = self.operator()
        except InvalidRequestError:
            return ""
        return "" if operator is None else operator.homeserver_url

    def users(self) -> Mapping[AgentName, UserId]:
        """Return the user ids of the agents' accounts."""
        return {agent: account.user_id for agent, account in self.agents().items()}

    def save(self, agent: AgentName | None, account: Account) -> None:
        """Keep an agent's account, or (None) the operator's."""
        file = self.file_of(agent)
        ensure_private_dir(file.parent)
        write_private(file, render_account(account))

    def _read(self, file: Path) -> Account | None:
        text = read_private(file)
        if text is None:
            return None
        account = parse_account(text)
        if account is None:
            raise InvalidRequestError(
                f"{file} holds no account", hint="remove it; 'cchat login' makes it anew, or 'cchat up' the operator's"
            )
        return account


def _name_of(file: Path) -> AgentName:
    try:
        return parse_agent_name(file.stem)
    except InvalidNameError as error:
        raise InvalidRequestError(f"{file} is named after no agent: {error.message}", hint="remove it") from None


class AccountClients:
    """A client for each account of a store, whose token is renewed and saved as needed.

    Args:
        client: of the homeserver, without a token.
    """

    def __init__(self, store: AccountStore, client: MatrixClient) -> None:
        self._store = store
        self._client = client
        self._clients: dict[UserId, tuple[RenewedToken, MatrixClient]] = {}

    def client_as(self, user_id: UserId) -> MatrixClient:
        """Return the client of an account, the same one as long as it is the same device.

        Raises:
            InvalidRequestError: there is no such account.
        """
        operator = self._store.operator()
        if operator is not None and operator.user_id == user_id:
            return self._client_of(None, operator)
        for agent, account in self._store.agents().items():
            if account.user_id == user_id:
                return self._client_of(agent, account)
        raise InvalidRequestError(f"{user_id} is not logged in here", hint="log it in with 'cchat login'")

    def _client_of(self, agent: AgentName | None, account: Account) -> MatrixClient:
        token, client = self._clients.get(account.user_id, (None, None))
        if token is None or client is None or token.account.device_id != account.device_id:
            token = RenewedToken(account, self._client, lambda renewed: self._store.save(agent, renewed))
            client = self._client.with_token(token)
            self._clients[account.user_id] = token, client
        return client
