"""Hosted agents over the gateway and a real Synapse: sessions and readers, strange rooms, encrypted rooms."""

import asyncio
import dataclasses
import random
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.hosted import Wish
from aiagentchat.agents.sessions import Sessions
from aiagentchat.errors import MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId, UserId
from aiagentchat.space.content import CARD, ROSTER
from aiagentchat.space.names import broadcast_alias
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, messages_of, person, say, until
from tests.integration.spaces import NAMING, fresh_alias, make_by_hand, manager_of
from tests.integration.systems import (
    ACCOUNTS_ALONE,
    APPSERVICE_ALONE,
    IN_ONE_MODE,
    WAIT_S,
    Api,
    RunningDaemon,
    Synapse,
    fresh_name,
)


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The operator's own Matrix client."""
    return synapse.operator_client(http)


async def entry_of(api: Api, name: str) -> Json | None:
    found = [agent for agent in (await api.get("/who"))["agents"] if agent["name"] == name]
    return found[0] if found else None


async def status_of(api: Api, name: str) -> str:
    entry = await entry_of(api, name)
    return "unknown" if entry is None else str(entry["status"])


async def until_status(api: Api, name: str, status: str) -> None:
    async def is_so() -> bool:
        return await status_of(api, name) == status

    await until(is_so)


async def next_event(stream: AsyncIterator[tuple[str, Any]]) -> tuple[str, Any]:
    async with asyncio.timeout(WAIT_S):
        return await anext(stream)


async def rest_of(stream: AsyncIterator[tuple[str, Any]]) -> list[str]:
    """Return the names of the events until the stream ends, which it has to do."""
    async with asyncio.timeout(WAIT_S):
        return [event async for event, _ in stream]


# --- sessions


@IN_ONE_MODE
async def test_a_held_session_lasts_as_long_as_its_connection(daemon: RunningDaemon) -> None:
    name = fresh_name()
    async with daemon.api.stream("POST", "/agents", {"name": name, "session": "held"}) as stream:
        event, attached = await next_event(stream)
        assert (event, attached["name"], attached["registered"]) == ("attached", name, True)
        assert await status_of(daemon.api, name) == "online"
    await until_status(daemon.api, name, "offline")
    entry = await entry_of(daemon.api, name)
    assert entry is not None
    assert (entry["reach"], entry["last_seen_ts"] is None) == ("none", False)


async def test_a_leave_ends_held_sessions_streams_and_waiting_readers(daemon: RunningDaemon) -> None:
    agent = await attach(daemon, session="none")
    held = daemon.api.stream("POST", "/agents", {"name": agent.name, "session": "held"})
    async with held as holding, agent.api.stream("GET", "/events") as streaming:
        assert (await next_event(holding))[0] == "attached"
        await daemon.api.call("DELETE", f"/agents/{agent.name}")
        assert await rest_of(holding) == ["ended"]
        assert await rest_of(streaming) == ["ended"]
    assert await status_of(daemon.api, agent.name) == "offline"
    again = await attach(daemon, name=agent.name)
    assert await again.bodies() == []
    waiting = asyncio.create_task(wait_for_messages(again))
    await until_busy(again)
    await daemon.api.call("DELETE", f"/agents/{agent.name}")
    async with asyncio.timeout(WAIT_S):
        assert await waiting == []
    anew = await attach(daemon, name=agent.name)
    assert await anew.bodies() == []  # the reader's slot is free


@IN_ONE_MODE
async def test_a_timed_session_ends_after_silence_and_every_call_renews_it(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_SESSION_TTL="1.5"))
    agent = await attach(daemon, session="timed")
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 3:
        assert await status_of(agent.api, agent.name) == "online"
        await asyncio.sleep(0.2)  # the time between two calls is what is tested here
    await until_status(daemon.api, agent.name, "offline")  # the operator's calls do not renew it
    await agent.bodies()
    assert await status_of(daemon.api, agent.name) == "online"


@IN_ONE_MODE
async def test_who_waits_is_not_silent(synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_SESSION_TTL="1"))
    agent = await attach(daemon, session="timed")
    waiting = asyncio.create_task(agent.unread(wait="3"))
    while not waiting.done():
        assert await status_of(daemon.api, agent.name) == "online"
        await asyncio.sleep(0.1)  # the time in between is what is tested here
    assert await waiting == []
    assert await status_of(daemon.api, agent.name) == "online", "its silence begins now"
    await until_status(daemon.api, agent.name, "offline")


@IN_ONE_MODE
async def test_a_timed_session_that_began_beside_a_held_one_ends_too(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_SESSION_TTL="1"))
    agent = await attach(daemon, session="none")
    async with agent.api.stream("GET", "/events"):
        await until_status(daemon.api, agent.name, "online")
        await attach(daemon, name=agent.name, session="timed")
    await until_status(daemon.api, agent.name, "offline")


async def test_the_roster_on_the_homeserver_follows_who_is_online(daemon: RunningDaemon, synapse: Synapse) -> None:
    space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    agent = await attach(daemon, session="none")
    name = agent.name
    async with aiohttp.ClientSession() as session:
        client = synapse.operator_client(session)
        user = (await client.get_state(space, CARD, agent.user_id))["daemon"]

        async def is_listed() -> bool:
            try:
                return name in (await client.get_state(space, ROSTER, user))["online"]
            except MatrixNotFoundError:  # the first one is not written yet
                return False

        async def is_not_listed() -> bool:
            return not await is_listed()

        async with daemon.api.stream("POST", "/agents", {"name": name, "session": "held"}):
            await until(is_listed)
        await until(is_not_listed)
        await attach(daemon, name=name)
        await until(is_listed)
        await daemon.stop()
        assert (await client.get_state(space, ROSTER, user))["online"] == []


async def test_an_agent_without_a_name_is_ephemeral_and_leaves_the_list(daemon: RunningDaemon) -> None:
    attached = await daemon.api.post("/agents")
    name = attached["name"]
    assert name.startswith("session-")
    entry = await entry_of(daemon.api, name)
    assert entry is not None
    assert (entry["kind"], entry["status"]) == ("ephemeral", "online")
    assert (await daemon.api.call("DELETE", f"/agents/{name}")).status == 200
    assert await entry_of(daemon.api, name) is None
    again = await daemon.api.post("/agents", name=name, kind="ephemeral")
    assert again["room_id"] == attached["room_id"]


async def test_many_ephemeral_agents_at_once_all_come_up(daemon: RunningDaemon) -> None:
    attached = await asyncio.gather(*(daemon.api.post("/agents", session="none") for _ in range(6)))
    assert len({answer["room_id"] for answer in attached}) == 6
    names = {agent["name"] for agent in (await daemon.api.get("/who"))["agents"]}
    assert {answer["name"] for answer in attached} <= names


@APPSERVICE_ALONE  # the manager is wired here with the names of an application service
async def test_ephemeral_agents_that_start_at_once_are_spread_over_two_seconds(
    synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    class Waits(random.Random):
        asked: ClassVar[list[tuple[float, float]]] = []

        def uniform(self, a: float, b: float) -> float:
            self.asked.append((a, b))
            return 0.01 * len(self.asked)

    manager = manager_of(synapse, http, fresh_alias())
    host = AgentHost(manager, Sessions(ttl_s=60, server_now_ms=lambda: 0), jitter=Waits())
    await host.boot(fresh_name("alone"), Wish("ephemeral"))
    await asyncio.gather(*(host.boot(fresh_name("kept")) for _ in range(3)))
    assert Waits.asked == []
    await asyncio.gather(*(host.boot(fresh_name("burst"), Wish("ephemeral")) for _ in range(4)))
    assert Waits.asked == [(0, 2.0)] * 3


async def test_the_status_line_and_the_reach_are_in_the_directory(daemon: RunningDaemon) -> None:
    agent = await attach(daemon)
    await agent.api.call("PUT", "/status", {"line": "reviewing", "typing_s": 5})
    entry = await entry_of(daemon.api, agent.name)
    assert entry is not None
    assert (entry["status_line"], entry["reach"]) == ("reviewing", "poll")
    async with agent.api.stream("GET", "/events"):
        await until_reach(daemon.api, agent.name, "push")
    await until_reach(daemon.api, agent.name, "poll")


async def until_reach(api: Api, name: str, reach: str) -> None:
    async def is_so() -> bool:
        entry = await entry_of(api, name)
        return entry is not None and entry["reach"] == reach

    await until(is_so)


# --- readers


async def wait_for_messages(agent: Hosted) -> list[str]:
    """Wait long for messages, from when the inbox is free; return their bodies."""
    while (answer := await agent.api.call("GET", "/read", query={"wait": "60"})).status == 409:
        continue
    return [message["body"] for message in answer.data["messages"]]


async def until_busy(agent: Hosted) -> None:
    """Return once somebody waits at the agent's inbox."""

    async def is_busy() -> bool:
        return (await dataclasses.replace(agent.api, reader="prober").call("GET", "/read")).status == 409

    await until(is_busy)


@IN_ONE_MODE
async def test_a_second_reader_is_refused_and_told_who_reads_until_the_first_is_gone(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    other = dataclasses.replace(agent.api, reader="other")
    await say(alice, agent.room_id, "not acknowledged")
    async with agent.api.stream("GET", "/events") as stream:
        await messages_of(stream, 1)
        for path in ("/read", "/events"):
            refused = await other.call("GET", path)
            assert (refused.status, refused.code, refused.data["retryable"]) == (409, "reader_busy", True)
            assert "aiohttp" in refused.data["detail"]  # how the first calls itself
        looked = await other.get("/read", peek="true")
        assert [message["body"] for message in looked["messages"]] == ["not acknowledged"]

    async def is_free() -> bool:
        return (await other.call("GET", "/read")).status == 200

    await until(is_free)  # the first died, and what it did not acknowledge comes again
    assert [message["body"] for message in (await other.get("/read"))["messages"]] == ["not acknowledged"]


@IN_ONE_MODE
async def test_a_reader_that_was_handed_messages_has_the_inbox_until_it_acknowledges_them(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    other = dataclasses.replace(agent.api, reader="other")
    await say(alice, agent.room_id, "hello")
    messages = await agent.unread(wait="10")
    assert (await other.call("GET", "/read")).status == 409
    await agent.acknowledge(messages)
    assert (await other.get("/read"))["messages"] == []
    assert await agent.unread() == []  # and who was handed nothing holds nothing


@IN_ONE_MODE
async def test_a_reader_that_gives_up_waiting_frees_the_inbox(daemon: RunningDaemon) -> None:
    agent = await attach(daemon)
    assert await agent.bodies() == []
    waiting = asyncio.create_task(wait_for_messages(agent))
    await until_busy(agent)
    waiting.cancel()

    async def is_free() -> bool:
        return (await dataclasses.replace(agent.api, reader="other").call("GET", "/read")).status == 200

    await until(is_free)


@IN_ONE_MODE
async def test_a_reader_that_comes_back_takes_over_from_its_own_old_stream(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    assert await agent.bodies() == []
    async with agent.api.stream("GET", "/events") as old:
        await until_busy(agent)
        async with agent.api.stream("GET", "/events") as new:
            assert await rest_of(old) == []
            assert await agent.unread() == []  # reading beside its stream takes nothing from it
            await say(alice, agent.room_id, "hello")
            assert [message["body"] for message in await messages_of(new, 1)] == ["hello"]
            await until_busy(agent)


@IN_ONE_MODE
async def test_one_looks_without_being_the_reader_and_may_wait_for_it(
    daemon: RunningDaemon, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        looking = asyncio.create_task(agent.bodies(peek="true", wait="20"))
        await say(alice, agent.room_id, "seen by both")
        assert await looking == ["seen by both"]
        assert len(await messages_of(stream, 1)) == 1


# --- strange rooms


@APPSERVICE_ALONE  # an account may be invited to what it likes, and accepts nothing by itself: see below
async def test_an_agent_leaves_a_room_that_a_stranger_invited_it_to_and_hears_nothing_from_there(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    agent = await attach(daemon)
    mallory = await person(synapse, http, tmp_path, "mallory")
    room_id = await mallory.create_room({"preset": "public_chat", "invite": [agent.user_id]})

    async def membership() -> str:
        return str((await mallory.get_state(room_id, "m.room.member", agent.user_id))["membership"])

    async def has_left() -> bool:
        return await membership() == "leave"

    await until(has_left)
    # Even where it is a member, by the homeserver's doing, what is said there reaches no inbox.
    await mallory.invite(room_id, agent.user_id)
    async with agent.api.stream("GET", "/events") as stream:
        with_agents_hand = synapse.agent_client(http, agent.name)
        await until(has_left)
        await with_agents_hand.join_room(room_id)
        await say(mallory, room_id, "do as I say")
        await daemon.api.post("/send", body="from the operator", to=agent.name)
        assert [message["body"] for message in await messages_of(stream, 1)] == ["from the operator"]
    assert await agent.bodies() == ["from the operator"]


@ACCOUNTS_ALONE
async def test_an_account_accepts_no_strangers_invite_and_hears_nothing_from_a_room_of_its_own_choice(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    agent = await attach(daemon)
    mallory = await person(synapse, http, tmp_path, "mallory")
    invited, joined = [await mallory.create_room({"invite": [agent.user_id]}) for _ in range(2)]
    await synapse.agent_client(http, agent.name).join_room(joined)
    async with agent.api.stream("GET", "/events") as stream:
        await say(mallory, joined, "do as I say")
        await daemon.api.post("/send", body="from the operator", to=agent.name)
        assert [message["body"] for message in await messages_of(stream, 1)] == ["from the operator"]
    assert (await mallory.get_state(invited, "m.room.member", agent.user_id))["membership"] == "invite"


@APPSERVICE_ALONE  # an account may be invited to what it likes, and accepts nothing by itself: see below
async def test_the_daemons_own_user_leaves_strange_rooms_too(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    mallory = await person(synapse, http, tmp_path, "mallory")
    user = f"@{synapse.registration.sender_localpart}:{synapse.config.server_name}"
    room_id = await mallory.create_room({"invite": [user]})

    async def has_left() -> bool:
        return bool((await mallory.get_state(room_id, "m.room.member", user))["membership"] == "leave")

    await until(has_left)


async def test_the_daemons_own_user_takes_an_invite_to_the_space_that_it_waits_for(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    alice, alias = synapse.operator_client(http), fresh_alias().replace("aiagentchat-", "team-")
    body = {"creation_content": {"type": "m.space"}, "room_alias_name": alias[1:].split(":")[0]}
    user = UserId(f"@{synapse.registration.sender_localpart}:{synapse.config.server_name}")
    space = await alice.create_room(body)
    levels = await alice.get_state(space, "m.room.power_levels")
    levels["users"][user] = 100
    await alice.put_state(space, "m.room.power_levels", "", levels)
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, SPACE_ALIAS=alias), ready=False)
    await alice.invite(space, user)

    async def is_there() -> bool:
        return bool((await daemon.api.get("/health"))["system"]["space_id"] == space)

    await until(is_there)


@APPSERVICE_ALONE  # an account may be invited to what it likes, and accepts nothing by itself: see below
async def test_an_invite_that_waited_while_the_daemon_was_down_is_refused_as_well(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await daemon.stop()
    mallory = await person(synapse, http, tmp_path, "mallory")
    room_id = await mallory.create_room({"invite": [agent.user_id]})
    await start_daemon(synapse, synapse.settings(tmp_path / "second"))

    async def has_left() -> bool:
        return bool((await mallory.get_state(room_id, "m.room.member", agent.user_id))["membership"] == "leave")

    await until(has_left)


async def test_a_boot_before_the_directory_is_loaded_changes_nothing_on_the_card(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    name = (await daemon.api.post("/agents", description="reviews", kind="ephemeral"))["name"]
    await daemon.stop()
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"), ready=False)
    await daemon.api.post("/agents", name=name)
    entry = await entry_of(daemon.api, name)
    assert entry is not None
    assert (entry["description"], entry["kind"]) == ("reviews", "ephemeral")


# --- encrypted rooms


async def encrypt(client: MatrixClient, room_id: RoomId) -> None:
    """Switch encryption on, as its creator may in a room made by hand, and from version 12 on in any."""
    await client.put_state(room_id, "m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2"})


async def test_into_an_encrypted_room_nothing_is_sent_and_everyone_is_told(
    synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path, alice: MatrixClient
) -> None:
    name = fresh_name()
    await synapse.make_user(http, name)
    await make_by_hand(synapse.agent_client(http, name), NAMING.alias(name))
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent, asker = await attach(daemon, name=name), await attach(daemon, "asker")
    asked = await say(alice, agent.room_id, "before it was encrypted")
    await agent.unread(wait="10")
    await encrypt(synapse.agent_client(http, agent.name), agent.room_id)

    async def is_marked() -> bool:
        entry = await entry_of(daemon.api, agent.name)
        return entry is not None and entry["encrypted"]

    await until(is_marked)

    async def check(daemon: RunningDaemon) -> None:
        for api, message in (
            (daemon.api, {"to": agent.name}),
            (daemon.api.as_agent(asker.name), {"to": agent.name}),
            (daemon.api.as_agent(agent.name), {"reply_to": asked}),
        ):
            refused = await api.call("POST", "/send", {"body": "in clear", "key": secrets.token_hex(4)} | message)
            assert (refused.status, refused.code) == (409, "room_encrypted")
        conditions = {each["name"]: each for each in (await daemon.api.get("/health"))["conditions"]}
        assert not conditions["encryption"]["ok"]
        assert agent.name in conditions["encryption"]["detail"]
        assert conditions["encryption"]["remedy"]
        [message] = (await daemon.api.as_agent(agent.name).get("/read", peek="true"))["messages"]
        assert message["event_id"] == asked  # what was said in clear still comes

    await check(daemon)
    await daemon.kill()
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"))  # which knows it from the homeserver
    agent, asker = agent.on(daemon), asker.on(daemon)
    await check(daemon)
    page = await alice.get_messages(agent.room_id, direction="b", limit=100)
    bodies = [event["content"]["body"] for event in page.chunk if event["type"] == "m.room.message"]
    assert bodies == ["before it was encrypted"]


@IN_ONE_MODE
async def test_an_encrypted_broadcast_room_is_not_written_to_either(
    own_synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    alias = broadcast_alias("#aiagentchat:example.org")
    broadcast = await make_by_hand(own_synapse.keeper_client(http), alias)
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await encrypt(own_synapse.keeper_client(http), broadcast)

    async def is_degraded() -> bool:
        return bool((await daemon.api.get("/health"))["status"] == "degraded")

    await until(is_degraded)
    refused = await agent.api.call("POST", "/send", {"body": "in clear"})
    assert (refused.status, refused.code) == (409, "room_encrypted")
    await daemon.kill()
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "second"))
    agent.on(daemon)
    refused = await daemon.api.call("POST", "/send", {"body": "in clear"})
    assert (refused.status, refused.code) == (409, "room_encrypted")
    await daemon.api.post("/send", body="an agent's own room works", to=agent.name)
