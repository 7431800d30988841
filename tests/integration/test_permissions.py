"""Who may do what in the Space, an agent's room and the broadcast room: each cell of the design's table is tried.

With real users, in room versions that name their creator (10, 11) and one whose creator stands above all levels (12).
What is tried is allowed or is a 403; anything else fails the test.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiagentchat.config import Paths
from aiagentchat.errors import MatrixForbiddenError, MatrixNotFoundError
from aiagentchat.homeserver.operator import ensure_operator
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId, UserId
from aiagentchat.space.content import CARD, ROSTER
from aiagentchat.space.names import broadcast_alias
from tests.integration.spaces import (
    NAMING,
    ROOM_VERSIONS,
    Http,
    boot,
    fresh_alias,
    manager_of,
    membership,
    require_room_version,
)
from tests.integration.systems import Synapse, fresh_name, start_synapse

SPACE, STRICT, AGENT_ROOM, BROADCAST = "Space", "strict Space", "agent room", "broadcast room"
DAEMON, AGENT, OTHER, OPERATOR, PERSON, STRANGER = "daemon", "agent", "other agent", "operator", "person", "stranger"
CREATOR = {SPACE: DAEMON, STRICT: DAEMON, BROADCAST: DAEMON, AGENT_ROOM: AGENT}


@dataclass(frozen=True)
class World:
    """A Space of each policy, two agents and three people; the other agent and the person are in the agent's room.

    `people`: their tokens. `users`: all by name.
    """

    version: str
    rooms: dict[str, RoomId]
    users: dict[str, UserId]
    people: dict[str, str]

    def clients(self, synapse: Synapse, session: Http) -> dict[str, MatrixClient]:
        appservice, url = synapse.appservice(session), synapse.config.base_url
        clients = {name: MatrixClient(url, token, session) for name, token in self.people.items()}
        agents = {name: appservice.as_user(self.users[name], "AIAGENTCHAT") for name in (AGENT, OTHER)}
        return clients | agents | {DAEMON: appservice}


async def make_world(synapse: Synapse, home: Path, version: str) -> World:
    users, tokens = {DAEMON: NAMING.daemon, OPERATOR: synapse.operator.user_id}, {}
    for name in (PERSON, STRANGER):
        paths = Paths(config_dir=home / name, data_dir=home / name)
        account = await ensure_operator(synapse.config.base_url, paths, synapse.config, fresh_name(name))
        users[name], tokens[name] = account.user_id, account.access_token
    tokens[OPERATOR] = synapse.operator.access_token
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        await require_room_version(synapse.appservice(session), version)
        people, agent, other = (users[PERSON],), fresh_name(), fresh_name("other")
        strict = manager_of(synapse, session, fresh_alias(), policy="strict", people=people, version=version)
        manager = manager_of(synapse, session, fresh_alias(), people=people, version=version)
        with contextlib.suppress(MatrixNotFoundError):  # the broadcast room of tests before is of any version
            await manager.client_of_daemon.delete_room_alias(broadcast_alias("#x:example.org"))
        for each in (strict, manager):  # the last one has the broadcast room
            await each.find_or_create_space()
            room = await boot(each, agent)
            await boot(each, other)
        assert strict.space_id is not None
        assert manager.space_id is not None
        assert manager.broadcast_id is not None
        rooms = {STRICT: strict.space_id, SPACE: manager.space_id, AGENT_ROOM: room, BROADCAST: manager.broadcast_id}
        users |= {AGENT: NAMING.user(agent), OTHER: NAMING.user(other)}
        await manager.client_of(agent).invite(room, users[OTHER])
        await manager.client_of(other).join_room(room)
        for room in rooms.values():
            await MatrixClient(synapse.config.base_url, tokens[PERSON], session).join_room(room)
    return World(version, rooms, users, tokens)


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A homeserver for this file alone, whose broadcast room it may leave in any state."""
    synapse = asyncio.run(start_synapse(tmp_path_factory.mktemp("synapse")))
    yield synapse
    asyncio.run(synapse.stop())


@pytest.fixture(scope="module", params=[ROOM_VERSIONS[0], ROOM_VERSIONS[-1]])
def world(request: pytest.FixtureRequest, synapse: Synapse, tmp_path_factory: pytest.TempPathFactory) -> World:
    return asyncio.run(make_world(synapse, tmp_path_factory.mktemp("people"), request.param))


@dataclass(frozen=True)
class Try:
    """One user who tries something in one room. `creator`: a client of who made it, to set the scene."""

    me: UserId
    client: MatrixClient
    creator: MatrixClient
    creator_id: UserId
    room_id: RoomId

    async def state(self, kind: str, key: str = "", content: dict[str, Any] | None = None) -> object:
        return await self.client.put_state(self.room_id, kind, key, (content or {}) | {"try": secrets.token_hex(4)})

    async def change(self, kind: str) -> object:
        """Write state as it stands, with a word that says nothing to a server."""
        return await self.state(kind, "", await self.creator.get_state(self.room_id, kind))

    async def message(self, kind: str = "m.room.message") -> object:
        return await self.client.send(self.room_id, kind, {"msgtype": "m.text", "body": "hello"}, secrets.token_hex(8))

    async def member(self, what: str, user_id: str = "", *, invited: bool = False) -> object:
        """Invite, kick or ban somebody, by default somebody new."""
        user_id = user_id or f"@somebody-{secrets.token_hex(4)}:example.org"
        if invited:
            await self.creator.invite(self.room_id, UserId(user_id))
        path = ("_matrix", "client", "v3", "rooms", self.room_id, what)
        return await self.client._request("POST", path, body={"user_id": user_id})


SOMEBODY = "@aiagentchat-somebody-else:example.org"
TRIES: dict[str, Callable[[Try], Awaitable[object]]] = {
    "join": lambda it: it.client.join_room(it.room_id),
    "read": lambda it: it.client.get_messages(it.room_id, direction="b"),
    "message": lambda it: it.message(),
    "own card": lambda it: it.state(CARD, it.me),
    "another's card": lambda it: it.state(CARD, SOMEBODY),
    "own roster": lambda it: it.state(ROSTER, it.me),
    "another's roster": lambda it: it.state(ROSTER, SOMEBODY),
    "child": lambda it: it.state("m.space.child", f"!{secrets.token_hex(4)}:example.org"),
    "other state": lambda it: it.state("m.room.name", "", {"name": "another"}),
    "invite": lambda it: it.member("invite"),
    "kick": lambda it: it.member("kick", invited=True),
    "kick the creator": lambda it: it.member("kick", it.creator_id),
    "ban": lambda it: it.member("ban"),
    "power levels": lambda it: it.change("m.room.power_levels"),
    "join rules": lambda it: it.change("m.room.join_rules"),
    "history visibility": lambda it: it.change("m.room.history_visibility"),
    "encryption": lambda it: it.state("m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2"}),
    "encrypted": lambda it: it.message("m.room.encrypted"),
    "tombstone": lambda it: it.state("m.room.tombstone", "", {"body": "gone", "replacement_room": "!x:example.org"}),
}
NEVER = ("encryption", "encrypted", "tombstone")

NOBODY: frozenset[str] = frozenset()
ALL = frozenset({DAEMON, AGENT, OTHER, OPERATOR, PERSON})
HOSTS = frozenset({DAEMON, OPERATOR})
OF_DAEMONS_ROOMS = {
    **dict.fromkeys(("join", "read"), ALL),
    **dict.fromkeys(("other state", "invite", "kick", "ban"), HOSTS),
    **dict.fromkeys(("power levels", "join rules", "history visibility"), frozenset({DAEMON})),
    **dict.fromkeys(("kick the creator", *NEVER), NOBODY),
}
OF_SPACE = OF_DAEMONS_ROOMS | {
    "message": HOSTS,
    **dict.fromkeys(("own card", "own roster"), ALL),
    **dict.fromkeys(("another's card", "another's roster"), NOBODY),
}
IN_AGENT_ROOM = frozenset({AGENT, OTHER, OPERATOR, PERSON})
OF_CREATOR = frozenset({AGENT})
MAY: dict[str, dict[str, frozenset[str]]] = {
    SPACE: OF_SPACE | {"child": ALL},
    STRICT: OF_SPACE | {"child": HOSTS},
    BROADCAST: OF_DAEMONS_ROOMS | {"message": ALL},
    AGENT_ROOM: {
        **dict.fromkeys(("join", "read", "message"), IN_AGENT_ROOM),
        **dict.fromkeys(("other state", "invite", "kick", "ban"), frozenset({AGENT, OPERATOR})),
        **dict.fromkeys(("power levels", "join rules", "history visibility"), OF_CREATOR),
        **dict.fromkeys(("kick the creator", *NEVER), NOBODY),
    },
}


async def is_allowed(attempt: Awaitable[object]) -> bool:
    try:
        await attempt
    except MatrixForbiddenError:
        return False
    return True


@pytest.mark.parametrize("room", list(MAY))
async def test_everybody_may_what_the_design_says_and_no_more(
    synapse: Synapse, http: Http, world: World, room: str
) -> None:
    clients, creator = world.clients(synapse, http), CREATOR[room]
    tried: dict[str, set[str]] = {}
    for action in MAY[room]:
        tried[action] = set()
        for name, client in clients.items():
            if name == creator and (action == "kick the creator" or (world.version == "12" and action in NEVER)):
                continue  # leaving is one's own business, and nothing stops a creator of version 12
            it = Try(world.users[name], client, clients[creator], world.users[creator], world.rooms[room])
            if await is_allowed(TRIES[action](it)):
                tried[action].add(name)
    assert tried == MAY[room]


@pytest.mark.parametrize("room", [SPACE, AGENT_ROOM, BROADCAST])
async def test_even_who_was_raised_to_the_top_cannot_encrypt_or_end_a_room(
    synapse: Synapse, http: Http, world: World, room: str
) -> None:
    clients, room_id, creator = world.clients(synapse, http), world.rooms[room], CREATOR[room]
    levels = await clients[creator].get_state(room_id, "m.room.power_levels")
    raised = levels | {"users": levels["users"] | {world.users[PERSON]: 100}}
    await clients[creator].put_state(room_id, "m.room.power_levels", "", raised)
    it = Try(world.users[PERSON], clients[PERSON], clients[creator], world.users[creator], room_id)
    assert await is_allowed(it.change("m.room.join_rules"))
    assert not any([await is_allowed(TRIES[action](it)) for action in NEVER])
    unlocked = raised | {"events": raised["events"] | {"m.room.encryption": 0}}
    assert not await is_allowed(it.state("m.room.power_levels", "", unlocked))


@pytest.fixture
async def newcomer(synapse: Synapse, http: Http, tmp_path: Path) -> tuple[UserId, MatrixClient]:
    paths = Paths(config_dir=tmp_path, data_dir=tmp_path)
    account = await ensure_operator(synapse.config.base_url, paths, synapse.config, fresh_name("newcomer"))
    return account.user_id, MatrixClient(synapse.config.base_url, account.access_token, http)


async def test_the_broadcast_room_opens_to_members_of_the_space_and_to_no_one_else(
    synapse: Synapse, http: Http, world: World, newcomer: tuple[UserId, MatrixClient]
) -> None:
    daemon, (user_id, client), rooms = synapse.appservice(http), newcomer, world.rooms
    assert not await is_allowed(client.join_room(rooms[BROADCAST]))
    await daemon.invite(rooms[SPACE], user_id)
    assert not await is_allowed(client.join_room(rooms[BROADCAST])), "invited is no member"
    await client.join_room(rooms[SPACE])
    await client.join_room(rooms[BROADCAST])
    assert not await is_allowed(client.join_room(rooms[AGENT_ROOM]))
    assert await membership(daemon, rooms[BROADCAST], user_id) == "join"


@pytest.mark.parametrize("room", [SPACE, AGENT_ROOM, BROADCAST])
async def test_who_comes_later_reads_what_was_written_before_and_who_is_outside_nothing(
    synapse: Synapse, http: Http, world: World, room: str, newcomer: tuple[UserId, MatrixClient]
) -> None:
    clients, room_id, (user_id, client) = world.clients(synapse, http), world.rooms[room], newcomer
    host = clients[CREATOR[room]]
    earlier = await host.send(room_id, "m.room.message", {"msgtype": "m.text", "body": "earlier"}, secrets.token_hex(8))
    with pytest.raises((MatrixForbiddenError, MatrixNotFoundError)):
        await client.get_event(room_id, earlier)
    await host.invite(room_id, user_id)
    await client.join_room(room_id)
    assert (await client.get_event(room_id, earlier))["content"]["body"] == "earlier"
