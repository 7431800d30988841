"""Logging an account in for an agent, or the operator: what `cchat login` does. The secret comes from its caller."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlencode

import aiohttp
from aiohttp import web

from aiagentchat.config import Settings
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.errors import AiAgentChatError, InvalidRequestError, WaitedInVainError
from aiagentchat.matrix.accounts import (
    Account,
    RenewedToken,
    adopt_access_token,
    log_in_with_login_token,
    log_in_with_password,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, server_of

Way = Literal["password", "access-token", "login-token", "sso"]

_BROWSER_S = 600.0


async def log_in(
    settings: Settings,
    agent: AgentName | None,
    *,
    homeserver_url: str,
    user: str,
    way: Way,
    secret: Callable[[], str],
    show: Callable[[str], None],
) -> Account:
    """Log an agent's account in, or (None) the operator's, and keep it in this home.

    Args:
        user: localpart or user id; for a password alone. secret: asked once for the password or token. show: told the
            address to open in a browser.

    Raises:
        UnauthenticatedError: the homeserver does not accept it. InvalidRequestError: it does not offer this way, or
            this home's accounts are on another homeserver. WaitedInVainError: nobody came back from the browser.
    """
    store = AccountStore(settings.paths)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        client = MatrixClient(homeserver_url, "", session, timeout_s=settings.deadline_s)
        if way == "password":
            account = await log_in_with_password(client, homeserver_url, user, secret())
        elif way == "access-token":
            account = await adopt_access_token(client, homeserver_url, secret())
        elif way == "login-token":
            account = await log_in_with_login_token(client, homeserver_url, secret())
        else:
            login_token = await _token_of_browser(homeserver_url, show)
            account = await log_in_with_login_token(client, homeserver_url, login_token)
        _check_is_alone(store, agent, account)
        before = store.save(agent, account)
        if before is not None and before.device_id != account.device_id:
            await _forget(client, before)
    return account


def _check_is_alone(store: AccountStore, agent: AgentName | None, account: Account) -> None:
    others = store.all()
    others.pop(agent, None)
    for name, other in others.items():
        if other.user_id == account.user_id:
            raise InvalidRequestError(
                f"{account.user_id} is {name or 'the operator'}'s already",
                hint="each agent, and the operator, has an account of its own",
            )
        if other.homeserver_url != account.homeserver_url:
            raise InvalidRequestError(
                f"this home's accounts were logged in at {other.homeserver_url}, and all use one address",
                hint=f"--homeserver {other.homeserver_url}, or another AIAGENTCHAT_HOME",
            )
        if server_of(other.user_id) != server_of(account.user_id):
            raise InvalidRequestError(
                f"this home's accounts are on {server_of(other.user_id)}, and {account.user_id} is not",
                hint="use another AIAGENTCHAT_HOME for another homeserver",
            )


async def _forget(client: MatrixClient, before: Account) -> None:
    """Log the device out that was used until now; nobody has its token any more."""
    token = RenewedToken(before, client, lambda renewed: None)
    try:
        await client.with_token(token).log_out()
    except AiAgentChatError:  # it was logged out already, or is on a homeserver that is gone
        return


async def _token_of_browser(homeserver_url: str, show: Callable[[str], None]) -> str:
    """Return the login token with which a browser comes back from single sign-on.

    https://spec.matrix.org/latest/client-server-api/#client-login-via-sso
    """
    arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    path = f"/{secrets.token_urlsafe(16)}"  # no other page of the browser can send somebody else's token there
    async with _listening(path, arrived) as port:
        query = urlencode({"redirectUrl": f"http://127.0.0.1:{port}{path}"})
        show(f"{homeserver_url.rstrip('/')}/_matrix/client/v3/login/sso/redirect?{query}")
        try:
            async with asyncio.timeout(_BROWSER_S):
                return await arrived
        except TimeoutError:
            raise WaitedInVainError(f"no browser came back within {_BROWSER_S:.0f} s") from None


@asynccontextmanager
async def _listening(path: str, arrived: asyncio.Future[str]) -> AsyncIterator[int]:
    """Wait on loopback for the browser; gives the port."""

    async def come_back(request: web.Request) -> web.Response:
        token = request.query.get("loginToken", "")
        if not token:
            return web.Response(text="There is no login token in this address.", status=400)
        if not arrived.done():
            arrived.set_result(token)
        return web.Response(text="Logged in. You can close this page and go back to the terminal.")

    app = web.Application()
    app.router.add_get(path, come_back)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
