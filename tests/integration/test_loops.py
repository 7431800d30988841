"""Agents that answer whatever comes: they stop by themselves, nothing is lost, and a person has them go on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.space.content import CHAIN, HOPS
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, messages_of, say, until
from tests.integration.systems import APPSERVICE_ALONE, RunningDaemon, Synapse

HOPS_LIMIT, RATE = 4, 5
CALM_S = 3.0  # longer than an answer takes, so that no more comes


@pytest.fixture
async def daemon(synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path) -> RunningDaemon:
    settings = synapse.settings(tmp_path, AIAGENTCHAT_LOOP_HOPS=str(HOPS_LIMIT), AIAGENTCHAT_LOOP_RATE=str(RATE))
    return await start_daemon(synapse, settings)


@pytest.fixture
async def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    return MatrixClient(synapse.config.base_url, synapse.operator.access_token, http)


class Talker:
    """An agent that answers everything that comes, with a reply or with a message of its own."""

    def __init__(self, agent: Hosted, *, answers: bool = True) -> None:
        self.agent = agent
        self.heard: list[Json] = []
        self._answers = answers

    async def run(self) -> None:
        async with self.agent.api.stream("GET", "/events") as stream:
            async for event, message in stream:
                if event == "message":
                    self.heard.append(message)
                    to = {"reply_to": message["event_id"]} if self._answers else {"to": message["sender"]["name"]}
                    if self._answers or message["sender"]["kind"] == "agent":
                        await self.agent.send(f"answer {len(self.heard)}", key=message["event_id"], **to)
                    await self.agent.acknowledge([message])


@contextlib.asynccontextmanager
async def talking(*talkers: Talker) -> AsyncIterator[Callable[[], int]]:
    """Have them talk; gives how many messages they have heard."""
    tasks = [asyncio.create_task(talker.run()) for talker in talkers]
    try:
        yield lambda: sum(len(talker.heard) for talker in talkers)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_calm(heard: Callable[[], int]) -> int:
    """Return how many messages were heard, once no more come."""
    before, since = heard(), time.monotonic()

    async def is_calm() -> bool:
        nonlocal before, since
        if heard() != before:
            before, since = heard(), time.monotonic()
        return before > 0 and time.monotonic() - since > CALM_S

    await until(is_calm)
    return before


async def events_in(alice: MatrixClient, agent: Hosted) -> list[Json]:
    """Return the content of the messages in an agent's room, in order."""
    page = await alice.get_messages(agent.room_id, direction="b", start=None, limit=100, filter_json="{}")
    found = [event["content"] for event in page.chunk if event["type"] == "m.room.message"]
    return found[::-1]


async def test_three_agents_that_answer_everything_stop_and_a_person_has_them_go_on(
    daemon: RunningDaemon, alice: MatrixClient, synapse: Synapse
) -> None:
    """Lesson: Agents that answer each other for ever."""
    one, two, three = [await attach(daemon) for _ in range(3)]
    async with talking(*(talkers := [Talker(each) for each in (one, two, three)])) as heard:
        await one.send("let us talk", to=two.name)
        await one.send("let us talk", to=three.name)
        stopped = await until_calm(heard)
        assert stopped == 2 * (HOPS_LIMIT + 1)  # the two that it began with, and as many answers as wake

        # An answer of each pair waits, where all can see it, with one notice that asks a person.
        waiting = [(each, await each.unread(peek="true")) for each in (one, two, three)]
        waiting = [(each, unread) for each, unread in waiting if unread]
        quiet = [message for _, unread in waiting for message in unread if message["body"].startswith("answer")]
        assert [(message["quiet"], message["hops"]) for message in quiet] == [(True, HOPS_LIMIT + 1)] * 2
        assert all(not message["quiet"] for talker in talkers for message in talker.heard)
        room = await events_in(alice, waiting[0][0])
        notices = [content for content in room if content["msgtype"] == "m.notice"]
        assert len(notices) == len({message["sender"]["name"] for message in quiet})
        assert f"answered each other {HOPS_LIMIT + 1} times without a person" in notices[0]["body"]
        assert notices[0]["m.mentions"] == {"user_ids": [synapse.operator.user_id]}

        # What was held is handed out with what a person writes, in its place, and they go on from there.
        await say(alice, waiting[0][0].room_id, "go on")
        assert await until_calm(heard) > stopped + 2 * HOPS_LIMIT
        [talker] = [each for each in talkers if each.agent is waiting[0][0]]
        bodies = [message["body"] for message in talker.heard]
        assert bodies.index(quiet[0]["body"]) < bodies.index("go on")
        assert any(message["quiet"] for message in talker.heard)


@APPSERVICE_ALONE  # what is counted, and what comes of it, is the same in both modes
async def test_agents_that_write_anew_each_time_stop_too_and_the_sender_is_told(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    one, two = await attach(daemon), await attach(daemon)
    async with talking(Talker(one, answers=False), Talker(two, answers=False)) as heard:
        await one.send("ping", to=two.name)
        assert await until_calm(heard) <= 2 * RATE
        for each, other in ((one, two), (two, one)):
            while not (stored := await each.send("more", to=other.name))["quiet"]:
                pass
            assert f"{each.name} has written {RATE} messages there within an hour" in stored["quiet"]
    await say(alice, two.room_id, "go on")

    async def may_write() -> bool:
        return not (await one.send("again", to=two.name))["quiet"]

    await until(may_write)


@APPSERVICE_ALONE  # what is counted, and what comes of it, is the same in both modes
async def test_what_is_quiet_wakes_nobody_and_is_there_for_who_asks(daemon: RunningDaemon, alice: MatrixClient) -> None:
    writer, reader = await attach(daemon), await attach(daemon)
    for number in range(RATE + 1):
        stored = await writer.send(f"{number}", to=reader.name)
    assert stored["quiet"]
    await reader.acknowledge((await reader.unread())[:RATE])
    began = time.monotonic()
    assert await reader.bodies(wait="1") == []
    assert time.monotonic() - began >= 1.0
    assert (await reader.bodies())[0] == str(RATE)
    async with reader.api.stream("GET", "/events") as stream:
        await asyncio.sleep(0.5)
        await say(alice, reader.room_id, "wake up")
        bodies = [message["body"] for message in await messages_of(stream, 3)]
        assert (bodies[0], bodies[2]) == (str(RATE), "wake up")


@APPSERVICE_ALONE  # what is counted, and what comes of it, is the same in both modes
async def test_an_agents_message_says_what_led_to_it_and_what_a_person_marks_as_quiet_wakes_all_the_same(
    daemon: RunningDaemon, synapse: Synapse, alice: MatrixClient
) -> None:
    one, two = await attach(daemon), await attach(daemon)
    await say(alice, one.room_id, "ask the other")
    [asked] = await one.unread(wait="20")
    answer = await one.send("I do", reply_to=asked["event_id"])
    content = (await alice.get_event(one.room_id, answer["event_id"]))["content"]
    assert (content[HOPS], content[CHAIN]["origin"], content[CHAIN].get("visited", [])) == (
        1,
        asked["sender"]["user_id"],
        [],
    )
    question = await one.send("well?", to=two.name)
    content = (await alice.get_event(two.room_id, question["event_id"]))["content"]
    assert (content[HOPS], content[CHAIN]["origin"]) == (0, one.user_id)
    [heard] = await two.unread(wait="20")
    answer = await two.send("fine", reply_to=heard["event_id"])
    content = (await alice.get_event(one.room_id, answer["event_id"]))["content"]
    assert (content[HOPS], content[CHAIN]) == (1, {"origin": one.user_id, "visited": [one.user_id]})

    await say(alice, two.room_id, "hello", **{CHAIN: {"origin": synapse.operator.user_id, "quiet": True}})
    await two.acknowledge([heard])
    assert await two.bodies(wait="20") == ["hello"]
