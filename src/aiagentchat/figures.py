"""Figures that cost the same however much is counted, and how Prometheus reads them. Pure; whoever counts owns its own.

The text format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Histogram:
    """How long something took, in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count it once."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


Value = float | Histogram
Samples = Mapping[str, Value]
"""A value for each value of the label; of a figure without one, the only value is that of ""."""


@dataclass(frozen=True, slots=True)
class Family:
    """What one metric is. `label`: by what its values are told apart; "": there is one."""

    kind: str
    help: str
    label: str = ""


def render(families: Mapping[str, Family], samples: Mapping[str, Samples]) -> str:
    """Return the text for Prometheus. A family without samples is left out."""
    lines: list[str] = []
    for name, family in families.items():
        if found := samples.get(name):
            lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
            for text, value in found.items():
                lines += _render(name, f'{family.label}="{_escaped(text)}"' if family.label else "", value)
    return "\n".join(lines) + "\n"


def _render(name: str, label: str, value: Value) -> Iterator[str]:
    braced = f"{{{label}}}" if label else ""
    if not isinstance(value, Histogram):
        yield f"{name}{braced} {value}"
        return
    total, before = 0, f"{label}," if label else ""
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), value.counts, strict=True):
        total += count
        yield f'{name}_bucket{{{before}le="{bound}"}} {total}'
    yield f"{name}_sum{braced} {value.sum_s}"
    yield f"{name}_count{braced} {total}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
