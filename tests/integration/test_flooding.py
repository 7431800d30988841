"""One agent at full speed: it is limited and told so, and another's messages arrive as they did before."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, attach
from tests.integration.systems import IN_ONE_MODE, WAIT_S, Answer, Synapse

SAMPLES = 11
AT_ONCE = 20
"""Requests that the agent which floods has under way at any time."""
SLACK_S = 0.05
"""What processors that are shared may add to a median of so few."""


async def median_s(sender: Hosted, reader: Hosted, label: str) -> float:
    """Return how long it takes, in the median, until the reader has what the sender sends."""
    taken_s = []
    async with reader.api.stream("GET", "/events") as stream:
        for number in range(SAMPLES):
            begun = time.monotonic()
            await sender.send(f"{label} {number}", to=reader.name)
            async for event, data in stream:
                if event == "message" and data["body"] == f"{label} {number}":
                    break
            taken_s.append(time.monotonic() - begun)
    return statistics.median(taken_s)


@contextlib.asynccontextmanager
async def flooding(agent: Hosted, *to: Hosted) -> AsyncIterator["asyncio.Queue[Answer]"]:
    """Have an agent send at full speed, whatever it is told; gives what it is refused with."""
    refused = asyncio.Queue[Answer]()

    async def send(number: int) -> None:
        while True:
            answer = await agent.api.call("POST", "/send", {"body": "flood", "to": to[number % len(to)].name})
            if answer.status != 200:
                refused.put_nowait(answer)

    tasks = [asyncio.create_task(send(number)) for number in range(AT_ONCE)]
    try:
        yield refused
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@IN_ONE_MODE
async def test_an_agent_at_full_speed_is_limited_with_a_clear_error_and_slows_no_other_to_more_than_twice(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_AGENT_RATE="120"))
    sender, reader, noisy, *targets = [await attach(daemon) for _ in range(5)]
    for target in targets:
        await noisy.send("to be a member there", to=target.name)
    await sender.send("to be a member there", to=reader.name)
    before_s = await median_s(sender, reader, "before")
    async with flooding(noisy, *targets) as refused:
        meanwhile_s = await median_s(sender, reader, "meanwhile")
        answer = await asyncio.wait_for(refused.get(), WAIT_S)
        limited_s = await median_s(sender, reader, "limited")
    assert (answer.status, answer.code, answer.data["retryable"]) == (429, "too_fast", True)
    assert "more than 120 things a minute, and nothing was done: wait " in answer.data["detail"]
    assert max(meanwhile_s, limited_s) < 2 * before_s + SLACK_S
