"""What is flat is told from what leaks."""

from collections.abc import Callable

import pytest

from tests.chaos.growth import MEASURES, Measure, Sample, growths, parse_metrics

BUSY = {
    "process_resident_memory_bytes": 80e6,
    "process_open_fds": 50.0,
    "process_threads": 3.0,
    "aiagentchat_tasks": 90.0,
}


def samples(change: Callable[[int], dict[str, float]], count: int = 60) -> list[Sample]:
    """Return samples, one each 10 s, of something busy; `change` says what is otherwise in the one of a number."""
    return [Sample(10.0 * number, BUSY | change(number)) for number in range(count)]


def grown(found: list[Sample]) -> list[str]:
    return [growth.measure.metric for growth in growths(found, 100.0) if not growth.is_flat]


def test_what_stays_as_it_is_is_flat_whatever_the_warm_up_does() -> None:
    assert grown(samples(lambda number: {"process_resident_memory_bytes": 20e6} if number < 10 else {})) == []


def test_a_peak_is_no_growth() -> None:
    assert grown(samples(lambda number: {"aiagentchat_tasks": 900.0} if 50 <= number < 55 else {})) == []


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.metric)
def test_what_grows_steadily_by_twice_what_it_may_is_found(measure: Measure) -> None:
    def leak(number: int) -> dict[str, float]:
        return {measure.metric: BUSY[measure.metric] + 2 * measure.most * measure.unit * number / 59}

    assert grown(samples(leak)) == [measure.metric]


def test_what_a_system_does_not_tell_is_not_judged() -> None:
    found = [Sample(float(number), {"aiagentchat_tasks": 9.0}) for number in range(9)]
    assert [str(growth) for growth in growths(found, 0.0)] == ["9 → 9"]
    assert str(found[0]) == "resident memory (MB) –, open files –, threads –, tasks 9"


def test_too_short_a_soak_is_said() -> None:
    with pytest.raises(ValueError, match="2 samples after the warm-up are too few"):
        growths(samples(lambda _: {}, 12), 100.0)


def test_metrics_are_read() -> None:
    text = "# HELP one Some.\n# TYPE one gauge\none 1\ntwo 2.5e+06\n"
    assert parse_metrics(text) == {"one": 1.0, "two": 2.5e6}
