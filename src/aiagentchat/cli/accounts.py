"""`cchat login`: an account for an agent, or the operator's, on a homeserver where the daemon is an ordinary client."""

import asyncio
import getpass
import sys

from aiagentchat.cli.invocation import Invocation
from aiagentchat.config import Settings
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.daemon.login import Way, log_in
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import AgentName, parse_agent_name

_SECRETS: dict[str, str] = {"password": "password", "access-token": "access token", "login-token": "login token"}


def login(call: Invocation) -> None:
    """Log in and keep the account in this home."""
    args, settings = call.args, call.settings
    if call.acting_as:
        raise InvalidRequestError("login speaks for nobody: leave --as out", hint="cchat login NAME")
    if (args.name is None) == (not args.operator):
        raise InvalidRequestError("login is for one agent, NAME, or for the operator, --operator")
    agent = None if args.operator else parse_agent_name(args.name)
    _refuse_where_none_is_needed(settings, agent)
    url = args.homeserver or settings.homeserver_url or _url_of_others(call)
    if not url.startswith(("http://", "https://")):
        raise InvalidRequestError(
            f"{url!r} is no address of a homeserver" if url else "which homeserver?",
            hint="--homeserver https://matrix.example.org",
        )
    url = url.rstrip("/")
    user = args.user or agent or settings.operator
    way: Way = args.way

    def secret() -> str:
        if sys.stdin.isatty():
            text = getpass.getpass(f"{_SECRETS[way]} of {user} on {url}: ")
        else:
            text = sys.stdin.readline().rstrip("\r\n")
        if not text:
            raise InvalidRequestError(f"no {_SECRETS[way]} was given", hint="type it, or pipe it in")
        return text

    def show(address: str) -> None:
        call.out.note(f"open this in a browser on this machine, and sign in:\n  {address}")

    account = asyncio.run(log_in(settings, agent, homeserver_url=url, user=user, way=way, secret=secret, show=show))
    who = agent or "the operator"
    call.out.result({"name": agent, "user_id": account.user_id}, f"{who}: logged in as {account.user_id}")
    if not call.out.is_terminal:
        return
    if agent is None:
        call.out.note("next: an account for each agent, 'cchat login NAME', and then 'cchat up'")
    else:
        call.out.note(f"next: 'cchat up' starts the daemon, and 'cchat join {agent}' brings it online")


def _refuse_where_none_is_needed(settings: Settings, agent: AgentName | None) -> None:
    """Raise `InvalidRequestError` in a home whose daemon would not use the account."""
    elsewhere = "for accounts on another homeserver use another AIAGENTCHAT_HOME"
    has_homeserver = settings.paths.homeserver.exists()
    if agent is None and has_homeserver:
        raise InvalidRequestError("'cchat up' logs the operator of this home's own homeserver in", hint=elsewhere)
    if agent is not None and (has_homeserver or settings.registration or settings.paths.registration.exists()):
        raise InvalidRequestError(
            f"here {agent} needs no account: it is a user of the application service",
            hint=f"'cchat join {agent}' makes it; {elsewhere}",
        )


def _url_of_others(call: Invocation) -> str:
    """Return the homeserver of the accounts that this home has, "" where it has none."""
    accounts = AccountStore(call.settings.paths).all().values()
    return next((account.homeserver_url for account in accounts), "")
