"""Sending and answering over the gateway and a real Synapse: where a message goes, once, and what is said of it."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.agents.messages import add_chain
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import CONTENT_LIMIT_BYTES, EventId, RoomId
from aiagentchat.space.content import HOPS, IN_REPLY_TO
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, say
from tests.integration.systems import IN_ONE_MODE, Api, RunningDaemon, Synapse


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The operator's own Matrix client."""
    return synapse.operator_client(http)


@pytest.fixture
async def pair(daemon: RunningDaemon) -> tuple[Hosted, Hosted]:
    """Two agents: one that asks, one that answers."""
    return await attach(daemon, "asker"), await attach(daemon, "answerer")


async def content_of(client: MatrixClient, room_id: RoomId, event_id: str) -> Json:
    return dict((await client.get_event(room_id, EventId(event_id)))["content"])


async def bodies_in(client: MatrixClient, room_id: RoomId) -> list[str]:
    page = await client.get_messages(room_id, direction="b", limit=100)
    return [event["content"].get("body", "") for event in page.chunk if event["type"] == "m.room.message"][::-1]


async def sent_state(api: Api, event_id: str, **query: str) -> str:
    return str((await api.get("/sent", event_id=event_id, **query))["messages"][0]["state"])


async def test_a_message_to_an_agent_is_stored_in_its_room_and_says_who_wrote_it(
    pair: tuple[Hosted, Hosted], daemon: RunningDaemon
) -> None:
    asker, answerer = pair
    stored = await asker.send("please review", to=answerer.name)
    assert (stored["room_id"], stored["state"]) == (answerer.room_id, "stored")
    await daemon.api.post("/send", body="and I", to=answerer.name, format="markdown")
    first, second = await answerer.unread()
    assert (first["event_id"], first["body"], first["hops"]) == (stored["event_id"], "please review", 0)
    assert first["sender"] == {"user_id": asker.user_id, "name": asker.name, "kind": "agent"}
    assert (second["sender"]["name"], second["sender"]["kind"], second["format"]) == ("alice", "person", "html")


async def test_an_answer_to_a_person_stays_in_the_room_and_in_the_thread(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    asked = await say(alice, agent.room_id, "a question")
    stored = await agent.send("an answer", reply_to=asked)
    assert stored["room_id"] == agent.room_id
    content = await content_of(alice, agent.room_id, stored["event_id"])
    assert content["m.relates_to"] == {"m.in_reply_to": {"event_id": asked}}
    assert content["m.mentions"] == {"user_ids": ["@alice:example.org"]}
    assert content[HOPS] == 1
    in_thread = {"rel_type": "m.thread", "event_id": asked}
    threaded = await say(alice, agent.room_id, "in a thread", **{"m.relates_to": in_thread})
    stored = await agent.send("there too", reply_to=threaded)
    relation = (await content_of(alice, agent.room_id, stored["event_id"]))["m.relates_to"]
    assert (relation["rel_type"], relation["event_id"]) == ("m.thread", asked)


async def test_an_answer_to_an_agent_goes_to_the_askers_room_naming_and_quoting_the_question(
    pair: tuple[Hosted, Hosted], alice: MatrixClient
) -> None:
    asker, answerer = pair
    asked = await asker.send("is <main> green?", to=answerer.name)
    stored = await answerer.send("yes & stable", reply_to=asked["event_id"])
    assert stored["room_id"] == asker.room_id
    content = await content_of(alice, asker.room_id, stored["event_id"])
    assert content[IN_REPLY_TO] == {"room_id": answerer.room_id, "event_id": asked["event_id"]}
    assert content["formatted_body"] == "<blockquote>is &lt;main&gt; green?</blockquote>yes &amp; stable"
    [answer] = await asker.unread()
    assert (answer["body"], answer["sender"]["name"], answer["hops"]) == ("yes & stable", answerer.name, 1)
    assert answer["in_reply_to"] == {"room_id": answerer.room_id, "event_id": asked["event_id"]}
    again = await asker.send("thanks", reply_to=stored["event_id"])
    assert again["room_id"] == answerer.room_id
    assert (await content_of(alice, answerer.room_id, again["event_id"]))[HOPS] == 2


async def test_an_answer_to_a_broadcast_goes_to_all_if_a_person_asked_and_to_the_agent_if_one_did(
    pair: tuple[Hosted, Hosted], daemon: RunningDaemon
) -> None:
    asker, answerer = pair
    of_person = await daemon.api.post("/send", body="who is there?")
    assert (await answerer.send("me", reply_to=of_person["event_id"]))["room_id"] == of_person["room_id"]
    of_agent = await asker.send("and who else?")
    assert (await answerer.send("still me", reply_to=of_agent["event_id"]))["room_id"] == asker.room_id


@IN_ONE_MODE
async def test_last_answers_what_was_acknowledged_last(daemon: RunningDaemon, alice: MatrixClient) -> None:
    agent = await attach(daemon)
    refused = await agent.api.call("POST", "/send", {"body": "to what?", "reply_to": "last"})
    assert (refused.status, refused.code) == (404, "not_found")
    asked = await say(alice, agent.room_id, "a question")
    await agent.acknowledge(await agent.unread(wait="10"))
    await say(alice, agent.room_id, "not read yet")
    stored = await agent.send("an answer", reply_to="last")
    relation = (await content_of(alice, agent.room_id, stored["event_id"]))["m.relates_to"]
    assert relation == {"m.in_reply_to": {"event_id": asked}}
    refused = await daemon.api.call("POST", "/send", {"body": "the operator reads nothing", "reply_to": "last"})
    assert (refused.status, refused.code) == (400, "bad_request")


@IN_ONE_MODE
async def test_an_answer_to_the_last_that_is_sent_again_answers_the_same_though_more_was_read_meanwhile(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    await say(alice, agent.room_id, "a question")
    await agent.acknowledge(await agent.unread(wait="10"))
    stored = await agent.send("an answer", reply_to="last", key="k")
    await daemon.api.post("/send", body="something for all")
    await agent.acknowledge(await agent.unread(wait="10"))
    assert await agent.send("an answer", reply_to="last", key="k") == stored
    other = await agent.send("another answer", reply_to="last", key="another")
    assert other["room_id"] != stored["room_id"]


async def test_what_an_agent_may_not_read_it_cannot_answer(pair: tuple[Hosted, Hosted], alice: MatrixClient) -> None:
    asker, answerer = pair
    await asker.send("now I am a member of that room", to=answerer.name)
    private = await say(alice, answerer.room_id, "for the other one alone")
    for event_id in (private, "$nothing"):
        refused = await asker.api.call("POST", "/send", {"body": "what?", "reply_to": event_id})
        assert (refused.status, refused.code) == (404, "not_found")


async def test_the_same_key_is_the_same_message_even_after_a_restart_of_the_daemon(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, alice: MatrixClient
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    writer, target = await attach(daemon, "writer"), await attach(daemon, "target")
    first = await writer.send("once", to=target.name, key="k")
    assert await writer.send("once", to=target.name, key="k") == first
    other = await daemon.api.post("/send", body="of another sender", to=target.name, key="k")
    assert other["event_id"] != first["event_id"]
    await daemon.kill()
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"))
    assert await writer.on(daemon).send("once", to=target.name, key="k") == first
    assert await daemon.api.post("/send", body="of another sender", to=target.name, key="k") == other
    assert await bodies_in(alice, target.room_id) == ["once", "of another sender"]


@IN_ONE_MODE
async def test_the_same_key_is_the_same_message_even_after_a_restart_of_the_homeserver(
    own_synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home", AIAGENTCHAT_DEADLINE="3"))
    writer, target = await attach(daemon, "writer"), await attach(daemon, "target")
    speakers = (writer.api, daemon.api)  # the agent, and the operator with a token of their own
    message = {"body": "once", "to": target.name, "key": "k"}
    stored = [await api.post("/send", **message) for api in speakers]
    await own_synapse.process.stop()
    failed = await writer.api.call("POST", "/send", {"body": "later", "to": target.name, "key": "l"})
    assert failed.status in (503, 504)
    assert failed.data["retryable"]
    await own_synapse.start()
    assert [await api.post("/send", **message) for api in speakers] == stored
    await writer.send("later", to=target.name, key="l")
    assert await bodies_in(own_synapse.operator_client(http), target.room_id) == ["once", "once", "later"]


async def test_a_message_is_stored_then_read_then_answered(pair: tuple[Hosted, Hosted], daemon: RunningDaemon) -> None:
    """Lesson: Success printed, nothing delivered."""
    asker, answerer = pair
    asked = await asker.send("a question", to=answerer.name)
    of_person = await daemon.api.post("/send", body="mine", to=answerer.name)
    event_id, to = asked["event_id"], answerer.name
    assert await sent_state(asker.api, event_id, to=to) == "stored"
    messages = await answerer.unread()
    assert await sent_state(asker.api, event_id, to=to) == "stored"  # read out, and not acknowledged
    await answerer.acknowledge(messages)
    assert await sent_state(asker.api, event_id, to=to) == "read"
    answer = await answerer.send("an answer", reply_to=event_id)
    for query in ({"event_id": event_id}, {"limit": "5"}):
        [sent] = (await asker.api.get("/sent", to=to, **query))["messages"]
        assert (sent["message"]["event_id"], sent["state"], sent["to"]) == (event_id, "answered", to)
        assert sent["answer"]["event_id"] == answer["event_id"]
    assert await sent_state(daemon.api, of_person["event_id"], to=to) == "read"
    answer = await answerer.send("to the person", reply_to=of_person["event_id"])
    [sent] = (await daemon.api.get("/sent", to=to))["messages"]
    assert (sent["state"], sent["answer"]["event_id"]) == ("answered", answer["event_id"])


@IN_ONE_MODE
async def test_what_was_read_long_ago_is_still_said_to_be_read(pair: tuple[Hosted, Hosted]) -> None:
    asker, answerer = pair
    events = [await asker.send(f"message {number}", to=answerer.name) for number in range(70)]
    await answerer.acknowledge((await answerer.unread())[:69])
    assert await sent_state(asker.api, events[0]["event_id"], to=answerer.name) == "read"
    assert await sent_state(asker.api, events[69]["event_id"], to=answerer.name) == "stored"
    listed = (await asker.api.get("/sent", to=answerer.name, limit="500"))["messages"]
    assert [sent["state"] for sent in listed] == ["stored"] + 69 * ["read"]


async def test_one_waits_for_an_answer_which_comes_from_another_and_where_one_may_read(
    pair: tuple[Hosted, Hosted], alice: MatrixClient, daemon: RunningDaemon
) -> None:
    asker, answerer = pair
    bystander = await attach(daemon, "bystander")
    asked = await asker.send("a question to all")
    event_id = asked["event_id"]
    assert (await asker.api.get("/sent", event_id=event_id, wait="0.1"))["messages"][0]["answer"] is None
    waiting = asyncio.create_task(asker.api.get("/sent", event_id=event_id, wait="20"))
    in_answer = {IN_REPLY_TO: {"room_id": asked["room_id"], "event_id": event_id}}
    await say(alice, bystander.room_id, "a secret of another room", **in_answer)
    await asker.send("I ask once more", reply_to=event_id)
    answer = await answerer.send("an answer", reply_to=event_id)
    [sent] = (await waiting)["messages"]
    assert (sent["state"], sent["answer"]["event_id"]) == ("answered", answer["event_id"])


@IN_ONE_MODE
async def test_a_persons_answer_in_the_other_agents_room_is_found_later_too(
    pair: tuple[Hosted, Hosted], alice: MatrixClient
) -> None:
    asker, answerer = pair
    asked = await asker.send("a question", to=answerer.name)
    relation = {"m.in_reply_to": {"event_id": asked["event_id"]}}
    answer = await say(alice, answerer.room_id, "I know that", **{"m.relates_to": relation})
    [sent] = (await asker.api.get("/sent", event_id=asked["event_id"], to=answerer.name))["messages"]
    assert (sent["state"], sent["answer"]["event_id"]) == ("answered", answer)


@IN_ONE_MODE
async def test_only_ones_own_messages_are_sent_ones(pair: tuple[Hosted, Hosted], alice: MatrixClient) -> None:
    asker, answerer = pair
    await asker.send("now I am a member of that room", to=answerer.name)
    foreign = await say(alice, answerer.room_id, "for the other one alone")
    refused = await asker.api.call("GET", "/sent", query={"event_id": foreign, "to": answerer.name})
    assert (refused.status, refused.code) == (404, "not_found")
    assert len((await asker.api.get("/sent", to=answerer.name))["messages"]) == 1


@IN_ONE_MODE
async def test_an_unknown_agent_is_not_found_and_near_names_are_told(pair: tuple[Hosted, Hosted]) -> None:
    asker, answerer = pair
    for method, path, fields in (("POST", "/send", {"body": "hello"}), ("GET", "/sent", None)):
        name = answerer.name[:-1] + "x"
        if fields is None:
            refused = await asker.api.call(method, path, query={"to": name})
        else:
            refused = await asker.api.call(method, path, fields | {"to": name})
        assert (refused.status, refused.code) == (404, "agent_not_found")
        assert answerer.name in refused.data["hint"]


@IN_ONE_MODE
async def test_a_message_to_oneself_is_refused(daemon: RunningDaemon) -> None:
    agent = await attach(daemon)
    refused = await agent.api.call("POST", "/send", {"body": "note to self", "to": agent.name})
    assert (refused.status, refused.code) == (400, "bad_request")


UNSENDABLE = (
    ({"body": ""}, 400, "bad_request"),
    ({"body": " \n\t"}, 400, "bad_request"),
    ({"body": "a\0b"}, 400, "bad_request"),
    ({"body": "half a pair: \ud83d"}, 400, "bad_request"),
    ({"body": "ü" * (CONTENT_LIMIT_BYTES // 2)}, 413, "body_too_large"),
    ({"body": "x" * 40_000, "format": "markdown"}, 413, "body_too_large"),
    ({"body": "x" * 300_000}, 413, "body_too_large"),
    ({"body": "x" * 600_000}, 413, "body_too_large"),  # longer than a request may be
    ({"body": "hello", "to": "Not A Name"}, 400, "bad_name"),
)


@IN_ONE_MODE
async def test_what_cannot_be_sent_is_refused_and_nothing_is_stored(daemon: RunningDaemon, alice: MatrixClient) -> None:
    """Lesson: Made, and never sent."""
    agent = await attach(daemon)
    for message, status, code in UNSENDABLE:
        refused = await daemon.api.call("POST", "/send", {"to": agent.name} | message)
        assert (refused.status, refused.code) == (status, code), message
        if status == 413:
            assert str(CONTENT_LIMIT_BYTES) in refused.data["detail"] + refused.data["hint"]
    assert await bodies_in(alice, agent.room_id) == []


@IN_ONE_MODE
async def test_the_largest_message_arrives_whole_and_an_answer_that_grows_past_the_limit_is_refused(
    pair: tuple[Hosted, Hosted],
) -> None:
    asker, answerer = pair
    empty = add_chain({"msgtype": "m.text", "body": "", "m.mentions": {}}, asker.user_id, None)
    body = "y" * (CONTENT_LIMIT_BYTES - len(json.dumps(empty, separators=(",", ":"))))
    asked = await asker.send(body, to=answerer.name)
    assert await answerer.bodies() == [body]
    refused = await answerer.api.call("POST", "/send", {"body": "z" * 40_000, "reply_to": asked["event_id"]})
    assert (refused.status, refused.code) == (413, "body_too_large")
    assert await asker.bodies() == []


async def test_an_agent_that_nobody_attached_in_this_daemons_life_gets_its_messages(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await daemon.stop()
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"))
    stored = await daemon.api.post("/send", body="while you were away", to=agent.name)
    assert stored["room_id"] == agent.room_id
    [message] = await agent.on(daemon).unread()
    assert (message["body"], message["late"]) == ("while you were away", True)
