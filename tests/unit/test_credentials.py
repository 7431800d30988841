"""Who a credential stands for, whatever is presented, and whatever is found on disk."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiagentchat.config import Paths
from aiagentchat.errors import UnauthenticatedError
from aiagentchat.gateway.credentials import Credentials
from aiagentchat.model import AgentName

A, B = AgentName("a"), AgentName("b")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(config_dir=tmp_path, data_dir=tmp_path)


@pytest.fixture
def credentials(paths: Paths) -> Credentials:
    return Credentials(paths)


def test_the_operators_outlives_the_daemon_and_is_the_users_alone(paths: Paths) -> None:
    Credentials(paths)
    token = paths.operator_credential.read_text().strip()
    assert paths.operator_credential.stat().st_mode & 0o777 == 0o600
    assert Credentials(paths).verify(token).agent is None


def test_an_agents_is_issued_once_outlives_the_daemon_and_ends_with_its_revocation(
    paths: Paths, credentials: Credentials
) -> None:
    token = credentials.issue(A, detached=True)
    assert credentials.issue(A, detached=False) == token
    again = Credentials(paths)
    assert (again.verify(token).agent, again.is_detached(A)) == (A, False)
    again.revoke(A)
    again.revoke(A)
    for each in (again, Credentials(paths)):
        with pytest.raises(UnauthenticatedError):
            each.verify(token)
    assert again.issue(A, detached=False) != token


def test_one_agents_is_not_anothers(credentials: Credentials) -> None:
    credentials.issue(B, detached=False)
    secret = credentials.issue(A, detached=False).split(":")[2]
    with pytest.raises(UnauthenticatedError):
        credentials.verify(f"agent:b:{secret}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    token=st.text(st.characters(exclude_categories=()))
    | st.builds(
        "{}:{}:{}".format,
        st.sampled_from(["agent", "operator"]),
        st.text(st.characters(exclude_categories=())) | st.sampled_from(["a", "b", "../operator", "..", "a/../a"]),
        st.text(),
    )
)
def test_whatever_is_presented_stands_for_nobody(credentials: Credentials, token: str) -> None:
    credentials.issue(A, detached=False)
    with pytest.raises(UnauthenticatedError):
        credentials.verify(token)


@pytest.mark.parametrize("kept", ["", "{", "[]", "null", "7", '{"token": "agent:a:x"}', json.dumps({"detached": True})])
def test_a_file_that_cannot_be_read_stands_for_nobody_and_is_replaced(
    paths: Paths, credentials: Credentials, kept: str
) -> None:
    credentials.issue(A, detached=False)
    [file] = (paths.credentials / "agents").iterdir()
    file.write_text(kept)
    fresh = Credentials(paths)
    with pytest.raises(UnauthenticatedError):
        fresh.verify("agent:a:x")
    assert fresh.verify(fresh.issue(A, detached=False)).agent == A
