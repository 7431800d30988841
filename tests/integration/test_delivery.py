"""How far own messages came, over the gateway and a real Synapse: which are listed, who has read them, what answers."""

import asyncio
import itertools
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.agents import delivery, past
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId, UserId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, say
from tests.integration.systems import ACCOUNTS_ALONE, IN_ONE_MODE, Api, RunningDaemon, Synapse


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The operator's own Matrix client."""
    return synapse.operator_client(http)


@pytest.fixture
async def trio(daemon: RunningDaemon) -> tuple[Hosted, Hosted, Hosted]:
    """An agent that writes, and two that read."""
    return await attach(daemon, "writer"), await attach(daemon, "first"), await attach(daemon, "second")


async def sent(api: Api, **query: str) -> list[Json]:
    return list((await api.get("/sent", **query))["messages"])


def told(item: Json) -> tuple[str, str | None, str, list[str], str | None]:
    """Return body, recipient, state, readers, and the body of the answer."""
    answer = item["answer"]
    return (
        item["message"]["body"],
        item["to"],
        item["state"],
        item["read_by"],
        None if answer is None else answer["body"],
    )


async def test_all_own_messages_are_listed_newest_first_with_readers_and_answers(
    trio: tuple[Hosted, Hosted, Hosted],
) -> None:
    writer, first, second = trio
    asked = await writer.send("to the first", to=first.name)
    await writer.send("to the second", to=second.name)
    await writer.send("to all")
    await first.send("of another", to=second.name)
    await first.acknowledge(await first.unread())
    await first.send("an answer", reply_to=asked["event_id"])
    assert [told(item) for item in await sent(writer.api)] == [
        ("to all", None, "read", [first.name], None),
        ("to the second", second.name, "stored", [], None),
        ("to the first", first.name, "answered", [first.name], "an answer"),
    ]
    await second.acknowledge(await second.unread())
    assert [told(item)[3] for item in await sent(writer.api)] == [
        sorted([first.name, second.name]),
        [second.name],
        [first.name],
    ]
    assert [told(item)[0] for item in await sent(writer.api, limit="2")] == ["to all", "to the second"]
    assert [told(item)[0] for item in await sent(writer.api, to=first.name)] == ["to the first"]
    assert [item["message"]["broadcast"] for item in await sent(writer.api)] == [True, False, False]


async def test_the_operators_messages_are_those_to_agents_wherever_they_wrote_them(
    trio: tuple[Hosted, Hosted, Hosted], daemon: RunningDaemon, alice: MatrixClient
) -> None:
    _, first, second = trio
    elsewhere = await alice.create_room({"name": "a room of their own"})
    await say(alice, elsewhere, "private")
    await say(alice, first.room_id, "from Element")
    await daemon.api.post("/send", body="from here", to=second.name)
    listed = [told(item)[:3] for item in await sent(daemon.api, limit="2")]
    assert listed == [("from here", second.name, "stored"), ("from Element", first.name, "stored")]
    assert "private" not in [told(item)[0] for item in await sent(daemon.api, limit="500")]


@IN_ONE_MODE
async def test_an_answer_to_a_person_is_listed_and_its_answer_too(
    trio: tuple[Hosted, Hosted, Hosted], alice: MatrixClient
) -> None:
    writer, _, _ = trio
    asked = await say(alice, writer.room_id, "a question")
    answer = await writer.send("an answer", reply_to=asked)
    assert [told(item) for item in await sent(writer.api)] == [("an answer", None, "stored", [], None)]
    relation = {"m.in_reply_to": {"event_id": answer["event_id"]}}
    await say(alice, writer.room_id, "thanks", **{"m.relates_to": relation})
    assert [told(item) for item in await sent(writer.api)] == [("an answer", None, "answered", [], "thanks")]


@IN_ONE_MODE
async def test_an_answer_is_found_though_the_agent_wrote_in_its_own_room_long_after_it(
    trio: tuple[Hosted, Hosted, Hosted], alice: MatrixClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, first, _ = trio
    monkeypatch.setattr(past, "_PAGE", 2)
    asked = await writer.send("a question", to=first.name)
    await first.send("an answer", reply_to=asked["event_id"])
    for number in range(3):
        question = await say(alice, writer.room_id, f"of a person {number}")
    await writer.send("to the person", reply_to=question)
    assert [told(item)[::4] for item in await sent(writer.api)] == [
        ("to the person", None),
        ("a question", "an answer"),
    ]


@IN_ONE_MODE
async def test_what_many_messages_of_others_came_after_is_listed_with_who_has_read_it(
    trio: tuple[Hosted, Hosted, Hosted], alice: MatrixClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, first, _ = trio
    await writer.send("long ago", to=first.name)
    for number in range(130):
        await say(alice, first.room_id, f"message {number}")
    assert [told(item)[:4] for item in await sent(writer.api)] == [("long ago", first.name, "stored", [])]
    await first.acknowledge((await first.unread(limit="500"))[:131])
    assert [told(item)[:4] for item in await sent(writer.api)] == [("long ago", first.name, "read", [first.name])]
    for number in range(21):
        await say(alice, first.room_id, f"unread {number}")
    monkeypatch.setattr(past, "MOST_LOOKED_AT", 20)  # so that the cursor stands before all that is looked at
    monkeypatch.setattr(past, "_PAGE", 20)
    monkeypatch.setattr(delivery, "_ORDER_MS", 0)
    assert [told(item)[:4] for item in await sent(writer.api)] == [("long ago", first.name, "read", [first.name])]


@IN_ONE_MODE
async def test_who_came_later_has_not_read_what_was_sent_to_all_before(
    trio: tuple[Hosted, Hosted, Hosted], daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, first, second = trio
    monkeypatch.setattr(delivery, "_ORDER_MS", 0)
    await writer.send("before")
    late = await attach(daemon, "late")
    await writer.send("after")
    for each in (first, late):
        await each.acknowledge(await each.unread(wait="20"))
    read_by = {told(item)[0]: set(told(item)[3]) for item in await sent(writer.api)}
    assert read_by == {"before": {first.name}, "after": {first.name, late.name}}
    assert second.name not in read_by["after"]


@ACCOUNTS_ALONE  # agents of an application service stay in the rooms that they wrote in
async def test_what_was_written_in_a_room_that_was_left_since_is_listed(
    trio: tuple[Hosted, Hosted, Hosted], synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    writer, first, _ = trio
    stored = await writer.send("a visit", to=first.name)
    visitor = synapse.agent_client(http, writer.name)
    await visitor.leave_room(first.room_id)
    await first.acknowledge(await first.unread())
    assert [told(item)[:4] for item in await sent(writer.api)] == [("a visit", first.name, "read", [first.name])]
    assert first.room_id not in await visitor.joined_rooms()
    [item] = await sent(writer.api, event_id=stored["event_id"], to=first.name)
    assert item["state"] == "read"


async def test_another_daemon_after_this_one_says_the_same(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    writer, target = await attach(daemon, "writer"), await attach(daemon, "target")
    await writer.send("read", to=target.name)
    await writer.send("to all")
    await target.acknowledge(await target.unread())
    before = await sent(writer.api)
    await daemon.kill()
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"))
    for agent in (writer, target):
        synapse.lend_account(daemon.settings.paths, agent.name)
    assert await sent(daemon.api.as_agent(writer.name)) == before
    assert [item["read_by"] for item in before] == [[target.name], [target.name]]


# --- waiting until it is read


async def test_one_waits_until_the_agent_has_acknowledged(trio: tuple[Hosted, Hosted, Hosted]) -> None:
    """Lesson: Success printed, nothing delivered."""
    writer, first, second = trio
    stored = await writer.send("please read", to=first.name)
    query = {"event_id": stored["event_id"], "to": first.name, "until": "read"}
    assert [told(item)[2] for item in await sent(writer.api, **query, wait="0.1")] == ["stored"]
    waiting = asyncio.create_task(sent(writer.api, **query, wait="60"))
    unread = await first.unread()
    await writer.send("something else", to=second.name)
    await second.acknowledge(await second.unread())
    assert not waiting.done()
    await first.acknowledge(unread)
    async with asyncio.timeout(5):
        [item] = await waiting
    assert (item["state"], item["read_by"], item["answer"]) == ("read", [first.name], None)
    assert [told(item)[2] for item in await sent(writer.api, **query, wait="60")] == ["read"]


async def test_what_is_answered_was_read(trio: tuple[Hosted, Hosted, Hosted]) -> None:
    writer, first, _ = trio
    stored = await writer.send("please read", to=first.name)
    waiting = asyncio.create_task(sent(writer.api, event_id=stored["event_id"], to=first.name, until="read", wait="60"))
    await first.send("an answer", reply_to=stored["event_id"])
    async with asyncio.timeout(10):
        [item] = await waiting
    assert (item["state"], item["read_by"], item["answer"]["body"]) == ("answered", [], "an answer")


@IN_ONE_MODE
async def test_nobody_in_particular_reads_what_is_for_all(trio: tuple[Hosted, Hosted, Hosted]) -> None:
    writer, _, _ = trio
    stored = await writer.send("to all")
    query = {"event_id": stored["event_id"], "until": "read", "wait": "1"}
    refused = await writer.api.call("GET", "/sent", query=query)
    assert (refused.status, refused.code) == (400, "bad_request")


@IN_ONE_MODE
async def test_waiting_asks_the_homeserver_only_when_something_was_acknowledged(
    trio: tuple[Hosted, Hosted, Hosted], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, first, _ = trio
    asked = itertools.count()
    real = MatrixClient.get_room_account_data

    async def counted(client: MatrixClient, user_id: UserId, room_id: RoomId, kind: str) -> Json:
        next(asked)
        return await real(client, user_id, room_id, kind)

    stored = await writer.send("please read", to=first.name)
    unread = await first.unread()
    monkeypatch.setattr(MatrixClient, "get_room_account_data", counted)
    query = {"event_id": stored["event_id"], "to": first.name, "until": "read", "wait": "3"}
    assert [told(item)[2] for item in await sent(writer.api, **query)] == ["stored"]
    assert next(asked) == 2, "once at the beginning, once at the end"
    await first.acknowledge(unread)
