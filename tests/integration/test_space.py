"""The Space on a real Synapse: done again, done by many at once, refused; agents listed, found, taken off the list.

How a single room is found and mended is in `test_space_rooms.py`, what its members may do in `test_permissions.py`.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiagentchat.errors import (
    AgentNotFoundError,
    HomeserverUnavailableError,
    MatrixConflictError,
    MatrixError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
    NameTakenError,
)
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.wire import _FixedToken
from aiagentchat.model import AgentName, RoomAlias, RoomId
from aiagentchat.space import rooms
from aiagentchat.space.content import ROSTER
from aiagentchat.space.manager import SpaceManager
from aiagentchat.space.names import DEVICE_ID, Naming, broadcast_alias
from tests.integration.correspondents import person
from tests.integration.spaces import (
    NAMING,
    Http,
    boot,
    card_of,
    events_of,
    fresh_alias,
    manager_of,
    state_of,
)
from tests.integration.systems import ON_ONE_PROCESS, Synapse, fresh_name


@pytest.fixture(scope="session")
def mode() -> str:
    """Application service alone: the managers are wired here with the names of an application service."""
    return "appservice"


@pytest.fixture
def manager(synapse: Synapse, http: Http) -> SpaceManager:
    """A manager with a Space alias of its own."""
    return manager_of(synapse, http, fresh_alias())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that is not there is given up soon."""
    monkeypatch.setattr(rooms, "_BEING_MADE_WAITS_S", (0.02,) * 5)


# --- idempotence and cost


async def test_every_operation_done_again_changes_nothing_and_costs_next_to_nothing(
    manager: SpaceManager, synapse: Synapse, http: Http
) -> None:
    agent = fresh_name()
    space, room = await manager.find_or_create_space(), await boot(manager, agent)
    broadcast = manager.broadcast_id
    assert broadcast is not None
    clients = {space: manager.client_of_daemon, broadcast: manager.client_of_daemon, room: manager.client_of(agent)}
    before = [await events_of(client, each) for each, client in clients.items()]
    stats = manager.client_of_daemon.stats

    asked = stats.requests
    assert await boot(manager, agent) == room
    assert stats.requests - asked == 3, "resolve, join, look"
    asked = stats.requests
    await manager.register_in_space(card_of(agent, room))
    assert [entry.name for entry in (await manager.list_agents()).entries] == [agent]
    assert stats.requests == asked

    again = manager_of(synapse, http, manager.settings.alias)
    assert await again.find_or_create_space() == space
    assert again.broadcast_id == broadcast
    assert again.client_of_daemon.stats.requests == 7, (
        "the default version, and three for each room: the directory is what one of them is"
    )
    assert await boot(again, agent) == room
    assert await again.find_agent_room(agent) == room
    assert [await events_of(client, each) for each, client in clients.items()] == before
    assert again.unavailable == ""


async def test_a_new_agent_costs_a_bounded_number_of_requests(manager: SpaceManager) -> None:
    await manager.find_or_create_space()
    asked = manager.client_of_daemon.stats.requests
    await boot(manager, fresh_name())
    assert manager.client_of_daemon.stats.requests - asked <= 16  # three of them for its picture


async def test_a_homeserver_that_makes_devices_at_a_login_alone_gives_an_agent_its_device(
    manager: SpaceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Synapse 1.97 does; a newer one refuses that login, so what it would do is done for it here."""
    put_device, ask_for_login, agent = MatrixClient.put_device, MatrixClient.log_in, fresh_name()

    async def refuse(self: MatrixClient, device_id: str, display_name: str) -> None:
        raise MatrixNotFoundError(404, "M_NOT_FOUND", "Not found")

    async def log_in(self: MatrixClient, body: dict[str, Any]) -> dict[str, Any]:
        assert body["type"] == "m.login.application_service"
        with contextlib.suppress(MatrixError):
            return await ask_for_login(self, body)
        client = self.as_user(body["identifier"]["user"], body["device_id"])
        await put_device(client, body["device_id"], body["initial_device_display_name"])
        return {"access_token": "not to be kept"}

    monkeypatch.setattr(MatrixClient, "put_device", refuse)
    monkeypatch.setattr(MatrixClient, "log_in", log_in)
    await boot(manager, agent)
    assert await manager.client_of(agent).whoami() == (NAMING.user(agent), DEVICE_ID)


async def test_registering_finds_the_space_by_itself_and_makes_a_member_everywhere(manager: SpaceManager) -> None:
    agent = fresh_name()
    room = await boot(manager, agent)
    client = manager.client_of(agent)
    assert set(await client.joined_rooms()) == {room, manager.space_id, manager.broadcast_id}
    assert manager.space_id is not None
    parent = (await state_of(client, room)).get(("m.space.parent", manager.space_id))
    assert parent == {"via": ["example.org"], "canonical": True}, "though the room was made before the Space was known"


# --- races


async def test_twenty_boots_at_once_come_to_one_room_each_and_leave_no_orphan(own_synapse: Synapse) -> None:
    spaces = set()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for _ in range(2):
            alias, agent = fresh_alias(), fresh_name()
            managers = [manager_of(own_synapse, session, alias) for _ in range(20)]
            appservice = managers[0].client_of_daemon
            with contextlib.suppress(MatrixNotFoundError):  # the broadcast room is made anew each time
                old = await appservice.resolve_room_alias(broadcast_alias("#x:example.org"))
                await appservice.delete_room_alias(broadcast_alias("#x:example.org"))
                await appservice.leave_room(old)

            async def start(manager: SpaceManager, agent: AgentName = agent) -> tuple[RoomId, RoomId]:
                return await manager.find_or_create_space(), await boot(manager, agent)

            booted = set(await asyncio.gather(*(start(manager) for manager in managers)))
            ((space, room),) = booted
            spaces.add(space)
            (broadcast,) = {manager.broadcast_id for manager in managers}
            client = managers[0].client_of(agent)
            assert set(await client.joined_rooms()) == {space, room, broadcast}
            assert set(await appservice.joined_rooms()) == {*spaces, broadcast}
            state = await state_of(appservice, space)
            assert {key for kind, key in state if kind == "m.space.child"} == {room, broadcast}
            assert [entry.name for entry in (await managers[-1].list_agents()).entries] == [agent]


@ON_ONE_PROCESS  # on PostgreSQL, Synapse answers some of those who make the same device at once with a 500
async def test_those_who_find_the_same_dead_room_at_once_come_to_one_new_room(
    manager: SpaceManager, synapse: Synapse, http: Http, impatient: None
) -> None:
    agent = fresh_name()
    dead = (await manager.find_or_create_agent_room(agent)).room_id
    await synapse.operator_client(http).leave_room(dead)
    await manager.client_of(agent).leave_room(dead)
    managers = [manager_of(synapse, http, manager.settings.alias) for _ in range(8)]
    made = await asyncio.gather(*(each.find_or_create_agent_room(agent) for each in managers))
    (room,) = {each.room_id for each in made}
    assert room != dead
    assert await manager.client_of(agent).joined_rooms() == (room,)
    assert await manager.find_agent_room(agent) == room


async def test_a_room_made_under_an_alias_that_was_freed_again_is_given_up(
    manager: SpaceManager, synapse: Synapse, http: Http, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, others = fresh_name(), []
    client = manager.client_of(agent)
    dead = (await manager.find_or_create_agent_room(agent)).room_id
    await synapse.operator_client(http).leave_room(dead)
    await client.leave_room(dead)
    create = MatrixClient.create_room

    async def create_and_lose(self: MatrixClient, body: dict[str, Any]) -> RoomId:
        room_id = await create(self, body)
        monkeypatch.setattr(MatrixClient, "create_room", create)
        await client.delete_room_alias(NAMING.alias(agent))  # as another does who took it for the dead room's
        others.append(await create(client, body))
        return room_id

    monkeypatch.setattr(MatrixClient, "create_room", create_and_lose)
    assert [(await manager.find_or_create_agent_room(agent)).room_id] == others
    assert list(await client.joined_rooms()) == others


# --- errors


async def test_what_is_not_ours_to_mend_propagates(synapse: Synapse, http: Http) -> None:
    with pytest.raises(MatrixUnauthorizedError):
        await manager_of(synapse, http, fresh_alias(), token="wrong").find_or_create_space()
    outside = manager_of(synapse, http, RoomAlias(f"#{fresh_name()}:example.org"))
    with pytest.raises(MatrixError, match="M_EXCLUSIVE"):
        await outside.find_or_create_space()
    second = manager_of(synapse, http, fresh_alias(), naming=Naming("example.org", "aiagentchat.second"))
    with pytest.raises(MatrixError, match="M_EXCLUSIVE"):
        await second.find_or_create_agent_room(fresh_name())
    view = await outside.list_agents()
    assert (view.entries, view.unavailable) == ((), outside.unavailable)
    assert "M_EXCLUSIVE" in view.unavailable


@pytest.mark.parametrize(("status", "error"), [(500, MatrixError), (409, MatrixConflictError)])
async def test_a_failing_creation_propagates_and_a_conflict_without_end_ends(
    synapse: Synapse, http: Http, impatient: None, status: int, error: type[MatrixError]
) -> None:
    created = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal created
        if request.path.endswith("/createRoom"):
            created += 1
            return web.json_response({"errcode": "M_UNKNOWN"}, status=status)
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        manager = manager_of(synapse, http, fresh_alias(), url=url, version="12")
        with pytest.raises(MatrixError) as caught:
            await manager.find_or_create_space()
    assert (type(caught.value), caught.value.status) == (error, status)
    assert created == (1 if status == 500 else 5)


async def test_without_the_space_the_list_is_empty_and_says_why(manager: SpaceManager, synapse: Synapse) -> None:
    view = await manager.list_agents()
    assert (view.entries, bool(view.unavailable)) == ((), True)
    agent = fresh_name()
    room = (await manager.find_or_create_agent_room(agent)).room_id
    assert await manager.find_agent_room(agent) == room, "an agent's room needs no Space"
    await manager.find_or_create_space()
    assert manager.space_id is not None
    manager.client_of_daemon._token = _FixedToken("no-longer-known")
    manager.directory.expire()
    view = await manager.list_agents()
    assert view.entries == ()
    assert "401" in view.unavailable


async def test_leases_that_cannot_be_read_count_as_over(manager: SpaceManager, synapse: Synapse, http: Http) -> None:
    agent = fresh_name()
    await boot(manager, agent, daemon="@other:example.org")
    deaf = manager_of(synapse, http, manager.settings.alias, url=f"http://127.0.0.1:{any_free_port()}", timeout_s=0.1)
    deaf.space_id, deaf.directory = manager.space_id, manager.directory
    assert [entry.status for entry in (await deaf.list_agents()).entries] == ["offline"]


# --- the directory


@pytest.mark.parametrize("policy", ["open", "strict"])
async def test_an_agent_is_listed_taken_off_and_listed_again(synapse: Synapse, http: Http, policy: str) -> None:
    manager, agent = manager_of(synapse, http, fresh_alias(), policy=policy), fresh_name()
    await manager.find_or_create_space()

    async def listed() -> Sequence[tuple[str, str]]:
        fresh = manager_of(synapse, http, manager.settings.alias, policy=policy)
        await fresh.find_or_create_space()
        both = [
            [(entry.name, entry.status) for entry in (await each.list_agents(frozenset({agent}))).entries]
            for each in (manager, fresh)
        ]
        assert both[0] == both[1]
        return both[0]

    room = await boot(manager, agent)
    assert await listed() == [(agent, "online")]
    await manager.unregister(agent)
    assert await listed() == []
    await manager.unregister(agent)
    assert await manager.find_agent_room(agent) == room, "its room stays as it is"
    assert await boot(manager, agent) == room
    assert await listed() == [(agent, "online")]
    child = await manager.client_of_daemon.get_state_event(await manager.find_or_create_space(), "m.space.child", room)
    assert child["sender"] == (NAMING.daemon if policy == "strict" else NAMING.user(agent))


async def test_a_card_left_without_its_child_is_mended(manager: SpaceManager, synapse: Synapse, http: Http) -> None:
    agent = fresh_name()
    space, room = await manager.find_or_create_space(), await boot(manager, agent)
    await manager.client_of_daemon.put_state(space, "m.space.child", room, {})
    again = manager_of(synapse, http, manager.settings.alias)
    await again.find_or_create_space()
    own = frozenset({agent})
    assert [entry.status for entry in (await again.list_agents(own)).entries] == ["offline"]
    await boot(again, agent)
    assert [entry.status for entry in (await again.list_agents(own)).entries] == ["online"]


async def test_before_the_space_was_looked_up_nobody_is_said_not_to_be_there(manager: SpaceManager) -> None:
    with pytest.raises(HomeserverUnavailableError):
        await manager.find_agent(AgentName("zzz"))
    await manager.find_or_create_space()
    with pytest.raises(AgentNotFoundError):
        await manager.find_agent(AgentName("zzz"))


async def test_an_unknown_agent_is_answered_with_the_names_near_it(manager: SpaceManager) -> None:
    stem = secrets.token_hex(4)
    names = [AgentName(f"{stem}-{end}") for end in ("reviewer", "tester")]
    for name in names:
        await boot(manager, name)
    with pytest.raises(AgentNotFoundError) as near:
        await manager.find_agent_room(AgentName(f"{stem}-reviewr"))
    assert names[0] in near.value.hint
    with pytest.raises(AgentNotFoundError) as far:
        await manager.find_agent_room(AgentName("zzz"))
    assert stem not in far.value.hint
    assert "cchat who" in far.value.hint


async def test_a_name_of_another_daemon_is_refused_as_long_as_that_one_lives(
    manager: SpaceManager, synapse: Synapse, http: Http, tmp_path: Path
) -> None:
    agent, other = fresh_name(), await person(synapse, http, tmp_path)
    daemon, _ = await other.whoami()
    alias = manager.settings.alias
    manager = manager_of(synapse, http, alias, people=(daemon,))
    space = await manager.find_or_create_space()
    await other.join_room(space)
    await boot(manager, agent, daemon=daemon)
    await other.put_state(space, ROSTER, daemon, {"online": [agent]})

    async def status() -> str:
        fresh = manager_of(synapse, http, alias)
        await fresh.find_or_create_space()
        (entry,) = (await fresh.list_agents()).entries
        if entry.status == "online":
            with pytest.raises(NameTakenError, match=daemon):
                await fresh.others.refuse_name_of_live_daemon(agent)
        else:
            await fresh.others.refuse_name_of_live_daemon(agent)
        return entry.status

    statuses = []
    for presence in ("online", "unavailable", "offline"):
        await other.set_presence(daemon, presence)
        statuses.append(await status())
    assert statuses == ["online", "online", "offline"]
    await manager.others.refuse_name_of_live_daemon(fresh_name())
    await boot(manager, agent)
    await manager.others.refuse_name_of_live_daemon(agent)
