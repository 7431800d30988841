"""What `cchat run` does with a message when the daemon refuses what it wants: no real daemon does so on request."""

import select
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from aiagentchat.adapters import listening
from aiagentchat.adapters.files import FileStore
from aiagentchat.adapters.run import Handled, Program, Runner, beginning_of, conversation_of, session_of
from aiagentchat.client import GatewayClient
from aiagentchat.connection import GatewayError

Json = dict[str, Any]
AGENT = "upper"


def message(event_id: str = "$1", **fields: Any) -> Json:
    sender = {"user_id": "@alice:example.org", "name": "alice", "kind": "person"}
    room = {
        "room_id": "!room",
        "thread": None,
        "broadcast": False,
        "late": False,
        "in_reply_to": None,
        "file": None,
        "edits": None,
    }
    return room | {"event_id": event_id, "sender": sender, "body": "hello"} | fields


def refusal(code: str, *, retryable: bool = False) -> GatewayError:
    return GatewayError({"code": code, "detail": f"it is {code}", "retryable": retryable})


class Gateway:
    """As much of the client as the runner uses. Each call of a method fails with the next of its refusals."""

    def __init__(self, messages: list[Json], **refusals: list[GatewayError]) -> None:
        self._messages = messages
        self._refusals = refusals
        self.sent: list[str] = []
        self.acknowledged: list[str] = []

    def _refuse(self, method: str) -> None:
        if self._refusals.get(method):
            raise self._refusals[method].pop(0)

    @contextmanager
    def events(self, **_: bool) -> Iterator[Iterator[tuple[str, Json]]]:
        yield self._events()

    def _events(self) -> Iterator[tuple[str, Json]]:
        for number, each in enumerate(self._messages):
            while number > len(self.handled):  # one after the other
                select.select([], [], [], 0.01)
            yield "message", each
        while len(self.handled) < len({each["event_id"] for each in self._messages}):
            select.select([], [], [], 0.01)
        yield "ended", {"name": AGENT}

    def send(self, body: str, *, reply_to: str, key: str, **_: object) -> None:
        self._refuse("send")
        assert key == f"run {reply_to}", "the same answer after a crash is the same message"
        self.sent.append(body)

    def acknowledge(self, event_ids: list[str]) -> None:
        self._refuse("acknowledge")
        self.acknowledged += event_ids

    def set_status(self, **_: float) -> None:
        pass

    handled: list[Handled]


def run(monkeypatch: pytest.MonkeyPatch, gateway: Gateway, *code: str) -> list[Handled]:
    """Run a program for the gateway's messages; return what became of each."""
    monkeypatch.setattr(listening, "RETRY_S", 0.0)
    gateway.handled = []
    runner_of(gateway, *code).run()
    return gateway.handled


def runner_of(gateway: Gateway, code: str = "print(input().upper())") -> Runner:
    program, client = Program((sys.executable, "-c", code)), cast("GatewayClient", gateway)
    files, handled = FileStore(client, Path("unused")), gateway.handled.append
    return Runner(AGENT, program, client, files, lambda: {"token": "token"}, tell=lambda _: None, on_handled=handled)


def failures(handled: list[Handled]) -> list[str]:
    return ["not answered" if each.ending is None else each.ending.failure for each in handled]


def test_an_answer_is_stored_before_its_message_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway([message()], send=[refusal("homeserver_unavailable", retryable=True)] * 2)
    assert failures(run(monkeypatch, gateway)) == [""]
    assert (gateway.sent, gateway.acknowledged) == (["HELLO"], ["$1"])


@pytest.mark.parametrize("code", ["agent_not_found", "internal", "forbidden"])
def test_an_answer_that_is_refused_is_said_and_its_message_holds_up_no_other(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway([message()], send=[refusal(code)])
    handled = run(monkeypatch, gateway)
    assert failures(handled) == [f"its answer was not stored: it is {code}"]
    assert handled[0].ending is not None
    assert handled[0].ending.answer == "HELLO"
    assert gateway.acknowledged == ["$1"]


def test_what_is_handed_out_again_as_it_was_acknowledged_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway([message(), message()])
    assert failures(run(monkeypatch, gateway)) == [""]
    assert (gateway.sent, gateway.acknowledged) == (["HELLO"], ["$1"])


def test_a_cursor_that_can_name_no_more_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway([message()], acknowledge=[refusal("ack_window_full")] * 3)
    assert failures(run(monkeypatch, gateway)) == [""]
    assert gateway.acknowledged == ["$1"]


def test_what_no_environment_can_hold_is_a_failure_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway([message(thread="$\0")])
    assert failures(run(monkeypatch, gateway)) == ["it could not be started: embedded null byte"]
    assert (gateway.sent, gateway.acknowledged) == (
        ["✗ no answer: it could not be started: embedded null byte"],
        ["$1"],
    )


def test_a_fault_of_ours_ends_the_command_as_it_would_in_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway([message()])
    monkeypatch.setattr(gateway, "acknowledge", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, gateway)


def test_an_agents_answer_and_what_is_for_others_is_acknowledged_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = {"user_id": "@b:example.org", "name": "b", "kind": "agent"}
    answer = message("$1", sender=agent, in_reply_to={"room_id": "!r", "event_id": "$0"})
    to_all = [message("$2", broadcast=True), message("$3", broadcast=True, body="uppercase, upper-case, up.upper")]
    gateway = Gateway([answer, *to_all, message("$4", broadcast=True, body="Hi Upper!")])
    assert sorted(failures(run(monkeypatch, gateway))) == ["", *["not answered"] * 3]
    assert sorted(gateway.acknowledged) == ["$1", "$2", "$3", "$4"]


def test_a_conversation_is_a_thread_or_an_agent_or_where_people_write() -> None:
    agent = {"user_id": "@b:example.org", "name": "b", "kind": "agent"}
    messages = (message(), message(sender=agent), message(thread="$t"), message(broadcast=True, room_id="!all"))
    conversations = [conversation_of(each) for each in messages]
    assert len(set(conversations)) == len(conversations)
    assert conversation_of(message("$2")) == conversations[0]
    assert session_of("a", conversations[0]) == session_of("a", conversations[0]) != session_of("b", conversations[0])


def test_a_long_answer_is_cut_between_characters() -> None:
    beginning = beginning_of("é" * 10_000)
    assert beginning.startswith("é" * 4_000)
    assert beginning.endswith("\n\n[the first 4,000 of 10,000 characters")


@pytest.mark.parametrize(
    ("codes", "ending"),
    [
        (["body_too_large"], "; all of it is in this file]"),
        (["body_too_large", "file_too_large"], "characters]"),
        (["body_too_large", "forbidden"], "characters]"),
    ],
)
def test_an_answer_that_is_too_long_is_one_message_with_its_file_or_without(
    codes: list[str], ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway([message()], send=[refusal(code) for code in codes])
    assert failures(run(monkeypatch, gateway, "print('x' * 90_000)")) == [""]
    (sent,) = gateway.sent
    assert sent.endswith(ending)
    assert gateway.acknowledged == ["$1"]


def test_of_what_is_taken_back_before_its_turn_nothing_is_kept() -> None:
    gateway = Gateway([])
    gateway.handled = []
    runner = runner_of(gateway)
    runner._waiting["room"] = deque([message("$1"), message("$2")])
    runner._in_hand = {"$1", "$2"}
    runner._remove("$2")
    assert ([each["event_id"] for each in runner._waiting["room"]], runner._in_hand) == (["$1"], {"$1"})
