"""The gateway's client before it connects: whom it speaks for, where it goes, and what a refusal becomes."""

import errno
import http.client
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.client import GatewayClient, connect
from aiagentchat.config import load_settings, write_private
from aiagentchat.connection import EventStream, GatewayError
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


@pytest.mark.parametrize(("number", "said"), [(errno.EPERM, "a sandbox"), (errno.EACCES, "belongs to another user")])
def test_a_sandbox_is_told_from_a_socket_of_another_user(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(number, os.strerror(number))

    client = client_in(home)
    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(RefusedError, match=said):
        client.who()


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


# --- sent once, whatever happens


class _Gateway:
    """What becomes of each attempt to send: an answer, a problem, or an error of the connection; then the last again.

    `requests`: at which second each attempt was made, and with which body. `limits`: the most each was to take.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: dict[str, Any] | Exception) -> None:
        self.now = 0.0
        self.attempts: list[float] = []
        self.limits: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self._outcomes = list(outcomes)
        monkeypatch.setattr("aiagentchat.client._pause", self._pass)
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr(GatewayClient, "_connect", self._connect)
        self.client = GatewayClient("http://localhost:1", "operator:secret", timeout_s=10.0)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def _connect(self, timeout_s: float) -> Mock:
        self.attempts.append(self.now)
        self.limits.append(timeout_s)
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, ConnectionRefusedError):
            return Mock(connect=Mock(side_effect=outcome))
        if isinstance(outcome, Exception):
            return Mock(request=self._take, getresponse=Mock(side_effect=outcome))
        response = Mock(status=200 if "event_id" in outcome else 500, read=lambda: json.dumps(outcome).encode())
        return Mock(request=self._take, getresponse=Mock(return_value=response))

    def _take(self, _method: str, _path: str, body: str, _headers: dict[str, str]) -> None:
        self.bodies.append(json.loads(body))


STORED = {"event_id": "$1", "room_id": "!r", "state": "stored"}
CUT, REFUSED = http.client.RemoteDisconnected("cut"), ConnectionRefusedError()


def problem(code: str, *, retryable: bool) -> dict[str, Any]:
    return {"code": code, "detail": f"it is {code}", "hint": "see there", "retryable": retryable}


@pytest.mark.parametrize(
    "passing",
    [
        (CUT,),
        (CUT, REFUSED, REFUSED),
        (problem("homeserver_unavailable", retryable=True),),
        (problem("deadline_exceeded", retryable=True), CUT),
    ],
)
def test_what_may_be_stored_or_not_is_sent_again_with_the_same_key(
    monkeypatch: pytest.MonkeyPatch, passing: tuple[Any, ...]
) -> None:
    gateway = _Gateway(monkeypatch, *passing, STORED)
    assert gateway.client.send("hello", to="coder") == STORED
    assert len(gateway.attempts) == len(passing) + 1
    assert len({json.dumps(body) for body in gateway.bodies}) == 1
    assert gateway.bodies[0]["key"]
    assert gateway.limits[0] > 10.0
    assert [
        limit for limit, at in zip(gateway.limits[1:], gateway.attempts[1:], strict=True) if limit + at > 10.001
    ] == []


def test_each_message_has_a_key_of_its_own_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = _Gateway(monkeypatch, STORED)
    for key in (None, None, "k", "k", ""):
        gateway.client.send("hello", key=key)
    first, second, *given_keys = [body["key"] for body in gateway.bodies]
    assert first != second
    assert given_keys == ["k", "k", ""]


@pytest.mark.parametrize(
    ("outcomes", "code", "attempts"),
    [
        ((REFUSED,), "daemon_not_running", 1),
        ((problem("agent_not_found", retryable=False),), "agent_not_found", 1),
        ((CUT, problem("body_too_large", retryable=False)), "body_too_large", 2),
        ((problem("rate_limited", retryable=True),), "rate_limited", 1),
    ],
)
def test_what_is_certain_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, outcomes: tuple[Any, ...], code: str, attempts: int
) -> None:
    gateway = _Gateway(monkeypatch, *outcomes)
    with pytest.raises(AiAgentChatError) as raised:
        gateway.client.send("hello")
    assert (raised.value.code, len(gateway.attempts)) == (code, attempts)
    assert ("--key" in raised.value.hint) == (code == "rate_limited")


@pytest.mark.parametrize(
    ("outcomes", "code", "said"),
    [
        ((CUT, REFUSED), "daemon_not_running", "whether this was done is not known"),
        ((problem("homeserver_unavailable", retryable=True), TimeoutError()), "homeserver_unavailable", "it is"),
        ((CUT, problem("homeserver_unavailable", retryable=True)), "homeserver_unavailable", "it is"),
        ((TimeoutError(),), "deadline_exceeded", "may still take effect"),
    ],
)
def test_at_the_deadline_the_error_says_what_is_known_and_names_the_key(
    monkeypatch: pytest.MonkeyPatch, outcomes: tuple[Any, ...], code: str, said: str
) -> None:
    gateway = _Gateway(monkeypatch, *outcomes)
    with pytest.raises(AiAgentChatError, match=said) as raised:
        gateway.client.send("hello", key="k1")
    assert raised.value.code == code
    assert "--key k1 sends the same message, never a second one" in raised.value.hint
    assert 8.0 < gateway.now <= 10.0
    pauses = [later - earlier for earlier, later in pairwise(gateway.attempts)]
    assert pauses == sorted(pauses)
    assert max(pauses) <= 1.0 + 1e-9
