"""The acknowledgement window against a model of the room: never more acknowledged than was, and never moved back."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiagentchat.agents.cursor import TRAILING, AckWindow
from aiagentchat.errors import AckWindowFullError
from aiagentchat.model import EventId, Message, RoomId, Sender, UserId
from aiagentchat.space.content import ACKED_LIMIT, Cursor, parse_content, to_content

START = EventId("$start")
SENDER = Sender(UserId("@alice:example.org"), "alice", "person")


def message(number: int) -> Message:
    return Message(EventId(f"${number}"), RoomId("!room"), SENDER, ts=number, body=f"message {number}")


def window_of(count: int) -> AckWindow:
    window = AckWindow(Cursor(anchor=START))
    for number in range(count):
        window.add(message(number))
    return window


def ids(*numbers: int) -> frozenset[EventId]:
    return frozenset(EventId(f"${number}") for number in numbers)


def acknowledge(window: AckWindow, event_ids: frozenset[EventId]) -> Cursor:
    plan = window.plan(event_ids)
    assert plan is not None
    window.commit(plan)
    return plan.cursor


class RoomAndCursor(RuleBasedStateMachine):
    """A room that grows, a window on it that is now and then begun anew, and what was acknowledged, kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.room: list[EventId] = []
        self.read = 0  # as many of the room as were added to the window
        self.acked: set[EventId] = set()
        self.withdrawn: set[EventId] = set()
        self.cursor = Cursor(anchor=START)
        self.window = AckWindow(self.cursor)

    def position(self, event_id: str) -> int:
        return -1 if event_id == START else self.room.index(EventId(event_id))

    @rule(count=st.integers(1, 150))
    def grow(self, count: int) -> None:
        self.room += [EventId(f"${len(self.room) + each}") for each in range(count)]

    @rule(count=st.integers(1, 300))
    def read_on(self, count: int) -> None:
        for event_id in self.room[self.read : self.read + count]:
            self.read += 1
            if event_id not in self.withdrawn:
                is_unread = self.window.add(message(int(event_id[1:])))
                assert is_unread == (event_id not in self.acked)
                assert not self.window.add(message(int(event_id[1:])))  # and once is enough
        if self.read == len(self.room):
            self.window.end_reached()

    @precondition(lambda self: self.window.unread())
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        unread = [each.event_id for each in self.window.unread()]
        first = data.draw(st.integers(0, min(3, len(unread) - 1)))
        last = data.draw(st.integers(first, len(unread) - 1))
        chosen = set(unread[first : last + 1]) | {EventId("$never-here")}
        before = self.window.unread()
        try:
            plan = self.window.plan(frozenset(chosen))
        except AckWindowFullError:
            assert self.window.unread() == before
            gap = self.position(unread[0 if first else last + 1])
            assert (
                sum(self.position(each) > gap for each in self.acked | chosen - {EventId("$never-here")}) > ACKED_LIMIT
            )
            return
        assert plan is not None
        assert self.window.unread() == before  # a plan changes nothing
        assert self.position(plan.cursor.anchor) >= self.position(self.cursor.anchor)
        self.window.commit(plan)
        self.acked |= chosen & set(self.room)
        self.cursor = plan.cursor

    @precondition(lambda self: self.window.unread())
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        event_id = data.draw(st.sampled_from(self.window.unread())).event_id
        self.window.withdraw(event_id)
        self.withdrawn.add(event_id)

    @rule()
    def begin_anew(self) -> None:
        cursor = parse_content(Cursor, to_content(self.cursor))
        assert cursor is not None
        self.window = AckWindow(cursor)
        self.read = self.position(cursor.anchor) + 1

    @invariant()
    def what_is_unread_is_what_was_read_and_never_acknowledged(self) -> None:
        expected = [each for each in self.room[: self.read] if each not in self.acked | self.withdrawn]
        assert [each.event_id for each in self.window.unread()] == expected
        assert self.window.unread_count == len(expected)

    @invariant()
    def the_cursor_names_what_was_acknowledged_and_passes_nothing_else(self) -> None:
        anchor = self.position(self.cursor.anchor)
        assert set(self.room[: anchor + 1]) <= self.acked | self.withdrawn
        assert set(self.cursor.acked) <= self.acked
        assert self.acked <= set(self.room[: anchor + 1]) | set(self.cursor.acked)
        assert len(self.cursor.acked) <= ACKED_LIMIT


TestRoomAndCursor = RoomAndCursor.TestCase
TestRoomAndCursor.settings = settings(max_examples=150, stateful_step_count=30)


def test_the_anchor_moves_once_the_cursor_is_full_and_stays_behind_the_latest_acknowledged_messages() -> None:
    window = window_of(200)
    cursor = acknowledge(window, ids(*range(ACKED_LIMIT)))
    assert (cursor.anchor, len(cursor.acked)) == (START, ACKED_LIMIT)
    cursor = acknowledge(window, ids(ACKED_LIMIT))
    assert (cursor.anchor, cursor.acked) == (
        f"${ACKED_LIMIT - TRAILING}",
        [f"${number}" for number in range(ACKED_LIMIT - TRAILING + 1, ACKED_LIMIT + 1)],
    )


def test_the_anchor_never_passes_a_message_that_is_not_acknowledged() -> None:
    window = window_of(ACKED_LIMIT + 2)
    cursor = acknowledge(window, ids(*range(1, ACKED_LIMIT + 1)))
    assert (cursor.anchor, len(cursor.acked)) == (START, ACKED_LIMIT)
    with pytest.raises(AckWindowFullError, match=r"beyond \$0 ") as caught:
        window.plan(ids(ACKED_LIMIT + 1))
    assert "$0" in caught.value.hint
    acknowledge(window, ids(0))
    assert acknowledge(window, ids(ACKED_LIMIT + 1)).acked[-1] == f"${ACKED_LIMIT + 1}"


def test_the_receipt_stands_before_the_first_unread_message() -> None:
    window = window_of(5)
    for acknowledged, receipt in ((ids(1), None), (ids(3), None), (ids(0), "$1"), (ids(2), "$3"), (ids(4), "$4")):
        plan = window.plan(acknowledged)
        assert plan is not None
        assert plan.receipt == receipt
        window.commit(plan)


def test_acknowledging_what_is_not_in_the_window_changes_nothing() -> None:
    window = window_of(2)
    acknowledge(window, ids(0))
    assert window.plan(ids(0, 7)) is None


def test_what_the_cursor_names_beyond_the_window_is_kept_until_the_end_was_seen() -> None:
    window = AckWindow(Cursor(anchor=START, acked=["$1", "$gone"]))
    window.add(message(0))
    assert acknowledge(window, ids(0)).acked == ["$0", "$1", "$gone"]
    assert not window.add(message(1))
    window.add(message(2))
    window.end_reached()
    assert acknowledge(window, ids(2)).acked == ["$0", "$1", "$2"]


def test_a_message_taken_back_while_it_is_acknowledged_is_no_fault() -> None:
    window = window_of(3)
    plan = window.plan(ids(0, 1))
    assert plan is not None
    window.withdraw(EventId("$0"))
    window.commit(plan)
    assert [each.event_id for each in window.unread()] == ["$2"]
    assert window.unread_count == 1


def test_a_message_that_is_taken_back_while_the_cursor_is_written_changes_nothing_else() -> None:
    window = window_of(ACKED_LIMIT + TRAILING)
    plan = window.plan(ids(*range(ACKED_LIMIT + TRAILING)))
    assert plan is not None
    gone = plan.passed[3]
    window.withdraw(gone)
    window.commit(plan)
    assert (window.unread(), window.anchor) == ([], plan.cursor.anchor)
    window.add(message(1000))
    assert acknowledge(window, ids(1000)).acked == [*plan.cursor.acked[-TRAILING:], "$1000"]
