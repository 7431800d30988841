"""An ordinary account of ours on a homeserver: logging in, and keeping its token.

Refresh tokens are asked for and honoured (https://spec.matrix.org/latest/client-server-api/#refreshing-access-tokens).
A renewed token is saved before it is used: the homeserver takes the old refresh token until the new one was.
"""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aiagentchat.errors import (
    InvalidRequestError,
    MatrixError,
    MatrixForbiddenError,
    MatrixUnauthorizedError,
    UnauthenticatedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import UserId

DEVICE_NAME = "aiagentchat"


@dataclass(frozen=True, slots=True)
class Account:
    """One account's device. Tokens stay out of `repr`.

    `homeserver_url` "": the embedded homeserver's. `refresh_token` "": the access token does not end by itself.
    """

    user_id: UserId
    device_id: str
    access_token: str = field(repr=False)
    homeserver_url: str = ""
    refresh_token: str = field(default="", repr=False)


def parse_account(text: str) -> Account | None:
    """Return the account that a file of ours holds, or None where it holds none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    required, optional = ("user_id", "device_id", "access_token"), ("homeserver_url", "refresh_token")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) and data[key] for key in required):
        return None
    if not re.fullmatch(r"@[^:]*:.+", data["user_id"]) or not all(
        isinstance(data.get(key, ""), str) for key in optional
    ):
        return None
    return Account(
        UserId(data["user_id"]),
        data["device_id"],
        data["access_token"],
        data.get("homeserver_url", ""),
        data.get("refresh_token", ""),
    )


def render_account(account: Account) -> str:
    """Return the text that `parse_account` reads."""
    return json.dumps(asdict(account)) + "\n"


async def log_in_with_password(client: MatrixClient, homeserver_url: str, user: str, password: str) -> Account:
    """Log in with a localpart or user id, and a password.

    Args:
        client: of the homeserver, without a token.

    Raises:
        UnauthenticatedError: wrong user or password. InvalidRequestError: this server takes no passwords.
    """
    identifier = {"type": "m.id.user", "user": user}
    return await _log_in(
        client, homeserver_url, {"type": "m.login.password", "identifier": identifier, "password": password}
    )


async def log_in_with_login_token(client: MatrixClient, homeserver_url: str, login_token: str) -> Account:
    """Log in with the token that a single sign-on ended with (`loginToken` in the address it returned to).

    Raises:
        UnauthenticatedError: it is not, or no longer, valid. InvalidRequestError: this server takes none.
    """
    return await _log_in(client, homeserver_url, {"type": "m.login.token", "token": login_token})


async def adopt_access_token(client: MatrixClient, homeserver_url: str, access_token: str) -> Account:
    """Take over the device of an access token.

    Raises:
        UnauthenticatedError: the homeserver does not know it. InvalidRequestError: it has no device.
    """
    try:
        user_id, device_id = await client.with_token(access_token).whoami()
    except MatrixUnauthorizedError as error:
        raise UnauthenticatedError(f"the homeserver does not accept this access token: {error.error}") from None
    if not device_id:
        raise InvalidRequestError(
            "this access token has no device, so that a message sent twice could not be told",
            hint="log in with a password, or with the token of a login",
        )
    return Account(user_id, device_id, access_token, homeserver_url)


async def _log_in(client: MatrixClient, homeserver_url: str, given: dict[str, Any]) -> Account:
    flows = await client.login_flows()
    if given["type"] not in flows:
        raise InvalidRequestError(
            f"{homeserver_url} takes no {given['type']}, but {', '.join(flows) or 'nothing that is known'}",
            hint="'cchat login --help' lists the other ways to log in",
        )
    try:
        answer = await client.log_in(given | {"initial_device_display_name": DEVICE_NAME, "refresh_token": True})
    except (MatrixForbiddenError, MatrixUnauthorizedError) as error:
        raise UnauthenticatedError(f"the homeserver did not accept the login: {error.error}") from None
    account = parse_account(json.dumps({"refresh_token": ""} | answer | {"homeserver_url": homeserver_url}))
    if account is None:
        raise MatrixError(200, "M_BAD_JSON", "the answer to a login lacks a user, a device or a token")
    return account


class RenewedToken:
    """The access token of an account, renewed when the homeserver refuses it. An `AccessToken`.

    Args:
        client: of the homeserver, without a token. save: keeps the account, before its new token is used.
    """

    def __init__(self, account: Account, client: MatrixClient, save: Callable[[Account], None]) -> None:
        self.account = account
        self._client = client
        self._save = save
        self._renewing = asyncio.Lock()

    @property
    def value(self) -> str:
        return self.account.access_token

    async def renew(self, refused: str) -> bool:
        """Get another token, unless somebody has already. False: the account has to be logged in anew."""
        async with self._renewing:
            if self.account.access_token != refused:
                return True
            if not self.account.refresh_token:
                return False
            try:
                answer = await self._client.refresh(self.account.refresh_token)
            except (MatrixUnauthorizedError, MatrixForbiddenError):
                return False
            access_token, refresh_token = answer.get("access_token"), answer.get("refresh_token")
            if not isinstance(access_token, str) or not access_token:
                raise MatrixError(200, "M_BAD_JSON", "the answer to a refresh has no access token")
            kept = refresh_token if isinstance(refresh_token, str) else self.account.refresh_token
            renewed = replace(self.account, access_token=access_token, refresh_token=kept)
            self._save(renewed)
            self.account = renewed
            return True
