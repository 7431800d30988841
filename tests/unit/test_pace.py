"""How fast an agent may go: one request after the other, and so many a minute, each agent by itself."""

import asyncio

import pytest

from aiagentchat.errors import TooFastError
from aiagentchat.gateway.pace import Pace
from aiagentchat.model import AgentName

FIRST, SECOND = AgentName("first"), AgentName("second")


async def ask(pace: Pace, agent: AgentName) -> float:
    """Return how long the agent is told to wait; 0: it is let in."""
    try:
        async with pace.turn(agent):
            return 0.0
    except TooFastError as error:
        return error.wait_s


async def test_half_of_a_minutes_requests_may_come_at_once_and_then_as_many_as_the_rate_lets_in() -> None:
    now = 0.0
    pace = Pace(60, clock=lambda: now)
    assert [await ask(pace, FIRST) for _ in range(31)] == [0.0] * 31
    assert await asyncio.gather(*(ask(pace, FIRST) for _ in range(3))) == [1.0] * 3  # what is refused does not count
    assert await ask(pace, SECOND) == 0.0
    now = 1.0
    assert [await ask(pace, FIRST) for _ in range(2)] == [0.0, 1.0]
    now = 1000.0
    assert [await ask(pace, FIRST) for _ in range(31)] == [0.0] * 31


async def test_the_error_says_what_the_limit_is_and_how_long_to_wait() -> None:
    pace = Pace(60, clock=lambda: 0.0)
    for _ in range(31):
        await ask(pace, FIRST)
    with pytest.raises(TooFastError, match=r"^first asks for more than 60 things a minute.*: wait 1\.0 s$"):
        async with pace.turn(FIRST):
            pass


async def test_without_a_limit_none_is_refused() -> None:
    pace = Pace(0, clock=lambda: 0.0)
    assert [await ask(pace, FIRST) for _ in range(1000)] == [0.0] * 1000


async def test_an_agents_requests_go_one_after_the_other_and_keep_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pace, entered, done = Pace(600), list[AgentName](), asyncio.Event()

    async def work(agent: AgentName) -> None:
        async with pace.turn(agent):
            entered.append(agent)
            await done.wait()

    async with asyncio.TaskGroup() as group:
        for agent in (FIRST, FIRST, SECOND):
            group.create_task(work(agent))
        for _ in range(5):
            await asyncio.sleep(0)
        assert entered == [FIRST, SECOND]
        done.set()
    assert entered == [FIRST, SECOND, FIRST]
    monkeypatch.setattr("aiagentchat.gateway.pace._TURN_S", 0.01)
    async with asyncio.timeout(10), pace.turn(FIRST), pace.turn(FIRST):  # the second did not wait for the first's end
        pass
    async with asyncio.timeout(10), pace.turn(FIRST):
        pass


async def test_what_waits_on_purpose_is_counted_and_keeps_nothing_waiting() -> None:
    pace = Pace(60, clock=lambda: 0.0)
    async with asyncio.timeout(10), pace.turn(FIRST):
        for _ in range(30):
            await pace.count(FIRST)
        with pytest.raises(TooFastError):
            await pace.count(FIRST)


async def test_what_is_kept_of_agents_is_bounded() -> None:
    pace = Pace(60, clock=lambda: 0.0)
    for number in range(3000):
        await ask(pace, AgentName(f"agent-{number}"))
    assert len(pace._agents) == 1000
