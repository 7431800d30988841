"""When the doorbell of an agent rings, and for what. `tests/integration/test_hook.py` has it ring for real."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from aiagentchat.agents import bells
from aiagentchat.agents.bells import Bell, Moment
from aiagentchat.model import AgentName, EventId, Message, RoomId, Sender, SenderKind, UserId

AGENT = AgentName("claude-dev")


@dataclass
class Inbox:
    """As much of an inbox as a doorbell asks of it."""

    messages: list[Message] = field(default_factory=list)
    is_closed: bool = False
    is_replaced: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_due(self, wanted: Callable[[list[Message]], list[Message]], wait_s: float) -> list[Message]:
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            news = self._news
            if (found := wanted(self.messages)) or self.is_closed or asyncio.get_running_loop().time() >= deadline:
                return found
            try:
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            except TimeoutError:
                pass

    def look_again(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def take(self, body: str, *, kind: SenderKind = "agent", broadcast: bool = False) -> None:
        event_id = EventId(f"${len(self.messages)} {body}")
        sender = Sender(UserId(f"@{kind}:example.org"), kind, kind)
        self.messages.append(Message(event_id, RoomId("!room"), sender, 1, body, broadcast=broadcast))
        self.look_again()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


async def asked(bell: Bell, inbox: Inbox, moment: Moment) -> list[str]:
    messages = await bell.ask(cast("Any", inbox), moment, 0.0)
    assert messages is not None
    return [message.body for message in messages]


def waiting(bell: Bell, inbox: Inbox, wait_s: float = 5.0) -> asyncio.Task[list[Message] | None]:
    return asyncio.create_task(bell.ask(cast("Any", inbox), "idle", wait_s))


async def rang(task: asyncio.Task[list[Message] | None]) -> list[str] | None:
    messages = await task
    return None if messages is None else [message.body for message in messages]


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_several_messages_are_one_ring_and_persons_come_first(inbox: Inbox) -> None:
    """Lesson: Woken by every message."""
    bell = Bell(AGENT)
    inbox.take("one")
    inbox.take("two", kind="person")
    inbox.take("three")
    assert await asked(bell, inbox, "tool") == ["two", "one", "three"]
    assert await asked(bell, inbox, "tool") == []
    assert await asked(bell, inbox, "stop") == []
    inbox.take("four")
    assert await asked(bell, inbox, "stop") == ["four"]


async def test_what_is_unread_is_said_again_at_a_prompt_but_not_just_after_it_was_said(inbox: Inbox) -> None:
    clock = Clock()
    bell = Bell(AGENT, clock)
    inbox.take("one")
    assert await asked(bell, inbox, "start") == ["one"]
    assert await asked(bell, inbox, "prompt") == []
    clock.now += bells.AGAIN_S
    assert await asked(bell, inbox, "tool") == []
    assert await asked(bell, inbox, "prompt") == ["one"]


async def test_what_is_for_all_rings_only_when_it_names_the_agent(inbox: Inbox) -> None:
    """Lesson: Woken by every message."""
    bell = Bell(AGENT)
    inbox.take("maintenance, claude-dev-2", broadcast=True)
    assert await asked(bell, inbox, "prompt") == []
    inbox.take("look here, Claude-Dev!", broadcast=True)
    assert await asked(bell, inbox, "tool") == ["look here, Claude-Dev!"]


async def test_who_idles_is_told_at_once_and_who_works_when_it_is_done(inbox: Inbox) -> None:
    bell = Bell(AGENT)
    await asked(bell, inbox, "prompt")
    waiter = waiting(bell, inbox)
    inbox.take("one")
    await settled()
    assert not waiter.done()
    assert await asked(bell, inbox, "tool") == ["one"]
    inbox.take("two")
    await settled()
    assert not waiter.done()
    assert await asked(bell, inbox, "stop") == ["two"]  # so it goes on
    inbox.take("three")
    await settled()
    assert not waiter.done()
    inbox.messages.clear()
    assert await asked(bell, inbox, "stop") == []
    inbox.take("four")
    assert await rang(waiter) == ["four"]


async def test_a_ring_that_woke_nobody_is_followed_by_another_at_the_next_tool(inbox: Inbox) -> None:
    clock = Clock()
    bell = Bell(AGENT, clock)
    inbox.take("one")
    assert await rang(waiting(bell, inbox)) == ["one"]
    assert await asked(bell, inbox, "tool") == []  # it may be on its way to read it
    clock.now += bells.AGAIN_S
    waiter = waiting(bell, inbox)
    await settled()
    assert not waiter.done()  # to ring again would wake it for ever
    waiter.cancel()
    assert await asked(bell, inbox, "tool") == ["one"]
    clock.now += bells.AGAIN_S
    assert await asked(bell, inbox, "stop") == []


async def test_an_agent_that_was_interrupted_idles_after_a_while(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "BUSY_S", 0.05)
    bell = Bell(AGENT)
    await asked(bell, inbox, "prompt")
    inbox.take("one")
    assert await rang(waiting(bell, inbox)) == ["one"]


async def test_one_waits_at_a_time_and_the_last_one_rings(inbox: Inbox) -> None:
    bell = Bell(AGENT)
    first = waiting(bell, inbox)
    await settled()
    second = waiting(bell, inbox)
    assert await rang(first) is None
    inbox.take("one")
    assert await rang(second) == ["one"]
    assert await rang(waiting(bell, inbox, 0.01)) == []


async def test_a_waiter_whose_call_is_gone_leaves_the_ring_to_the_next_one(inbox: Inbox) -> None:
    bell = Bell(AGENT)
    first = waiting(bell, inbox)
    await settled()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    inbox.take("one")
    assert await rang(waiting(bell, inbox)) == ["one"]


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_it_ends_with_the_inbox_for_good_only_where_the_agent_has_left(inbox: Inbox, is_replaced: bool) -> None:
    bell = Bell(AGENT)
    waiter = waiting(bell, inbox)
    await settled()
    inbox.is_closed, inbox.is_replaced = True, is_replaced
    inbox.look_again()
    assert await rang(waiter) == ([] if is_replaced else None)
