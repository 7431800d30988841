"""Which homeserver a daemon is for: the configured one, or that of the accounts that were logged in here."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from aiagentchat.config import Settings
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import server_of
from aiagentchat.registration import Registration, read_registration, registration_file


@dataclass(frozen=True, slots=True)
class Homeserver:
    """Where the homeserver is, and how the daemon is registered with it. `public_url` "": the same as `url`.

    `registration` None: not at all; agents and operator have ordinary accounts. `element_url`: of the Element Web that
    is served beside it; "": none is.
    """

    url: str
    server_name: str
    registration: Registration | None
    public_url: str = ""
    element_url: str = ""

    @property
    def shown_url(self) -> str:
        """What a person points Element to."""
        return self.public_url or self.url


def find_homeserver(settings: Settings) -> Homeserver:
    """Return the configured homeserver: its URL, and the registration file; or that of the accounts logged in here.

    Raises:
        InvalidRequestError: something is missing; the hint says what to set.
    """
    path = registration_file(settings)
    if not settings.registration and not path.exists():
        of_accounts = find_homeserver_of_accounts(settings)
        if of_accounts is not None:
            return of_accounts
    registration = read_registration(path)
    if not settings.homeserver_url:
        raise InvalidRequestError(
            "no homeserver is configured", hint="'cchat up' starts one; for your own, set AIAGENTCHAT_HOMESERVER_URL"
        )
    url = _checked_url(settings.homeserver_url)
    return Homeserver(url, settings.server_name, registration, settings.public_url)


def find_homeserver_of_accounts(settings: Settings) -> Homeserver | None:
    """Return the homeserver of the accounts that were logged in with `cchat login`; None: there is none.

    Raises:
        InvalidRequestError: an account's file cannot be used, or they are not all on one homeserver.
    """
    accounts = list(AccountStore(settings.paths).all().values())
    if not accounts:
        return None
    urls = sorted({account.homeserver_url for account in accounts})
    if len(urls) > 1 and not settings.homeserver_url:
        raise InvalidRequestError(
            f"the accounts in {settings.paths.accounts} were logged in at {' and '.join(urls)}",
            hint="set AIAGENTCHAT_HOMESERVER_URL to the one that may have all their tokens",
        )
    servers = sorted({server_of(account.user_id) for account in accounts})
    if len(servers) > 1:
        raise InvalidRequestError(
            f"the accounts in {settings.paths.accounts} are on {' and '.join(servers)}",
            hint="one home is for one homeserver: use another AIAGENTCHAT_HOME for the others",
        )
    url = settings.homeserver_url or accounts[0].homeserver_url
    return Homeserver(_checked_url(url), servers[0], None, settings.public_url)


def _checked_url(url: str) -> str:
    if not _is_http_url(url):
        raise InvalidRequestError(
            f"{url!r} is no address of a homeserver",
            hint="AIAGENTCHAT_HOMESERVER_URL is like https://matrix.example.org",
        )
    return url


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # no port, or no IPv6 address
        return False
