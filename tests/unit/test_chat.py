"""What `cchat chat` keeps of what comes until it is shown: never more than so much, and nothing is lost."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from aiagentchat.cli import chat
from aiagentchat.cli.conversation import Conversation
from aiagentchat.cli.invocation import Invocation
from aiagentchat.client import GatewayClient
from aiagentchat.connection import EventStream
from aiagentchat.errors import InvalidRequestError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

NOTHING: Any = None
MORE = 50


class Counted:
    """A stream of more events than are kept; `taken`: how many of them were."""

    def __init__(self) -> None:
        self.taken = 0
        self.has_filled = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for number in range(chat._MOST_NEWS + MORE):
            self.taken += 1
            if self.taken > chat._MOST_NEWS:
                self.has_filled.set()
            yield "message", number
        raise InvalidRequestError("it is over")


def listen(chatting: chat._Pipe | chat._Talk) -> Counted:
    stream = Counted()
    threading.Thread(target=chatting._listen, args=(cast("EventStream", stream),), daemon=True).start()
    return stream


async def until_it_stands(stream: Counted) -> None:
    """Wait until as many are taken as are kept, and for a while: no more is."""
    await asyncio.to_thread(stream.has_filled.wait, 10)
    await asyncio.sleep(0.05)


def test_piped_a_stream_is_not_read_on_while_nothing_is_printed() -> None:
    pipe = chat._Pipe(cast("Invocation", NOTHING), cast("GatewayClient", NOTHING))
    stream = listen(pipe)
    asyncio.run(until_it_stands(stream))
    assert stream.taken == chat._MOST_NEWS + 1
    shown = [pipe._news.get(timeout=10) for _ in range(chat._MOST_NEWS + MORE + 1)]
    assert [data for event, data in shown if event == "message"] == list(range(chat._MOST_NEWS + MORE))


def test_at_a_terminal_a_stream_is_not_read_on_while_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    def take(_: str, number: int) -> list[str]:
        shown.append(number)
        return []

    async def run() -> None:
        talk = chat._Talk(cast("Invocation", NOTHING), cast("GatewayClient", NOTHING), Conversation("a", colour=False))
        talk._loop = asyncio.get_running_loop()
        monkeypatch.setattr(talk, "_take", take)
        stream = listen(talk)
        await until_it_stands(stream)
        assert stream.taken == chat._MOST_NEWS + 1
        app = SimpleNamespace(is_running=False, invalidate=lambda: None)
        async with asyncio.timeout(10):
            await talk._show(cast("PromptSession[str]", SimpleNamespace(app=app)))  # until it is over

    asyncio.run(run())
    assert shown == list(range(chat._MOST_NEWS + MORE))
