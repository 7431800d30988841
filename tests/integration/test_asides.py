"""What an agent shows beside its messages, and who may approve what it asks for, on a real homeserver."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import EventId, RoomId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, messages_of, person, redact, say, until
from tests.integration.systems import APPSERVICE_ALONE, RunningDaemon, Synapse, fresh_name

OPTIONS = [
    {"id": "yes-id", "name": "Allow", "kind": "allow_once"},
    {"id": "ever-id", "name": "Always allow", "kind": "allow_always"},
    {"id": "no-id", "name": "Reject", "kind": "reject_once"},
]


@pytest.fixture
async def agent(daemon: RunningDaemon) -> Hosted:
    return await attach(daemon)


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    return synapse.operator_client(http)


async def timeline(client: MatrixClient, room_id: RoomId) -> list[Json]:
    page = await client.get_messages(room_id, direction="b", start=None, limit=50)
    return list(page.chunk)[::-1]


async def request_in(client: MatrixClient, agent: Hosted, number: int = 1) -> EventId:
    """Return the agent's request of that number, once it can be answered with a click."""
    found: list[EventId] = []

    def is_about(each: Json, event_id: str) -> bool:
        return bool(each["content"].get("m.relates_to", {}).get("event_id") == event_id)

    async def is_there() -> bool:
        events = await timeline(client, agent.room_id)
        said = [each for each in events if "m.new_content" not in each["content"]]
        asked = [each["event_id"] for each in said if "**Delete it**" in each["content"].get("body", "")]
        if len(asked) < number:
            return False
        found[:] = [EventId(asked[number - 1])]
        reactions = [each for each in events if each["type"] == "m.reaction" and each["sender"] == agent.user_id]
        return len([each for each in reactions if is_about(each, found[0])]) >= len(OPTIONS)

    await until(is_there)
    return found[0]


async def shown(client: MatrixClient, room_id: RoomId, event_id: EventId) -> str:
    """Return what an event says after its edits, as a client shows it."""
    edits = [
        each["content"]["m.new_content"]["body"]
        for each in await timeline(client, room_id)
        if each["content"].get("m.relates_to", {}).get("event_id") == event_id and "m.new_content" in each["content"]
    ]
    return edits[-1] if edits else ""


async def until_shown(client: MatrixClient, room_id: RoomId, event_id: EventId, text: str) -> str:
    """Return what an event says once that is in it: of several processes, the one asked knows it a moment later."""

    async def is_shown() -> bool:
        return text in await shown(client, room_id, event_id)

    await until(is_shown)
    return await shown(client, room_id, event_id)


async def react(client: MatrixClient, room_id: RoomId, event_id: EventId, key: str) -> None:
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
    await client.send(room_id, "m.reaction", {"m.relates_to": relation}, secrets.token_hex(8))


@contextlib.asynccontextmanager
async def asking(agent: Hosted, **fields: Any) -> AsyncIterator["asyncio.Task[Json]"]:
    body = {"body": "May it? **Delete it**", "options": OPTIONS, "timeout_s": 60.0} | fields
    task = asyncio.create_task(agent.api.post("/approvals", **body))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_person_decides_by_a_reaction_and_it_stays_to_be_seen_who_and_when(
    agent: Hosted, alice: MatrixClient, synapse: Synapse
) -> None:
    for number, (key, option) in enumerate((("✅", "yes-id"), ("♾", "ever-id"), ("❌", "no-id")), 1):
        async with asking(agent) as task:
            event_id = await request_in(alice, agent, number)
            await react(alice, agent.room_id, event_id, "👍")  # which is none of the options
            await react(alice, agent.room_id, event_id, key)
            decision = await asyncio.wait_for(task, 30)
        assert decision["option"] == option
        assert decision["by"] == synapse.operator.user_id
        name = next(each["name"] for each in OPTIONS if each["id"] == option)
        text = await until_shown(alice, agent.room_id, event_id, f"{name}: {synapse.operator.user_id}, 20")
        assert "**Delete it**" in text
        assert " · " not in text, "there is nothing to choose any more"


ANSWERS = {"yes": "yes-id", "No.": "no-id", "2": "ever-id", "always allow": "ever-id"}


@APPSERVICE_ALONE  # all of it is asked of the homeserver, in both modes alike
async def test_a_person_decides_by_an_answer(agent: Hosted, alice: MatrixClient) -> None:
    for number, (words, option) in enumerate(ANSWERS.items(), 1):
        async with asking(agent) as task:
            event_id = await request_in(alice, agent, number)
            if number == 1:
                for each in ANSWERS:
                    await say(alice, agent.room_id, each)  # which answers nothing
                await asyncio.sleep(2.0)
                assert not task.done()
            await say(alice, agent.room_id, words, **{"m.relates_to": {"m.in_reply_to": {"event_id": event_id}}})
            assert (await asyncio.wait_for(task, 30))["option"] == option


@APPSERVICE_ALONE  # all of it is asked of the homeserver, in both modes alike
async def test_nobody_else_decides_not_another_person_and_no_agent(
    agent: Hosted,
    daemon: RunningDaemon,
    alice: MatrixClient,
    synapse: Synapse,
    http: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    bob = await person(synapse, http, tmp_path)
    other = await attach(daemon, "other")
    await other.send("hello", to=agent.name)  # which makes its user a member
    (await daemon.api.get("/who"))
    bob_id, _ = await bob.whoami()
    await alice.invite(agent.room_id, bob_id)
    await bob.join_room(agent.room_id)
    async with asking(agent, timeout_s=6.0) as task:
        event_id = await request_in(alice, agent)
        await react(bob, agent.room_id, event_id, "✅")
        await say(bob, agent.room_id, "yes", **{"m.relates_to": {"m.in_reply_to": {"event_id": event_id}}})
        await other.send("yes", to=agent.name)
        decision = await asyncio.wait_for(task, 30)
    assert (decision["option"], decision["by"]) == (None, None)
    await until_shown(alice, agent.room_id, event_id, "Refused: nobody allowed it within 6 s")


async def test_only_who_is_configured_decides_by_the_exact_id_and_no_agent_though_it_is_configured(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, alice: MatrixClient, tmp_path: Path
) -> None:
    names = (fresh_name(), fresh_name("other"))
    for name in names:
        await synapse.make_user(http, name)
    bob = await person(synapse, http, tmp_path)
    asker, other = (synapse.agent_client(http, name) for name in names)
    approvers = [(await each.whoami())[0] for each in (asker, other, bob)]
    settings = synapse.settings(tmp_path / "home", AIAGENTCHAT_APPROVERS=",".join(approvers))
    daemon = await start_daemon(synapse, settings)
    agent, _ = [await attach(daemon, name=name) for name in names]
    await bob.join_room(agent.room_id)  # invited as people are
    async with asking(agent) as task:
        event_id = await request_in(alice, agent)
        await alice.invite(agent.room_id, approvers[1])
        await other.join_room(agent.room_id)
        for each in (other, alice):
            await react(each, agent.room_id, event_id, "✅")
        for each in (asker, other, alice):
            await say(each, agent.room_id, "yes", **{"m.relates_to": {"m.in_reply_to": {"event_id": event_id}}})
        await asyncio.sleep(4.0)
        assert not task.done()
        await react(bob, agent.room_id, event_id, "❌")
        decision = await asyncio.wait_for(task, 30)
    assert (decision["option"], decision["by"]) == ("no-id", approvers[2])


@APPSERVICE_ALONE  # all of it is asked of the homeserver, in both modes alike
async def test_the_same_key_is_the_same_request_also_when_who_asked_hung_up_until_they_wait_for_it_no_more(
    agent: Hosted, alice: MatrixClient
) -> None:
    async with asking(agent, key="one"):
        event_id = await request_in(alice, agent)

    async def is_open() -> bool:
        return (await shown(alice, agent.room_id, event_id)).endswith("❌ Reject")

    await until_shown(alice, agent.room_id, event_id, "Withdrawn")
    async with asking(agent, key="one"):
        await until(is_open)
    await until_shown(alice, agent.room_id, event_id, "Withdrawn")
    async with asking(agent, key="one") as task:
        await until(is_open)
        await react(alice, agent.room_id, event_id, "✅")
        decision = await asyncio.wait_for(task, 30)
    assert (decision["event_id"], decision["option"]) == (event_id, "yes-id")
    await until_shown(alice, agent.room_id, event_id, "Allow: @")

    async with asking(agent, key="one/two") as task:
        event_id = await request_in(alice, agent, 2)
        assert (await agent.api.call("DELETE", "/approvals/one%2Ftwo")).status == 200
        assert (await asyncio.wait_for(task, 30))["option"] is None
    await until_shown(alice, agent.room_id, event_id, "Withdrawn")
    assert (await agent.api.call("DELETE", "/approvals/one%2Ftwo")).status == 404


async def test_progress_stands_in_the_thread_of_a_message_in_its_own_room_and_answers_nothing(
    agent: Hosted, daemon: RunningDaemon, alice: MatrixClient
) -> None:
    event_id = (await daemon.api.post("/send", body="work", to=agent.name))["event_id"]
    notice = (await agent.api.post("/progress", body="- one", about=event_id))["event_id"]
    again = await agent.api.post("/progress", body="- one\n- two", about=event_id, shown=notice)
    event = await alice.get_event(agent.room_id, notice)
    assert event["content"]["msgtype"] == "m.notice"
    assert event["content"]["m.relates_to"] == {"rel_type": "m.thread", "event_id": event_id}
    assert again["event_id"] != notice
    await until_shown(alice, agent.room_id, notice, "- one\n- two")
    sent = (await daemon.api.get("/sent", to=agent.name))["messages"][0]
    assert (sent["state"], sent["answer"]) == ("stored", None)
    assert [message["body"] for message in await agent.unread()] == ["work"]

    other = await attach(daemon, "other")
    event_id = (await daemon.api.post("/send", body="private", to=other.name))["event_id"]
    for path, body in (
        ("/progress", {"body": "x", "about": event_id}),
        ("/approvals", {"body": "x", "options": OPTIONS, "about": event_id}),
    ):
        assert (await agent.api.call("POST", path, body)).status == 404


async def test_a_stream_tells_of_a_message_that_was_taken_back(
    agent: Hosted, alice: MatrixClient, synapse: Synapse
) -> None:
    async with agent.api.stream("GET", "/events") as stream:
        first, second = [await say(alice, agent.room_id, body) for body in ("one", "two")]
        messages = await messages_of(stream, 2)
        await agent.acknowledge(messages[:1])
        for event_id in (first, second):
            await redact(synapse, agent.room_id, event_id)
        told = set()
        async for event, data in stream:
            if event == "removed":
                told.add(data["event_id"])
            if told == {first, second}:  # also the one that was acknowledged
                break
