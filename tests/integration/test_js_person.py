"""A person in Element Web, as far as its engine `matrix-js-sdk` goes: sees, talks, edits, reacts, sends a file."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiagentchat.agents import sidebar
from tests.integration.correspondents import Hosted, attach
from tests.integration.js_person import JsPerson, js_person
from tests.integration.systems import APPSERVICE_ALONE, UNLIKE_USE, RunningDaemon, Synapse, fresh_name

Json = dict[str, Any]

OPTIONS = [{"id": "yes", "name": "Allow", "kind": "allow_once"}, {"id": "no", "name": "Reject", "kind": "reject_once"}]
COMINGS = 200


@pytest.fixture(autouse=True)
def _as_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have agents look as they do in use."""
    monkeypatch.delitem(UNLIKE_USE, "AIAGENTCHAT_SIDEBAR")


@pytest.fixture
async def person(synapse: Synapse, daemon: RunningDaemon) -> AsyncIterator[JsPerson]:
    """The operator, whose Space is there."""
    async with js_person(synapse) as person:
        yield person


async def next_message(agent: Hosted) -> Json:
    """Return the one message that the agent has not read, and acknowledge it."""
    (message,) = await agent.unread(wait="30")
    await agent.acknowledge([message])
    return message


def spaces_of(agent: Hosted, rooms: dict[str, Json]) -> list[str]:
    """Return the Spaces that list an agent's room."""
    return [room_id for room_id, room in rooms.items() if room["is_space"] and agent.room_id in room["children"]]


async def test_all_rooms_are_there_without_a_click_also_of_agents_that_come_later(
    person: JsPerson, daemon: RunningDaemon
) -> None:
    first = await attach(daemon, "first")
    rooms = await person.until_rooms(lambda rooms: first.room_id in rooms and spaces_of(first, rooms) != [])
    (space_id,) = spaces_of(first, rooms)
    later = await attach(daemon, "later")
    rooms = await person.until_rooms(lambda rooms: later.room_id in rooms and spaces_of(later, rooms) == [space_id])
    ours = {space_id, *rooms[space_id]["children"]}
    assert {rooms[room_id]["membership"] for room_id in ours} == {"join"}
    assert {rooms[agent.room_id]["name"] for agent in (first, later)} == {first.name, later.name}
    assert all(rooms[agent.room_id]["avatar"].startswith("mxc://") for agent in (first, later))
    asked = await person.do("asked")
    assert [request for request in asked if "/join" in request or "/invite" in request] == []


@APPSERVICE_ALONE  # what a person writes is read by the same code, whichever way it came
async def test_what_a_person_writes_reaches_the_agent_as_it_should(
    person: JsPerson, daemon: RunningDaemon, synapse: Synapse
) -> None:
    agent = await attach(daemon)
    room = agent.room_id
    await person.until_rooms(lambda rooms: room in rooms)
    me = {"user_id": synapse.operator.user_id, "name": "alice", "kind": "person"}

    said = await person.do("say", room=room, body="is main green?")
    message = await next_message(agent)
    assert (message["event_id"], message["body"], message["sender"]) == (said, "is main green?", me)
    answered = (await agent.send("it is", reply_to=said))["event_id"]
    answer = await person.until_event(room, lambda event: event["event_id"] == answered)
    assert (answer["sender_name"], answer["in_reply_to"], answer["body"]) == (agent.name, said, "it is")
    assert answer["sender_avatar"] == (await person.rooms())[room]["avatar"]

    edited = await person.do("edit", room=room, event=said, body="is dev green?")
    message = await next_message(agent)
    assert (message["event_id"], message["edits"], message["body"]) == (edited, said, "is dev green?")

    replied = await person.do("reply", room=room, event=answered, body="since when?")
    message = await next_message(agent)
    assert (message["event_id"], message["body"]) == (replied, "since when?")
    assert message["in_reply_to"] == {"room_id": room, "event_id": answered}

    in_thread = await person.do("thread", room=room, event=answered, body="and the docs?")
    message = await next_message(agent)
    assert (message["event_id"], message["thread"], message["body"]) == (in_thread, answered, "and the docs?")
    in_turn = (await agent.send("built", reply_to=in_thread))["event_id"]
    answer = await person.until_event(room, lambda event: event["event_id"] == in_turn)
    assert (answer["thread"], answer["body"]) == (answered, "built")

    sent = await person.do("file", room=room, name="plan.txt", text="first this\n")
    message = await next_message(agent)
    assert (message["event_id"], message["file"]) == (sent, {"name": "plan.txt", "mimetype": "text/plain", "size": 11})
    assert (await agent.api.call("GET", f"/files/{sent}")).data == "first this\n"


@APPSERVICE_ALONE  # likewise
async def test_a_reaction_of_a_person_decides_what_an_agent_asks_for(person: JsPerson, daemon: RunningDaemon) -> None:
    agent = await attach(daemon)
    await person.until_rooms(lambda rooms: agent.room_id in rooms)
    body = {"body": "May it? **Delete it**", "options": OPTIONS, "timeout_s": 60.0}
    asking = asyncio.create_task(agent.api.post("/approvals", **body))
    request = await person.until_event(agent.room_id, lambda event: "Delete it" in event["body"])
    await person.do("react", room=agent.room_id, event=request["event_id"], key="✅")
    decision = await asking
    assert (decision["event_id"], decision["option"]) == (request["event_id"], "yes")


async def test_a_person_sees_who_writes_to_whom_by_name_and_picture(person: JsPerson, daemon: RunningDaemon) -> None:
    asker, asked = await attach(daemon, "asker"), await attach(daemon, "asked")
    await person.until_rooms(lambda rooms: {asker.room_id, asked.room_id} <= set(rooms))
    await asker.send("is main green?", to=asked.name)
    question = await person.until_event(asked.room_id, lambda event: event["body"] == "is main green?")
    assert (question["sender"], question["sender_name"]) == (asker.user_id, asker.name)
    assert question["sender_avatar"] == (await person.rooms())[asker.room_id]["avatar"]


@APPSERVICE_ALONE  # the same events, in twice the time
async def test_comings_and_goings_make_no_room_unread_and_a_message_does(
    person: JsPerson, daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidebar, "OFFLINE_AFTER_S", 0.0)
    monkeypatch.setattr(sidebar, "GAP_S", 0.0)
    before = await person.rooms()
    names = [fresh_name("restless") for _ in range(4)]
    for number in range(COMINGS):
        agent = await attach(daemon, name=names[number % len(names)])
        await agent.api.call("PUT", "/status", {"line": f"at work on {number}"})
        assert (await daemon.api.call("DELETE", f"/agents/{agent.name}")).status < 300
    rooms = await person.until_rooms(lambda rooms: set(names) <= offline(rooms))
    assert news_since(before, rooms) == {}

    last = await attach(daemon, "last")
    await last.send("something has happened")
    rooms = await person.until_rooms(lambda rooms: news_since(before, rooms) != {})
    assert news_since(before, rooms) == {"AIChatRoom": (1, "m.room.message")}


def offline(rooms: dict[str, Json]) -> set[str]:
    """Return the agents that the sidebar shows as offline."""
    return {room["name"] for room in rooms.values() if "m.lowpriority" in room["tags"]}


def news_since(before: dict[str, Json], rooms: dict[str, Json]) -> dict[str, tuple[int, str]]:
    """Return what the rooms count as unread, and what Element Web draws them bold for, where that is otherwise."""
    news = {room_id: (room["unread"], room["news"]) for room_id, room in rooms.items()}
    known = {room_id: (room["unread"], room["news"]) for room_id, room in before.items()}
    return {rooms[room_id]["name"]: told for room_id, told in news.items() if told != known.get(room_id, (0, ""))}
