"""The figures of runs as text, and their place in `docs/reliability.md`. Pure."""

from collections.abc import Sequence
from statistics import median

from tests.chaos.run import Outcome

BEGIN, END = "<!-- figures: made by `make chaos` -->", "<!-- end of the figures -->"


def render_figures(outcomes: Sequence[Outcome], about: str) -> str:
    """Return two tables in Markdown, a column for each run: what was counted, and how long it took to recover."""
    modes = [outcome.wish.mode for outcome in outcomes]
    counted = [
        _row("**lost**", [f"**{len(each.verdict.lost)}**" for each in outcomes]),
        _row("**doubled**", [f"**{len(each.verdict.doubled)}**" for each in outcomes]),
        _row("**reordered**", [f"**{len(each.verdict.reordered)}**" for each in outcomes]),
        _row("messages sent", [f"{each.sent:,}" for each in outcomes]),
        _row("sends that ended in an error", [f"{len(each.refused):,}" for each in outcomes]),
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


def replace_figures(page: str, figures: str) -> str:
    """Return the page with these figures between its marks. Raises `ValueError` where it has none."""
    before, rest = page.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _times(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else "–"
