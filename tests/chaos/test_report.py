"""The figures stand in tables, between the marks of the page."""

import pytest

from tests.chaos.command import PAGE
from tests.chaos.growth import Sample
from tests.chaos.ledger import Verdict
from tests.chaos.report import BEGIN, END, SOAK_BEGIN, SOAK_END, render_figures, render_soak, replace_figures
from tests.chaos.run import Outcome, Wish
from tests.chaos.soak_run import Soaked, SoakWish


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


def test_each_soak_has_a_column_and_what_grew_is_bold() -> None:
    samples = [Sample(float(at_s), {"process_open_fds": at_s, "aiagentchat_tasks": 40.0}) for at_s in range(60)]
    soaked = Soaked(SoakWish("accounts", 7, seconds=60.0), samples, {"messages sent": 1_000})
    text = render_soak([soaked], "About it.")
    assert text.startswith("About it.\n\n|  | accounts |\n| --- | --: |\n| resident memory (MB), at most 5 more | – |")
    assert "| open files, at most 10 more | **18 → 52** |" in text
    assert "| tasks, at most 10 more | 40 → 40 |" in text
    assert "| messages sent | 1,000 |" in text
    assert not soaked.is_flat


def test_the_page_has_marks_for_both_kinds_of_figures() -> None:
    page = PAGE.read_text()
    assert "new" in replace_figures(replace_figures(page, "new"), "new", SOAK_BEGIN, SOAK_END)
