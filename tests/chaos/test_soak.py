"""A soak of some seconds works, and nothing grows in it but memory, which is still warming up.

The full one is `make soak`.
"""

from pathlib import Path

from tests.chaos.growth import MEMORY
from tests.chaos.soak_run import SoakWish, soak

BY_CHANCE = 15.0
"""More requests may be on their way in some seconds than in others; one leaked by each is ten times as much."""


async def test_what_the_daemon_uses_is_flat(tmp_path: Path) -> None:
    wish = SoakWish("appservice", 1, seconds=20.0, agents=6, restarts=0, sample_every_s=0.25)
    soaked = await soak(wish, tmp_path)
    judged = [growth for growth in soaked.growths if growth.measure is not MEMORY]
    assert [growth for growth in judged if growth.late - growth.early > BY_CHANCE] == []
    assert soaked.counts["times a message was handed out"] > 0
    assert soaked.counts["agents that came and left"] > 0
