"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """How often, and with how much.

    Args:
        times: how often a message is sent, or a command called. agents: of a large system. some: the numbers of agents
            at which ordinary clients are measured too. idle_s: how long nothing happens.
    """

    times: int
    agents: int
    some: tuple[int, ...]
    idle_s: float


FULL = Size(times=200, agents=1_000, some=(1, 10, 100), idle_s=60.0)
QUICK = Size(times=20, agents=20, some=(1, 5), idle_s=5.0)
"""Sees that all runs; no figures."""
