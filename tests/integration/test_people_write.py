"""What people do in a Matrix client reaches an agent as what it is: polls, places, edits, what they take back."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import EventId, RoomId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import attach, messages_of, redact, say
from tests.integration.systems import WAIT_S, RunningDaemon, Synapse


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
