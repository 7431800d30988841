"""Nothing is lost, doubled or reordered while everything that can go wrong does: a short run in each mode.

The full one is `make chaos`. A seed that failed once stays here.
"""

from pathlib import Path

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.run import Wish, run

SHORT = [Wish("appservice", 1, messages=120), Wish("accounts", 1, messages=120)]
FAILED_ONCE = [
    Wish("appservice", 2, messages=200),  # reordered: a transaction that came after later ones
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wish", SHORT + FAILED_ONCE, ids=lambda wish: f"{wish.mode}-{wish.seed}-{wish.messages}")
async def test_nothing_is_lost_or_doubled_or_reordered(wish: Wish, tmp_path: Path) -> None:
    outcome = await run(wish, tmp_path)
    assert outcome.verdict.is_clean, outcome.verdict
    assert outcome.sent == wish.messages
    assert not outcome.refused
    assert {pair for pair, hits in outcome.hits.items() if hits} == {
        (side, kind) for side in wish.sides for kind in KINDS[side]
    }
    assert outcome.deaths > 0
