"""Whether what a daemon uses stays flat: samples of its metrics, and what they come to. Pure.

Flat: the median of the last third is hardly more than that of the first third, both after the warm-up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric, how a page names it, how much of it is one there, and by how much it may grow."""

    metric: str
    name: str
    unit: float
    most: float
    digits: int = 0


MEASURES = (
    Measure("process_resident_memory_bytes", "resident memory (MB)", 1e6, 5.0, digits=1),
    Measure("process_open_fds", "open files", 1.0, 10.0),
    Measure("process_threads", "threads", 1.0, 2.0),
    Measure("aiagentchat_tasks", "tasks", 1.0, 10.0),
)
MEMORY = MEASURES[0]


@dataclass(frozen=True, slots=True)
class Sample:
    """The metrics at a time, in seconds from the start of the load."""

    at_s: float
    metrics: Mapping[str, float]

    def value(self, measure: Measure) -> float | None:
        """Return it as a page tells it; None: the system does not tell."""
        value = self.metrics.get(measure.metric)
        return None if value is None else value / measure.unit

    def __str__(self) -> str:
        return ", ".join(f"{each.name} {tell(each, self.value(each))}" for each in MEASURES)


@dataclass(frozen=True, slots=True)
class Growth:
    """How much it was after the warm-up, and how much at the end."""

    measure: Measure
    early: float
    late: float

    @property
    def is_flat(self) -> bool:
        return self.late - self.early <= self.measure.most

    def __str__(self) -> str:
        early, late = (tell(self.measure, each) for each in (self.early, self.late))
        return f"{early} → {late}" if self.is_flat else f"**{early} → {late}**"


def parse_metrics(text: str) -> dict[str, float]:
    """Return the figures of Prometheus' text format."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def growths(samples: Sequence[Sample], warm_up_s: float) -> list[Growth]:
    """Return how each measure grew, of those that every sample has. Raises `ValueError` on less than three samples."""
    warm = [sample for sample in samples if sample.at_s >= warm_up_s]
    third = len(warm) // 3
    if not third:
        raise ValueError(f"{len(warm)} samples after the warm-up are too few")
    found = []
    for measure in MEASURES:
        values = [value for sample in warm if (value := sample.value(measure)) is not None]
        if len(values) == len(warm):
            found.append(Growth(measure, median(values[:third]), median(values[-third:])))
    return found


def tell(measure: Measure, value: float | None) -> str:
    """Return a figure as text."""
    return "–" if value is None else f"{value:.{measure.digits}f}"
