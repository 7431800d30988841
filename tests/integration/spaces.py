"""Space managers wired as the daemon wires them, and what tests of the Space ask of its rooms."""

import secrets
from typing import Any

import aiohttp
import pytest

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, RoomAlias, RoomId, UserId
from aiagentchat.space.content import Card
from aiagentchat.space.directory import Directory
from aiagentchat.space.identities import AppserviceIdentities
from aiagentchat.space.layout import Layout, SpaceSettings
from aiagentchat.space.manager import SpaceManager
from aiagentchat.space.names import Naming
from aiagentchat.space.people import Person
from tests.integration.systems import Synapse

Http = aiohttp.ClientSession
State = dict[tuple[str, str], Any]
NAMING = Naming("example.org")
ROOM_VERSIONS = ["10", "11", "12"]


def fresh_alias() -> RoomAlias:
    return RoomAlias(f"#aiagentchat-_space-{secrets.token_hex(4)}:example.org")


def manager_of(
    synapse: Synapse,
    session: Http,
    alias: RoomAlias,
    *,
    policy: str = "open",
    people: tuple[UserId, ...] = (),
    naming: Naming = NAMING,
    url: str = "",
    token: str = "",
    version: str | None = None,
    timeout_s: float = 60.0,
) -> SpaceManager:
    """Return a manager wired as the daemon wires one; each has clients of its own, and so no locks in common."""
    base_url, token = url or synapse.config.base_url, token or synapse.registration.as_token
    client = MatrixClient(base_url, token, session, timeout_s=timeout_s)
    settings = SpaceSettings(alias, Layout(synapse.operator.user_id, tuple(map(Person, people)), policy))
    identities = AppserviceIdentities(client, naming)
    manager = SpaceManager(identities, synapse.operator_client(session), settings, Directory(naming, ttl_s=300))
    manager._room_version = version
    return manager


async def boot(manager: SpaceManager, agent: AgentName, **fields: Any) -> RoomId:
    """Bring an agent up as the daemon does."""
    room = await manager.find_or_create_agent_room(agent)
    await manager.register_in_space(card_of(agent, room.room_id, **fields))
    return room.room_id


def card_of(agent: AgentName, room_id: RoomId, **fields: Any) -> Card:
    base = {"name": agent, "room_id": room_id, "alias": NAMING.alias(agent), "daemon": NAMING.daemon}
    return Card.model_validate(base | fields)


async def state_of(client: MatrixClient, room_id: RoomId) -> State:
    return {(each["type"], each["state_key"]): each["content"] for each in await client.get_full_state(room_id)}


async def events_of(client: MatrixClient, room_id: RoomId) -> set[str]:
    return {each["event_id"] for each in await client.get_full_state(room_id)}


async def membership(client: MatrixClient, room_id: RoomId, user_id: UserId) -> str | None:
    member = (await state_of(client, room_id)).get(("m.room.member", user_id), {})
    return str(member["membership"]) if member else None


async def known_room_versions(client: MatrixClient) -> list[str]:
    """Return those of `ROOM_VERSIONS` that the homeserver knows."""
    answer = await client._request("GET", ("_matrix", "client", "v3", "capabilities"))
    available = answer["capabilities"]["m.room_versions"]["available"]
    return [version for version in ROOM_VERSIONS if version in available]


async def require_room_version(client: MatrixClient, version: str) -> None:
    """Skip a test of a room version that the homeserver does not know: an older one ends at 11."""
    if version not in await known_room_versions(client):
        pytest.skip(f"this homeserver knows no room version {version}")


def as_creator(user_id: UserId, version: str) -> dict[str, int]:
    """Return how power levels name a room's creator: before version 12 they have to, from then on they may not."""
    return {} if version == "12" else {user_id: 100}


async def make_by_hand(client: MatrixClient, alias: RoomAlias, version: str | None = None) -> RoomId:
    """Make a room of ours as no daemon would: in no room version is a power level above its creator's."""
    body = {"room_alias_name": alias[1:].split(":")[0]} | ({} if version is None else {"room_version": version})
    return await client.create_room(body)
