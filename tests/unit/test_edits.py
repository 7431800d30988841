"""Edits of unread messages: each message is handed out once, with its latest text, and no event is lost from sight."""

from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.agents.edits import fold_edits
from aiagentchat.model import EventId, Message, RoomId, Sender, UserId


def written(*words: str) -> list[Message]:
    """Return messages: `a1` by a; `b3>a1` by b, in place of a1."""
    found = []
    for ts, word in enumerate(words):
        own, _, edits = word.partition(">")
        sender = Sender(UserId(f"@{own[0]}:x"), own[0], "person")
        target = EventId(edits) if edits else None
        found.append(Message(EventId(own), RoomId("!r"), sender, ts, f"text of {own}", edits=target))
    return found


def told(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.event_id, message.body.removeprefix("text of ")) for message in messages]


def test_a_message_stands_in_its_place_with_its_latest_text() -> None:
    messages, folded = fold_edits(written("a1", "b1", "a2>a1", "a3>a1"))
    assert told(messages) == [("a1", "a3"), ("b1", "b1")]
    assert messages[0].edits is None
    assert folded == {"a1": {"a2", "a3"}}


def test_of_edits_of_what_is_not_among_them_the_first_stands_for_all() -> None:
    messages, folded = fold_edits(written("a2>a1", "b1", "a3>a1"))
    assert told(messages) == [("a2", "a3"), ("b1", "b1")]
    assert messages[0].edits == "a1"
    assert folded == {"a2": {"a3"}}


def test_nobody_edits_what_somebody_else_wrote() -> None:
    messages, folded = fold_edits(written("a1", "b2>a1"))
    assert told(messages) == [("a1", "a1"), ("b2", "b2")]
    assert folded == {}


@given(
    words=st.lists(
        st.tuples(
            st.sampled_from("ab"), st.integers(0, 9), st.none() | st.tuples(st.sampled_from("ab"), st.integers(0, 9))
        ),
        unique_by=lambda word: word[:2],
    )
)
def test_every_event_is_handed_out_or_stands_behind_one_that_is_and_none_twice(
    words: list[tuple[str, int, tuple[str, int] | None]],
) -> None:
    given_ = written(*(f"{who}{number}" + (f">{of[0]}{of[1]}" if of else "") for who, number, of in words))
    messages, folded = fold_edits(given_)
    order = [message.event_id for message in given_]
    handed = [message.event_id for message in messages]
    assert handed == sorted(handed, key=order.index)
    behind = [event_id for edits in folded.values() for event_id in edits]
    assert sorted([*handed, *behind]) == sorted(order)
    assert set(folded) <= set(handed)
