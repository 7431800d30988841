"""One agent at full speed: it is limited and told so, and another's messages arrive as they did before."""

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach
from tests.integration.systems import IN_ONE_MODE, ON_ONE_PROCESS, WAIT_S, Answer, RunningDaemon, Synapse

pytestmark = ON_ONE_PROCESS  # a measurement: three processes share two processors with what they are measured by

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


Request = tuple[str, str, Json | None]


def to_send(agent: Hosted, to: list[Hosted], number: int) -> Request:
    return "POST", "/send", {"body": "flood", "to": to[number % len(to)].name}


def to_ask_for_approval(agent: Hosted, to: list[Hosted], number: int) -> Request:
    options = [{"id": kind, "name": kind, "kind": kind} for kind in ("allow_once", "reject_once")]
    return "POST", "/approvals", {"body": "May it?", "options": options, "timeout_s": 0.01}


def to_describe_itself_anew(agent: Hosted, to: list[Hosted], number: int) -> Request:
    body = {"name": agent.name, "description": secrets.token_hex(8), "session": "none"}
    return "POST", "/agents", body


def to_wait_for_what_it_sent(agent: Hosted, to: list[Hosted], number: int) -> Request:
    return "GET", f"/sent?event_id=$none-{number}&wait=0.01", None


def to_look_into_its_inbox(agent: Hosted, to: list[Hosted], number: int) -> Request:
    return "GET", "/read?peek=true", None


Flood = Callable[[Hosted, list[Hosted], int], Request]
FLOODS: list[Flood] = [
    to_send,
    to_ask_for_approval,
    to_describe_itself_anew,
    to_wait_for_what_it_sent,
]


@contextlib.asynccontextmanager
async def flooding(what: Flood, agent: Hosted, to: list[Hosted]) -> AsyncIterator["asyncio.Queue[Answer]"]:
    """Have an agent do this at full speed, whatever it is told; gives what it is refused with."""
    refused = asyncio.Queue[Answer]()

    async def go_on(number: int) -> None:
        while True:
            answer = await agent.api.call(*what(agent, to, number))
            if answer.status == 429:
                refused.put_nowait(answer)

    tasks = [asyncio.create_task(go_on(number)) for number in range(AT_ONCE)]
    try:
        yield refused
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@IN_ONE_MODE
@pytest.mark.parametrize("what", FLOODS, ids=lambda what: what.__name__)
async def test_an_agent_at_full_speed_is_limited_with_a_clear_error_and_slows_no_other_to_more_than_twice(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, what: Flood
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_AGENT_RATE="120"))
    sender, reader, noisy, *targets = [await attach(daemon) for _ in range(5)]
    for target in targets:
        await noisy.send("to be a member there", to=target.name)
    await sender.send("to be a member there", to=reader.name)
    before_s = await median_s(sender, reader, "before")
    async with flooding(what, noisy, targets) as refused:
        meanwhile_s = await median_s(sender, reader, "meanwhile")
        answer = await asyncio.wait_for(refused.get(), WAIT_S)
        limited_s = await median_s(sender, reader, "limited")
    assert (answer.status, answer.code, answer.data["retryable"]) == (429, "too_fast", True)
    assert "more than 120 things a minute, and nothing was done: wait " in answer.data["detail"]
    assert max(meanwhile_s, limited_s) < 2 * before_s + SLACK_S


@IN_ONE_MODE
async def test_an_agent_that_looks_into_its_inbox_at_full_speed_slows_no_other_to_more_than_twice_either(
    daemon: RunningDaemon,
) -> None:
    sender, reader, noisy = [await attach(daemon) for _ in range(3)]
    await sender.send("to be a member there", to=reader.name)
    before_s = await median_s(sender, reader, "before")
    async with flooding(to_look_into_its_inbox, noisy, []):
        meanwhile_s = await median_s(sender, reader, "meanwhile")
    assert meanwhile_s < 2 * before_s + SLACK_S
