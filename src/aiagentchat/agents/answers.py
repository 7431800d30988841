"""Who waits for an answer, from the event asked about to whoever wants to know what answers it, or for a reading."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from aiagentchat.model import AgentName, EventId, Message


class Answers:
    """Waiting askers, by the event that they asked with. Only live messages come here; `agents.delivery` looks back."""

    def __init__(self) -> None:
        self._waiting: dict[EventId, dict[asyncio.Future[Message], Callable[[Message], bool]]] = {}
        self._acknowledged: WeakValueDictionary[AgentName, asyncio.Event] = WeakValueDictionary()

    def acknowledgement_by(self, agent: AgentName) -> asyncio.Event:
        """Return an event that is set once an agent of this daemon has acknowledged something from now on."""
        return self._acknowledged.setdefault(agent, asyncio.Event())

    def note_acknowledged(self, agent: AgentName) -> None:
        """Tell whoever waits for it."""
        waited_for = self._acknowledged.pop(agent, None)
        if waited_for is not None:
            waited_for.set()

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
