"""What people do in a Matrix client reaches an agent as what it is: polls, places, edits, what they take back."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import EventId, RoomId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, messages_of, redact, say, until
from tests.integration.systems import APPSERVICE_ALONE, IN_ONE_MODE, WAIT_S, RunningDaemon, Synapse


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    return synapse.operator_client(http)


POLL = {
    "org.matrix.msc1767.text": "Lunch?",
    "org.matrix.msc3381.poll.start": {
        "kind": "org.matrix.msc3381.poll.disclosed",
        "max_selections": 1,
        "question": {"org.matrix.msc1767.text": "Lunch?"},
        "answers": [{"id": "1", "org.matrix.msc1767.text": "Soup"}, {"id": "2", "org.matrix.msc1767.text": "Cake"}],
    },
}


@IN_ONE_MODE
@pytest.mark.parametrize("is_live", [True, False])
async def test_what_is_no_text_is_named_however_it_comes(
    daemon: RunningDaemon, alice: MatrixClient, is_live: bool
) -> None:
    agent = await attach(daemon)

    async def send_all() -> None:
        await alice.send(agent.room_id, "m.sticker", {"body": "a wink", "url": "mxc://x/y", "info": {}}, agent.name)
        await say(alice, agent.room_id, "Voice message", msgtype="m.audio", **{"org.matrix.msc3245.voice": {}})
        await say(alice, agent.room_id, "I am here", msgtype="m.location", geo_uri="geo:52.5,13.4")
        for kind in ("org.matrix.msc3381.poll.start", "m.poll.start"):
            await alice.send(agent.room_id, kind, POLL, f"{agent.name} {kind}")

    if is_live:
        async with agent.api.stream("GET", "/events") as stream:
            await agent.unread(peek="true")  # so that the room was read to its end before
            await send_all()
            messages = await messages_of(stream, 5)
    else:
        await send_all()
        messages = await agent.unread()
    poll = "[poll] Lunch?\n1. Soup\n2. Cake"
    voice, place = "[voice] Voice message", "[location] I am here (geo:52.5,13.4)"
    assert [message["body"] for message in messages] == ["[sticker] a wink", voice, place, poll, poll]


async def edit(client: MatrixClient, room_id: RoomId, event_id: EventId, body: str) -> EventId:
    relation = {"rel_type": "m.replace", "event_id": event_id}
    new = {"msgtype": "m.text", "body": body}
    return await say(client, room_id, f"* {body}", **{"m.new_content": new, "m.relates_to": relation})


async def test_a_message_that_was_edited_before_it_was_read_is_handed_once_with_its_new_text(
    synapse: Synapse, start_daemon: StartDaemon, alice: MatrixClient, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    wrong = await say(alice, agent.room_id, "wrong")
    await say(alice, agent.room_id, "second")
    for body in ("better", "right"):
        await edit(alice, agent.room_id, wrong, body)
    messages = await agent.unread()
    assert [(message["event_id"] == wrong, message["body"]) for message in messages] == [
        (True, "right"),
        (False, "second"),
    ]
    assert messages[0]["edits"] is None
    assert await agent.acknowledge(messages[:1]) == [wrong]
    await daemon.kill()
    again = agent.on(await start_daemon(synapse, synapse.settings(tmp_path / "second")))
    assert await again.bodies() == ["second"]


async def test_an_edit_of_what_was_read_comes_as_one_in_the_place_of_that(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    root = await say(alice, agent.room_id, "a thread")
    wrong = await say(alice, agent.room_id, "wrong", **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
    await agent.acknowledge(await agent.unread())
    edited = await edit(alice, agent.room_id, wrong, "right")
    [message] = await agent.unread(wait="10")
    assert (message["event_id"], message["body"]) == (edited, "right")
    assert (message["edits"], message["thread"]) == (wrong, root)
    sent = await agent.send("done", reply_to=edited)
    relation = (await alice.get_event(agent.room_id, sent["event_id"]))["content"]["m.relates_to"]
    assert (relation["rel_type"], relation["event_id"]) == ("m.thread", root)
    assert relation["m.in_reply_to"] == {"event_id": wrong}


@IN_ONE_MODE
async def test_a_stream_is_told_of_edits_and_of_what_was_taken_back_also_when_it_had_read_it(
    daemon: RunningDaemon, synapse: Synapse, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        said = await say(alice, agent.room_id, "wrong")
        messages = await messages_of(stream, 1)
        await agent.acknowledge(messages)
        await edit(alice, agent.room_id, said, "right")
        [message] = await messages_of(stream, 1)
        assert (message["body"], message["edits"]) == ("right", said)
        await redact(synapse, agent.room_id, said)
        async with asyncio.timeout(WAIT_S):
            async for event, data in stream:
                if event == "removed":
                    assert data == {"event_id": said}
                    break
    assert await agent.bodies() == [], "its edit left with it"


# --- what people ask of the system


async def notices(client: MatrixClient, agent: Hosted, about: EventId) -> list[Json]:
    """Return what the agent's user said of a message in its room, once there is anything."""
    found: list[Json] = []

    async def is_there() -> bool:
        page = await client.get_messages(agent.room_id, direction="b", start=None, limit=50)
        found[:] = [
            each["content"]
            for each in page.chunk
            if each["content"].get("m.relates_to", {}).get("m.in_reply_to", {}).get("event_id") == about
        ]
        return bool(found)

    await until(is_there)
    return found


@IN_ONE_MODE
async def test_help_and_status_are_answered_by_the_daemon_with_a_notice_and_are_no_messages(
    synapse: Synapse, start_daemon: StartDaemon, alice: MatrixClient, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await agent.api.call("PUT", "/status", {"line": "reviewing *PR 42*"})
    root = await say(alice, agent.room_id, "one that waits")
    in_thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    asked = await say(alice, agent.room_id, "!status", **in_thread)
    [status] = await notices(alice, agent, asked)
    assert (status["msgtype"], status["m.mentions"]) == ("m.notice", {})
    assert (status["m.relates_to"]["rel_type"], status["m.relates_to"]["event_id"]) == ("m.thread", root)
    assert status["body"] == (
        f"{agent.name} is online: it reads what you write when it looks.\nIt says: reviewing *PR 42*\nUnread: 1"
    )
    [told] = await notices(alice, agent, await say(alice, agent.room_id, "!help"))
    assert told["msgtype"] == "m.notice"
    for command in ("!status", "!stop", "!help"):
        assert f"\n{command}: " in told["body"]
    async with agent.api.stream("GET", "/events") as stream:
        assert [message["body"] for message in await messages_of(stream, 1)] == ["one that waits"]
        [status] = await notices(alice, agent, await say(alice, agent.room_id, "!status"))
        assert f"{agent.name} is online: what you write reaches it at once.\n" in status["body"]
        await say(alice, agent.room_id, "another")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["another"]
    await daemon.kill()
    again = agent.on(await start_daemon(synapse, synapse.settings(tmp_path / "second")))
    assert await again.bodies() == ["one that waits", "another"]
    assert len(await notices(alice, agent, asked)) == 1, "pushed again, it is not answered again"


async def test_stop_is_handed_to_the_agent_and_what_cannot_be_stopped_is_said(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    [told] = await notices(alice, agent, await say(alice, agent.room_id, "!stop"))
    assert (told["msgtype"], told["m.mentions"]) == ("m.notice", {})
    assert told["body"] == (
        f"{agent.name} cannot be stopped from here. It gets your !stop as a message, and may heed it."
    )
    assert await agent.bodies() == ["!stop"]
    async with agent.api.stream("GET", "/events?stops=true") as stream:
        await messages_of(stream, 1)
        stopped = await say(alice, agent.room_id, "!stop")
        [message] = await messages_of(stream, 1)
        assert message["event_id"] == stopped
        await notices(alice, agent, await say(alice, agent.room_id, "!help"))  # so the one before it was seen to
        page = await alice.get_messages(agent.room_id, direction="b", start=None, limit=50)
        assert not any(stopped in str(each["content"]) for each in page.chunk), "its reader sees to it"


@APPSERVICE_ALONE  # an account that nobody uses has no sync
async def test_an_agent_that_is_offline_is_said_to_be(daemon: RunningDaemon, alice: MatrixClient) -> None:
    agent = await attach(daemon)
    await daemon.api.call("DELETE", f"/agents/{agent.name}")
    [status] = await notices(alice, agent, await say(alice, agent.room_id, "!status"))
    assert status["body"].startswith(f"{agent.name} is offline since 20")
    assert status["body"].endswith("Z: what you write waits for it.\nUnread: 0")
    [told] = await notices(alice, agent, await say(alice, agent.room_id, "!stop"))
    assert told["body"] == f"{agent.name} is offline: nothing runs here that could be stopped."


@IN_ONE_MODE
async def test_an_agent_or_who_writes_to_all_asks_nothing_of_the_system(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent, other = await attach(daemon), await attach(daemon, "other")
    broadcast = (await daemon.api.get("/health"))["system"]["broadcast_id"]
    await other.send("!status", to=agent.name)
    await say(alice, broadcast, "!help")
    messages = await agent.unread(wait="10")
    while len(messages) < 2:
        messages = await agent.unread(wait="10")
    assert sorted(message["body"] for message in messages) == ["!help", "!status"]
    await notices(alice, agent, await say(alice, agent.room_id, "!help"))
    for room_id in (agent.room_id, broadcast):
        page = await alice.get_messages(room_id, direction="b", start=None, limit=50)
        said = [each["content"] for each in page.chunk if each["content"].get("msgtype") == "m.notice"]
        assert len(said) == (room_id == agent.room_id)
