"""One reader per agent at a time: who reads, so that a second can be told."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiagentchat.errors import ReaderBusyError
from aiagentchat.model import AgentName

UNCONFIRMED_S = 5.0
"""How long a reader that was handed messages may take to acknowledge before another may read them."""


@dataclass(frozen=True, slots=True)
class _Slot:
    reader_id: str
    label: str
    until: float | None


class Readers:
    """The slots. A reader that streams holds its slot until it is released; one that asked once, for a short time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: dict[AgentName, _Slot] = {}

    def claim(self, agent: AgentName, reader_id: str, label: str, *, standing: bool) -> None:
        """Take the slot of an agent's inbox, or keep it.

        Raises:
            ReaderBusyError: another reader has it.
        """
        slot = self._slots.get(agent)
        if slot is not None and slot.reader_id != reader_id and (slot.until is None or slot.until > self._clock()):
            raise ReaderBusyError(
                f"{agent} is being read by {slot.label}", hint="one reader at a time; 'cchat read --peek' only looks"
            )
        self._slots[agent] = _Slot(reader_id, label, None if standing else self._clock() + UNCONFIRMED_S)

    def release(self, agent: AgentName, reader_id: str) -> None:
        """Give the slot back, if it is this reader's."""
        slot = self._slots.get(agent)
        if slot is not None and slot.reader_id == reader_id:
            del self._slots[agent]

    def confirm(self, agent: AgentName, reader_id: str) -> None:
        """The reader acknowledged: a slot that it took for one read is free again."""
        slot = self._slots.get(agent)
        if slot is not None and slot.reader_id == reader_id and slot.until is not None:
            del self._slots[agent]
