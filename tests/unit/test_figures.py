"""Figures as Prometheus' own parser reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from aiagentchat.figures import BUCKETS_S, Family, Histogram, render


def parsed(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), st.integers(-(2**50), 2**50))
def test_a_figure_is_read_as_it_is_whatever_its_label_says(label: str, value: int) -> None:
    families = {"one": Family("gauge", "One."), "by": Family("gauge", "By.", "name"), "none": Family("gauge", "None.")}
    text = render(families, {"one": {"": value}, "by": {label: value}, "none": {}})
    assert parsed(text) == {("one", ()): value, ("by", (label,)): value}
    assert "# TYPE none gauge" not in text


@pytest.mark.parametrize(("label", "values"), [("", ()), ("route", ("GET /who",))])
def test_a_histogram_counts_what_took_no_longer_than_each_bound(label: str, values: tuple[str, ...]) -> None:
    took = Histogram()
    for seconds in (0.0, 0.005, 0.006, 2.0, 99.0):
        took.observe(seconds)
    text = render({"took": Family("histogram", "Took.", label)}, {"took": {"".join(values): took}})
    found = parsed(text)
    assert found["took_count", values] == 5
    assert found["took_sum", values] == pytest.approx(101.011)
    bounds = [found["took_bucket", (*values, str(bound))] for bound in BUCKETS_S]
    assert bounds == [2, *[3] * 7, *[4] * 4]
    assert found["took_bucket", (*values, "+Inf")] == 5
