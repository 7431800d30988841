"""What `make bench` makes of what it has measured: figures, goals, and the page."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.homeserver.operator import OperatorAccount
from aiagentchat.model import UserId
from bench import capacity, peers, usage
from bench.between import Exchange
from bench.exchange import Arrivals, fill_row
from bench.figures import Goal, Row, Series, compared, from_json, percentile, ratio_of, to_json
from bench.machine import cpu_s, parse_requests
from bench.page import render_page, render_table
from bench.replay import label_of, learnt_from, renamed, renamed_path, writes_of
from bench.rows import bytes as bytes_row
from bench.rows import cold_start, idle, people, throughput, warm_start, who
from bench.system import Bench, number_shown

METRICS = """# HELP synapse_http_server_requests_received_total
synapse_http_server_requests_received_total{method="GET",servlet="SyncRestServlet"} 2.0
synapse_http_server_requests_received_total{method="PUT",servlet="RoomStateEventRestServlet"} 3.0
synapse_http_server_requests_received_total{method="GET",servlet="RoomStateEventRestServlet"} 4.0
"""


def row() -> Row:
    made = Row("key", "Title, of `it`", "How.", notes=["A note."], day="2026-01-31", machine="2 cores.", took_s=90)
    ours, other = made.add("ours", "ms", [1.0, 2.0, 3.0]), made.add("other", "ms", [4.0, 4.0, 4.0], x=10)
    made.goals = [
        Goal("less", ratio_of(ours, other), 0.5, why="It is not."),
        Goal("more", 2.0, 3.0, is_least=True, why="There is no more."),
        Goal("much", 2.0, 4.0, is_least=True, why="There is no more."),
    ]
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
    assert [goal.is_met for goal in row().goals] == [True, False, False]
    assert Goal("equal", 1.0, 1.0).is_met
    assert Goal("equal", 1.0, 1.0, is_least=True).is_met


def test_what_was_measured_is_kept_as_it_is() -> None:
    assert from_json(json.loads(json.dumps(to_json([row()])))) == [row()]


def test_the_page_has_every_goal_with_what_was_found_and_leads_to_its_row() -> None:
    page = render_page([row()], {"key.svg": ""})
    assert "| less | ≤ 0.500 times | 0.500 times | [met](#title-of-it) |" in page
    assert "| more | ≥ 3.00 times | 2.00 times | [**missed**](#title-of-it) |" in page
    assert "## Title, of `it`\n\nHow.\n\n![Title, of `it`](benchmarks/key.svg)" in page
    assert "\n\n- **Missed**: more; much. There is no more.\n- A note.\n" in page
    assert "It is not" not in page
    assert "| ours | 2.00 ms | 1.20 to 2.80 | 3 |" in render_table(row())


def test_the_page_says_of_each_row_when_and_on_what_it_was_measured() -> None:
    assert "\n- Measured on 2026-01-31, in 3 minutes in all, on 2 cores.\n" in render_page([row(), row()], ())
    other = Row("other", "Other", "How.", day="2026-02-01", machine="4 cores.")
    page = render_page([row(), other], ())
    assert "\n- Measured on 2026-01-31, in 2 minutes in all, on 2 cores. [Title, of `it`](#title-of-it).\n" in page
    assert "\n- Measured on 2026-02-01, in 0 minutes in all, on 4 cores. [Other](#other).\n" in page


def test_what_was_tried_is_the_last_part_of_the_page() -> None:
    assert render_page([row()], (), "## What was tried\n").endswith("- A note.\n\n## What was tried\n")


def test_ways_are_shown_beside_what_they_are_compared_with_and_each_other_is_to_be_slower_in_both_figures() -> None:
    made = Row("key", "Title", "How.")
    took = {"other": [5.0, 4.0], "variant": [1.5, 1.5], "raw": [1.0, 2.0], "half": [1.0, 1.0], "ours": [2.0, 4.0]}
    series = fill_row(
        made, took, ours="ours", parts=["half"], raw="raw", variants=["variant"], others=["other"], why="That is so."
    )
    assert [each.what for each in made.series] == ["ours", "half", "raw", "variant", "other"]
    assert series == {each.what: each for each in made.series}
    assert [(goal.what, goal.limit, round(goal.value, 2)) for goal in made.goals] == [
        ("ours beside raw, median", 1.10, 2.0),
        ("ours beside raw, 99 %", 1.25, 2.0),
        ("ours beside other, median", 1.0, 0.67),
        ("ours beside other, 99 %", 1.0, 0.8),
    ]
    assert {goal.why for goal in made.goals} == {"That is so."}


def test_a_note_says_the_ratios_that_there_were_and_no_more() -> None:
    series = {what: Series(what, "ms", (value,)) for what, value in (("one", 3.0), ("other", 2.0))}
    assert compared(series, [("one", "other"), ("other", "one")]) == (
        "By the medians: one beside other, 1.50 times; other beside one, 0.67 times."
    )


def test_bytes_are_to_be_fewer_in_all_and_of_the_changes_alone() -> None:
    own, common = bytes_row._Followed(2, 5, 0, 0), bytes_row._Followed(100, 100, 0, 0)
    found = bytes_row._Found(100, own, common, bytes_row._Followed(150, 50, 0, 0), 0, 800)
    assert [(goal.what, round(goal.value), goal.is_met) for goal in found.goals()] == [
        ("fewer bytes than an unfiltered sync, 100 rooms: an agent with an account", 92, True),
        ("fewer bytes than an unfiltered sync, 100 rooms: an agent with an account, the changes alone", 88, False),
        ("fewer bytes than an unfiltered sync, 100 rooms: what is pushed", 96, True),
    ]


async def test_a_homeserver_that_does_not_come_to_rest_is_said_and_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "_LONGEST_S", 0.0)
    with pytest.raises(TimeoutError, match="not at rest after 0 s"):
        await usage.wait_calm(cast("Bench", None))


ACCOUNT = OperatorAccount(UserId("@a:example.org"), "DEVICE", "token")


def syncing() -> contextlib.AbstractAsyncContextManager[None]:
    return peers._syncing("", cast("aiohttp.ClientSession", None), ACCOUNT, "", Arrivals())


@pytest.mark.parametrize("is_ready_first", [False, True])
async def test_a_sync_that_fails_is_said_before_it_is_ready_and_afterwards(
    monkeypatch: pytest.MonkeyPatch, *, is_ready_first: bool
) -> None:
    async def fail(_: object, __: str, ___: Arrivals, ready: asyncio.Event) -> None:
        if is_ready_first:
            ready.set()
            await asyncio.sleep(0)
        raise ValueError("no sync")

    monkeypatch.setattr(peers.BareRequests, "sync", fail)
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no sync")):
        async with asyncio.timeout(10), syncing():
            await asyncio.Event().wait()


async def test_a_sync_that_is_never_ready_is_waited_for_no_longer_than_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(peers.BareRequests, "sync", hang)
    monkeypatch.setattr(peers, "LATE_S", 0.01)
    with pytest.RaisesGroup(TimeoutError):
        async with asyncio.timeout(10), syncing():
            pass


def test_a_home_knows_how_rooms_are_shown_that_have_a_line_after_the_first(tmp_path: Path) -> None:
    file = tmp_path / "rooms-shown"
    assert number_shown(file) == 0
    file.write_text("quiet @alice:example.org\n")
    assert number_shown(file) == 0
    file.write_text("quiet @alice:example.org\nonline !a\noffline !b\n")
    assert number_shown(file) == 2


def test_requests_are_counted_by_servlet_whatever_their_method() -> None:
    assert parse_requests(METRICS) == {"SyncRestServlet": 2, "RoomStateEventRestServlet": 7}


def exchange(method: str, path: str, *, body: object = None, answer: object = None) -> Exchange:
    content, kind = (
        (b"", "application/octet-stream") if body is None else (json.dumps(body).encode(), "application/json")
    )
    return Exchange(method, path, "token", content, kind, 200, json.dumps({} if answer is None else answer).encode())


JOINED = exchange("GET", "/_matrix/client/v3/rooms/!r/state/m.room.member/@op", answer={"event_id": "$joined"})
LOOKED = exchange("GET", "/_matrix/client/v3/rooms/!r/state", answer=[{"event_id": "$joined"}])
READ = exchange("POST", "/_matrix/client/v3/rooms/!r/receipt/m.read/%24joined", body={})
INVITED = exchange("POST", "/_matrix/client/v3/rooms/!r/invite?user_id=%40a", body={"user_id": "@op"})


def test_a_read_counts_among_the_writes_where_one_of_them_names_what_it_told() -> None:
    assert writes_of([JOINED, LOOKED, READ]) == [JOINED, READ]
    assert writes_of([LOOKED, INVITED]) == [INVITED]
    assert writes_of([READ, JOINED]) == [READ]


def test_an_answer_tells_ids_and_one_that_is_no_object_tells_none() -> None:
    assert learnt_from(b'{"room_id": "!r", "other": 1}') == {"room_id": "!r"}
    assert learnt_from(b'[{"room_id": "!r"}]') == learnt_from(b"\x89PNG") == {}


def test_a_request_is_called_the_same_whoever_the_agent_is() -> None:
    known = {"@a": "{agent}", "@op": "{operator}", "!r": "{Space}", "token": "daemon"}
    assert label_of(INVITED, known) == "agent: POST /rooms/{Space}/invite of operator"
    assert label_of(READ, known) == "daemon: POST /rooms/{Space}/receipt/m.read/{event}"
    assert label_of(JOINED, {}) == "somebody: GET /rooms/{room}/state/m.room.member/{user}"


def test_the_longer_of_two_names_is_replaced_and_what_was_replaced_is_not_again() -> None:
    assert renamed("a-b a", {"a": "a-b", "a-b": "c"}) == "c a-b"
    assert renamed("a", {}) == "a"


def test_names_in_an_address_are_replaced_quoted_or_not_and_somebody_acts_where_nobody_is_named() -> None:
    names = {"@old:x": "@new:x", "!r/1": "!s/1"}
    assert renamed_path("/rooms/%21r%2F1/join?user_id=%40old%3Ax", names, "@keeper") == (
        "/rooms/%21s%2F1/join?user_id=%40new%3Ax"
    )
    assert renamed_path("/rooms/%21other/join", names, "@keeper") == "/rooms/%21other/join?user_id=%40keeper"
    assert renamed_path("/register", names, "") == "/register"


COSTS = capacity.Costs(
    daemon_message_ms=3.0,
    daemon_read_ms=2.0,
    homeserver_message_ms=20.0,
    homeserver_read_ms=5.0,
    daemon_agent_bytes=25_000,
    person_percent=0.5,
    person_message_ms=10.0,
    cold_ms=300,
    warm_ms=1.0,
    who_ms=0.1,
)


def measured() -> dict[str, Row]:
    """Return rows as the benchmark writes them, with the figures of `COSTS`."""
    rows = {key: Row(key, key, "How.") for key in ("throughput", "idle", "people", "cold_start", "warm_start", "who")}
    rows["throughput"].add(f"{throughput.KEPT}: daemon", "ms", [3.0])
    for agents, megabytes, seconds in ((10, 40.0, 2.0), (1_010, 65.0, 3.0)):
        rows["idle"].add(f"{idle.OURS}: memory, {agents:,} agents", "MB", [megabytes], x=agents)
        rows["idle"].add(f"{idle.ACCOUNTS}: memory, {agents:,} agents", "MB", [1.0], x=agents)
        rows["warm_start"].add(f"{warm_start.ONLINE}, {agents:,} agents", "s", [seconds], x=agents)
    rows["people"].add(people.IDLE, "%", [0.5])
    rows["people"].add(people.ALONE, "ms", [19.0, 20.0, 90.0])
    rows["people"].add(people.SEEN, "ms", [10.0])
    rows["people"].add(people.READ, "ms", [5.0])
    rows["people"].add(people.READ_DAEMON, "ms", [2.0])
    rows["cold_start"].add(cold_start.OURS, "ms", [300])
    rows["who"].add(who.COLD, "ms", [100.0])
    return rows


def test_costs_are_the_medians_and_of_an_agent_what_more_of_them_take() -> None:
    assert capacity.read_costs(measured()) == COSTS


def test_capacity_names_each_row_that_was_not_measured() -> None:
    rows = measured()
    del rows["people"], rows["who"]
    with pytest.raises(capacity.MissingRowsError, match=r"not measured yet: people, who$"):
        capacity.read_costs(rows)
    with pytest.raises(capacity.MissingRowsError, match="the row who"):
        capacity.read_costs(measured() | {"who": Row("who", "Who", "How.")})


def test_a_part_carries_what_its_tightest_bound_lets_it() -> None:
    found = capacity.bounds(COSTS, capacity.Work(messages_an_hour=36, agents_a_person=10))
    assert [bound.agents for bound in found] == sorted(bound.agents for bound in found)
    assert capacity.homeserver_cores(COSTS, capacity.Work(36, 10)) == pytest.approx(0.01 * 0.035 + 0.005 / 10)
    assert capacity.most_agents(found, capacity.SYNAPSE) == pytest.approx(0.5 / 0.00085)
    assert capacity.most_agents(found, capacity.DAEMON) == pytest.approx(55_000 / 15)
    assert capacity.most_agents(found, capacity.SPACE) == pytest.approx(10_000)
    assert capacity.number_needed(found, 1_000, capacity.SYNAPSE) == 2


def test_nothing_breaks_until_a_bound_is_met_and_then_the_tightest_does() -> None:
    found = capacity.bounds(COSTS, capacity.Work(messages_an_hour=1, agents_a_person=1_000))
    assert capacity.breaks_first(found, 3_600) == "nothing"
    assert capacity.breaks_first(found, 3_700) == f"{capacity.DAEMON}: the roster, one event"


def test_the_page_of_capacity_has_each_size_and_what_breaks_there() -> None:
    text = capacity.render_page(COSTS, capacity.Work(messages_an_hour=36, agents_a_person=10))
    assert "| a daemon | 3,600 | 27% | **2.7 times** | **27.3 times** |" in text
    assert "| 1,000 | a process of Synapse: processor | 1 | 1 | 2 | 1 | 5 minutes |" in text
    assert "| 100,000 | a process of Synapse: processor | 28 | 10 | 170 | 22 | 500 minutes |" in text
    assert "| Synapse with 4 workers, at most | 2,300 | 80 | 400 |" in text


def test_the_processor_is_that_of_the_process_as_its_own_clock_says() -> None:
    before = time.process_time()
    taken = cpu_s(os.getpid())
    assert before <= taken <= time.process_time()


def test_of_a_process_that_is_gone_it_is_said_that_it_is() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        cpu_s(gone.pid)
