"""Space managers wired as the daemon wires them, and what tests of the Space ask of its rooms."""

import secrets
from typing import Any

import aiohttp

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, RoomAlias, RoomId, UserId
from aiagentchat.space.content import Card
from aiagentchat.space.directory import Directory
from aiagentchat.space.identities import AppserviceIdentities
from aiagentchat.space.layout import Layout
from aiagentchat.space.manager import SpaceManager, SpaceSettings
from aiagentchat.space.names import Naming
from tests.integration.systems import Synapse

Http = aiohttp.ClientSession
State = dict[tuple[str, str], Any]
NAMING = Naming("example.org")


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
    settings = SpaceSettings(alias, Layout(synapse.operator.user_id, people, policy))
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
