"""An inbox of two rooms, of which one cannot be read; and what it hands out of agents that go on without a person."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from aiagentchat.agents import inbox as inbox_module
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.room_inbox import UNREAD_WINDOW
from aiagentchat.errors import AiAgentChatError, HomeserverUnavailableError, MatrixError, MatrixForbiddenError
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
    inbox = Inbox(cast("Any", own), on_acknowledged=lambda: None)
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
