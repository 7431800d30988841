"""What became of messages since the daemon started, counted. `agents.host` keeps it; those who know note it."""

from collections import Counter
from dataclasses import dataclass, field

from aiagentchat.figures import Histogram
from aiagentchat.model import Message


@dataclass(slots=True)
class Tally:
    """`stored`, `answers`: by the kind of who wrote. `sending`: from a request to send until the homeserver has it."""

    stored: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    handed_out: int = 0
    acknowledged: int = 0
    sending: Histogram = field(default_factory=Histogram)

    def note(self, message: Message) -> None:
        """A message arrived from the homeserver, which has stored it."""
        self.stored[message.sender.kind] += 1
        self.answers[message.sender.kind] += message.in_reply_to is not None
