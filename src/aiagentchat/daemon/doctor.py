"""Proves that a homeserver and a registration fit together, one check after the other.

It leaves one account behind, `aiagentchat-_doctor`, which no agent can have and each run uses again. The command
`cchat doctor` calls it; what answers mean is in `daemon.verdicts`.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from aiagentchat.config import Settings
from aiagentchat.daemon import verdicts
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.daemon.endpoints import missing_endpoints
from aiagentchat.daemon.target import find_homeserver_of_accounts
from aiagentchat.daemon.verdicts import Check, NameReplies, Setup
from aiagentchat.errors import HomeserverUnavailableError, InvalidRequestError
from aiagentchat.matrix.appservice import AppserviceReceiver
from aiagentchat.matrix.probe import Probe, Reply
from aiagentchat.registration import read_registration, registration_file

CHECKS = (
    "registration",
    "homeserver",
    "as_token",
    "server name",
    "ping",
    "room version",
    "space alias",
    "namespace",
    "presence",
    "rate limits",
)
"""In this order. Where one that others rest on fails, those are skipped."""

CHECKS_OF_ACCOUNTS = ("accounts", "homeserver", "tokens", "room version", "endpoints")
"""The same in a home with accounts and no registration."""

_CLIENT = ("client", "v3")
_PROBE_NAME = "_doctor"
_REQUEST_S = 10.0
_PING_S = 60.0
"""Synapse itself waits for some seconds before it says that it does not reach an address."""
_STALE_S, _STALE_POLL_S = 3.0, 0.1
_BURST = 12
"""More writes of presence than any account may do in a row on Synapse's defaults (one), or on ours (ten)."""
_PRESENCE_READS, _PRESENCE_WAIT_S = 10, 0.2
"""With workers, what one wrote takes a moment until another has it."""


async def examine(settings: Settings, *, daemon_runs: bool) -> AsyncGenerator[Check, None]:
    """Yield each check as soon as it is known. `daemon_runs`: this home's daemon, which then answers the ping.

    Those are `CHECKS`, or in a home with accounts and no registration `CHECKS_OF_ACCOUNTS`.
    """
    told: set[str] = set()
    of_accounts = not registration_file(settings).exists() and AccountStore(settings.paths).has_any()
    checks = _of_accounts(settings) if of_accounts else _until_one_prevents_others(settings, daemon_runs=daemon_runs)
    async for check in checks:
        told.add(check.name)
        yield check
    for name in CHECKS_OF_ACCOUNTS if of_accounts else CHECKS:
        if name not in told:
            yield Check(name, "skipped", "not checked, because of what failed above")


async def _until_one_prevents_others(settings: Settings, *, daemon_runs: bool) -> AsyncIterator[Check]:
    setup, file = _read_setup(settings)
    yield file
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        timeout_s = min(_REQUEST_S, settings.deadline_s)
        answering = await _homeserver(settings.homeserver_url, session, timeout_s)
        yield answering
        if setup is None or answering.state == "failed":
            return
        url, token = settings.homeserver_url, setup.registration.as_token
        probe, patient = (Probe(url, session, token, timeout_s=limit_s) for limit_s in (timeout_s, _PING_S))
        async for check in _Doctor(setup, settings.space_alias, probe, patient, daemon_runs=daemon_runs).checks():
            yield check


async def _of_accounts(settings: Settings) -> AsyncIterator[Check]:
    """Yield the checks of accounts until one fails that the next rest on."""
    try:
        homeserver = find_homeserver_of_accounts(settings)
        accounts = AccountStore(settings.paths).all()
    except InvalidRequestError as error:
        yield Check("accounts", "failed", error.message, error.hint)
        return
    assert homeserver is not None
    names = [agent or "the operator" for agent in accounts]
    yield Check("accounts", "ok", f"{', '.join(names)} on {homeserver.server_name}")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        timeout_s = min(_REQUEST_S, settings.deadline_s)
        yield (answering := await _homeserver(homeserver.url, session, timeout_s))
        if answering.state == "failed":
            return
        probes = {
            name: Probe(homeserver.url, session, account.access_token, timeout_s=timeout_s)
            for name, account in zip(names, accounts.values(), strict=True)
        }
        yield await _answered("tokens", _tokens(probes))
        probe = next(iter(probes.values()))
        yield await _answered("room version", _room_version(probe))
        yield await _answered("endpoints", _endpoints(probe))


async def _tokens(probes: Mapping[str, Probe]) -> Check:
    replies = {name: await probe.ask("GET", (*_CLIENT, "account", "whoami")) for name, probe in probes.items()}
    return verdicts.judge_tokens(replies)


async def _endpoints(probe: Probe) -> Check:
    return verdicts.judge_endpoints(await missing_endpoints(probe, is_appservice=False))


async def _room_version(probe: Probe) -> Check:
    return verdicts.judge_room_version(await probe.ask("GET", (*_CLIENT, "capabilities")))


def _read_setup(settings: Settings) -> tuple[Setup | None, Check]:
    path = registration_file(settings)
    try:
        registration = read_registration(path)
        _ = registration.port
    except InvalidRequestError as error:
        return None, Check("registration", "failed", error.message, error.hint)
    setup = Setup(registration, path, settings.server_name, settings.events_host)
    return setup, verdicts.judge_file(registration, path, path.stat().st_mode)


async def _homeserver(url: str, session: aiohttp.ClientSession, timeout_s: float) -> Check:
    if not url:
        return Check(
            "homeserver",
            "failed",
            "no homeserver is configured",
            "'cchat up' starts one; for your own, set AIAGENTCHAT_HOMESERVER_URL",
        )
    probe = Probe(url, session, timeout_s=timeout_s)
    try:
        versions = await probe.ask("GET", ("client", "versions"))
    except HomeserverUnavailableError as error:
        remedy = "start it ('cchat up' this home's own), or set AIAGENTCHAT_HOMESERVER_URL to where it is reached"
        return Check("homeserver", "failed", f"{url} does not answer: {error.message}", remedy)
    told = None
    with suppress(HomeserverUnavailableError):  # many do not serve the federation API here
        told = await probe.ask("GET", ("federation", "v1", "version"))
    return verdicts.judge_homeserver(url, versions, told)


class _Doctor:
    """The checks that need the application service's token. `patient`: for what takes the homeserver long."""

    def __init__(self, setup: Setup, space_alias: str, probe: Probe, patient: Probe, *, daemon_runs: bool) -> None:
        self._setup = setup
        self._space_alias = space_alias
        self._probe = probe
        self._patient = patient
        self._daemon_runs = daemon_runs
        self._prefix = setup.registration.sender_localpart
        self._server = ""

    async def checks(self) -> AsyncIterator[Check]:
        """Yield from `as_token` on, until one fails that the next rest on."""
        yield (token := await _answered("as_token", self._token()))
        if token.state == "failed":
            return
        yield verdicts.judge_server_name(self._server, self._setup)
        yield await _answered("ping", self._ping())
        yield await _answered("room version", _room_version(self._probe))
        yield await _answered("space alias", self._alias())
        yield (names := await _answered("namespace", self._names()))
        if names.state == "failed":
            return
        yield await _answered("presence", self._presence())
        yield await _answered("rate limits", self._rate_limits())

    @property
    def _user(self) -> str:
        return f"@{self._prefix}-{_PROBE_NAME}:{self._server}"

    async def _token(self) -> Check:
        whoami = await self._probe.ask("GET", (*_CLIENT, "account", "whoami"))
        self._server = whoami.text("user_id").partition(":")[2]
        return verdicts.judge_token(whoami, self._setup)

    async def _ping(self) -> Check:
        registration = self._setup.registration
        try:
            receiver = None if self._daemon_runs else AppserviceReceiver(registration, self._setup.events_host)
            async with _listening(receiver):
                reply = await self._ask_for_ping()
        except OSError as error:
            detail = f"port {registration.port}, where the daemon is to listen, cannot be used: {error.strerror}"
            remedy = "stop what listens there: does a daemon of another home run with this registration?"
            return Check("ping", "failed", detail, remedy)
        listener = "the daemon" if self._daemon_runs else "this check in the daemon's place"
        return verdicts.judge_ping(reply, self._setup, listener=listener)

    async def _ask_for_ping(self) -> Reply:
        """Ask again for a moment: Synapse first tries connections of its pool, to whoever listened there before."""
        path = ("client", "v1", "appservice", self._setup.registration.id, "ping")
        reply = await self._patient.ask("POST", path, body={})
        loop = asyncio.get_running_loop()
        until = loop.time() + _STALE_S  # from here on: a busy homeserver may have taken as long for the first answer
        while reply.errcode == "M_CONNECTION_FAILED" and loop.time() < until:
            await asyncio.sleep(_STALE_POLL_S)
            reply = await self._patient.ask("POST", path, body={})
        return reply

    async def _alias(self) -> Check:
        """Ask for an alias of others only: for one of ours that is new, Synapse would ask us, and wait."""
        alias, registration = self._space_alias, self._setup.registration
        path = (*_CLIENT, "directory", "room", alias)
        resolved = None if registration.claims_alias(alias) else await self._probe.ask("GET", path)
        return verdicts.judge_space_alias(alias, resolved, registration)

    async def _names(self) -> Check:
        """Free aliases that no room has: the homeserver says whose they would be, and nothing changes."""
        name, foreign = f"{self._prefix}-{_PROBE_NAME}", f"{self._prefix}.{secrets.token_hex(8)}-{_PROBE_NAME}"
        alias, foreign_alias = f"#{name}:{self._server}", f"#{foreign}:{self._server}"
        account = {"type": "m.login.application_service", "username": name, "inhibit_login": True}
        directory = (*_CLIENT, "directory", "room")
        replies = NameReplies(
            self._user,
            alias,
            made=await self._probe.ask("POST", (*_CLIENT, "register"), body=account),
            acted=await self._probe.ask("GET", (*_CLIENT, "account", "whoami"), query={"user_id": self._user}),
            freed=await self._probe.ask("DELETE", (*directory, alias)),
            foreign_freed=await self._probe.ask("DELETE", (*directory, foreign_alias)),
        )
        return verdicts.judge_names(replies, self._setup)

    async def _presence(self) -> Check:
        """Not of the daemon's own user: its presence is the lease."""
        put = await self._put_presence("online")
        for _ in range(_PRESENCE_READS):
            path = (*_CLIENT, "presence", self._user, "status")
            got = await self._probe.ask("GET", path, query={"user_id": self._user})
            if not put.ok or not got.ok or got.text("presence") == "online":
                break
            await asyncio.sleep(_PRESENCE_WAIT_S)
        return verdicts.judge_presence(put, got)

    async def _rate_limits(self) -> Check:
        return verdicts.judge_rate_limits([await self._put_presence("offline") for _ in range(_BURST)], self._setup)

    async def _put_presence(self, presence: str) -> Reply:
        path = (*_CLIENT, "presence", self._user, "status")
        return await self._probe.ask("PUT", path, query={"user_id": self._user}, body={"presence": presence})


async def _answered(name: str, asking: Coroutine[Any, Any, Check]) -> Check:
    try:
        return await asking
    except HomeserverUnavailableError as error:
        detail = f"the homeserver did not answer: {error.message}"
        return Check(name, "failed", detail, "see the homeserver's log, and try again")


@asynccontextmanager
async def _listening(receiver: AppserviceReceiver | None) -> AsyncIterator[None]:
    """Listen in a daemon's place. Events that come are refused at the end, so that the daemon gets them again."""
    if receiver is None:
        yield
        return
    try:
        await receiver.start()
        yield
    finally:
        await receiver.stop()
