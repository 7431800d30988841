"""One reader per agent at a time: who reads, so that a second can be told."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiagentchat.errors import ReaderBusyError
from aiagentchat.model import AgentName

UNCONFIRMED_S = 5.0
"""How long a reader that was handed messages may take to acknowledge before another may read them."""


@dataclass(eq=False, slots=True)
class Claim:
    """A reader at work, or (`until`, of the monotonic clock) one that was handed messages and is to acknowledge them.

    `on_lost`, which a stream has, is called when the same reader has opened a new one: it has come back, and this
    connection is its old one.
    """

    reader_id: str
    label: str
    on_lost: Callable[[], object] | None = None
    until: float | None = None


class Readers:
    """The slots, one per agent. Each claim ends with `release` or `hand_out`, and never frees the slot of another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: dict[AgentName, Claim] = {}

    def claim(
        self, agent: AgentName, reader_id: str, label: str, *, on_lost: Callable[[], object] | None = None
    ) -> Claim:
        """Take the slot of an agent's inbox. A reader that has a stream may read beside it, and keeps the stream's.

        `on_lost`: see `Claim`; a stream gives it, and nothing else does.

        Raises:
            ReaderBusyError: another reader has it.
        """
        claim, slot = Claim(reader_id, label, on_lost), self._slots.get(agent)
        if slot is not None and (slot.until is None or slot.until > self._clock()):
            if slot.reader_id != reader_id:
                raise ReaderBusyError(
                    f"{agent} is being read by {slot.label}",
                    hint="one reader at a time; 'cchat read --peek' only looks",
                )
            if slot.until is None and on_lost is None:
                return claim
            if slot.on_lost is not None:
                slot.on_lost()
        self._slots[agent] = claim
        return claim

    def release(self, agent: AgentName, claim: Claim) -> None:
        """Give the slot back."""
        if self._slots.get(agent) is claim:
            del self._slots[agent]

    def hand_out(self, agent: AgentName, claim: Claim) -> None:
        """The reader was handed messages: it has the slot for as long as it may take to acknowledge them."""
        if self._slots.get(agent) is claim:
            claim.until = self._clock() + UNCONFIRMED_S

    @contextmanager
    def busy(self, agent: AgentName, reader_id: str) -> Iterator[None]:
        """A reader still deals with what it was handed: what time it has to acknowledge begins anew afterwards."""
        slot = self._slots.get(agent)
        if slot is None or slot.reader_id != reader_id or slot.until is None:
            yield
            return
        slot.until = float("inf")
        try:
            yield
        finally:
            slot.until = self._clock() + UNCONFIRMED_S

    def confirm(self, agent: AgentName, reader_id: str) -> None:
        """The reader acknowledged: a slot that it has for what it was handed is free again."""
        slot = self._slots.get(agent)
        if slot is not None and slot.reader_id == reader_id and slot.until is not None:
            del self._slots[agent]
