"""What `make bench` makes of what it has measured: figures, goals, and the page."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Goal, Row, from_json, percentile, ratio_of, to_json
from bench.machine import parse_requests
from bench.page import render_page, render_table

METRICS = """# HELP synapse_http_server_requests_received_total
synapse_http_server_requests_received_total{method="GET",servlet="SyncRestServlet"} 2.0
synapse_http_server_requests_received_total{method="PUT",servlet="RoomStateEventRestServlet"} 3.0
synapse_http_server_requests_received_total{method="GET",servlet="RoomStateEventRestServlet"} 4.0
"""


def row() -> Row:
    made = Row("key", "Title, of `it`", "How.", notes=["A note."], day="2026-01-31", machine="2 cores.")
    ours, other = made.add("ours", "ms", [1.0, 2.0, 3.0]), made.add("other", "ms", [4.0, 4.0, 4.0], x=10)
    made.goals = [Goal("less", ratio_of(ours, other), 0.5), Goal("more", 2.0, 3.0, is_least=True)]
    return made


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_between_the_least_and_the_most(values: list[float], percent: float) -> None:
    slack = 1e-6
    assert min(values) - slack <= percentile(values, percent) <= max(values) + slack
    assert (percentile(values, 0), percentile(values, 100)) == (min(values), max(values))


@pytest.mark.parametrize(("percent", "value"), [(0, 10), (25, 20), (50, 30), (90, 46), (100, 50)])
def test_a_percentile_falls_between_two_values(percent: float, value: float) -> None:
    assert percentile([50, 10, 40, 20, 30], percent) == value


def test_goals_are_met_from_above_or_from_below() -> None:
    assert [goal.is_met for goal in row().goals] == [True, False]
    assert Goal("equal", 1.0, 1.0).is_met
    assert Goal("equal", 1.0, 1.0, is_least=True).is_met


def test_what_was_measured_is_kept_as_it_is() -> None:
    assert from_json(json.loads(json.dumps(to_json([row()])))) == [row()]


def test_the_page_has_every_goal_with_what_was_found_and_leads_to_its_row() -> None:
    page = render_page([row()], {"key.svg": ""})
    assert "| less | ≤ 0.500 times | 0.500 times | [met](#title-of-it) |" in page
    assert "| more | ≥ 3.00 times | 2.00 times | [**missed**](#title-of-it) |" in page
    assert "## Title, of `it`\n\nHow.\n\n![Title, of `it`](benchmarks/key.svg)" in page
    assert "- A note.\n" in page
    assert "| ours | 2.00 ms | 1.20 to 2.80 | 3 |" in render_table(row())


def test_the_page_says_of_each_row_when_and_on_what_it_was_measured() -> None:
    assert "\n- Measured on 2026-01-31, on 2 cores.\n" in render_page([row(), row()], ())
    other = Row("other", "Other", "How.", day="2026-02-01", machine="4 cores.")
    page = render_page([row(), other], ())
    assert "\n- Measured on 2026-01-31, on 2 cores. [Title, of `it`](#title-of-it).\n" in page
    assert "\n- Measured on 2026-02-01, on 4 cores. [Other](#other).\n" in page


def test_requests_are_counted_by_servlet_whatever_their_method() -> None:
    assert parse_requests(METRICS) == {"SyncRestServlet": 2, "RoomStateEventRestServlet": 7}
