"""The figures of a run stand in two tables, between the marks of the page."""

import pytest

from tests.chaos.ledger import Verdict
from tests.chaos.report import BEGIN, END, render_figures, replace_figures
from tests.chaos.run import Outcome, Wish


def outcome(mode: str) -> Outcome:
    found = Outcome(Wish(mode, 7, 1_000), Verdict(lost=("one",)), sent=1_000)
    found.recovered_s["daemon killed"] += [1.0, 2.0, 9.0]
    return found


def test_each_run_has_a_column() -> None:
    second = outcome("accounts")
    second.recovered_s["requests: delayed"].append(0.25)
    text = render_figures([outcome("appservice"), second], "About it.")
    assert text.startswith(
        "About it.\n\n|  | appservice | accounts |\n| --- | --: | --: |\n| **lost** | **1** | **1** |"
    )
    assert "| messages sent | 1,000 | 1,000 |" in text
    assert "| daemon killed | 2.0, 9.0 | 2.0, 9.0 |" in text
    assert "| requests: delayed | – | 0.2, 0.2 |" in text


def test_figures_are_replaced_and_the_page_around_them_stays() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = replace_figures(page, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replace_figures(once, "new") == once
    with pytest.raises(ValueError, match="unpack"):
        replace_figures("a page without marks", "new")
