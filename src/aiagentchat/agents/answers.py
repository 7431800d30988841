"""Who waits for an answer: from the event asked about to whoever wants to know what answers it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiagentchat.model import EventId, Message


class Answers:
    """Waiting askers, by the event that they asked with. Only live messages come here; `agents.delivery` looks back."""

    def __init__(self) -> None:
        self._waiting: dict[EventId, dict[asyncio.Future[Message], Callable[[Message], bool]]] = {}

    def note(self, message: Message) -> None:
        """Tell whoever waits for an answer to what this message names."""
        if message.in_reply_to is None:
            return
        for future, counts in self._waiting.get(message.in_reply_to.event_id, {}).items():
            if not future.done() and counts(message):
                future.set_result(message)

    @contextmanager
    def waiting(self, event_id: EventId, counts: Callable[[Message], bool]) -> Iterator[asyncio.Future[Message]]:
        """Give a future of the first answer to an event that arrives from now on, of those that count."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        futures = self._waiting.setdefault(event_id, {})
        futures[future] = counts
        try:
            yield future
        finally:
            del futures[future]
            if not futures:
                self._waiting.pop(event_id, None)
