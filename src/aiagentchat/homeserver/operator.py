"""The operator's Matrix account on the embedded homeserver, and the device of theirs that the daemon holds.

Made once, through the registration shared secret; an ordinary account, no administrator. The password is saved
before the account is made, so that a crash between the two leaves nothing that cannot be taken up. Called by
`homeserver.ensure_running`.
"""

import contextlib
import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from aiagentchat.config import Paths, read_private, write_private
from aiagentchat.errors import HomeserverUnavailableError, MatrixError, UnauthenticatedError
from aiagentchat.homeserver.embedded import EmbeddedConfig
from aiagentchat.model import UserId

OPERATOR_DEVICE_ID = "AIAGENTCHAT"
OPERATOR_DEVICE_NAME = "cchat"

LOGIN_TOKEN_S = 300
"""How long a login token is good."""

_REQUEST_S = 20.0
_REGISTER = "/_synapse/admin/v1/register"


@dataclass(frozen=True, slots=True)
class OperatorAccount:
    """The operator, and the token of their device. `operator_device` holds these fields as JSON.

    It is the form of `matrix.accounts.Account`, without a URL: the homeserver is the embedded one.
    """

    user_id: UserId
    device_id: str
    access_token: str = field(repr=False)


async def ensure_operator(base_url: str, paths: Paths, config: EmbeddedConfig, localpart: str) -> OperatorAccount:
    """Return the operator's account with a token that works, made or logged in where needed.

    `paths.operator_password` and `paths.operator_device` are written as needed, mode 0600. A token that the homeserver
    no longer knows is replaced with the saved password; one that works is used as it is, whatever the password.

    Args:
        base_url: of the embedded homeserver, without a final slash. localpart: of the account, `alice`.

    Raises:
        UnauthenticatedError: the account exists, and the saved password is not, or no longer, its own.
        InvalidRequestError: a file of ours can be read by others. HomeserverUnavailableError: it does not answer.
        MatrixError: any other answer.
    """
    user_id = UserId(f"@{localpart}:{config.server_name}")
    async with aiohttp.ClientSession(base_url, timeout=aiohttp.ClientTimeout(total=_REQUEST_S)) as session:
        saved = parse_device(read_private(paths.operator_device) or "")
        if saved is not None and saved.user_id == user_id and await _is_valid(session, saved):
            return saved
        await _ensure_account(session, paths, config, localpart)
        account = await _log_in(session, paths, user_id, paths.operator_password, OPERATOR_DEVICE_ID)
    _save_device(paths, account)
    return account


def parse_device(text: str) -> OperatorAccount | None:
    """Return the account in a saved device file; None where it holds none, since another can be made."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    keys = ("user_id", "device_id", "access_token")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) and data[key] for key in keys):
        return None
    return OperatorAccount(UserId(data["user_id"]), data["device_id"], data["access_token"])


async def _is_valid(session: aiohttp.ClientSession, account: OperatorAccount) -> bool:
    try:
        answer = await _call(session, "GET", "/_matrix/client/v3/account/whoami", token=account.access_token)
    except MatrixError as error:
        if error.status == 401:
            return False
        raise
    return answer.get("user_id") == account.user_id and answer.get("device_id") == account.device_id


async def _ensure_account(session: aiohttp.ClientSession, paths: Paths, config: EmbeddedConfig, localpart: str) -> None:
    """Have the account exist with the saved password, as far as that can be known without logging in."""
    password = read_private(paths.operator_password)
    fresh = password is None
    if password is None:
        password = secrets.token_urlsafe(24)
        write_private(paths.operator_password, password + "\n")
    elif not password:
        raise _wrong_password(paths, "is empty")
    nonce = str((await _call(session, "GET", _REGISTER)).get("nonce", ""))
    body = {
        "nonce": nonce,
        "username": localpart,
        "password": password,
        "admin": False,
        "mac": registration_mac(config.registration_shared_secret, nonce, localpart, password),
        "inhibit_login": True,
    }
    try:
        await _call(session, "POST", _REGISTER, body=body)
    except MatrixError as error:
        if error.errcode != "M_USER_IN_USE":
            raise
        if fresh:
            paths.operator_password.unlink()
            raise _wrong_password(paths, "is missing, and the account exists already") from None


async def _log_in(
    session: aiohttp.ClientSession, paths: Paths, user_id: UserId, password: Path, device_id: str
) -> OperatorAccount:
    """Return the account with a new token of a device, whose token of before stays good."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user_id},
        "password": read_private(password),
        "device_id": device_id,
        "initial_device_display_name": OPERATOR_DEVICE_NAME,
    }
    try:
        answer = await _call(session, "POST", "/_matrix/client/v3/login", body=body)
    except MatrixError as error:
        if error.status == 403 and error.errcode == "M_FORBIDDEN":
            raise _wrong_password(paths, f"is not the password of {user_id}") from None
        raise
    return OperatorAccount(UserId(answer["user_id"]), answer["device_id"], answer["access_token"])


async def renew_password(base_url: str, paths: Paths) -> None:
    """Give the operator another password and our device another token; all others of theirs are ended.

    Ours stays the same device, since a message that is sent again is known by it, and has its new token before the old
    one is ended. The new password is saved before the homeserver is told, so that a crash between the two loses none:
    the next call takes up whichever it is.

    Raises:
        UnauthenticatedError: the saved password is missing, or not the account's. HomeserverUnavailableError: it does
            not answer. MatrixError: any other answer.
    """
    saved = parse_device(read_private(paths.operator_device) or "")
    if saved is None or not read_private(paths.operator_password):
        raise _wrong_password(paths, "is missing or empty, or the operator was never logged in")
    fresh = _fresh_password(paths)
    async with aiohttp.ClientSession(base_url, timeout=aiohttp.ClientTimeout(total=_REQUEST_S)) as session:
        with contextlib.suppress(UnauthenticatedError):
            if read_private(fresh):
                await _log_in(session, paths, saved.user_id, fresh, saved.device_id)
                fresh.replace(paths.operator_password)
        account = await _log_in(session, paths, saved.user_id, paths.operator_password, saved.device_id)
        _save_device(paths, account)
        old, new = read_private(paths.operator_password), secrets.token_urlsafe(24)
        write_private(fresh, new + "\n")
        identifier = {"type": "m.id.user", "user": account.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": old}
        body = {"auth": auth, "new_password": new, "logout_devices": True}
        await _call(session, "POST", "/_matrix/client/v3/account/password", body=body, token=account.access_token)
    fresh.replace(paths.operator_password)


def _save_device(paths: Paths, account: OperatorAccount) -> None:
    write_private(paths.operator_device, json.dumps(asdict(account)) + "\n")


def _fresh_password(paths: Paths) -> Path:
    return paths.operator_password.with_name("operator-password.new")


async def issue_login_token(base_url: str, paths: Paths, account: OperatorAccount) -> str:
    """Return a token with which the operator can log in once, within `LOGIN_TOKEN_S`.

    https://spec.matrix.org/latest/client-server-api/#post_matrixclientv1loginget_token, with the saved password.

    Raises:
        UnauthenticatedError: the saved password is missing, or not the account's. MatrixError: any other answer, such
            as a second token within a minute. HomeserverUnavailableError: it does not answer.
    """
    password = read_private(paths.operator_password)
    if not password:
        raise _wrong_password(paths, "is missing or empty")
    identifier = {"type": "m.id.user", "user": account.user_id}
    body = {"auth": {"type": "m.login.password", "identifier": identifier, "password": password}}
    async with aiohttp.ClientSession(base_url, timeout=aiohttp.ClientTimeout(total=_REQUEST_S)) as session:
        try:
            answer = await _call(
                session, "POST", "/_matrix/client/v1/login/get_token", body=body, token=account.access_token
            )
        except MatrixError as error:
            if error.status == 401 and error.errcode == "M_FORBIDDEN":
                raise _wrong_password(paths, f"is not the password of {account.user_id}") from None
            raise
    return str(answer["login_token"])


def registration_mac(shared_secret: str, nonce: str, localpart: str, password: str) -> str:
    """Return the proof that the shared secret is known, for an account that is no administrator's.

    https://element-hq.github.io/synapse/latest/admin_api/register_api.html
    """
    message = b"\0".join(part.encode() for part in (nonce, localpart, password, "notadmin"))
    return hmac.new(shared_secret.encode(), message, hashlib.sha1).hexdigest()


def _wrong_password(paths: Paths, what: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"the operator's password file {paths.operator_password} {what}",
        hint=f"write the account's password into {paths.operator_password} (mode 600), or choose another account "
        "with AIAGENTCHAT_OPERATOR",
    )


async def _call(
    session: aiohttp.ClientSession, method: str, path: str, *, body: dict[str, Any] | None = None, token: str = ""
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with session.request(method, path, json=body, headers=headers) as response:
            try:
                answer = await response.json(content_type=None)
            except ValueError:
                answer = None
            if not isinstance(answer, dict):
                answer = {}
            if response.status < 300:
                return answer
            errcode, text = str(answer.get("errcode", "M_UNKNOWN")), str(answer.get("error", response.reason))
            raise MatrixError(response.status, errcode, text, request=f"{method} {path}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise HomeserverUnavailableError(
            f"the embedded homeserver does not answer: {str(error) or type(error).__name__}"
        ) from None
