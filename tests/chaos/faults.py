"""What goes wrong when: a plan made from a seed. Pure; `proxy` does the faults, `run` carries out the whole plan."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Literal

Side = Literal["requests", "transactions"]
"""Requests of the daemon to the homeserver, or transactions that the homeserver pushes to the daemon."""


class Kind(StrEnum):
    """What happens to a request that is hit."""

    DELAY = "delayed"
    CUT_BEFORE = "cut before it was taken"
    CUT_AFTER = "cut after it was taken"
    LIMITED_BODY = "429 with a wait in the body"
    LIMITED_HEADER = "429 with a wait in the header"
    LIMITED_BARE = "429 without a wait"
    ERROR_BEFORE = "500, 502, 503, 504 before it was taken"
    ERROR_AFTER = "500, 502, 503, 504 after it was taken"
    TRUNCATED = "answer cut off"
    MALFORMED = "answer that is no JSON"
    DUPLICATED = "delivered twice"
    REORDERED = "delivered after later ones"
    HALF_OPEN = "connection half open"


class Kill(StrEnum):
    """What ends and is started again."""

    DAEMON = "daemon killed"
    HOMESERVER = "homeserver killed"
    RESTART = "homeserver stopped"


_OF_TRANSACTIONS = frozenset({Kind.DUPLICATED, Kind.REORDERED})
_OF_REQUESTS = frozenset(
    {Kind.LIMITED_BODY, Kind.LIMITED_HEADER, Kind.LIMITED_BARE, Kind.TRUNCATED, Kind.MALFORMED}
)  # of a transaction Synapse looks at the status alone
KINDS: dict[Side, tuple[Kind, ...]] = {
    "requests": tuple(kind for kind in Kind if kind not in _OF_TRANSACTIONS),
    "transactions": tuple(kind for kind in Kind if kind not in _OF_REQUESTS),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """For `seconds` a `share` (0 to 1) of the requests of one side is hit; which, and how hard, comes from `seed`."""

    kind: Kind
    side: Side
    seconds: float
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.side}: {self.kind}"


@dataclass(frozen=True, slots=True)
class Step:
    """A phase, a kill, or a kill while a phase lasts; then calm. `down_s`: before what was killed is started again."""

    phase: Phase | None
    kill: Kill | None
    down_s: float
    calm_s: float

    @property
    def name(self) -> str:
        """What the time to recover is counted under."""
        if self.kill is not None:
            return self.kill
        assert self.phase is not None
        return self.phase.name


@dataclass(frozen=True, slots=True)
class Hit:
    """What happens to one request. `chance` (0 to 1) is all that varies in it."""

    kind: Kind
    chance: float

    @property
    def status(self) -> int:
        return (500, 502, 503, 504)[int(self.chance * 4)]

    @property
    def later(self) -> int:
        """How many transactions that come later are delivered first."""
        return 1 + int(self.chance * 6)

    @property
    def wait_ms(self) -> int:
        """How long a 429 asks to wait, or a delay lasts."""
        return 200 + int(self.chance * 1300)


class Storm:
    """Chooses what of a phase is hit."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self._random = Random(phase.seed)

    def strike(self) -> Hit | None:
        """Return what happens to the next request; None: nothing."""
        is_hit, chance = self._random.random() < self.phase.share, self._random.random()
        return Hit(self.phase.kind, chance) if is_hit else None


def make_plan(
    seed: int, sides: tuple[Side, ...], *, rounds: int, daemon_kills: int, restarts: int, longest_s: float
) -> tuple[Step, ...]:
    """Return the steps of a run: each kind of fault `rounds` times, with the kills among them.

    Args:
        restarts: of the homeserver, which is killed and stopped in turn. longest_s: of a phase.
    """
    random = Random(seed)

    def phase(kind: Kind, side: Side) -> Phase:
        share = 1.0 if kind is Kind.HALF_OPEN else random.uniform(0.3, 0.7)
        return Phase(kind, side, random.uniform(0.4, 1.0) * longest_s, share, random.getrandbits(32))

    every = [(kind, side) for side in sides for kind in KINDS[side]]
    steps = [
        Step(phase(kind, side), None, 0.0, random.uniform(0.0, 0.5))
        for _ in range(rounds)
        for kind, side in random.sample(every, len(every))
    ]
    kills = [Kill.DAEMON] * daemon_kills
    kills += [(Kill.HOMESERVER, Kill.RESTART)[number % 2] for number in range(restarts)]
    for number, kill in enumerate(kills):
        during = phase(*random.choice(every)) if number % 2 else None
        step = Step(during, kill, random.uniform(0.0, 1.5), random.uniform(0.0, 0.5))
        steps.insert(random.randint(1, len(steps)), step)
    return tuple(steps)
