"""Each room on a real Synapse: made as designed, mended when half-made or changed, upgraded, refused; people in it."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aiagentchat.errors import (
    MatrixError,
    MatrixForbiddenError,
    RefusedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.wire import _FixedToken
from aiagentchat.model import AgentName, RoomAlias, UserId
from aiagentchat.space import rooms
from aiagentchat.space.layout import RoomSpec, agent_room_spec, broadcast_spec, render_topic, space_spec
from aiagentchat.space.manager import SpaceManager
from aiagentchat.space.names import broadcast_alias
from tests.integration.correspondents import person
from tests.integration.spaces import (
    NAMING,
    ROOM_VERSIONS,
    Http,
    State,
    as_creator,
    boot,
    fresh_alias,
    known_room_versions,
    make_by_hand,
    manager_of,
    membership,
    require_room_version,
    state_of,
)
from tests.integration.systems import Synapse, fresh_name, start_synapse


@pytest.fixture(scope="session")
def mode() -> str:
    """Application service alone: the managers are wired here with the names of an application service."""
    return "appservice"


@pytest.fixture
def manager(synapse: Synapse, http: Http) -> SpaceManager:
    """A manager with a Space alias of its own."""
    return manager_of(synapse, http, fresh_alias())


@pytest.fixture(params=ROOM_VERSIONS)
async def version(request: pytest.FixtureRequest, appservice: MatrixClient) -> str:
    """Each version of rooms that the homeserver knows."""
    version = str(request.param)
    await require_room_version(appservice, version)
    return version


# --- what is found


def assert_is_as_designed(state: State, spec: RoomSpec, version: str, **users: int) -> None:
    named = spec.power_levels["users"] | users | as_creator(spec.creator, version)
    levels = state["m.room.power_levels", ""]
    assert {kind: levels[kind] for kind in spec.power_levels} == spec.power_levels | {"users": named}
    assert state["m.room.join_rules", ""] == spec.join_rules
    assert state["m.room.history_visibility", ""] == {"history_visibility": spec.history_visibility}
    if spec.parent is not None:
        assert state["m.space.parent", spec.parent] == {"via": ["example.org"], "canonical": True}
    for operator in spec.invite[:1]:
        assert state["m.room.member", operator]["membership"] == "join", "the operator needs no click"


def specs_of(manager: SpaceManager, agent: AgentName) -> dict[str, RoomSpec]:
    alias, layout, space = manager.settings.alias, manager.layout, manager.space_id
    assert space is not None
    return {
        "space": space_spec(alias, NAMING.daemon, layout),
        "agent": agent_room_spec(agent, NAMING, layout, space),
        "broadcast": broadcast_spec(broadcast_alias(alias), NAMING.daemon, layout, space),
    }


async def test_rooms_are_made_as_designed_with_the_operator_in_them(synapse: Synapse, http: Http, version: str) -> None:
    manager, agent = manager_of(synapse, http, fresh_alias(), version=version), fresh_name()
    space, room = await manager.find_or_create_space(), await boot(manager, agent)
    specs = specs_of(manager, agent)
    of_space, of_agent = await state_of(manager.client_of_daemon, space), await state_of(manager.client_of(agent), room)
    assert_is_as_designed(of_space, specs["space"], version)
    assert_is_as_designed(of_agent, specs["agent"], version)
    assert of_space["m.room.create", ""]["type"] == "m.space"
    assert of_agent["m.room.create", ""]["room_version"] == version
    assert of_agent["m.room.name", ""] == {"name": agent}
    assert of_space["m.space.child", room] == {"via": ["example.org"], "order": agent, "suggested": True}
    broadcast = await state_of(
        manager.client_of(agent),
        await manager.client_of_daemon.resolve_room_alias(broadcast_alias(manager.settings.alias)),
    )
    assert_is_as_designed(broadcast, specs["broadcast"], broadcast["m.room.create", ""]["room_version"])


async def test_a_half_made_room_is_mended(
    synapse: Synapse, http: Http, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_BEING_MADE_WAITS_S", (0.02,) * 5)
    manager, agent = manager_of(synapse, http, fresh_alias(), version=version), fresh_name()
    await manager.find_or_create_space()
    await manager.identities.ensure_account(agent)
    client = manager.client_of(agent)
    levels = {"users": {NAMING.user(agent): 100}, "events": {"m.room.name": 150}}  # the name fails; 12: the levels
    body = {"room_alias_name": f"aiagentchat-{agent}", "name": "x", "room_version": version}
    with pytest.raises(MatrixError):
        await client.create_room({**body, "power_level_content_override": levels})
    half = await manager.find_agent_room(agent)
    assert ("m.room.power_levels", "") not in await state_of(client, half)
    room = await manager.find_or_create_agent_room(agent)
    assert (room.room_id, room.created, room.encrypted) == (half, False, False)
    mended = await state_of(client, half)
    assert_is_as_designed(mended, specs_of(manager, agent)["agent"], version)
    assert mended["m.room.name", ""] == {"name": agent}
    assert mended["m.room.topic", ""] == {"topic": render_topic(agent, "persistent", "", manager.settings.host)}


@pytest.mark.parametrize("which", ["space", "agent"])
async def test_what_somebody_changed_is_mended_and_what_is_theirs_is_left(
    synapse: Synapse, http: Http, version: str, which: str
) -> None:
    manager, agent = manager_of(synapse, http, fresh_alias(), version=version), fresh_name()
    space, room = await manager.find_or_create_space(), await boot(manager, agent)
    spec = specs_of(manager, agent)[which]
    room_id, client = (space, manager.client_of_daemon) if which == "space" else (room, manager.client_of(agent))
    people = {"@bob:example.org": 75, "@carol:example.org": 100}
    events = spec.power_levels["events"] | {"m.room.join_rules": 0, "m.room.name": 0}
    users = people | as_creator(spec.creator, version)
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("m.room.name", "", {"name": "Ours"}),
        ("m.room.topic", "", {"topic": ""}),
        ("m.room.join_rules", "", {"join_rule": "public"}),
        ("m.room.history_visibility", "", {"history_visibility": "world_readable"}),
        ("m.space.parent", space, {}),
        (
            "m.room.power_levels",
            "",
            {"users": users, "events": events, "invite": 0},
        ),
    ]
    for kind, key, content in changes:
        await client.put_state(room_id, kind, key, content)
    again = manager_of(synapse, http, manager.settings.alias, version=version)
    await again.find_or_create_space()
    await again.find_or_create_agent_room(agent)
    state = await state_of(client, room_id)
    assert_is_as_designed(state, spec, version, **people)
    assert (state["m.room.name", ""], state["m.room.topic", ""]) == ({"name": "Ours"}, {"topic": ""})


async def test_an_upgraded_room_is_followed_through_its_alias_and_listed_in_place_of_the_old(
    manager: SpaceManager, synapse: Synapse, http: Http
) -> None:
    agent, newest = fresh_name(), (await known_room_versions(manager.client_of_daemon))[-1]
    await manager.identities.ensure_account(agent)
    await make_by_hand(manager.client_of(agent), NAMING.alias(agent), "10")  # ours cannot be upgraded before version 12
    space, old = await manager.find_or_create_space(), await boot(manager, agent)
    path = ("_matrix", "client", "v3", "rooms", old, "upgrade")
    new = (await manager.client_of(agent)._request("POST", path, body={"new_version": newest}))["replacement_room"]
    again = manager_of(synapse, http, manager.settings.alias)
    await again.find_or_create_space()
    assert again.directory.agent_of_room(old) == agent
    assert await boot(again, agent) == new
    fresh = manager_of(synapse, http, manager.settings.alias)
    await fresh.find_or_create_space()
    assert [(entry.name, entry.room_id) for entry in (await fresh.list_agents()).entries] == [(agent, new)]
    assert fresh.directory.has_child(new)
    assert not fresh.directory.has_child(old)
    state, spec = await state_of(manager.client_of(agent), new), specs_of(manager, agent)["agent"]
    if newest != "12":  # nobody can raise a level above their own: those that it was made with stay
        events = {kind: min(level, 100) for kind, level in spec.power_levels["events"].items()}
        spec = replace(spec, power_levels=spec.power_levels | {"events": events})
    assert_is_as_designed(state, spec, newest)
    assert state["m.room.create", ""]["room_version"] == newest
    assert ("m.space.parent", space) in state


async def test_a_room_that_somebody_else_made_under_an_agents_alias_is_refused_and_left(
    manager: SpaceManager, version: str
) -> None:
    agent, other = fresh_name(), fresh_name()
    await manager.find_or_create_agent_room(other)
    levels = {"users": {NAMING.user(agent): 100} | as_creator(NAMING.user(other), version)}
    body = {"room_alias_name": f"aiagentchat-{agent}", "preset": "public_chat", "room_version": version}
    theirs = await manager.client_of(other).create_room({**body, "power_level_content_override": levels})
    with pytest.raises(RefusedError, match=str(NAMING.user(other))):
        await manager.find_or_create_agent_room(agent)
    assert await manager.client_of(agent).joined_rooms() == ()
    await manager.client_of(other).put_state(theirs, "m.room.join_rules", "", {"join_rule": "invite"})
    with pytest.raises(MatrixForbiddenError):
        await manager.find_or_create_agent_room(agent)


async def test_a_space_of_the_teams_own_is_used_if_the_daemon_may_mend_it(
    synapse: Synapse, http: Http, version: str
) -> None:
    operator, alias = synapse.operator_client(http), RoomAlias(f"#team-{secrets.token_hex(4)}:example.org")
    me, manager = synapse.operator.user_id, manager_of(synapse, http, alias, version=version)
    body = {"creation_content": {"type": "m.space"}, "room_version": version, "invite": [NAMING.daemon]}
    space = await operator.create_room({**body, "room_alias_name": alias[1:].split(":")[0]})
    with pytest.raises(MatrixForbiddenError):
        await manager.find_or_create_space()
    assert manager.space_id is None
    users = {NAMING.daemon: 100} | as_creator(me, version)
    await operator.put_state(space, "m.room.power_levels", "", {"users": users})
    assert await manager.find_or_create_space() == space
    await boot(manager, fresh_name())
    levels = (await state_of(operator, space))["m.room.power_levels", ""]
    assert levels["users"] == users


async def test_a_homeserver_that_encrypts_every_room_does_so_from_version_12_on_and_that_is_recognised(
    tmp_path: Path, http: Http
) -> None:
    synapse = await start_synapse(tmp_path, encryption_enabled_by_default_for_room_type="all")
    appservice = synapse.appservice(http)
    try:
        for version in await known_room_versions(appservice):
            await appservice.delete_room_alias(broadcast_alias("#x:example.org"))  # the room is of another version
            encrypted, alias, agent = version == "12", fresh_alias(), fresh_name()
            for created in (True, False):
                manager = manager_of(synapse, http, alias, version=version)
                await manager.find_or_create_space()
                room = await manager.find_or_create_agent_room(agent)
                assert (room.created, room.encrypted, manager.broadcast_encrypted) == (created, encrypted, encrypted)
                state = await state_of(manager.client_of(agent), room.room_id)
                assert_is_as_designed(state, specs_of(manager, agent)["agent"], version)
    finally:
        await synapse.stop()


# --- people


async def test_who_left_or_was_banned_is_not_brought_back_by_itself(
    manager: SpaceManager, synapse: Synapse, http: Http, tmp_path: Path
) -> None:
    agent, operator = fresh_name(), synapse.operator_client(http)
    bob, _ = await (await person(synapse, http, tmp_path)).whoami()
    alias = manager.settings.alias
    manager = manager_of(synapse, http, alias, people=(bob,))
    space, room = await manager.find_or_create_space(), await boot(manager, agent)
    client = manager.client_of(agent)
    await operator.leave_room(room)
    await operator.leave_room(space)
    await client._request("POST", ("_matrix", "client", "v3", "rooms", room, "ban"), body={"user_id": bob})
    again = manager_of(synapse, http, alias, people=(bob,))
    await again.find_or_create_space()
    await boot(again, agent)
    assert await membership(client, room, synapse.operator.user_id) == "leave"
    assert await membership(manager.client_of_daemon, space, synapse.operator.user_id) == "leave"
    assert await membership(client, room, bob) == "ban"
    assert await membership(manager.client_of_daemon, space, bob) == "invite"


async def test_people_named_later_are_invited_and_one_who_cannot_be_stops_nothing(
    manager: SpaceManager, synapse: Synapse, http: Http, tmp_path: Path
) -> None:
    old, new = fresh_name("old"), fresh_name("new")
    await boot(manager, old)
    bob = await person(synapse, http, tmp_path)
    people = (UserId("@nobody:elsewhere.test"), (await bob.whoami())[0])
    again = manager_of(synapse, http, manager.settings.alias, people=people)
    space = await again.find_or_create_space()
    rooms_of_theirs = [await boot(again, old), await boot(again, new), space]
    for room, client in zip(
        rooms_of_theirs, (again.client_of(old), again.client_of(new), again.client_of_daemon), strict=True
    ):
        assert [await membership(client, room, each) for each in people] == [None, "invite"]
        await bob.join_room(room)


async def test_an_operator_whose_device_is_dead_stops_no_agent(manager: SpaceManager) -> None:
    assert manager.operator is not None
    manager.operator._token = _FixedToken("no-longer-known")
    await manager.find_or_create_space()
    agent = fresh_name()
    room = await boot(manager, agent)
    operator = manager.layout.operator
    assert operator is not None
    assert await membership(manager.client_of(agent), room, operator) == "invite"
    assert [entry.name for entry in (await manager.list_agents()).entries] == [agent]
