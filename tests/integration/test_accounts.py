"""Ordinary accounts on a real Synapse: logging in each way there is, and tokens that end."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.config import read_private
from aiagentchat.errors import InvalidRequestError, MatrixUnauthorizedError, UnauthenticatedError
from aiagentchat.matrix.accounts import (
    Account,
    RenewedToken,
    adopt_access_token,
    log_in_with_login_token,
    log_in_with_password,
)
from aiagentchat.matrix.client import MatrixClient
from tests.integration.systems import OPERATOR, Synapse, start_synapse

ENDS_AFTER_S = 1.0


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A homeserver whose access tokens end soon where they can be renewed."""
    lifetime = f"{ENDS_AFTER_S:.0f}s"
    synapse = asyncio.run(
        start_synapse(
            tmp_path_factory.mktemp("synapse"),
            refreshable_access_token_lifetime=lifetime,
            login_via_existing_session={"enabled": True, "require_ui_auth": False},
        )
    )
    yield synapse
    asyncio.run(synapse.stop())


@pytest.fixture
async def anyone(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """A client without a token."""
    return MatrixClient(synapse.config.base_url, "", http)


@pytest.fixture
def password(synapse: Synapse) -> str:
    return str(read_private(synapse.paths.operator_password))


async def test_a_password_gives_a_device_whose_token_is_renewed_when_it_has_ended(
    synapse: Synapse, anyone: MatrixClient, password: str
) -> None:
    url, saved = synapse.config.base_url, list[Account]()
    account = await log_in_with_password(anyone, url, OPERATOR, password)
    assert (account.user_id, account.homeserver_url) == (synapse.operator.user_id, url)
    assert account.access_token not in repr(account)
    client = anyone.with_token(RenewedToken(account, anyone, saved.append))
    for renewals in (1, 2):
        await asyncio.sleep(ENDS_AFTER_S + 0.1)  # the only way for a token to end by itself
        with pytest.raises(MatrixUnauthorizedError):
            await anyone.with_token(([account, *saved])[-1].access_token).whoami()
        at_once = await asyncio.gather(*(client.whoami() for _ in range(5)))
        assert set(at_once) == {(account.user_id, account.device_id)}
        assert len(saved) == renewals
    await client.log_out()
    with pytest.raises(MatrixUnauthorizedError):
        await client.whoami()
    assert len(saved) == 2


async def test_what_is_not_accepted_says_so(synapse: Synapse, anyone: MatrixClient, password: str) -> None:
    url = synapse.config.base_url
    for attempt in (
        log_in_with_password(anyone, url, OPERATOR, password + "x"),
        log_in_with_password(anyone, url, "nobody-of-that-name", password),
        log_in_with_login_token(anyone, url, "no-token"),
        adopt_access_token(anyone, url, "no-token"),
    ):
        with pytest.raises(UnauthenticatedError, match="accept") as caught:
            await attempt
        assert password not in str(caught.value)


async def test_the_token_of_a_single_sign_on_and_an_access_token_are_taken(
    synapse: Synapse, anyone: MatrixClient, http: aiohttp.ClientSession
) -> None:
    url, own = synapse.config.base_url, synapse.operator
    headers = {"Authorization": f"Bearer {own.access_token}"}
    async with http.post(f"{url}/_matrix/client/v1/login/get_token", json={}, headers=headers) as response:
        login_token = (await response.json())["login_token"]
    account = await log_in_with_login_token(anyone, url, login_token)
    assert account.user_id == own.user_id
    assert account.device_id != own.device_id
    adopted = await adopt_access_token(anyone, url, own.access_token)
    assert adopted == Account(own.user_id, own.device_id, own.access_token, url)


async def test_a_login_that_the_homeserver_does_not_offer_names_those_that_it_does(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    synapse = await start_synapse(tmp_path, login_via_existing_session={"enabled": False})
    try:
        anyone = MatrixClient(synapse.config.base_url, "", http)
        with pytest.raises(InvalidRequestError, match=r"takes no m\.login\.token, but m\.login\.password"):
            await log_in_with_login_token(anyone, synapse.config.base_url, "x")
    finally:
        await synapse.stop()


async def test_a_device_whose_refresh_token_is_not_known_has_to_log_in_anew(
    synapse: Synapse, anyone: MatrixClient
) -> None:
    saved: list[Account] = []
    account = Account(synapse.operator.user_id, "X", "ended", synapse.config.base_url, "not known either")
    with pytest.raises(MatrixUnauthorizedError):
        await anyone.with_token(RenewedToken(account, anyone, saved.append)).whoami()
    assert not saved
