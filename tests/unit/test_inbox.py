"""An inbox of two rooms, of which one cannot be read; and what it hands out of agents that go on without a person."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from aiagentchat.agents import inbox as inbox_module
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.room_inbox import UNREAD_WINDOW
from aiagentchat.errors import (
    AckWindowFullError,
    AiAgentChatError,
    HomeserverUnavailableError,
    MatrixError,
    MatrixForbiddenError,
)
from aiagentchat.model import EventId, Message, RoomId, Sender, UserId

OWN, OTHER = EventId("$own"), EventId("$other")


@dataclass
class Room:
    """As much of a room's inbox as the inbox asks of it. `holds`: ids that are in its window."""

    holds: set[EventId] = field(default_factory=set)
    failure: AiAgentChatError | None = None
    is_own_room: bool = False
    is_held_up: bool = False
    needs_reading: bool = True
    messages: list[Message] = field(default_factory=list)
    acknowledged: set[EventId] = field(default_factory=set)
    writing: asyncio.Event | None = None

    def withdraw(self, event_id: EventId) -> None:
        self.messages = [message for message in self.messages if message.event_id != event_id]

    async def read_on(self) -> None:
        if self.failure is not None:
            raise self.failure

    def unread(self) -> list[Message]:
        return self.messages

    async def plan(self, event_ids: frozenset[EventId]) -> Any:
        return (event_ids & self.holds) or None

    def known(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        return frozenset(event_ids & self.holds)

    async def carry_out(self, plan: Any) -> None:
        if self.writing is not None:
            await self.writing.wait()
        self.acknowledged |= plan


def inbox_of(own: Room, broadcast: Room | None) -> Inbox:
    inbox = Inbox(cast("Any", own), on_acknowledged=lambda count: None)
    if broadcast is not None:
        inbox.add_broadcast(cast("Any", broadcast))
    return inbox


@pytest.mark.parametrize(
    "broadcast", [None, Room(failure=MatrixError(500, "M_UNKNOWN", "broken"))], ids=["not there yet", "broken"]
)
async def test_what_may_stand_in_a_room_that_cannot_be_read_is_not_said_to_be_acknowledged(
    broadcast: Room | None,
) -> None:
    own = Room({OWN}, is_own_room=True)
    inbox = inbox_of(own, broadcast)
    with pytest.raises(AiAgentChatError) as raised:
        await inbox.acknowledge(frozenset({OWN, OTHER}))
    assert raised.value.retryable
    assert own.acknowledged == set()
    assert await inbox.acknowledge(frozenset({OWN})) == {OWN}


async def test_what_one_that_hung_up_acknowledged_is_written_before_the_next() -> None:
    own = Room({OWN, OTHER}, is_own_room=True, writing=asyncio.Event())
    inbox = inbox_of(own, None)
    first = asyncio.create_task(inbox.acknowledge(frozenset({OWN})))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(inbox.acknowledge(frozenset({OTHER})))
    await asyncio.sleep(0.01)
    assert first.cancelled()
    assert not second.done()
    assert own.writing is not None
    own.writing.set()
    await second
    assert own.acknowledged == {OWN, OTHER}


async def test_a_broadcast_room_that_could_not_be_read_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands there was pushed, so that nothing else will tell of it."""
    monkeypatch.setattr(inbox_module, "_FAILED_S", 0.02)
    broadcast = Room(failure=MatrixError(500, "M_UNKNOWN", "broken"))
    inbox = inbox_of(Room(is_own_room=True), broadcast)
    async with aclosing(inbox.follow()) as messages:
        following = asyncio.ensure_future(anext(messages))
        waiting = asyncio.create_task(inbox.wait_unread(10, 5.0))
        await asyncio.sleep(0.05)
        broadcast.failure = None
        broadcast.messages += written("a")
        assert (await asyncio.wait_for(following, 2.0)) == broadcast.messages[0]
        assert (await asyncio.wait_for(waiting, 2.0)) == broadcast.messages


async def test_a_stream_that_has_begun_outlives_an_outage_and_one_that_has_not_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_module, "_FAILED_S", 0.02)
    away = HomeserverUnavailableError("away")
    own = Room(is_own_room=True, messages=written("a"))
    inbox = inbox_of(own, None)
    async with aclosing(inbox.follow()) as messages:
        assert await anext(messages) == own.messages[0]
        own.failure = away
        inbox.look_again()
        following = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0.05)
        assert not following.done()
        own.failure, own.messages = None, written("a b")
        assert await asyncio.wait_for(following, 2.0) == own.messages[1]
        own.failure = MatrixForbiddenError(403, "M_FORBIDDEN", "not in the room")
        with pytest.raises(MatrixForbiddenError):
            await asyncio.wait_for(anext(messages), 2.0)
    own.failure = away
    async with aclosing(inbox.follow()) as messages:
        with pytest.raises(HomeserverUnavailableError):
            await anext(messages)


async def test_a_broadcast_room_that_the_agent_was_taken_out_of_for_good_holds_nothing_up() -> None:
    own = Room({OWN}, is_own_room=True)
    inbox = inbox_of(own, Room(failure=MatrixForbiddenError(403, "M_FORBIDDEN", "not in the room")))
    assert await inbox.acknowledge(frozenset({OWN, OTHER})) == {OWN}
    assert own.acknowledged == {OWN}


async def test_an_own_room_that_cannot_be_read_is_said() -> None:
    inbox = inbox_of(Room(failure=HomeserverUnavailableError("away"), is_own_room=True), Room())
    with pytest.raises(HomeserverUnavailableError):
        await inbox.acknowledge(frozenset({OWN}))


def written(text: str) -> list[Message]:
    """Return messages: `a1` of an agent, in capitals a quiet one, `!` of a person."""
    found = []
    for number, word in enumerate(text.split()):
        name = word[0].lower()
        sender = Sender(UserId(f"@{name}:x"), name, "person" if name == "!" else "agent")
        message = Message(EventId(word), RoomId("!a"), sender, number, word, quiet=word[0].isupper())
        found.append(message)
    return found


@pytest.mark.parametrize(
    ("unread", "due"),
    [
        ("", ""),
        ("a1 b1", "a1 b1"),
        ("A1", ""),
        ("A1 b1", "b1"),  # what others write does not have a loop go on
        ("A1 b1 A2 !1", "A1 b1 A2 !1"),
        ("A1 b1 !stop", "b1 !stop"),  # who has an agent stop does not have others go on
        ("!1 A1", "!1 A1"),
        ("A1 b1 a2 A3", "A1 b1 a2"),  # in the order of its sender
    ],
)
async def test_what_is_quiet_waits_for_a_person_or_for_its_sender_to_go_on(unread: str, due: str) -> None:
    room = Room(messages=written(unread))
    inbox = inbox_of(room, None)
    assert [message.body for message in inbox._due(await inbox.unread())] == due.split()


async def test_what_is_quiet_holds_up_neither_window_nor_cursor() -> None:
    room = Room(messages=written("A1"))
    inbox = inbox_of(room, None)
    room.is_held_up = True
    assert inbox._due(room.messages) == room.messages
    room.is_held_up = False
    full = [replace(room.messages[0], event_id=EventId(f"${number}")) for number in range(UNREAD_WINDOW)]
    assert inbox._due(full) == full


# --- edits, and what was taken back

ALICE = Sender(UserId("@alice:x"), "alice", "person")


class Filled(Room):
    """A room that holds what is unread in it."""

    def add(self, event_id: str, *, edits: str | None = None) -> None:
        target = None if edits is None else EventId(edits)
        ts = len(self.holds)
        self.messages.append(Message(EventId(event_id), RoomId("!a"), ALICE, ts, f"text of {event_id}", edits=target))
        self.holds.add(EventId(event_id))

    async def carry_out(self, plan: Any) -> None:
        await super().carry_out(plan)
        self.messages = [message for message in self.messages if message.event_id not in self.acknowledged]


class Full(Filled):
    """One whose cursor can name no edit."""

    async def plan(self, event_ids: frozenset[EventId]) -> Any:
        if any(message.edits is not None and message.event_id in event_ids for message in self.messages):
            raise AckWindowFullError("full")
        return await super().plan(event_ids)


def edited(kind: type[Filled] = Filled) -> tuple[Filled, Inbox]:
    room = kind(is_own_room=True)
    room.add("$1")
    room.add("$2")
    room.add("$3", edits="$1")
    return room, inbox_of(room, None)


def ids(*event_ids: str) -> frozenset[EventId]:
    return frozenset(map(EventId, event_ids))


async def test_who_acknowledges_an_edited_message_has_acknowledged_the_edit_that_it_was_handed_with() -> None:
    room, inbox = edited()
    first, second = await inbox.wait_unread(10, 0.0)
    assert (first.event_id, first.body, second.event_id) == ("$1", "text of $3", "$2")
    room.add("$4", edits="$1")
    assert await inbox.acknowledge(ids("$1")) == {"$1"}
    assert room.acknowledged == {"$1", "$3"}
    assert await inbox.last_acknowledged() == "$1"
    [other, edit] = await inbox.wait_unread(10, 0.0)
    assert (other.event_id, edit.event_id, edit.edits) == ("$2", "$4", "$1")


async def test_who_only_looked_has_not() -> None:
    room, inbox = edited()
    await inbox.wait_unread(10, 0.0, peek=True)
    await inbox.acknowledge(ids("$1"))
    assert room.acknowledged == {"$1"}


async def test_an_edit_holds_up_no_acknowledgement_of_what_it_replaces() -> None:
    _, inbox = edited(Full)
    await inbox.wait_unread(10, 0.0)
    assert await inbox.acknowledge(ids("$1")) == {"$1"}
    assert [message.event_id for message in await inbox.wait_unread(10, 0.0)] == ["$2", "$3"]
    with pytest.raises(AckWindowFullError):
        await inbox.acknowledge(ids("$3"))


async def test_a_stream_is_given_the_latest_text_once_and_a_later_edit_by_itself() -> None:
    room, inbox = edited()
    async with aclosing(inbox.follow()) as stream:
        handed = [await anext(stream), await anext(stream)]
        following = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        room.add("$4", edits="$1")
        inbox.look_again()
        handed.append(await asyncio.wait_for(following, 2.0))
        assert [(each.event_id, each.body) for each in handed if isinstance(each, Message)] == [
            ("$1", "text of $3"),
            ("$2", "text of $2"),
            ("$4", "text of $4"),
        ]
        await inbox.acknowledge(ids("$1"))
        assert room.acknowledged == {"$1", "$3"}


@pytest.mark.parametrize("is_acknowledged", [True, False])
async def test_a_stream_is_told_once_of_what_it_handed_out_and_was_taken_back(is_acknowledged: bool) -> None:
    room, inbox = edited()
    async with aclosing(inbox.follow()) as stream:
        await anext(stream)
        await anext(stream)
        following = asyncio.ensure_future(anext(stream))
        if is_acknowledged:
            await inbox.acknowledge(ids("$1", "$2"))
            await asyncio.sleep(0)
        inbox.withdraw(EventId("$2"))
        assert await asyncio.wait_for(following, 2.0) == "$2"
        following = asyncio.ensure_future(anext(stream))
        room.add("$5")
        inbox.look_again()
        after = await asyncio.wait_for(following, 2.0)
        assert isinstance(after, Message)
        assert after.event_id == "$5"
