"""What the operator sees of agents' rooms through the gateway: what was written, what goes on, and all at a glance."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiagentchat.agents import onlooker
from aiagentchat.agents.onlooker import Onlooker
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.matrix.sync import get_receipt
from aiagentchat.model import EventId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, redact, say, say_all, until
from tests.integration.systems import APPSERVICE_ALONE, IN_ONE_MODE, WAIT_S, RunningDaemon, Synapse, running_daemon
from tests.integration.test_asides import OPTIONS
from tests.integration.test_external_agent import Bot, bot, is_online

__all__ = ["bot"]  # a fixture


@pytest.fixture
async def agent(daemon: RunningDaemon) -> Hosted:
    return await attach(daemon, session="none")


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    return synapse.operator_client(http)


async def edit(client: MatrixClient, agent: Hosted, event_id: EventId, body: str) -> EventId:
    relation = {"rel_type": "m.replace", "event_id": event_id}
    fields = {"m.new_content": {"msgtype": "m.text", "body": body}, "m.relates_to": relation}
    return await say(client, agent.room_id, f"* {body}", **fields)


async def history(daemon: RunningDaemon, name: str, **query: str) -> list[Json]:
    return list((await daemon.api.get(f"/rooms/{name}/messages", **query))["messages"])


async def overview(daemon: RunningDaemon) -> dict[str, Json]:
    return {agent["name"]: agent for agent in (await daemon.api.get("/overview"))["agents"]}


class Seen:
    """What a stream has told."""

    def __init__(self, stream: AsyncIterator[tuple[str, Any]]) -> None:
        self._stream = stream
        self.all: list[tuple[str, Any]] = []

    async def upto(self, event: str, **wanted: object) -> Json:
        """Return the first event of a kind from now on that has these fields."""
        async with asyncio.timeout(WAIT_S):
            async for kind, data in self._stream:
                self.all.append((kind, data))
                if kind == event and all(data[name] == value for name, value in wanted.items()):
                    return dict(data)
        raise AssertionError(f"the stream has ended without {event}: {self.all}")

    def of(self, event: str) -> list[Json]:
        return [data for kind, data in self.all if kind == event]


@contextlib.asynccontextmanager
async def looking_on(daemon: RunningDaemon, name: str, limit: int = 20) -> AsyncIterator[Seen]:
    async with daemon.api.stream("GET", f"/rooms/{name}/events?limit={limit}") as stream:
        seen = Seen(stream)
        await seen.upto("live")
        yield seen


# --- what was written


@IN_ONE_MODE
async def test_a_rooms_history_has_what_all_wrote_as_it_reads_now(
    daemon: RunningDaemon, agent: Hosted, alice: MatrixClient, synapse: Synapse
) -> None:
    other = await attach(daemon, "other", session="none")
    first = await say(alice, agent.room_id, "Is mian green?")
    await edit(alice, agent, first, "Is main green?")
    await agent.send("Yes.", reply_to=first)
    gone = await say(alice, agent.room_id, "a slip")
    await redact(synapse, agent.room_id, gone)
    asked = (await other.send("Please review", to=agent.name))["event_id"]
    await say(alice, agent.room_id, "Thanks.")
    said = [
        ("alice", "Is main green?"),
        (agent.name, "Yes."),
        (other.name, "Please review"),
        ("alice", "Thanks."),
    ]

    async def is_told() -> bool:
        told = await history(daemon, agent.name)
        return [(each["sender"]["name"], each["body"]) for each in told] == said

    await until(is_told)  # of several processes, the one asked knows an edit a moment later
    told = await history(daemon, agent.name)
    assert told[1]["in_reply_to"] == {"room_id": agent.room_id, "event_id": first}
    before = await history(daemon, agent.name, before=asked, limit="1")
    assert [each["body"] for each in before] == ["Yes."]
    assert (await daemon.api.get("/who"))["agents"]
    assert {name: each["status"] for name, each in (await overview(daemon)).items() if name == agent.name} == {
        agent.name: "offline"  # to be looked at is no session
    }
    assert await agent.bodies(peek="true") == ["Is main green?", "Please review", "Thanks."]  # nothing was acknowledged


@APPSERVICE_ALONE  # all of it is asked of the homeserver, in both modes alike
async def test_history_goes_back_further_than_a_page_and_says_what_is_not_there(
    daemon: RunningDaemon, agent: Hosted, alice: MatrixClient
) -> None:
    first = await say(alice, agent.room_id, "0")
    for number in range(120):  # no messages to who looks back
        await edit(alice, agent, first, f"0.{number}")
    await say_all(alice, agent.room_id, ["1", "2"])
    assert [each["body"] for each in await history(daemon, agent.name)] == ["0.119", "1", "2"]
    for path, code in (
        ("/rooms/nobody-of-that-name/messages", "agent_not_found"),
        ("/rooms/nobody-of-that-name/events", "agent_not_found"),
        ("/rooms/Not%20A%20Name/messages", "bad_name"),
        (f"/rooms/{agent.name}/messages?before=$none", "not_found"),
    ):
        assert (await daemon.api.call("GET", path)).data["code"] == code


# --- what goes on


async def test_the_operator_sees_what_is_written_changed_taken_back_read_and_done_in_a_room(
    daemon: RunningDaemon, agent: Hosted, alice: MatrixClient, synapse: Synapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onlooker, "_LOOK_ANYWAY_S", 600.0)  # it comes by itself
    old = await say(alice, agent.room_id, "from before")
    await agent.acknowledge(await agent.unread())
    async with looking_on(daemon, agent.name) as seen:
        assert [each["body"] for each in seen.of("message")] == ["from before"]
        assert [each["event_ids"] for each in seen.of("read")] == [[old]]
        assert (await seen.upto("state")) == {"status": "offline", "status_line": "", "typing": False}
        new = (await daemon.api.post("/send", body="Is mian green?", to=agent.name))["event_id"]
        assert (await seen.upto("message"))["event_id"] == new
        await edit(alice, agent, EventId(new), "Is main green?")
        edited = await seen.upto("edited")
        assert (edited["event_id"], edited["sender"]["name"], edited["body"]) == (new, "alice", "Is main green?")
        async with agent.api.stream("GET", "/events"):
            await seen.upto("state", status="online")
            await agent.api.call("PUT", "/status", {"line": "thinking", "typing_s": 3})
            await seen.upto("state", typing=True, status_line="thinking")
            await seen.upto("state", typing=False)  # by itself, after 3 s
            await agent.api.call("PUT", "/status", {"typing_s": 30})
            await seen.upto("state", typing=True)
            await agent.api.call("PUT", "/status", {"typing_s": 0})
            await seen.upto("state", typing=False)
        await agent.acknowledge([{"event_id": new}])
        assert new in (await seen.upto("read"))["event_ids"]
        answer = (await agent.send("Yes.", reply_to=new))["event_id"]
        assert (await seen.upto("message"))["in_reply_to"]["event_id"] == new
        for event_id in (new, answer):  # one of her own, and one of the agent's
            await redact(synapse, agent.room_id, EventId(event_id))
            assert (await seen.upto("removed", event_id=event_id))["sender"]["name"] == "alice"
        assert [each["body"] for each in seen.of("message")] == ["from before", "Is mian green?", "Yes."]


@IN_ONE_MODE
async def test_what_is_shown_is_read_by_the_operator_where_that_is_asked_for(
    daemon: RunningDaemon, agent: Hosted, alice: MatrixClient, synapse: Synapse
) -> None:
    async def receipt() -> EventId | None:
        return await get_receipt(alice, agent.room_id, synapse.operator.user_id)

    [asked] = await say_all(alice, agent.room_id, ["hello"])
    async with looking_on(daemon, agent.name) as seen:
        shown = [(await agent.send(body, reply_to=asked))["event_id"] for body in ("one", "two")]
        await seen.upto("message", event_id=shown[-1])
    assert await receipt() not in (asked, *shown)

    async def has_read(event_id: str) -> None:
        async def is_so() -> bool:
            return await receipt() == event_id

        await until(is_so)

    async with daemon.api.stream("GET", f"/rooms/{agent.name}/events?receipts=true") as stream:
        seen = Seen(stream)
        await seen.upto("state")
        await has_read(shown[-1])
        await has_read((await agent.send("three", reply_to=asked))["event_id"])


async def test_what_did_not_arrive_by_itself_is_read_from_the_room(
    daemon: RunningDaemon, agent: Hosted, alice: MatrixClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(alice, agent.room_id, "from before")
    whole = Onlooker.tell
    monkeypatch.setattr(
        Onlooker, "tell", lambda self, room, each: None if isinstance(each, RoomEvent) else whole(self, room, each)
    )
    monkeypatch.setattr(onlooker, "_LOOK_ANYWAY_S", 0.5)
    async with looking_on(daemon, agent.name, limit=0) as seen:
        assert seen.of("message") == []
        told = await say_all(alice, agent.room_id, [str(number) for number in range(110)])
        await seen.upto("message", body="109")
        assert [each["event_id"] for each in seen.of("message")] == told


@IN_ONE_MODE
async def test_an_approval_is_shown_with_answers_that_give_its_options_and_with_what_came_of_it(
    daemon: RunningDaemon, agent: Hosted
) -> None:
    given = [*OPTIONS, {"id": "odd", "name": "no-id", "kind": "allow_always"}]  # as another is called by its id
    body = {"body": "May I?", "options": given, "timeout_s": 60, "key": "k"}
    async with looking_on(daemon, agent.name) as seen:
        asking = asyncio.create_task(agent.api.call("POST", "/approvals", body))
        asked = await seen.upto("approval")
        assert asked["body"] == "May I?"
        assert [each["answer"] for each in asked["choices"]] == ["Allow", "Always allow", "Reject", "4"]
        async with looking_on(daemon, agent.name) as later:
            assert later.of("approval") == [asked]
        await daemon.api.post("/send", body=asked["choices"][3]["answer"], reply_to=asked["event_id"])
        assert (await asyncio.wait_for(asking, WAIT_S)).data["option"] == "odd"
        settled = await seen.upto("settled")
        assert settled["event_id"] == asked["event_id"]
        assert "no-id" in settled["outcome"]
        withdrawn = asyncio.create_task(agent.api.call("POST", "/approvals", body | {"key": "k2"}))
        await seen.upto("approval")
        withdrawn.cancel()
        assert "Withdrawn" in (await seen.upto("settled"))["outcome"]
        async with looking_on(daemon, agent.name) as later:
            assert later.of("approval") == []


@IN_ONE_MODE
async def test_the_room_of_somebody_elses_agent_is_looked_at(daemon: RunningDaemon, bot: Bot) -> None:
    await until(lambda: is_online(daemon, bot))
    refused = await daemon.api.call("GET", f"/rooms/{bot.name}/messages")
    assert (refused.status, refused.data["code"]) == (403, "forbidden")
    await daemon.api.post("/send", body="hello", to=bot.name)  # which has the operator join
    async with looking_on(daemon, bot.name) as seen:
        await daemon.api.post("/send", body="are you there", to=bot.name)
        await seen.upto("message", body="ARE YOU THERE")
    assert [each["body"] for each in await history(daemon, bot.name)][-2:] == ["are you there", "ARE YOU THERE"]


# --- all at a glance


@IN_ONE_MODE
async def test_the_overview_says_what_is_unread_what_was_said_last_and_how_much(
    daemon: RunningDaemon, agent: Hosted, alice: MatrixClient
) -> None:
    silent = await attach(daemon, "silent", session="none")
    assert (await overview(daemon))[silent.name] == {
        "name": silent.name,
        "kind": "persistent",
        "status": "offline",
        "reach": "none",
        "status_line": "",
        "unread": None,
        "unread_more": False,
        "per_minute": 0,
        "last": None,
    }
    first, *_ = await say_all(alice, agent.room_id, ["one", "two", "three"])

    async def knows(name: str, **wanted: object) -> None:
        async def is_so() -> bool:
            entry = (await overview(daemon))[name]
            if {field: entry[field] for field in wanted} == wanted:
                return True
            if (await daemon.api.get("/overview"))["stalled"]:  # Synapse may hold back its latest event until the next
                await say(alice, silent.room_id, "meanwhile")
            return False

        await until(is_so)

    await knows(agent.name, unread=3, unread_more=True, per_minute=3)  # at least: nobody has read since the start
    assert (await overview(daemon))[agent.name]["last"]["body"] == "three"
    await agent.acknowledge([{"event_id": first}])
    await knows(agent.name, unread=2, unread_more=False)
    await agent.send("done", reply_to=first)
    await knows(agent.name, per_minute=4)
    last = (await overview(daemon))[agent.name]["last"]
    assert (last["sender"]["name"], last["body"]) == (agent.name, "done")


@IN_ONE_MODE
async def test_the_overview_knows_what_was_said_before_the_daemon_started(
    synapse: Synapse, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    settings = synapse.settings(tmp_path)
    async with running_daemon(synapse, settings) as daemon:
        agents = [await attach(daemon, session="none") for _ in range(3)]
        for each in agents:
            await daemon.api.post("/send", body=f"to {each.name}", to=each.name)
    daemon = await start_daemon(synapse, settings)
    told = {each.name: f"to {each.name}" for each in agents}

    async def is_known() -> bool:
        known = await overview(daemon)
        return {name: (known[name]["last"] or {}).get("body") for name in told} == told

    await until(is_known)
    known = await overview(daemon)
    assert {known[each.name]["unread"] for each in agents} == {None}


@APPSERVICE_ALONE  # what it costs is the same in both modes
async def test_the_overview_costs_as_much_for_many_agents_as_for_few(daemon: RunningDaemon) -> None:
    async def requests() -> float:
        metrics = (await daemon.api.call("GET", "/metrics")).data
        found = re.search(r"^aiagentchat_homeserver_requests_total ([\d.]+)$", metrics, re.MULTILINE)
        assert found
        return float(found[1])

    for _ in range(8):
        await attach(daemon, session="none")
    before = await requests()
    for _ in range(20):
        await overview(daemon)
    assert await requests() - before < 8  # one of them is ours; the daemon itself has a few
