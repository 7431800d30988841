"""The gateway's client before it connects: whom it speaks for, where it goes, and what a refusal becomes."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.client import EventStream, GatewayClient, GatewayError, connect
from aiagentchat.config import load_settings, write_private
from aiagentchat.errors import (
    OUTCOMES,
    AiAgentChatError,
    DaemonNotRunningError,
    InvalidNameError,
    InvalidRequestError,
    RefusedError,
    UnauthenticatedError,
)

JSON = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home in which a daemon has run."""
    write_private(tmp_path / "credentials" / "operator", "operator:secret\n")
    return tmp_path


def client_in(home: Path, acting_as: str = "", **environment: str) -> GatewayClient:
    return connect(load_settings({"AIAGENTCHAT_HOME": str(home)} | environment), acting_as=acting_as)


@pytest.mark.parametrize(
    ("acting_as", "environment", "token", "agent"),
    [
        ("", {}, "operator:secret", None),
        ("", {"AIAGENTCHAT_AGENT": "", "AIAGENTCHAT_TOKEN": ""}, "operator:secret", None),
        ("", {"AIAGENTCHAT_AGENT": "a"}, "operator:secret", "a"),
        ("b", {"AIAGENTCHAT_AGENT": "a"}, "operator:secret", "b"),
        ("", {"AIAGENTCHAT_TOKEN": "agent:a:x"}, "agent:a:x", None),
        ("", {"AIAGENTCHAT_TOKEN": "agent:a:x", "AIAGENTCHAT_AGENT": "b"}, "agent:a:x", None),
        ("b", {"AIAGENTCHAT_TOKEN": "agent:a:x"}, "agent:a:x", "b"),  # for the daemon to refuse
    ],
)
def test_as_goes_before_the_token_and_that_before_the_agent_and_that_before_the_operator(
    home: Path, acting_as: str, environment: dict[str, str], token: str, agent: str | None
) -> None:
    headers = client_in(home, acting_as, **environment)._headers
    assert headers["Authorization"] == f"Bearer {token}"
    assert headers.get("AIAgentChat-As") == agent


def test_a_token_needs_no_file_of_the_operator(tmp_path: Path) -> None:
    assert client_in(tmp_path, AIAGENTCHAT_TOKEN="agent:a:x")._headers["Authorization"] == "Bearer agent:a:x"


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"AIAGENTCHAT_AGENT": "Not A Name"}, InvalidNameError),
        ({"AIAGENTCHAT_AGENT": "\udcff"}, InvalidNameError),
        ({"AIAGENTCHAT_TOKEN": "a\r\nX: y"}, UnauthenticatedError),
        ({"AIAGENTCHAT_TOKEN": "ключ"}, UnauthenticatedError),
        ({"AIAGENTCHAT_URL": "https://127.0.0.1:1"}, InvalidRequestError),
        ({"AIAGENTCHAT_URL": "http://127.0.0.1:port"}, InvalidRequestError),
        ({"AIAGENTCHAT_URL": "http://[::1"}, InvalidRequestError),
        ({"AIAGENTCHAT_URL": "127.0.0.1:1"}, InvalidRequestError),
    ],
)
def test_what_cannot_be_a_caller_or_a_gateway_is_refused_before_anything_is_sent(
    home: Path, environment: dict[str, str], error: type[AiAgentChatError]
) -> None:
    with pytest.raises(error):
        client_in(home, **environment).who()


def test_a_socket_directory_of_another_user_gets_no_credential(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(RefusedError, match="belongs to another user"):
        client_in(home)
    client_in(home, AIAGENTCHAT_URL="http://127.0.0.1:1")  # goes elsewhere


def test_a_stream_that_ends_with_an_error_raises_it() -> None:
    problem = {"code": "homeserver_unavailable", "detail": "it is away", "hint": "", "retryable": True}
    lines = [
        b"event: message\n",
        b'data: {"body": "x"}\n',
        b"\n",
        b"event: error\n",
        f"data: {json.dumps(problem)}\n".encode(),
    ]
    response = Mock(readline=Mock(side_effect=[*lines, b""]))
    stream = iter(EventStream(Mock(), response))
    assert next(stream) == ("message", {"body": "x"})
    with pytest.raises(GatewayError, match="it is away") as caught:
        next(stream)
    assert (caught.value.code, caught.value.retryable) == ("homeserver_unavailable", True)


def test_without_a_credential_no_daemon_has_run_here(tmp_path: Path) -> None:
    with pytest.raises(DaemonNotRunningError) as raised:
        client_in(tmp_path)
    assert "cchat up" in raised.value.hint


def test_a_credential_that_others_can_read_is_not_used(home: Path) -> None:
    (home / "credentials" / "operator").chmod(0o644)
    with pytest.raises(InvalidRequestError, match="can be read by others"):
        client_in(home)


@given(st.dictionaries(st.sampled_from(["code", "detail", "hint", "retryable", "status"]), JSON))
@example({"code": None, "detail": "", "hint": None})
def test_whatever_a_refusal_holds_it_has_an_exit_code(problem: dict[str, Any]) -> None:
    error = GatewayError(problem)
    assert error.outcome in OUTCOMES.values()
    assert error.message
    assert isinstance(error.retryable, bool)
