"""`ServerClock`: how far the homeserver's clock is ahead of ours, from the `Date` of its answers."""

import math


class ServerClock:
    """Bounds between which the homeserver's clock is ahead of ours, in seconds.

    `Date` is in whole seconds, and made at any time between request and answer: Synapse makes it as the request comes,
    so that of a `/sync` it may be half a minute old. Each answer so gives two bounds, and the narrowest of all hold:
    some hundred answers leave milliseconds. Bounds that exclude each other say that a clock was set.
    """

    def __init__(self) -> None:
        self._least_s, self._most_s = -math.inf, math.inf

    @property
    def offset_s(self) -> float | None:
        """What is to be added to our clock for the homeserver's; None: it has never told."""
        return None if math.isinf(self._least_s) else (self._least_s + self._most_s) / 2

    @property
    def least_offset_s(self) -> float | None:
        """The least that this can be: with it nothing is taken for later than it is. None: it has never told."""
        return None if math.isinf(self._least_s) else self._least_s

    def note(self, date_s: float, *, asked_at_s: float, answered_at_s: float) -> None:
        """Take what an answer says. All three are in seconds since the epoch, the first by the homeserver's clock."""
        least_s, most_s = date_s - answered_at_s, date_s + 1 - asked_at_s
        if least_s >= most_s:  # ours was set back meanwhile
            return
        if least_s > self._most_s or most_s < self._least_s:
            self._least_s, self._most_s = least_s, most_s
        else:
            self._least_s, self._most_s = max(self._least_s, least_s), min(self._most_s, most_s)
