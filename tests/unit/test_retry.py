"""The rules of retry: what each HTTP answer means, whatever its headers and body hold, and how long is waited."""

import random
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.errors import (
    MatrixConflictError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
)
from aiagentchat.matrix.retry import Transient, backoff_s, classify, parse_http_date

TRANSIENT = (429, 502, 503, 504)
LONGEST_BACKOFF_S = 10.0
TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
WORDS = ("Wed,", "25", "Nov", "2026", "03:17:34", "GMT", "-0000", "+9999", "0", "9" * 20, "-1", "\u0660", ":")
DATE_LIKE = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
HEADERS = st.fixed_dictionaries({}, optional={"Retry-After": TEXT | DATE_LIKE, "Date": TEXT | DATE_LIKE})
BODIES = JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(("errcode", "error", "retry_after_ms"), JSON))
NOON = "Wed, 25 Nov 2026 12:00:00 GMT"


def wait_asked_for(body: Any, status: int = 429, **headers: str) -> float | None:
    """Return the wait that a transient answer asks for; headers are named in snake case."""
    verdict = classify(status, {name.replace("_", "-"): text for name, text in headers.items()}, body, request="GET x")
    assert isinstance(verdict, Transient)
    return verdict.wait_s


@given(st.integers(100, 599), HEADERS, BODIES)
@example(429, {"Retry-After": "9" * 5000}, {"retry_after_ms": 10**400})
@example(429, {"Retry-After": "\u00b2"}, {"retry_after_ms": float("nan")})
@example(429, {"Retry-After": "Wed, 25 Nov " + "9" * 20 + " 03:17:34 GMT", "Date": NOON}, None)
def test_every_answer_is_a_success_transient_or_a_typed_error(
    status: int, headers: dict[str, str], body: object
) -> None:
    verdict = classify(status, headers, body, request="PUT x")
    if 200 <= status < 300:
        assert verdict is None
    elif status in TRANSIENT:
        assert isinstance(verdict, Transient)
        assert verdict.wait_s is None or 0 < verdict.wait_s < float("inf")
        assert verdict.limited == (status == 429)
    else:
        assert isinstance(verdict, MatrixError)
        assert verdict.status == status


@pytest.mark.parametrize(
    ("status", "errcode", "expected"),
    [
        (302, "", MatrixError),
        (400, "M_BAD_JSON", MatrixError),
        (400, "M_ROOM_IN_USE", MatrixConflictError),
        (400, "M_USER_IN_USE", MatrixConflictError),
        (401, "M_UNKNOWN_TOKEN", MatrixUnauthorizedError),
        (403, "M_FORBIDDEN", MatrixForbiddenError),
        (404, "M_NOT_FOUND", MatrixNotFoundError),
        (409, "M_UNKNOWN", MatrixConflictError),
        (413, "M_TOO_LARGE", MatrixError),
        (500, "M_UNKNOWN", MatrixError),
    ],
)
def test_an_error_has_the_type_of_its_status_or_of_a_conflict_in_its_code(
    status: int, errcode: str, expected: type[MatrixError]
) -> None:
    verdict = classify(status, {}, {"errcode": errcode, "error": "because"}, request="PUT x")
    assert type(verdict) is expected
    assert (verdict.status, verdict.errcode, verdict.error) == (status, errcode, "because")
    assert "PUT x" in verdict.message


@pytest.mark.parametrize("body", [None, [], "<html>", {"errcode": 7, "error": ["x"]}], ids=str)
def test_an_error_without_a_matrix_body_is_typed_all_the_same(body: object) -> None:
    verdict = classify(403, {}, body, request="")
    assert isinstance(verdict, MatrixForbiddenError)
    assert (verdict.errcode, verdict.error) == ("M_UNKNOWN", "(no reason given)")


@pytest.mark.parametrize("status", TRANSIENT)
def test_the_body_says_how_long_to_wait_before_the_header_does(status: int) -> None:
    assert wait_asked_for({"retry_after_ms": 1500}, status, Retry_After="2") == 1.5
    assert wait_asked_for({}, status, Retry_After="2") == 2.0
    assert wait_asked_for({}, status) is None


@pytest.mark.parametrize("unusable", [0, -1, True, "1500", None, float("nan"), float("inf"), 2**53, 10**400], ids=repr)
def test_a_wait_in_the_body_that_is_none_leaves_it_to_the_header_and_then_to_the_backoff(unusable: object) -> None:
    assert wait_asked_for({"retry_after_ms": unusable}, Retry_After="3") == 3.0
    assert wait_asked_for({"retry_after_ms": unusable}) is None


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        (" 7 ", 7.0),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("\u0665", None),
        ("9" * 16, None),
        ("Wed, 25 Nov 2026 12:01:30 GMT", 90.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", None),
        ("tomorrow", None),
    ],
)
def test_the_header_is_seconds_or_a_date_by_the_clock_of_the_server(text: str, wait_s: float | None) -> None:
    assert wait_asked_for({}, Retry_After=text, Date=NOON) == wait_s


def test_a_date_to_wait_for_counts_for_nothing_without_the_clock_of_the_server() -> None:
    assert wait_asked_for({}, Retry_After="Wed, 25 Nov 2099 12:00:00 GMT") is None


def test_a_wait_of_next_to_nothing_is_stretched_so_that_a_storm_is_no_busy_loop() -> None:
    assert wait_asked_for({"retry_after_ms": 1}) == 0.05


@given(st.integers(0, 10_000), st.integers())
def test_the_backoff_is_between_half_its_ceiling_and_its_ceiling(attempt: int, seed: int) -> None:
    ceiling = min(LONGEST_BACKOFF_S, 0.25 * 2 ** min(attempt, 20))
    assert ceiling / 2 <= backoff_s(attempt, random.Random(seed)) <= ceiling


def test_two_that_fail_together_do_not_come_back_together() -> None:
    assert len({backoff_s(3, random.Random(seed)) for seed in range(50)}) == 50


@given(TEXT | DATE_LIKE)
@example("Wed, 25 Nov " + "9" * 20 + " 03:17:34 GMT")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_whatever_stands_for_a_date_is_a_number_or_nothing(text: str) -> None:
    parsed = parse_http_date(text)
    assert parsed is None or isinstance(parsed, float)


@pytest.mark.parametrize("text", ["Thu, 01 Jan 1970 00:01:00 GMT", "Thu, 01 Jan 1970 00:01:00 -0000"])
def test_a_date_is_read_as_utc_wherever_the_daemon_runs(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        parsed = parse_http_date(text)
    time.tzset()
    assert parsed == 60.0
