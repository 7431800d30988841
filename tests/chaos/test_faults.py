"""A plan is made from its seed alone, and holds what was asked for."""

from collections import Counter

import pytest

from tests.chaos.faults import KINDS, Hit, Kill, Kind, Phase, Side, Step, Storm, make_plan

SIDES: tuple[Side, ...] = ("requests", "transactions")


def plan(seed: int) -> tuple[Step, ...]:
    return make_plan(seed, SIDES, rounds=2, daemon_kills=4, restarts=3, longest_s=1.0)


def test_the_same_seed_is_the_same_plan_and_another_is_another() -> None:
    assert plan(7) == plan(7)
    assert plan(7) != plan(8)


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_has_each_kind_of_each_side_as_often_as_asked_and_all_kills(seed: int) -> None:
    alone = Counter((step.phase.side, step.phase.kind) for step in plan(seed) if step.phase and not step.kill)
    assert alone == {(side, kind): 2 for side in SIDES for kind in KINDS[side]}
    kills = Counter(step.kill for step in plan(seed) if step.kill)
    assert kills == {Kill.DAEMON: 4, Kill.HOMESERVER: 2, Kill.RESTART: 1}
    assert any(step.phase for step in plan(seed) if step.kill)


def test_every_kind_happens_on_some_side() -> None:
    assert {kind for side in SIDES for kind in KINDS[side]} == set(Kind)


def test_what_a_phase_hits_comes_from_its_seed() -> None:
    phase = Phase(Kind.DELAY, "requests", 1.0, 0.5, seed=3)
    first, second = Storm(phase), Storm(phase)
    hits = [first.strike() for _ in range(200)]
    assert hits == [second.strike() for _ in range(200)]
    assert 70 < len([hit for hit in hits if hit]) < 130


def test_every_status_of_the_5xx_happens() -> None:
    storm = Storm(Phase(Kind.ERROR_BEFORE, "requests", 1.0, 1.0, seed=3))
    assert {hit.status for hit in (storm.strike() for _ in range(100)) if hit} == {500, 502, 503, 504}


@pytest.mark.parametrize(("chance", "wait_ms"), [(0.0, 200), (0.999, 1498)])
def test_a_wait_is_short_enough_for_a_short_run(chance: float, wait_ms: int) -> None:
    assert Hit(Kind.DELAY, chance).wait_ms == wait_ms
