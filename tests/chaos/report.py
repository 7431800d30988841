"""The figures of runs as text, and their place in `docs/reliability.md`. Pure."""

from collections.abc import Sequence
from statistics import median

from tests.chaos.growth import MEASURES, Measure
from tests.chaos.run import Outcome
from tests.chaos.soak_run import Soaked

BEGIN, END = "<!-- figures: made by `make chaos` -->", "<!-- end of the figures -->"
SOAK_BEGIN, SOAK_END = "<!-- soak: made by `make soak` -->", "<!-- end of the soak -->"


def render_figures(outcomes: Sequence[Outcome], about: str) -> str:
    """Return two tables in Markdown, a column for each run: what was counted, and how long it took to recover."""
    modes = [outcome.wish.mode for outcome in outcomes]
    counted = [
        _row("**lost**", [f"**{len(each.verdict.lost)}**" for each in outcomes]),
        _row("**doubled**", [f"**{len(each.verdict.doubled)}**" for each in outcomes]),
        _row("**reordered**", [f"**{len(each.verdict.reordered)}**" for each in outcomes]),
        _row("**untrue**", [f"**{len(each.verdict.untrue)}**" for each in outcomes]),
        _row("messages sent", [f"{each.sent:,}" for each in outcomes]),
        _row("sends that ended in an error", [f"{len(each.refused):,}" for each in outcomes]),
        _row("sends given up at the first error", [f"{each.left:,}" for each in outcomes]),
        _row("times a message was handed out", [f"{each.handed:,}" for each in outcomes]),
        _row("agents", [str(each.wish.agents) for each in outcomes]),
        _row("requests and transactions hit", [f"{each.hits.total():,}" for each in outcomes]),
        _row("daemon killed", [str(each.wish.daemon_kills) for each in outcomes]),
        _row("homeserver killed or stopped", [str(each.wish.restarts) for each in outcomes]),
        _row("readers that died with messages in hand", [str(each.deaths) for each in outcomes]),
        _row("seed", [str(each.wish.seed) for each in outcomes]),
        _row("minutes", [f"{each.took_s / 60:.0f}" for each in outcomes]),
    ]
    names = sorted({name for outcome in outcomes for name in outcome.recovered_s})
    recovered = [_row(name, [_times(outcome.recovered_s.get(name, [])) for outcome in outcomes]) for name in names]
    head = [_row("", modes), _row("---", ["--:"] * len(modes))]
    after = [_row("seconds to recover after (p50, max)", modes), _row("---", ["--:"] * len(modes))]
    return "\n".join([about, "", *head, *counted, "", *after, *recovered])


def render_soak(soaked: Sequence[Soaked], about: str) -> str:
    """Return a table in Markdown, a column for each soak: what each measure was early and late, and what was done."""
    grown = [_row(_bound(measure), [_grown(each, measure) for each in soaked]) for measure in MEASURES]
    names = list(dict.fromkeys(name for each in soaked for name in each.counts))
    done = [_row(name, [f"{each.counts.get(name, 0):,}" for each in soaked]) for name in names]
    plan = [
        _row("agents", [str(each.wish.agents) for each in soaked]),
        _row("seed", [str(each.wish.seed) for each in soaked]),
        _row("minutes", [f"{each.wish.seconds / 60:g}" for each in soaked]),
    ]
    head = [_row("", [each.wish.mode for each in soaked]), _row("---", ["--:"] * len(soaked))]
    return "\n".join([about, "", *head, *grown, *done, *plan])


def _bound(measure: Measure) -> str:
    return f"{measure.name}, at most {measure.most:g} more"


def _grown(soaked: Soaked, measure: Measure) -> str:
    return next((str(growth) for growth in soaked.growths if growth.measure is measure), "–")


def replace_figures(page: str, figures: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with these figures between two marks. Raises `ValueError` where it has none."""
    before, rest = page.split(begin, 1)
    _, after = rest.split(end, 1)
    return f"{before}{begin}\n\n{figures}\n\n{end}{after}"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _times(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else "–"
