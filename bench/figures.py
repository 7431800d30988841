"""What a measurement has found, and what it was to find. Pure; as JSON, too."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the values are, between two of them where it falls between."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Series:
    """The same thing measured again and again.

    Args:
        what: for a person. unit: of each value. values: in the order of measuring; never empty. x: where on an axis it
            is, for what is measured at several sizes.
    """

    what: str
    unit: str
    values: tuple[float, ...]
    x: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    def at(self, percent: float) -> float:
        """Return a percentile."""
        return percentile(self.values, percent)


@dataclass(frozen=True, slots=True)
class Goal:
    """What was to be reached, and what was.

    `is_least`: `limit` is the least that is good, else the most. `why`: what keeps us from it, said where it is missed.
    """

    what: str
    value: float
    limit: float
    unit: str = "times"
    is_least: bool = False
    why: str = ""

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.is_least else self.value <= self.limit


@dataclass(slots=True)
class Row:
    """One row of the page.

    Args:
        key: for the command line. title: what is measured. how: in a sentence or two, what was done.
        notes: what a reader has to know besides, each a sentence in Markdown.
        day, machine: when it was measured, as in "2026-01-31", and on what: rows can be measured one by one.
        took_s: from its beginning to its end.
    """

    key: str
    title: str
    how: str
    series: list[Series] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    day: str = ""
    machine: str = ""
    took_s: float = 0.0

    def add(self, what: str, unit: str, values: Sequence[float], *, x: float | None = None) -> Series:
        """Keep a series, and return it."""
        series = Series(what, unit, tuple(values), x)
        self.series.append(series)
        return series


def ratio_of(ours: Series, other: Series, value: Callable[[Series], float] = lambda series: series.median) -> float:
    """Return how many times the other's ours is, by their medians or by what `value` takes of each."""
    return value(ours) / value(other)


def compared(series: Mapping[str, Series], pairs: Sequence[tuple[str, str]]) -> str:
    """Say how many times the second of each pair the first is, by their medians."""
    found = "; ".join(f"{one} beside {other}, {ratio_of(series[one], series[other]):.2f} times" for one, other in pairs)
    return f"By the medians: {found}."


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows as what `json` writes."""
    return [dataclasses.asdict(row) for row in rows]


def from_json(data: Sequence[dict[str, Any]]) -> list[Row]:
    """Return rows from what `to_json` has given."""
    return [
        Row(
            row["key"],
            row["title"],
            row["how"],
            [Series(each["what"], each["unit"], tuple(each["values"]), each["x"]) for each in row["series"]],
            [Goal(**goal) for goal in row["goals"]],
            list(row["notes"]),
            row["day"],
            row["machine"],
            row["took_s"],
        )
        for row in data
    ]
