"""The inbox over the gateway and a real Synapse: what is unread, in which order, and that acknowledged is for ever."""

import asyncio
import os
import secrets
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from aiagentchat.agents.room_inbox import UNREAD_WINDOW
from aiagentchat.daemon import transports
from aiagentchat.matrix import appservice, wire
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import EventBatch, parse_events
from aiagentchat.space.content import CURSOR
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import (
    Hosted,
    Json,
    attach,
    messages_of,
    numbered,
    purge,
    redact,
    restart,
    say,
    say_all,
    until,
)
from tests.integration.systems import APPSERVICE_ALONE, IN_ONE_MODE, RunningDaemon, Synapse

FLOOD = {"appservice": 1_000, "accounts": 200}
"""How many messages wait for an agent, where `AIAGENTCHAT_TEST_FLOOD` does not say."""


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The operator's own Matrix client."""
    return synapse.operator_client(http)


async def push(synapse: Synapse, http: aiohttp.ClientSession, *events: Json, txn_id: str = "") -> None:
    """Push events to the daemon's receiver as the homeserver does when it repeats itself."""
    registration = synapse.registration
    url = f"{registration.url}/_matrix/app/v1/transactions/{txn_id or secrets.token_hex(4)}"
    headers = {"Authorization": f"Bearer {registration.hs_token}"}
    async with http.put(url, json={"events": events}, headers=headers) as response:
        assert response.status == 200


async def test_unread_messages_come_in_order_and_reading_acknowledges_nothing(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    await say_all(alice, agent.room_id, numbered(3))
    first = await agent.unread(wait="10")
    assert [message["body"] for message in await agent.unread()] == numbered(3)
    assert [message["body"] for message in first] == numbered(3)[: len(first)]
    assert await agent.bodies(limit="2") == numbered(2)


async def test_what_was_acknowledged_never_comes_again_even_to_a_new_daemon_on_an_empty_home(
    synapse: Synapse, start_daemon: StartDaemon, alice: MatrixClient, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await say_all(alice, agent.room_id, numbered(3))
    messages = await agent.unread()
    assert len(await agent.acknowledge(messages[:2])) == 2
    assert await agent.bodies() == numbered(3)[2:]
    await daemon.kill()
    again = agent.on(await start_daemon(synapse, synapse.settings(tmp_path / "second")))
    assert await again.bodies() == numbered(3)[2:]
    await again.acknowledge(messages)
    assert await again.bodies() == []


async def test_acknowledging_out_of_order_keeps_the_gap(
    synapse: Synapse, start_daemon: StartDaemon, alice: MatrixClient, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await say_all(alice, agent.room_id, numbered(4))
    messages = await agent.unread()
    await agent.acknowledge([messages[3]])
    await agent.acknowledge([messages[1]])
    assert await agent.bodies() == ["message 0", "message 2"]
    await daemon.kill()
    again = agent.on(await start_daemon(synapse, synapse.settings(tmp_path / "second")))
    assert await again.bodies() == ["message 0", "message 2"]


@IN_ONE_MODE
async def test_a_message_out_of_turn_beyond_what_the_cursor_holds_is_refused_until_the_oldest_is_acknowledged(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    await say_all(alice, agent.room_id, numbered(130))
    messages = await agent.unread(limit="500")
    await agent.acknowledge(messages[1:129])
    refused = await agent.api.call("POST", "/ack", {"event_ids": [messages[129]["event_id"]]})
    assert (refused.status, refused.code) == (409, "ack_window_full")
    assert messages[0]["event_id"] in refused.data["hint"]
    assert await agent.bodies() == ["message 0", "message 129"]
    await agent.acknowledge([messages[0]])
    await agent.acknowledge([messages[129]])
    assert await agent.bodies() == []


async def test_a_flood_while_the_daemon_was_down_comes_late_in_order_in_bounded_portions_and_slows_nobody(
    synapse: Synapse, start_daemon: StartDaemon, alice: MatrixClient, tmp_path: Path
) -> None:
    """Lesson: Left out of a limited timeline."""
    flood = int(os.environ.get("AIAGENTCHAT_TEST_FLOOD", FLOOD[synapse.mode]))
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent, quick, writer = await attach(daemon), await attach(daemon), await attach(daemon)
    await daemon.stop()
    await say_all(alice, agent.room_id, numbered(flood))
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"))
    again, quick, writer = (each.on(daemon) for each in (agent, quick, writer))
    calm_s = [await round_trip_s(writer, quick) for _ in range(20)]
    handed: list[str] = []

    async def drain() -> None:
        while messages := await again.unread(limit="500"):
            assert len(messages) < UNREAD_WINDOW + 100
            assert all(message["late"] for message in messages)
            handed.extend(message["body"] for message in messages)
            await again.acknowledge(messages)

    draining = asyncio.create_task(drain())
    beside_s = [await round_trip_s(writer, quick)]
    while not draining.done():
        beside_s.append(await round_trip_s(writer, quick))
    await draining
    assert handed == numbered(flood)
    ratio = median(beside_s) / median(calm_s)
    print(
        f"{flood} unread: {len(beside_s)} messages beside them took {1000 * median(beside_s):.0f} ms, before that "
        f"{1000 * median(calm_s):.0f} ms (medians; {ratio:.2f} times as long)"
    )
    assert ratio < 10  # they share the machine


async def round_trip_s(writer: Hosted, reader: Hosted) -> float:
    """Return how long it takes until what one sends was read and acknowledged by the other."""
    began = time.monotonic()
    await writer.send("quick", to=reader.name)
    messages = await reader.unread(wait="20")
    assert await reader.acknowledge(messages)
    return time.monotonic() - began


async def test_a_message_of_this_session_is_not_late_and_one_from_before_it_is(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon, session="none")
    await say(alice, agent.room_id, "before")
    stored = (await agent.unread(wait="10", peek="true"))[0]["ts"]

    async def clock_moved_on() -> bool:  # a session's beginning is known to the second
        return bool(alice.server_now_ms() > stored + 2000)

    await until(clock_moved_on)
    async with agent.api.stream("GET", "/events") as stream:
        assert [(message["body"], message["late"]) for message in await messages_of(stream, 1)] == [("before", True)]
        await say(alice, agent.room_id, "during")
        assert [(message["body"], message["late"]) for message in await messages_of(stream, 1)] == [("during", False)]


@IN_ONE_MODE
@pytest.mark.parametrize("ahead_s", [86_400, -86_400])
async def test_a_daemon_whose_clock_is_a_day_off_loses_no_message_and_calls_none_late_that_is_not(
    synapse: Synapse,
    start_daemon: StartDaemon,
    alice: MatrixClient,
    tmp_path: Path,
    ahead_s: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lesson: A clock that is off."""
    monkeypatch.setattr(wire, "time", SimpleNamespace(time=lambda: time.time() + ahead_s))
    daemon = await start_daemon(synapse, synapse.settings(tmp_path))
    agent = await attach(daemon)
    await say(alice, agent.room_id, "while nobody reads")
    async with agent.api.stream("GET", "/events") as stream:
        assert [each["body"] for each in await messages_of(stream, 1)] == ["while nobody reads"]
        await asyncio.sleep(1.1)  # a session's beginning is known to the second
        await say(alice, agent.room_id, "now")
        assert [(each["body"], each["late"]) for each in await messages_of(stream, 1)] == [("now", False)]
        await agent.acknowledge(await agent.unread())
    assert await agent.bodies() == []


async def test_a_broadcast_comes_to_every_agent_but_its_writer(daemon: RunningDaemon, alice: MatrixClient) -> None:
    writer, reader = await attach(daemon, "writer"), await attach(daemon, "reader")
    await writer.send("to all")
    [message] = await reader.unread(wait="10")
    assert (message["body"], message["broadcast"]) == ("to all", True)
    assert message["sender"] == {"user_id": writer.user_id, "name": writer.name, "kind": "agent"}
    await reader.acknowledge([message])
    broadcast = (await daemon.api.get("/health"))["system"]["broadcast_id"]
    await say(alice, broadcast, "from a person")
    for agent in (writer, reader):
        [message] = await agent.unread(wait="10")
        assert (message["body"], message["broadcast"], message["sender"]["name"]) == ("from a person", True, "alice")


async def test_both_rooms_are_merged_by_time_and_acknowledged_apart(daemon: RunningDaemon) -> None:
    agent = await attach(daemon)
    bodies = numbered(4)
    for number, body in enumerate(bodies):
        await daemon.api.post("/send", body=body, **({"to": agent.name} if number % 2 else {}))
    messages = await agent.unread()
    assert [message["body"] for message in messages] == bodies
    await agent.acknowledge([messages[0], messages[3]])
    assert await agent.bodies() == bodies[1:3]


async def test_an_agent_never_reads_what_it_wrote_itself(daemon: RunningDaemon, alice: MatrixClient) -> None:
    agent = await attach(daemon)
    asked = await say(alice, agent.room_id, "a question")
    await agent.send("its answer", reply_to=asked)
    await agent.send("to all")
    assert await agent.bodies() == ["a question"]


async def test_a_message_is_what_a_persons_own_client_sent(daemon: RunningDaemon, alice: MatrixClient) -> None:
    agent = await attach(daemon)
    root = await say(
        alice, agent.room_id, "see <b>this</b>", format="org.matrix.custom.html", formatted_body="<b>x</b>"
    )
    in_thread = {"rel_type": "m.thread", "event_id": root, "m.in_reply_to": {"event_id": root}}
    await say(alice, agent.room_id, "in a thread", **{"m.relates_to": in_thread})
    await say(alice, agent.room_id, "cat.png", msgtype="m.image", url="mxc://example.org/cat")
    first, threaded, image = await agent.unread()
    assert first["sender"] == {"user_id": "@alice:example.org", "name": "alice", "kind": "person"}
    assert (first["body"], first["format"]) == ("see <b>this</b>", "html")
    assert (threaded["thread"], threaded["in_reply_to"]) == (root, {"room_id": agent.room_id, "event_id": root})
    assert image["body"] == "[image] cat.png"


@APPSERVICE_ALONE  # nothing is pushed to accounts
async def test_an_event_pushed_again_is_handed_once_even_long_after_it_was_acknowledged(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        ids = await say_all(alice, agent.room_id, numbered(80))
        raw = await alice.get_event(agent.room_id, ids[0]) | {"room_id": agent.room_id}
        for _ in range(2):
            await push(synapse, http, raw)
        messages = await messages_of(stream, 80)
        assert [message["event_id"] for message in messages] == ids
        await agent.acknowledge(messages)  # the cursor's anchor is past the first
        await push(synapse, http, raw)
        await say(alice, agent.room_id, "the next")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["the next"]


@APPSERVICE_ALONE  # nothing is pushed to accounts
async def test_a_backlog_of_what_a_former_daemon_saw_acknowledged_is_not_handed_out(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, alice: MatrixClient, tmp_path: Path
) -> None:
    """Lesson: Old events taken for new ones."""
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    ids = await say_all(alice, agent.room_id, numbered(80))
    await agent.acknowledge(await agent.unread())
    await daemon.kill()
    again = agent.on(await start_daemon(synapse, synapse.settings(tmp_path / "second")))
    async with again.api.stream("GET", "/events") as stream:
        for event_id in (ids[0], ids[-1]):
            await push(synapse, http, await alice.get_event(agent.room_id, event_id) | {"room_id": agent.room_id})
        await say(alice, agent.room_id, "the next")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["the next"]


async def test_of_many_concurrent_writers_every_message_comes_once_and_none_that_was_acknowledged_again(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, alice: MatrixClient, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    writers = await asyncio.gather(*(attach(daemon, "writer") for _ in range(6)))
    async with agent.api.stream("GET", "/events") as stream:
        # Each agent's first message comes with an invite and a join: state, in the midst of other clients' messages.
        firsts = [writer.send(f"first of {writer.name}", to=agent.name) for writer in writers]
        stored, said = await asyncio.gather(
            asyncio.gather(*firsts), asyncio.gather(*(say(alice, agent.room_id, body) for body in numbered(30)))
        )
        expected = {sent["event_id"] for sent in stored} | set(said)
        messages = await messages_of(stream, len(expected))
        assert {message["event_id"] for message in messages} == expected
        await agent.acknowledge(messages[:30])
    assert {message["event_id"] for message in await agent.unread()} == {m["event_id"] for m in messages[30:]}
    await daemon.kill()
    again = agent.on(await start_daemon(synapse, synapse.settings(tmp_path / "second")))
    assert {message["event_id"] for message in await again.unread()} == {m["event_id"] for m in messages[30:]}


@IN_ONE_MODE
async def test_a_message_that_was_taken_back_before_it_was_read_is_not_handed_out(
    daemon: RunningDaemon, synapse: Synapse, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await say(alice, agent.room_id, "stays")
        wrong = await say(alice, agent.room_id, "taken back")
        await messages_of(stream, 2)
        await redact(synapse, agent.room_id, wrong)
        await say(alice, agent.room_id, "after it")
        await messages_of(stream, 1)
    assert await agent.bodies() == ["stays", "after it"]


@IN_ONE_MODE
async def test_a_cursor_whose_event_was_taken_back_still_holds(
    synapse: Synapse, start_daemon: StartDaemon, alice: MatrixClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await say_all(alice, agent.room_id, numbered(141))
    messages = await agent.unread(limit="200")
    await agent.acknowledge(messages[:140])
    cursor = await synapse.agent_client(http, agent.name).get_room_account_data(agent.user_id, agent.room_id, CURSOR)
    [place] = [place for place, message in enumerate(messages) if message["event_id"] == cursor["anchor"]]
    await daemon.kill()
    for message in messages[place - 2 : place + 3]:
        await redact(synapse, agent.room_id, message["event_id"])
    again = agent.on(await start_daemon(synapse, synapse.settings(tmp_path / "second")))
    assert await again.bodies() == ["message 140"]


@IN_ONE_MODE
@pytest.mark.parametrize("acked", [80, 140])  # the anchor is the join, which a purge keeps as state; a message
async def test_a_cursor_whose_event_was_purged_loses_nothing_that_is_left_and_health_says_so(
    synapse: Synapse, start_daemon: StartDaemon, alice: MatrixClient, tmp_path: Path, acked: int
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await say_all(alice, agent.room_id, numbered(acked + 3))
    for _ in range(0, acked, 20):
        messages = await agent.unread()
        await agent.acknowledge(messages[:20])
    await daemon.kill()
    await purge(synapse, agent.room_id, messages[10]["event_id"])
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"))
    again = agent.on(daemon)
    assert await again.bodies() == numbered(acked + 3)[acked:]
    [condition] = [each for each in (await daemon.api.get("/health"))["conditions"] if each["name"] == "cursors"]
    assert not condition["ok"]
    assert agent.name in condition["detail"]
    await again.acknowledge(messages[20:])
    assert await again.bodies() == []


@APPSERVICE_ALONE  # nothing is pushed to accounts
async def test_what_a_killed_homeserver_never_pushed_reaches_who_waits_and_who_comes(
    daemon: RunningDaemon,
    synapse: Synapse,
    alice: MatrixClient,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = await attach(daemon)
    await say(alice, agent.room_id, "heard")
    unheard = asyncio.Event()

    def forget(raw: object) -> EventBatch:
        if any(event.content.get("body") == "unheard" for event in parse_events(raw).events):
            unheard.set()
        return EventBatch(())

    async def say_unheard() -> None:
        unheard.clear()
        with monkeypatch.context() as patched:
            patched.setattr(appservice, "parse_events", forget)
            await say(alice, agent.room_id, "unheard")
            await asyncio.wait_for(unheard.wait(), 30)

    async with agent.api.stream("GET", "/events") as stream:
        assert [message["body"] for message in await messages_of(stream, 1)] == ["heard"]
        await say_unheard()
        await push(synapse, http, txn_id="0")  # it was killed, and counts anew
        assert [message["body"] for message in await messages_of(stream, 1)] == ["unheard"]
    await say_unheard()
    assert await agent.bodies() == ["heard", "unheard", "unheard"]


async def test_who_waits_is_answered_while_the_homeserver_holds_back_what_it_pushes(
    own_synapse: Synapse,
    start_daemon: StartDaemon,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an older one does for minutes, whatever the ping said, when it had found no daemon for a while."""

    async def refuse(self: appservice.AppserviceReceiver, request: web.Request) -> web.Response:
        return web.json_response({}, status=503)

    monkeypatch.setattr(appservice.AppserviceReceiver, "_transaction", refuse)
    monkeypatch.setattr(transports, "_HELD_BACK_POLL_S", 0.1)
    daemon, alice = await start_daemon(own_synapse, own_synapse.settings(tmp_path)), own_synapse.operator_client(http)
    agent = await attach(daemon)
    await say(alice, agent.room_id, "before")
    async with agent.api.stream("GET", "/events") as stream:
        assert [message["body"] for message in await messages_of(stream, 1)] == ["before"]
        await say(alice, agent.room_id, "held back")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["held back"]


async def test_messages_from_after_a_restart_of_the_homeserver_arrive(
    own_synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    alice = own_synapse.operator_client(http)
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await say(alice, agent.room_id, "before")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["before"]
        await restart(own_synapse)  # it counts its transactions from 1 again
        await say(alice, agent.room_id, "after")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["after"]


@APPSERVICE_ALONE  # nothing is pushed to accounts
async def test_what_comes_after_a_transaction_that_is_missing_is_handed_out_after_what_that_would_have_brought(
    daemon: RunningDaemon,
    synapse: Synapse,
    alice: MatrixClient,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent, other = await attach(daemon), await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await say(alice, agent.room_id, "first")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["first"]
        await asyncio.sleep(3.0)  # what is pushed now is appended, unless it is doubted
        with monkeypatch.context() as patched:
            patched.setattr(appservice, "parse_events", lambda raw: EventBatch(()))
            missing = await say(alice, agent.room_id, "missing")
            elsewhere = await alice.get_event(other.room_id, await say(alice, other.room_id, "elsewhere"))
            later = await alice.get_event(agent.room_id, await say(alice, agent.room_id, "later"))
            await asyncio.sleep(1.0)  # all three were pushed, and not taken in
        await push(synapse, http, elsewhere, txn_id="1000000")
        await push(synapse, http, later, txn_id="1000001")
        handed = await messages_of(stream, 2)
        assert [message["body"] for message in handed] == ["missing", "later"]
        assert handed[0]["event_id"] == missing
