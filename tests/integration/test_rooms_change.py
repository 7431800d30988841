"""Rooms that change under a running daemon: what is noticed, what is said, what is mended, and what is left alone."""

import secrets
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiagentchat.agents import room_check
from aiagentchat.errors import MatrixForbiddenError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomAlias, RoomId, UserId
from aiagentchat.space.manager import SpaceManager
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, matrix, messages_of, register_admin, say, until
from tests.integration.spaces import require_room_version
from tests.integration.systems import IN_ONE_MODE, RunningDaemon, Synapse, fresh_name, start_synapse
from tests.integration.test_several_daemons import until_listed, who


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The operator's own Matrix client."""
    return synapse.operator_client(http)


async def condition(daemon: RunningDaemon, name: str) -> Json:
    [found] = [each for each in (await daemon.api.get("/health"))["conditions"] if each["name"] == name]
    return dict(found)


async def until_said(daemon: RunningDaemon, name: str, text: str) -> None:
    async def is_said() -> bool:
        found = await condition(daemon, name)
        return not found["ok"] and text in found["detail"]

    await until(is_said)


async def until_well(daemon: RunningDaemon) -> None:
    async def is_well() -> bool:
        return bool((await daemon.api.get("/health"))["status"] == "ok")

    await until(is_well)


async def until_moved(daemon: RunningDaemon, agent: Hosted) -> RoomId:
    """Return the agent's new room, once it is listed."""

    async def has_moved() -> bool:
        entry = (await who(daemon)).get(agent.name)
        return entry is not None and entry["room_id"] != agent.room_id and entry["status"] == "online"

    await until(has_moved)
    return RoomId((await who(daemon))[agent.name]["room_id"])


async def upgrade(client: MatrixClient, room_id: RoomId) -> RoomId:
    path = ("_matrix", "client", "v3", "rooms", room_id, "upgrade")
    return RoomId((await client._request("POST", path, body={"new_version": "12"}))["replacement_room"])


async def delete_room(synapse: Synapse, room_id: RoomId) -> None:
    """Have an administrator delete a room: its members are out, its aliases and its history gone."""
    token = await register_admin(synapse)
    path = ("_synapse", "admin", "v2", "rooms", room_id)
    delete_id = (await matrix(synapse, token, "DELETE", *path, body={"purge": True}))["delete_id"]
    status = ("_synapse", "admin", "v2", "rooms", "delete_status", delete_id)

    async def is_done() -> bool:
        return bool((await matrix(synapse, token, "GET", *status))["status"] == "complete")

    await until(is_done)


async def test_an_upgraded_room_is_followed_by_the_list_and_by_who_reads(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, alice: MatrixClient
) -> None:
    await require_room_version(alice, "12")  # before it nobody can upgrade a room of ours
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await say(alice, agent.room_id, "before")
        assert [message["body"] for message in await messages_of(stream, 1)] == ["before"]
        new = await upgrade(synapse.agent_client(http, agent.name), agent.room_id)
        assert await until_moved(daemon, agent) == new
        await daemon.api.post("/send", body="after", to=agent.name)
        [message] = await messages_of(stream, 1)
        assert (message["body"], message["room_id"]) == ("after", new)
    space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    assert await alice.get_state(space, "m.space.child", agent.room_id) == {}


async def test_a_deleted_room_is_made_anew_and_a_waiting_reader_goes_on_there(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_check, "_LOOK_S", 0.5)  # where it is purged before its last events were handed on
    daemon = await start_daemon(synapse, synapse.settings(tmp_path))
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        find, failures = SpaceManager.find_or_create_agent_room, iter(range(3))

        async def find_late(*arguments: Any) -> Any:
            """As where its alias leads for a while yet to a room that the agent was taken out of."""
            if next(failures, None) is not None:
                raise MatrixForbiddenError(403, "M_FORBIDDEN", "You are not invited to this room.")
            return await find(*arguments)

        monkeypatch.setattr(SpaceManager, "find_or_create_agent_room", find_late)
        await delete_room(synapse, agent.room_id)
        new = await until_moved(daemon, agent)
        await daemon.api.post("/send", body="in the new room", to=agent.name)
        [message] = await messages_of(stream, 1)
        assert (message["body"], message["room_id"]) == ("in the new room", new)
    await until_well(daemon)  # a sync that the deletion comes in between of fails once, with 500


@IN_ONE_MODE
async def test_a_room_of_an_agent_that_nobody_uses_is_made_anew_too(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    agent = await attach(daemon)
    await daemon.stop()
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "second"))
    agent.on(daemon)
    await attach(daemon, "another")  # so that somebody listens to the Space
    await delete_room(synapse, agent.room_id)
    stored = await daemon.api.post("/send", body="hello", to=agent.name)
    assert stored["room_id"] != agent.room_id
    assert await agent.on(daemon).bodies() == ["hello"]


async def test_an_agent_that_was_removed_from_its_room_stays_out_until_it_is_invited_again(
    start_daemon: StartDaemon, mode: str, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    # Before room version 12 an operator who was given power can remove whoever made the room.
    synapse = await start_synapse(tmp_path / "synapse", mode=mode, default_room_version="10")
    try:
        daemon, alice = await start_daemon(synapse, synapse.settings(tmp_path / "home")), synapse.operator_client(http)
        agent = await attach(daemon)
        as_agent = synapse.agent_client(http, agent.name)
        levels = await as_agent.get_state(agent.room_id, "m.room.power_levels")
        users = {synapse.operator.user_id: 100, agent.user_id: 99}
        await as_agent.put_state(agent.room_id, "m.room.power_levels", "", levels | {"users": users})
        path = ("_matrix", "client", "v3", "rooms", agent.room_id, "kick")
        await matrix(synapse, synapse.operator.access_token, "POST", *path, body={"user_id": agent.user_id})
        await until_said(daemon, "memberships", f"{synapse.operator.user_id} removed {agent.user_id}")
        assert "invite" in (await condition(daemon, "memberships"))["remedy"]
        refused = await agent.api.call("GET", "/read")
        assert (refused.status, refused.code) == (403, "forbidden")
        assert (await alice.get_state(agent.room_id, "m.room.member", agent.user_id))["membership"] == "leave"
        other = await attach(daemon, "other")
        await daemon.api.post("/send", body="the rest goes on", to=other.name)

        users = {synapse.operator.user_id: 100, agent.user_id: 100}
        await alice.put_state(agent.room_id, "m.room.power_levels", "", levels | {"users": users})
        await alice.invite(agent.room_id, UserId(agent.user_id))

        async def is_back() -> bool:
            return bool((await condition(daemon, "memberships"))["ok"])

        if mode == "accounts":  # an invite does not come with the sync of an account's own rooms
            await daemon.api.post("/agents", name=agent.name)
        await until(is_back)
        await daemon.api.post("/send", body="welcome back", to=agent.name)
        assert await agent.bodies() == ["welcome back"]
    finally:
        await synapse.stop()


async def test_an_alias_that_was_moved_to_a_room_of_others_is_said_and_left_there(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    agent, other = await attach(daemon), await attach(daemon, "other")
    as_agent, alias = synapse.agent_client(http, agent.name), RoomAlias(f"#aiagentchat-{agent.name}:example.org")
    theirs = await synapse.agent_client(http, other.name).create_room({"preset": "public_chat"})
    await as_agent.delete_room_alias(alias)
    await synapse.agent_client(http, other.name).put_room_alias(alias, theirs)
    await daemon.api.post("/agents", name=agent.name)
    await until_said(daemon, "registration", f"{alias} names a room that {other.user_id} made")
    assert await as_agent.resolve_room_alias(alias) == theirs
    await daemon.api.post("/send", body="the rest goes on", to=other.name)


async def test_an_alias_that_was_deleted_leads_to_a_new_room_when_the_agent_comes_again(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    agent = await attach(daemon)
    as_agent, alias = synapse.agent_client(http, agent.name), RoomAlias(f"#aiagentchat-{agent.name}:example.org")
    await as_agent.delete_room_alias(alias)
    await daemon.api.post("/agents", name=agent.name)
    new = await until_moved(daemon, agent)
    assert await as_agent.resolve_room_alias(alias) == new


async def test_an_upgrade_whose_alias_moves_later_is_waited_for(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, alice: MatrixClient
) -> None:
    await require_room_version(alice, "12")
    agent = await attach(daemon)
    as_agent, alias = synapse.agent_client(http, agent.name), RoomAlias(f"#aiagentchat-{agent.name}:example.org")
    new = await as_agent.create_room({"creation_content": {"predecessor": {"room_id": agent.room_id}}})
    await as_agent.put_state(agent.room_id, "m.room.tombstone", "", {"body": "moved", "replacement_room": new})
    await until_said(daemon, "registration", "still leads to a room that was upgraded")
    await as_agent.delete_room_alias(alias)
    await as_agent.put_room_alias(alias, new)
    assert await until_moved(daemon, agent) == new
    await daemon.api.post("/send", body="in the new room", to=agent.name)
    assert await agent.bodies() == ["in the new room"]


async def test_a_sender_that_was_banned_is_refused_and_the_others_stream_is_left_in_peace(
    daemon: RunningDaemon, synapse: Synapse
) -> None:
    flooder, agent = await attach(daemon, "flooder"), await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await flooder.send("first", to=agent.name)
        assert [message["body"] for message in await messages_of(stream, 1)] == ["first"]
        ban = ("_matrix", "client", "v3", "rooms", agent.room_id, "ban")
        await matrix(synapse, synapse.operator.access_token, "POST", *ban, body={"user_id": flooder.user_id})
        for _ in range(2):
            refused = await flooder.api.call("POST", "/send", {"body": "more", "to": agent.name})
            assert (refused.status, refused.code) == (403, "forbidden")
        await daemon.api.post("/send", body="from the operator", to=agent.name)
        assert [message["body"] for message in await messages_of(stream, 1)] == ["from the operator"]


async def test_a_deleted_space_is_made_anew_with_all_agents_in_it(
    own_synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    agents = [await attach(daemon, description="kept") for _ in range(2)]
    old = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    await delete_room(own_synapse, old)

    async def is_anew() -> bool:
        health = await daemon.api.get("/health")
        return bool(health["status"] == "ok" and health["system"]["space_id"] not in (None, old))

    await until(is_anew)
    for agent in agents:
        await until_listed(daemon, agent.name, status="online", room_id=agent.room_id, description="kept")
    await agents[0].send("to all")
    assert await agents[1].bodies(wait="20") == ["to all"]
    space = (await daemon.api.get("/health"))["system"]["space_id"]
    alice = own_synapse.operator_client(http)
    assert (await alice.get_state(agents[0].room_id, "m.space.parent", space))["via"] == ["example.org"]


async def test_an_upgraded_space_is_followed(
    own_synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await require_room_version(own_synapse.operator_client(http), "12")
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    agent = await attach(daemon)
    old = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    new = await upgrade(own_synapse.keeper_client(http), old)

    async def is_followed() -> bool:
        health = await daemon.api.get("/health")
        return bool(health["status"] == "ok" and health["system"]["space_id"] == new)

    await until(is_followed)
    await until_listed(daemon, agent.name, status="online", room_id=agent.room_id)


# With accounts the operator makes the Space, whom nobody removes from it.
async def test_a_daemon_that_was_removed_from_the_space_says_so_and_works_on_until_it_is_back(
    start_daemon: StartDaemon, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    synapse = await start_synapse(tmp_path / "synapse", default_room_version="10")
    try:
        daemon, alice = await start_daemon(synapse, synapse.settings(tmp_path / "home")), synapse.operator_client(http)
        agent = await attach(daemon)
        space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
        keeper, user = synapse.keeper_client(http), UserId("@aiagentchat:example.org")
        levels = await keeper.get_state(space, "m.room.power_levels")
        users = {synapse.operator.user_id: 100, user: 99}
        await keeper.put_state(space, "m.room.power_levels", "", levels | {"users": users})
        path = ("_matrix", "client", "v3", "rooms", space, "kick")
        await matrix(synapse, synapse.operator.access_token, "POST", *path, body={"user_id": user})
        await until_said(daemon, "space", "")
        assert (await daemon.api.get("/who"))["agents"] == []
        await daemon.api.post("/send", body="an agent's own room works", to=agent.name)
        assert await agent.bodies() == ["an agent's own room works"]
        users = {synapse.operator.user_id: 100, user: 100}
        await alice.put_state(space, "m.room.power_levels", "", levels | {"users": users})
        await alice.invite(space, user)
        await until_listed(daemon, agent.name, status="online", room_id=agent.room_id)
    finally:
        await synapse.stop()


async def test_an_agent_that_another_took_off_the_list_is_listed_again_and_one_that_the_operator_took_off_stays_off(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, alice: MatrixClient
) -> None:
    agent, unwanted, other = [await attach(daemon, stem) for stem in ("agent", "unwanted", "other")]
    space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    hostile = synapse.agent_client(http, other.name)
    await alice.put_state(space, "m.space.child", unwanted.room_id, {})
    await hostile.put_state(space, "m.space.child", agent.room_id, {})

    async def is_mended() -> bool:
        return bool((await hostile.get_state(space, "m.space.child", agent.room_id)).get("via"))

    async def is_unlisted() -> bool:
        return bool((await who(daemon))[unwanted.name]["status"] != "online")

    await until(is_mended)
    await until_listed(daemon, agent.name, status="online")  # as the daemon hears a moment later
    await until(is_unlisted)
    await attach(daemon, "later")  # whatever was pending has been done by now
    assert await alice.get_state(space, "m.space.child", unwanted.room_id) == {}


# --- a room of the person's own in place of the broadcast room


@pytest.mark.parametrize("by", ["id", "alias"])
async def test_messages_to_all_go_to_the_room_that_the_person_named_and_nothing_in_it_is_changed(
    synapse: Synapse,
    start_daemon: StartDaemon,
    tmp_path: Path,
    alice: MatrixClient,
    http: aiohttp.ClientSession,
    by: str,
) -> None:
    localpart = f"team-{secrets.token_hex(4)}"
    room = await alice.create_room({"room_alias_name": localpart, "name": "Ours", "preset": "private_chat"})
    daemon_user = await keeper_of(synapse, http)
    if daemon_user != synapse.operator.user_id:
        await alice.invite(room, daemon_user)
    before = {key: event for key, event in (await state_of(alice, room)).items() if key[0] != "m.room.member"}
    named = room if by == "id" else f"#{localpart}:example.org"
    daemon = await start_daemon(
        synapse,
        synapse.settings(tmp_path, MATRIX_ROOM_ID=named, SPACE_ALIAS=f"#aiagentchat-{fresh_name('space')}:example.org"),
    )
    system = (await daemon.api.get("/health"))["system"]
    assert system["broadcast_id"] == room
    if daemon_user != synapse.operator.user_id:
        users = {daemon_user: 50}
        await alice.put_state(room, "m.room.power_levels", "", {"users": users})  # it may invite: its agents come in
        before = {key: event for key, event in (await state_of(alice, room)).items() if key[0] != "m.room.member"}
    agent, other = await attach(daemon), await attach(daemon, "other")
    assert (await daemon.api.post("/send", body="from the operator"))["room_id"] == room
    assert (await other.send("from an agent"))["room_id"] == room
    assert await agent.bodies(wait="20") == ["from the operator", "from an agent"]
    await say(alice, room, "from Element")
    assert (await agent.bodies())[-1] == "from Element"
    after = {key: event for key, event in (await state_of(alice, room)).items() if key[0] != "m.room.member"}
    assert after == before
    space = RoomId(system["space_id"])
    assert (await alice.get_state(space, "m.space.child", room))["via"] == ["example.org"]


async def test_a_shared_room_works_without_any_space(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, alice: MatrixClient, http: aiohttp.ClientSession
) -> None:
    room = await alice.create_room({"preset": "public_chat"})
    squatted = f"aiagentchat-{fresh_name('space')}"
    squatter = await attach_squatter(synapse, start_daemon, tmp_path, http)
    await squatter.create_room({"room_alias_name": squatted, "preset": "private_chat"})
    daemon = await start_daemon(
        synapse,
        synapse.settings(tmp_path / "home", MATRIX_ROOM_ID=room, SPACE_ALIAS=f"#{squatted}:example.org"),
        ready=False,
    )
    agent = await attach(daemon)
    assert (await daemon.api.get("/health"))["system"]["space_id"] is None
    assert (await daemon.api.post("/send", body="to all"))["room_id"] == room
    assert await agent.bodies(wait="20") == ["to all"]
    await agent.send("an answer to all")

    async def are_all_there() -> bool:
        page = await alice.get_messages(room, direction="b", limit=10)
        messages = [event["content"]["body"] for event in page.chunk if event["type"] == "m.room.message"]
        return messages == ["an answer to all", "to all"]

    await until(are_all_there)


async def attach_squatter(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, http: aiohttp.ClientSession
) -> MatrixClient:
    """Return a client of an agent of a daemon that has ended, which may make aliases of any mode."""
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "squatter"))
    agent = await attach(daemon, "squatter")
    await daemon.stop()
    return synapse.agent_client(http, agent.name)


async def keeper_of(synapse: Synapse, http: aiohttp.ClientSession) -> UserId:
    return (await synapse.keeper_client(http).whoami())[0]


async def state_of(client: MatrixClient, room_id: RoomId) -> dict[tuple[str, str], Json]:
    return {(each["type"], each["state_key"]): each["content"] for each in await client.get_full_state(room_id)}
