"""The accounts of this home: the operator's device, and the agents' where there is no application service.

Each is a file of mode 0600 that `cchat login` writes. A daemon that runs takes up what is written meanwhile.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aiagentchat.config import Paths, alone_in, read_private, write_private
from aiagentchat.errors import InvalidNameError, InvalidRequestError
from aiagentchat.matrix.accounts import Account, RenewedToken, parse_account, render_account
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, UserId, parse_agent_name

log = logging.getLogger(__name__)

_SETTLED_NS = 1_000_000_000
"""A directory that changed less than this ago may change again without another time: clocks of file systems tick."""


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
        """Return the agents' accounts by name, as the files are now. One that cannot be read is as it was before."""
        try:
            changed_at_ns = os.stat(self._paths.accounts).st_mtime_ns
        except OSError:
            return {}
        if changed_at_ns != self._read_at_ns:
            found: dict[AgentName, Account] = {}
            for file in self._files():
                try:
                    name, account = _name_of(file), self._read(file)
                except InvalidRequestError as error:
                    log.warning("%s", error.message)
                    found |= {name: before for name, before in self._agents.items() if name == file.stem}
                else:
                    found |= {name: account} if account is not None else {}
            settled = abs(time.time_ns() - changed_at_ns) > _SETTLED_NS
            self._agents, self._read_at_ns = found, changed_at_ns if settled else -1
        return self._agents

    def _files(self) -> list[Path]:
        return sorted(self._paths.accounts.glob("*.json"))

    def all(self) -> dict[AgentName | None, Account]:
        """Return the accounts of this home by agent, and (None) the operator's where `cchat login` kept it.

        Raises:
            InvalidRequestError: a file is none of ours, cannot be read, or others can read it.
        """
        operator = self.operator()
        read = {_name_of(file): self._read(file) for file in self._files()}
        found: dict[AgentName | None, Account] = {name: each for name, each in read.items() if each is not None}
        return found | ({None: operator} if operator is not None and operator.homeserver_url else {})

    def has_any(self) -> bool:
        """Whether there is a file of an account, whatever it holds."""
        try:
            return bool(self._files() or self.all())
        except InvalidRequestError:  # the operator's, which may be the embedded homeserver's
            return False

    def users(self) -> Mapping[AgentName, UserId]:
        """Return the user ids of the agents' accounts."""
        return {agent: account.user_id for agent, account in self.agents().items()}

    def save(self, agent: AgentName | None, account: Account) -> Account | None:
        """Keep an agent's account, or (None) the operator's, and return the one that was kept before.

        Raises:
            InvalidRequestError: it cannot be written, or the operator's file is none of ours.
        """
        with alone_in(self._paths.data_dir):  # else a login would be lost to a token that is renewed meanwhile
            before = self.operator() if agent is None else self.agents().get(agent)
            self._write(agent, account)
        return before

    def save_renewed(self, agent: AgentName | None, account: Account) -> None:
        """Keep the new tokens of a device, unless it is no longer the one that is logged in. Raises like `save`."""
        with alone_in(self._paths.data_dir):
            try:
                kept = self._read(self.file_of(agent))
            except InvalidRequestError:  # what cannot be read is mended by it
                kept = account
            if kept is not None and kept.device_id == account.device_id:
                self._write(agent, account)

    def _write(self, agent: AgentName | None, account: Account) -> None:
        file = self.file_of(agent)
        try:
            write_private(file, render_account(account))
        except OSError as error:
            raise InvalidRequestError(f"{file} cannot be written: {error.strerror}") from None

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


class _LiveToken:
    """The token of an account as its file has it now: what is logged in anew is taken up at once. An `AccessToken`."""

    def __init__(self, renewed: Callable[[], RenewedToken]) -> None:
        self._renewed = renewed

    @property
    def value(self) -> str:
        return self._renewed().value

    async def renew(self, refused: str) -> bool:
        """Renew it, unless it is another one already, or is by then."""
        return await self._renewed().renew(refused) or self.value != refused


class AccountClients:
    """A client for each account of a store, whose token is renewed and saved as needed.

    Args:
        client: of the homeserver, without a token.
    """

    def __init__(self, store: AccountStore, client: MatrixClient) -> None:
        self._store = store
        self._client = client
        self._clients: dict[UserId, MatrixClient] = {}
        self._tokens: dict[UserId, RenewedToken] = {}

    def client_as(self, user_id: UserId) -> MatrixClient:
        """Return the client of an account, the same one each time, whatever device it is logged in with.

        Raises:
            InvalidRequestError: there is no such account.
        """
        self._token_of(user_id)
        if user_id not in self._clients:
            self._clients[user_id] = self._client.with_token(_LiveToken(lambda: self._token_of(user_id)))
        return self._clients[user_id]

    def _token_of(self, user_id: UserId) -> RenewedToken:
        agent, account = self._find(user_id)
        token = self._tokens.get(user_id)
        if account is not None and (token is None or token.account.access_token != account.access_token):
            token = RenewedToken(account, self._client, lambda renewed: self._store.save_renewed(agent, renewed))
            self._tokens[user_id] = token
        if token is None:
            raise InvalidRequestError(f"{user_id} is not logged in here", hint="log it in with 'cchat login'")
        return token

    def _find(self, user_id: UserId) -> tuple[AgentName | None, Account | None]:
        for agent, account in self._store.agents().items():
            if account.user_id == user_id:
                return agent, account
        try:
            operator = self._store.operator()
        except InvalidRequestError as error:
            log.warning("%s", error.message)
            operator = None
        return None, operator if operator is not None and operator.user_id == user_id else None
