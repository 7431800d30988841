"""How far the homeserver's clock is ahead, from answers that were asked for and came at any time."""

import math

from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.matrix.server_clock import ServerClock

AHEAD = st.floats(-1e6, 1e6)
REQUESTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 60), st.floats(0, 1)), min_size=1, max_size=30)


def note(clock: ServerClock, ahead_s: float, asked_at_s: float, took_s: float, made: float) -> None:
    """Have one answer come whose `Date` was made after this part of the time that it took."""
    date_s = math.floor(asked_at_s + took_s * made + ahead_s)
    clock.note(date_s, asked_at_s=asked_at_s, answered_at_s=asked_at_s + took_s)


@given(AHEAD, REQUESTS)
def test_it_is_never_further_off_than_the_shortest_request_and_its_second(
    ahead_s: float, requests: list[tuple[float, float, float]]
) -> None:
    clock = ServerClock()
    for request in requests:
        note(clock, ahead_s, *request)
    assert clock.offset_s is not None
    shortest_s = 1 + min(took_s for _, took_s, _ in requests)
    assert abs(clock.offset_s - ahead_s) <= shortest_s / 2 + 1e-6
    assert clock.least_offset_s is not None
    assert ahead_s - shortest_s - 1e-6 <= clock.least_offset_s <= ahead_s + 1e-6


def test_many_short_requests_tell_it_to_the_hundredth_and_long_ones_take_nothing_from_it() -> None:
    clock = ServerClock()
    for number in range(200):
        note(clock, 3.217, number * 0.737, 0.004, 0.5)
        note(clock, 3.217, number * 0.737, 30.0, 0.0)  # a sync
    assert clock.offset_s is not None
    assert abs(clock.offset_s - 3.217) < 0.01


def test_a_clock_that_is_set_is_believed_at_once() -> None:
    clock = ServerClock()
    for ahead_s in (0.0, 3_600.0, -86_400.0, 0.25):
        note(clock, ahead_s, 1_000.0, 0.01, 0.5)
        note(clock, ahead_s, 1_001.3, 0.01, 0.5)
        assert clock.offset_s is not None
        assert abs(clock.offset_s - ahead_s) < 0.6


def test_an_answer_before_its_request_says_nothing() -> None:
    clock = ServerClock()
    clock.note(100.0, asked_at_s=200.0, answered_at_s=100.0)
    assert clock.offset_s is None
    assert clock.least_offset_s is None
