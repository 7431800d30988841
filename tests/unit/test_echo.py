"""Whom the built-in agent answers, and how it goes on when something fails."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aiagentchat.adapters import listening
from aiagentchat.adapters.echo import Echo, wants_answer
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError, InvalidRequestError

Json = dict[str, Any]


def message(kind: str = "person", *, answers: bool = False, broadcast: bool = False, body: str = "hi") -> Json:
    return {
        "event_id": "$1",
        "sender": {"user_id": "@x:example.org", "name": "x", "kind": kind},
        "body": body,
        "in_reply_to": {"room_id": "!r", "event_id": "$0"} if answers else None,
        "broadcast": broadcast,
    }


@pytest.mark.parametrize(
    ("kind", "answers", "broadcast", "wanted"),
    [
        ("person", False, False, True),
        ("person", True, False, True),  # a person who replies in Element goes on talking
        ("agent", False, False, True),
        ("agent", True, False, False),  # two of us would go on for ever
        ("daemon", True, False, False),
        ("person", False, True, False),
        ("agent", False, True, False),
    ],
)
def test_it_answers_what_is_for_it_and_no_answer_of_an_agent(
    kind: str, answers: bool, broadcast: bool, wanted: bool
) -> None:
    assert wants_answer(message(kind, answers=answers, broadcast=broadcast)) is wanted
    assert not wants_answer(message("person", body="!stop"))


class Gateway:
    """The client's methods that echo uses. `streams`: what each stream yields, an error at its end being raised."""

    def __init__(self, streams: list[list[Json | AiAgentChatError]], refusals: list[AiAgentChatError]) -> None:
        self._streams = streams
        self._refusals = refusals
        self.calls: list[tuple[str, ...]] = []

    def attach(self, name: str, **_options: str) -> None:
        self.calls.append(("attach", name))

    @contextmanager
    def events(self, **_: bool) -> Iterator[Iterator[tuple[str, Json]]]:
        yield self._events(self._streams.pop(0))

    def _events(self, stream: list[Json | AiAgentChatError]) -> Iterator[tuple[str, Json]]:
        for entry in stream:
            if isinstance(entry, AiAgentChatError):
                raise entry
            yield "message", entry
        if not self._streams:
            yield "ended", {"name": "echo"}

    def send(self, body: str, *, reply_to: str, key: str) -> None:
        self.calls.append(("send", body, reply_to, key))
        if self._refusals:
            raise self._refusals.pop(0)

    def acknowledge(self, event_ids: list[str]) -> None:
        self.calls.append(("acknowledge", *event_ids))


def run(
    monkeypatch: pytest.MonkeyPatch,
    *streams: list[Json | AiAgentChatError],
    refusals: tuple[AiAgentChatError, ...] = (),
) -> list[tuple[str, ...]]:
    """Return what echo asked of its gateway until somebody had it leave at the end of the last stream."""
    monkeypatch.setattr(listening, "RETRY_S", 0.0)
    gateway = Gateway(list(streams), list(refusals))
    thread = threading.Thread(target=Echo(gateway).run_until_stopped, daemon=True)  # type: ignore[arg-type] # as far as echo uses it
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    return gateway.calls


SENT = ("send", "hi", "$1", "echo $1")
ATTACHED, ACKNOWLEDGED = ("attach", "echo"), ("acknowledge", "$1")


def test_it_acknowledges_after_it_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [message()]) == [ATTACHED, SENT, ACKNOWLEDGED]


def test_what_it_does_not_answer_it_acknowledges(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [message(broadcast=True)]) == [ATTACHED, ACKNOWLEDGED]


def test_an_answer_that_fails_for_now_is_sent_again_under_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lesson: Old events taken for new ones."""
    calls = run(monkeypatch, [message()], refusals=(DaemonNotRunningError("gone"),))
    assert calls == [ATTACHED, SENT, SENT, ACKNOWLEDGED]


def test_an_answer_that_is_refused_for_good_does_not_hold_up_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = run(monkeypatch, [message(), message()], refusals=(InvalidRequestError("empty"),))
    assert calls == [ATTACHED, SENT, ACKNOWLEDGED, SENT, ACKNOWLEDGED]


def test_a_stream_that_ends_with_the_daemon_is_made_anew_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [], [message()]) == [ATTACHED, ATTACHED, SENT, ACKNOWLEDGED]


def test_a_connection_that_breaks_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = run(monkeypatch, [DaemonNotRunningError("gone")], [message()])
    assert calls == [ATTACHED, ATTACHED, SENT, ACKNOWLEDGED]
