"""Pure rules of retry: what each HTTP answer means, and how long to wait. `matrix.client` is the only caller."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from aiagentchat.errors import (
    MatrixConflictError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
)

_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 10.0
_SHORTEST_ASKED_WAIT_S = 0.05
"""A server that asks for less, again and again, would have us turn in a busy loop."""
_TRANSIENT = frozenset({502, 503, 504})
_IN_USE = frozenset({"M_ROOM_IN_USE", "M_USER_IN_USE"})
_BY_STATUS: dict[int, type[MatrixError]] = {
    401: MatrixUnauthorizedError,
    403: MatrixForbiddenError,
    404: MatrixNotFoundError,
    409: MatrixConflictError,
}


@dataclass(frozen=True, slots=True)
class Transient:
    """The same request may succeed later. `wait_s`: what the server asked for, None where it did not say."""

    wait_s: float | None
    reason: str
    limited: bool = False


def classify(status: int, headers: Mapping[str, str], body: Any, *, request: str) -> Transient | MatrixError | None:
    """Sort one HTTP answer: None for success, `Transient`, or the typed error to raise.

    429, 502, 503 and 504 are transient: they wait `retry_after_ms` of the body, else `Retry-After` of the header
    (rounded up by servers, hence second). Every other error is final, 500 among them.
    """
    if 200 <= status < 300:
        return None
    fields = body if isinstance(body, dict) else {}
    errcode = fields.get("errcode")
    errcode = errcode if isinstance(errcode, str) else "M_UNKNOWN"
    if status == 429:
        return Transient(_wait_asked_for(headers, fields), f"429 {errcode}", limited=True)
    if status in _TRANSIENT:
        return Transient(_wait_asked_for(headers, fields), f"HTTP {status} {errcode}")
    kind = MatrixConflictError if errcode in _IN_USE else _BY_STATUS.get(status, MatrixError)
    error = fields.get("error")
    return kind(status, errcode, error if isinstance(error, str) else "(no reason given)", request=request)


def backoff_s(attempt: int, jitter: random.Random) -> float:
    """Return seconds to wait after failed attempt number `attempt` (from 0): exponential, bounded, with full jitter."""
    ceiling = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempt, 16))
    return ceiling * (0.5 + 0.5 * jitter.random())


def parse_http_date(text: str) -> float | None:
    """Return an HTTP date (`Wed, 25 Nov 2026 03:17:34 GMT`) as seconds since the epoch, None where it is none."""
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
    except (OverflowError, ValueError):
        return None


def _wait_asked_for(headers: Mapping[str, str], fields: Mapping[str, Any]) -> float | None:
    """Return the wait in seconds; None where there is none or nothing, so that the caller backs off."""
    in_body = fields.get("retry_after_ms")
    if isinstance(in_body, int | float) and not isinstance(in_body, bool) and 0 < in_body < 2**53:
        wait_s = in_body / 1000
    else:
        wait_s = _parse_retry_after(headers)
    return max(wait_s, _SHORTEST_ASKED_WAIT_S) if wait_s > 0 else None


def _parse_retry_after(headers: Mapping[str, str]) -> float:
    """Return seconds, 0.0 where nothing usable is there. A date counts by the server's own clock, never by ours."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 16:
        return float(text)
    until, now = parse_http_date(text), parse_http_date(headers.get("Date", ""))
    return until - now if until is not None and now is not None else 0.0
