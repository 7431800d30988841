"""Pure rules of retry: what each HTTP answer means, and how long to wait. `matrix.client` is the only caller."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
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

    429 waits `retry_after_ms` of the body, else `Retry-After` of the header (rounded up by servers, hence second).
    502, 503 and 504 are transient; every other error is final, 500 among them.
    """
    if 200 <= status < 300:
        return None
    fields = body if isinstance(body, dict) else {}
    errcode = fields.get("errcode")
    errcode = errcode if isinstance(errcode, str) else "M_UNKNOWN"
    if status == 429:
        return Transient(_wait_asked_for(headers, fields), f"429 {errcode}", limited=True)
    if status in _TRANSIENT:
        return Transient(None, f"HTTP {status}")
    kind = MatrixConflictError if errcode in _IN_USE else _BY_STATUS.get(status, MatrixError)
    error = fields.get("error")
    return kind(status, errcode, error if isinstance(error, str) else "(no reason given)", request=request)


def backoff_s(attempt: int, jitter: random.Random) -> float:
    """Return seconds to wait after failed attempt number `attempt` (from 0): exponential, bounded, with full jitter."""
    ceiling = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempt, 16))
    return ceiling * (0.5 + 0.5 * jitter.random())


def _wait_asked_for(headers: Mapping[str, str], fields: Mapping[str, Any]) -> float | None:
    in_body = fields.get("retry_after_ms")
    if isinstance(in_body, int | float) and not isinstance(in_body, bool) and 0 <= in_body < 2**53:
        return in_body / 1000
    in_header = headers.get("Retry-After", "")
    return float(in_header) if in_header.isascii() and in_header.isdigit() and len(in_header) < 16 else None
