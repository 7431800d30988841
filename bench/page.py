"""The page: tables and charts of what was found. Pure, but that charts are drawn with matplotlib."""

import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from bench.figures import Goal, Row, Series

_MOST_LINEAR = 20
"""How many times the least the most is that is still drawn on an axis that begins at nothing."""
HEAD = """# Benchmarks

<!-- Made by `make bench`; changes made here are lost. -->

Every figure is measured beside what it is compared with, in one run, one after the other or in turns, and on one
homeserver; what is measured with several numbers of agents, or with other accounts, has another one that is made alike.
Ratios hold on other machines, milliseconds do not. A dash in place of the spread: measured once. `make bench` makes
this page anew, in under an hour on two cores; it builds a homeserver of 1,000 agents first, once. All that was
measured, value by value, is in [benchmarks/data.json](benchmarks/data.json). What follows from it for larger systems is
in [capacity.md](capacity.md).

{measured}

| | goal | found | |
|---|---|---|---|
{goals}
"""


def render_page(rows: Sequence[Row], charts: Collection[str], tried: str = "") -> str:
    """Return the page in Markdown. `charts`: the names of those that there are. `tried`: its last part."""
    goals = "\n".join(_goal_line(row, goal) for row in rows for goal in row.goals)
    parts = [HEAD.format(measured=_measured(rows), goals=goals)]
    for row in rows:
        chart = f"![{row.title}](benchmarks/{row.key}.svg)\n\n" if f"{row.key}.svg" in charts else ""
        notes = "".join(f"- {note}\n" for note in [*_reasons(row), *row.notes])
        parts.append(f"## {row.title}\n\n{row.how}\n\n{chart}{render_table(row)}\n" + (f"\n{notes}" if notes else ""))
    return "\n".join([*parts, tried])


def _reasons(row: Row) -> list[str]:
    """Say why goals are missed: what one reason is of, together."""
    missed: dict[str, list[str]] = defaultdict(list)
    for goal in row.goals:
        if not goal.is_met:
            missed[goal.why].append(goal.what)
    return [f"**Missed**: {'; '.join(goals)}. {why}".rstrip() for why, goals in missed.items()]


def _measured(rows: Sequence[Row]) -> str:
    """Say when and on what the rows were measured, which may have been one by one."""
    together: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        together[row.day, row.machine].append(row)
    return "\n".join(
        f"- Measured on {day}, in {sum(row.took_s for row in group) / 60:.0f} minutes in all, on {machine}"
        + (f" {', '.join(f'[{row.title}](#{_anchor(row.title)})' for row in group)}." if len(together) > 1 else "")
        for (day, machine), group in together.items()
    )


def render_table(row: Row) -> str:
    """Return a row's series and goals as tables in Markdown."""
    series = [
        f"| {each.what} | {amount(each.median, each.unit)} | {_spread(each)} | {len(each.values)} |"
        for each in row.series
    ]
    goals = [_goal_line(row, goal) for goal in row.goals]
    head = ["| | median | 10 % to 90 %, 99 % | times |", "|---|--:|--:|--:|"]
    return "\n".join([*head, *series, *(["", "| | goal | found | |", "|---|---|---|---|", *goals] if goals else [])])


def _goal_line(row: Row, goal: Goal) -> str:
    sign = "≥" if goal.is_least else "≤"
    met = "met" if goal.is_met else "**missed**"
    limit, value = amount(goal.limit, goal.unit), amount(goal.value, goal.unit)
    return f"| {goal.what} | {sign} {limit} | {value} | [{met}](#{_anchor(row.title)}) |"


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def amount(value: float, unit: str) -> str:
    """Return a value with three digits that say something."""
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f} {unit}"


def _spread(series: Series) -> str:
    if len(series.values) == 1:
        return "–"
    low, high = (amount(series.at(percent), "").strip() for percent in (10, 90))
    return f"{low} to {high}" + (f", {amount(series.at(99), '').strip()}" if len(series.values) >= 100 else "")


def render_charts(rows: Sequence[Row]) -> dict[str, str]:
    """Return charts as SVG by file name: curves of what was measured at several sizes, else bars."""
    return {f"{row.key}.svg": _draw(row) for row in rows if len(row.series) > 1}


def _draw(row: Row) -> str:
    import matplotlib  # noqa: PLC0415 - nothing but `make bench` has it

    matplotlib.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    pyplot.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.family": "sans-serif"})
    by_unit: dict[str, list[Series]] = defaultdict(list)
    for series in row.series:
        by_unit[series.unit].append(series)
    figure, axes = pyplot.subplots(
        len(by_unit), 1, figsize=(10, sum(_height(each) for each in by_unit.values())), squeeze=False
    )
    for axis, (unit, group) in zip(axes[:, 0], by_unit.items(), strict=True):
        _draw_curves(axis, group) if all(each.x is not None for each in group) else _draw_bars(axis, group)
        axis.set_xlabel(unit) if group[0].x is None else axis.set_ylabel(unit)
    figure.tight_layout()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _height(group: Sequence[Series]) -> float:
    if all(each.x is not None for each in group):
        return 3.5
    return 0.7 + sum(0.2 + 0.15 * len(_label(each.what).splitlines()) for each in group)


def _label(what: str) -> str:
    return textwrap.fill(what.replace("`", ""), 48)


def _draw_bars(axis: Any, group: Sequence[Series]) -> None:
    names = [_label(each.what) for each in group]
    values = [each.median for each in group]
    errors = [
        [each.median - each.at(10) for each in group],
        [each.at(90) - each.median for each in group],
    ]
    axis.barh(names, values, xerr=errors, color="#4c72b0", ecolor="#222222", height=0.6)
    axis.invert_yaxis()


def _draw_curves(axis: Any, group: Sequence[Series]) -> None:
    curves: dict[str, list[Series]] = defaultdict(list)
    for each in group:
        curves[each.what.rpartition(", ")[0] or each.what].append(each)
    for name, points in curves.items():
        axis.plot([each.x for each in points], [each.median for each in points], marker="o", label=_label(name))
    medians = [each.median for each in group]
    axis.set_xscale("log")
    if min(medians) > 0 and max(medians) > _MOST_LINEAR * min(medians):
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.1 * max(medians) or 1)
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter("{x:g}")
    axis.set_xlabel("agents")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
