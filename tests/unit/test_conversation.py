"""What `cchat chat` prints of what happens, what stands at the bottom, and what a line means that somebody writes."""

import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.cli.conversation import Conversation, Line

ALICE, BOB, BOT = "@alice:example.org", "@bob:example.org", "@aiagentchat-bot:example.org"
NOON_MS = 1_795_428_900_000
FOREIGN = st.text(st.characters(exclude_categories=()))
CHOICES = [
    {"name": "Allow", "kind": "allow_once", "sign": "✅", "answer": "Allow"},
    {"name": "Always allow", "kind": "allow_always", "sign": "♾️", "answer": "Always allow"},
    {"name": "Reject", "kind": "reject_once", "sign": "❌", "answer": "Reject"},
    {"name": "1", "kind": "reject_always", "sign": "⛔", "answer": None},
]


@pytest.fixture(autouse=True)
def at_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def message(event_id: str, body: str, *, by: str = ALICE, to: str = "", **fields: Any) -> tuple[str, Any]:
    sender = {"user_id": by, "name": by[1:].split(":")[0].removeprefix("aiagentchat-"), "kind": "person"}
    answered = {"room_id": "!r", "event_id": to} if to else None
    told = {"event_id": event_id, "sender": sender, "ts": NOON_MS, "body": body, "in_reply_to": answered, "file": None}
    return "message", told | fields


def removed(event_id: str, *, by: str = ALICE) -> tuple[str, Any]:
    return "removed", {"event_id": event_id, "sender": {"user_id": by, "name": by[1:].split(":")[0], "kind": "person"}}


def request(event_id: str, *, approvers: tuple[str, ...] = (ALICE,), body: str = "May I?") -> tuple[str, Any]:
    return "approval", {"event_id": event_id, "body": body, "choices": CHOICES, "approvers": list(approvers)}


def live(**state: Any) -> list[tuple[str, Any]]:
    whole = {"status": "online", "status_line": "", "typing": False} | state
    return [("live", {"room_id": "!r", "user_id": BOT, "operator": ALICE}), ("state", whole)]


def told(conversation: Conversation, *events: tuple[str, Any]) -> list[str]:
    return [line for event, data in events for line in conversation.take(event, data)]


def begun(*events: tuple[str, Any], **state: Any) -> Conversation:
    """Return a conversation that goes on."""
    conversation = Conversation("bot")
    told(conversation, *events, *live(**state))
    return conversation


def test_what_was_said_before_is_shown_with_days_answers_and_what_is_read() -> None:
    lines = told(
        Conversation("bot"),
        ("read", {"event_ids": ["$1"]}),
        message("$1", "Is main green?"),
        message("$2", "and that?", ts=NOON_MS + 1),
        message("$3", "Yes.\nAll of it.", by=BOT, to="$1"),
        message("$4", "later", ts=NOON_MS + 86_400_000),
        message("$5", "and so", by=BOT, to="$4", ts=NOON_MS + 86_400_000),
        *live(),
    )
    assert lines == [
        "── Monday, 23 November 2026 ──",
        "10:15 alice ✓: Is main green?",
        "10:15 alice: and that?",
        '  to alice: "Is main green?"',
        "10:15 bot: Yes.\n  All of it.",
        "── Tuesday, 24 November 2026 ──",
        "10:15 alice: later",
        "10:15 bot: and so",
        "Ctrl-D leaves, /help says more",
    ]
    assert told(Conversation("bot"), *live()) == ["nothing was written here yet; Ctrl-D leaves, /help says more"]


def test_a_message_is_shown_once_however_often_the_stream_begins() -> None:
    conversation = begun(message("$1", "one"))
    conversation.begin_again()
    assert told(conversation, message("$1", "one"), message("$2", "two"), *live()) == ["10:15 alice: two"]


def edited(event_id: str, body: str, *, by: str = ALICE) -> tuple[str, Any]:
    data = message(event_id, body, by=by)[1]
    return "edited", {name: data[name] for name in ("event_id", "sender", "ts", "body")}


def test_what_was_edited_while_nothing_came_is_told_once_the_stream_begins_again() -> None:
    conversation = begun(message("$1", "Is mian green?"), message("$2", "one"), message("$3", "- reads it", by=BOT))
    assert told(conversation, edited("$2", "two")) == ["10:15 alice (edited): two"]
    again = (message("$1", "Is main green?"), message("$2", "two"), message("$3", "- writes it", by=BOT))
    for lines in (["10:15 alice (edited): Is main green?"], []):  # what the agent edits is how far it is
        conversation.begin_again()
        assert told(conversation, *again, *live()) == lines
    assert told(conversation, message("$4", "x"), message("$5", "Yes.", by=BOT, to="$1")) == [
        "10:15 alice: x",
        '  to alice: "Is main green?"',
        "10:15 bot: Yes.",
    ]


def test_the_bottom_says_what_the_agent_does_and_what_it_has_read() -> None:
    conversation = begun()
    assert conversation.status() == "bot: online"
    told(conversation, message("$1", "one"), message("$2", "two"))
    assert conversation.status() == "bot: online · has not read 2 messages of yours"
    told(conversation, ("read", {"event_ids": ["$1"]}))
    assert conversation.status() == "bot: online · has not read 1 message of yours"
    told(conversation, message("$3", "Yes.", by=BOT, to="$2"))  # what is answered is read
    assert conversation.status() == "bot: online · ✓ has read what you wrote"
    told(conversation, ("state", {"status": "online", "status_line": "busy", "typing": True}))
    told(conversation, ("edited", {"event_id": "$9", "sender": {"user_id": BOT}, "body": "a\n\n- reads it\n", "ts": 0}))
    assert conversation.status() == "bot: online · typing… · ✓ has read what you wrote · - reads it · busy"
    conversation.sending = 1
    assert conversation.status() == "bot: online · typing… · sending… · - reads it · busy"
    assert told(conversation, ("state", {"status": "offline", "status_line": "", "typing": False})) == [
        "bot is offline"
    ]
    assert conversation.status() == "bot: offline · sending…"
    conversation.away = "the daemon stopped; trying again"
    assert conversation.status() == "the daemon stopped; trying again"


def test_of_what_is_removed_it_is_told_by_whom_and_not_what_it_was() -> None:
    conversation = begun(message("$1", "a slip"), message("$2", "and another", by=BOB))
    assert told(conversation, removed("$1")) == ["  alice took back the message of 10:15"]
    assert told(conversation, removed("$1")) == []
    assert told(conversation, removed("$2")) == ["  alice removed the message of bob of 10:15"]
    assert told(conversation, message("$3", "Yes.", by=BOT, to="$2")) == ["10:15 bot: Yes."]
    assert told(conversation, removed("$9")) == []


def test_what_is_removed_is_not_waited_for_to_be_read() -> None:
    conversation = begun(message("$1", "one"), message("$2", "two"))
    told(conversation, removed("$2"))
    assert conversation.status() == "bot: online · has not read 1 message of yours"
    told(conversation, removed("$1"))
    assert conversation.status() == "bot: online"


def test_an_approval_is_shown_with_its_options_and_what_came_of_it() -> None:
    conversation = begun()
    assert told(conversation, message("$a", "May I?", by=BOT), request("$a"))[-2:] == [
        "  bot waits for approval: 1 ✅ Allow · 2 ♾️ Always allow · 3 ❌ Reject · 4 ⛔ 1",
        "  answer with /approve, /deny or a number",
    ]
    assert (conversation.pending, conversation.prompt()) == ("$a", "answer> ")
    edit = ("edited", {"event_id": "$a", "sender": {"user_id": BOT}, "body": "May I? ✅", "ts": 0})
    assert told(conversation, ("settled", {"event_id": "$a", "outcome": "✅ Allow: @alice"}), edit) == [
        "  ✅ Allow: @alice"
    ]
    assert (conversation.pending, conversation.prompt(), "May I" in conversation.status()) == (None, "> ", False)


def test_an_approval_of_before_is_shown_whole_and_one_for_others_is_theirs() -> None:
    conversation = Conversation("bot")
    lines = told(conversation, request("$a", body="delete it"), request("$b", approvers=("@bob:b",)), *live())
    assert "delete it" in lines
    assert "  that is for @bob:b to decide" in lines
    assert conversation.pending == "$a"
    told(conversation, ("settled", {"event_id": "$a", "outcome": "x"}))
    assert conversation.pending is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hello", Line(body="hello")),
        ("  two\nlines ", Line(body="  two\nlines ")),
        ("", Line()),
        (" \n ", Line()),
        ("/quit", Line(leaves=True)),
        ("/approve", Line(body="Allow", reply_to="$a")),
        ("/deny ", Line(body="Reject", reply_to="$a")),
        ("1", Line(body="Allow", reply_to="$a")),
        ("2", Line(body="Always allow", reply_to="$a")),
        ("0", Line(say=("0 is none of its options; nothing was sent",))),
        ("4", Line(say=("4 is none of its options; nothing was sent",))),  # no answer gives that one
        ("5", Line(say=("5 is none of its options; nothing was sent",))),
        ("999", Line(say=("999 is none of its options; nothing was sent",))),
        ("1" * 5_000, Line(say=("1" * 59 + "… is none of its options; nothing was sent",))),
        ("²", Line(body="²")),
        ("yes", Line(body="yes")),
        ("//compact now", Line(body="/compact now")),
        ("/etc/hosts", Line(body="/etc/hosts")),
        ("/compact now", Line(body="/compact now")),
    ],
)
def test_a_line_means(text: str, meant: Line) -> None:
    assert begun(request("$a")).read_line(text, "$a") == meant


def test_a_line_answers_only_what_was_asked_when_it_was_begun() -> None:
    conversation = begun(request("$a"))
    assert conversation.read_line("1", None) == Line(body="1")
    assert "came while you wrote" in conversation.read_line("/approve", None).say[0]
    told(conversation, ("settled", {"event_id": "$a", "outcome": ""}), request("$b"))
    for text in ("/approve", "1"):
        assert "came while you wrote" in conversation.read_line(text, "$a").say[0]
    told(conversation, ("settled", {"event_id": "$b", "outcome": ""}))
    assert "nothing waits" in conversation.read_line("/deny", None).say[0]


@given(FOREIGN, FOREIGN)
def test_no_foreign_text_is_obeyed_by_a_terminal(name: str, text: str) -> None:
    conversation = begun(message("$0", "mine"))
    file = {"name": text, "mimetype": "a/b", "size": 1}
    sender = {"user_id": f"@{text}:b", "name": name, "kind": "person"}
    lines = told(
        conversation,
        message(f"${text}", text, sender=sender, file=file),
        message("$2", text, by=BOT, to=f"${text}"),
        ("edited", {"event_id": "$0", "sender": sender, "body": text, "ts": 2**70}),
        ("removed", {"event_id": f"${text}", "sender": sender}),
        ("removed", {"event_id": "$0", "sender": sender}),
        request("$3", approvers=(text,), body=text),
        ("settled", {"event_id": "$3", "outcome": text}),
        ("state", {"status": "offline", "status_line": text, "typing": False}),
        ("edited", {"event_id": "$2", "sender": {"user_id": BOT}, "body": text, "ts": 0}),
    )
    for line in [*lines, conversation.status()]:
        assert not [letter for letter in line if letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cs")]
        assert not set(line) & set("\u2028\u202e\u2066")
    assert "\n" not in conversation.status()
