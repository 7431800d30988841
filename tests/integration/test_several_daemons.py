"""Several daemons in one Space: each with a registration of its own, on one homeserver."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from aiagentchat.agents import heartbeat
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.model import RoomId, UserId
from aiagentchat.registration import read_registration
from aiagentchat.space import others
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, attach, messages_of, until
from tests.integration.systems import RunningDaemon, Synapse, fresh_name, start_synapse
from tests.integration.test_janitor import clear

FURTHER = "aiagentchat.ci"
Json = dict[str, Any]


def write_registration(path: Path, server: str) -> None:
    """Write the registration of a further daemon."""
    prefix, name = re.escape(FURTHER), re.escape(server)
    namespaces = {
        kind: [{"exclusive": True, "regex": f"{sigil}{prefix}-[^:]*:{name}$"}]
        for kind, sigil in (("users", "@"), ("aliases", "#"))
    }
    path.write_text(
        yaml.safe_dump(
            {
                "id": FURTHER,
                "url": f"http://127.0.0.1:{any_free_port()}",
                "as_token": "as-token-of-the-further-daemon",
                "hs_token": "hs-token-of-the-further-daemon",
                "sender_localpart": FURTHER,
                "rate_limited": False,
                "receive_ephemeral": True,
                "io.element.msc4190": True,
                "namespaces": namespaces,
            }
        )
    )


@dataclass(frozen=True)
class Pair:
    """The daemon that makes the Space, and a further one."""

    synapse: Synapse
    first: RunningDaemon
    further: RunningDaemon


@contextlib.asynccontextmanager
async def two_services(tmp_path: Path, **settings: Any) -> AsyncIterator[Synapse]:
    """Run a homeserver that knows two application services."""
    home, registration = tmp_path / "synapse", tmp_path / "further.yaml"
    write_registration(registration, "example.org")
    files = [str(home / "homeserver" / "registration.yaml"), str(registration)]
    system = await start_synapse(home, app_service_config_files=files, **settings)
    yield system
    await system.stop()


@pytest.fixture
async def synapse(tmp_path: Path) -> AsyncIterator[Synapse]:
    async with two_services(tmp_path) as system:
        yield system


def further(synapse: Synapse, tmp_path: Path) -> Synapse:
    """Return the same homeserver as the further daemon sees it."""
    return replace(synapse, given_registration=read_registration(tmp_path / "further.yaml"))


@pytest.fixture
async def pair(synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path) -> Pair:
    """Both daemons; the first was told of the further one, which has no operator of its own."""
    daemons = {"AIAGENTCHAT_DAEMONS": f"@{FURTHER}:example.org"}
    first = await start_daemon(synapse, synapse.settings(tmp_path / "first", **daemons))
    there = further(synapse, tmp_path)
    settings = there.settings(tmp_path / "further")
    settings.paths.operator_device.unlink()
    return Pair(synapse, first, await start_daemon(there, settings))


async def who(daemon: RunningDaemon) -> dict[str, Json]:
    return {entry["name"]: entry for entry in (await daemon.api.get("/who"))["agents"]}


async def until_listed(daemon: RunningDaemon, name: str, **wanted: object) -> None:
    async def is_so() -> bool:
        entry = (await who(daemon)).get(name)
        return entry is not None and {key: entry[key] for key in wanted} == wanted

    await until(is_so)


async def talk(one: Hosted, other: Hosted) -> None:
    """Have one ask and the other answer, each daemon's agent in turn."""
    async with other.api.stream("GET", "/events") as stream:
        asked = await one.send("is main green?", to=other.name)
        [question] = await messages_of(stream, 1)
    assert (question["body"], question["sender"]["name"], question["sender"]["kind"]) == (
        "is main green?",
        one.name,
        "agent",
    )
    await other.acknowledge([question])
    waiting = asyncio.create_task(one.api.get("/sent", event_id=asked["event_id"], to=other.name, wait="20"))
    answered = await other.send("it is", reply_to=asked["event_id"])
    [sent] = (await waiting)["messages"]
    assert (sent["state"], sent["answer"]["body"]) == ("answered", "it is")
    assert answered["room_id"] == one.room_id
    await one.acknowledge(await one.unread(wait="10"))


async def test_agents_of_two_daemons_find_each_other_and_talk(pair: Pair) -> None:
    here, there = await attach(pair.first, "here"), await attach(pair.further, "there")
    assert there.user_id == f"@{FURTHER}-{there.name}:example.org"
    for daemon in (pair.first, pair.further):
        for agent in (here, there):
            await until_listed(daemon, agent.name, status="online", room_id=agent.room_id)
    await talk(here, there)
    await talk(there, here)
    await here.send("to all", key="k")
    assert "to all" in [message["body"] for message in await there.unread(wait="10")]
    await pair.further.stop()
    await until_listed(pair.first, there.name, status="offline")
    stored = await here.send("for later", to=there.name)
    assert stored["room_id"] == there.room_id


async def test_a_message_to_another_daemons_agent_is_stored_then_read(pair: Pair) -> None:
    here, there = await attach(pair.first, "here"), await attach(pair.further, "there")
    await until_listed(pair.first, there.name)
    first, second = [await here.send(body, to=there.name) for body in ("one", "two")]

    async def states() -> list[str]:
        sent = (await here.api.get("/sent", to=there.name))["messages"]
        return [each["state"] for each in sent]

    assert await states() == ["stored", "stored"]
    await there.acknowledge((await there.unread(wait="10"))[:1])

    async def is_read() -> bool:
        return await states() == ["stored", "read"]

    await until(is_read)
    assert (first["room_id"], second["room_id"]) == (there.room_id, there.room_id)


async def test_a_name_that_a_live_daemon_hosts_is_refused_and_can_be_taken_over(pair: Pair) -> None:
    theirs = await attach(pair.first, "worker")
    await until_listed(pair.further, theirs.name, status="online")
    refused = await pair.further.api.call("POST", "/agents", {"name": theirs.name})
    assert (refused.status, refused.code) == (409, "name_taken")
    assert "--take-over" in refused.data["hint"]
    await pair.first.api.post("/send", body="unread", to=theirs.name)

    taken = await pair.further.api.post("/agents", name=theirs.name, take_over=True)
    assert taken["taken_over_from"] == f"#aiagentchat-{theirs.name}:example.org"
    assert taken["room_id"] != theirs.room_id
    for daemon in (pair.first, pair.further):
        await until_listed(daemon, theirs.name, room_id=taken["room_id"], status="online")
    health = await pair.first.api.get("/health")
    assert theirs.name not in health["system"]["agents"], "its session is over"
    stored = await pair.first.api.post("/send", body="to whoever has the name now", to=theirs.name)
    assert stored["room_id"] == taken["room_id"]
    left = (await pair.first.api.as_agent(theirs.name).get("/read"))["messages"]
    assert [message["body"] for message in left] == ["unread"]

    again = await pair.first.api.call("POST", "/agents", {"name": theirs.name})
    assert (again.status, again.code) == (409, "name_taken")


async def test_the_name_of_a_daemon_that_is_gone_is_free(pair: Pair) -> None:
    theirs = await attach(pair.further, "worker")
    await until_listed(pair.first, theirs.name, status="online")
    await pair.further.stop()
    await until_listed(pair.first, theirs.name, status="offline")
    mine = await pair.first.api.post("/agents", name=theirs.name)
    assert mine["taken_over_from"] == f"#{FURTHER}-{theirs.name}:example.org"
    await until_listed(pair.first, theirs.name, status="online", room_id=mine["room_id"])


async def test_each_daemon_clears_away_its_own_passing_sessions_and_no_others(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    over = {"AIAGENTCHAT_EPHEMERAL_TTL": "1"}
    daemons = {"AIAGENTCHAT_DAEMONS": f"@{FURTHER}:example.org"}
    first = await start_daemon(synapse, synapse.settings(tmp_path / "first", **daemons, **over))
    there = further(synapse, tmp_path)
    second = await start_daemon(there, there.settings(tmp_path / "further", **over))
    here, other = [await attach(daemon, kind="ephemeral", session="none") for daemon in (first, second)]
    online = await attach(second, "online", kind="ephemeral")
    await until_listed(first, online.name, status="online")
    await asyncio.sleep(2.0)
    for daemon, own in ((first, here), (second, other)):
        assert list(await clear(daemon, here, other, online, dry_run=True)) == [own.name]
    done = await asyncio.gather(*(clear(daemon, here, other, online) for daemon in (first, second)))
    assert [{name: each["state"] for name, each in found.items()} for found in done] == [
        {here.name: "cleared"},
        {other.name: "cleared"},
    ]
    rooms = await synapse.operator_client(http).joined_rooms()
    assert [room in rooms for room in (here.room_id, other.room_id, online.room_id)] == [False, False, True]


async def test_without_being_invited_a_further_daemon_waits_and_says_what_it_needs(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    there = further(synapse, tmp_path)
    settings = there.settings(tmp_path / "further")
    settings.paths.operator_device.unlink()
    daemon = await start_daemon(there, settings, ready=False)

    async def said(text: str) -> bool:
        return text in (await daemon.api.get("/who"))["unavailable"]

    await until(lambda: said("there is no Space #aiagentchat:example.org yet"))
    first = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    await until(lambda: said(f"@{FURTHER}:example.org is not invited"))
    agent = await attach(daemon, "early")
    space = RoomId((await first.api.get("/health"))["system"]["space_id"])
    await synapse.operator_client(http).invite(space, UserId(f"@{FURTHER}:example.org"))
    await daemon.wait_ready()
    health = {each["name"]: each for each in (await daemon.api.get("/health"))["conditions"]}
    assert not health["registration"]["ok"], "its agents need an invite as well"
    assert agent.name in health["registration"]["detail"]


async def test_the_operators_device_invites_a_further_daemon_and_its_agents(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    first = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    there = further(synapse, tmp_path)
    daemon = await start_daemon(there, there.settings(tmp_path / "further"))
    here, agent = await attach(first, "here"), await attach(daemon, "there")
    name = fresh_name("another")
    await attach(daemon, name=name)
    for each in (agent.name, name):
        await until_listed(first, each, status="online")
    await talk(agent, here)  # whose room is by invite alone: the operator is a moderator there
    await talk(here, agent)


async def test_on_a_homeserver_without_presence_a_lease_event_says_that_a_daemon_lives(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "LEASE_EVENT_S", 1.0)
    monkeypatch.setattr(others, "_LEASE_EVENT_LAPSES_MS", 4_000)
    monkeypatch.setattr(others, "_LEASE_CACHED_S", 0.1)
    async with two_services(tmp_path, presence={"enabled": False}) as synapse:
        first = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
        there = further(synapse, tmp_path)
        daemon = await start_daemon(there, there.settings(tmp_path / "further"))
        agent, other = await attach(first, "here"), await attach(daemon, "there")
        for each in (first, daemon):
            for name in (agent.name, other.name):
                await until_listed(each, name, status="online")
        await daemon.kill()
        await until_listed(first, other.name, status="offline")  # nobody said so: its lease event is old
        assert (await first.api.get("/health"))["status"] == "ok"
        again = await start_daemon(there, there.settings(tmp_path / "again"))
        await attach(again, name=other.name)
        await until_listed(first, other.name, status="online")
        await again.stop()
        await until_listed(first, other.name, status="offline")
