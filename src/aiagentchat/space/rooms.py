"""`ensure_room`: the one way a room of ours comes to be. Its alias is the lock; it is mended after every resolve.

Used by `space.manager` for the Space, the broadcast room and every agent's room.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from aiagentchat.errors import MatrixConflictError, MatrixForbiddenError, MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from aiagentchat.space.layout import RoomSpec, render_creation, render_parent, wanted_power_levels

log = logging.getLogger(__name__)

_BEING_MADE_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 4.0)
"""A creator elsewhere holds the alias some seconds before the room can be joined; only then is it taken for dead."""


@dataclass(frozen=True, slots=True)
class EnsuredRoom:
    """A room that exists, is joined by its creator and is as its spec says. `encrypted`: it must not be written to."""

    room_id: RoomId
    created: bool
    encrypted: bool


async def ensure_room(client: MatrixClient, spec: RoomSpec, *, room_version: str, server_name: str) -> EnsuredRoom:
    """Return the room of the spec's alias: joined and mended where there is one, created where there is none.

    Args:
        client: acts as the spec's creator.

    A conflict on creation, whatever its errcode, means that somebody was first: resolve again and join. An alias
    whose room is dead is deleted and made anew.

    Raises:
        MatrixError: every other answer (401, 403, 500 …), unchanged.
    """
    while True:
        try:
            room_id = await client.resolve_room_alias(spec.alias)
        except MatrixNotFoundError:
            try:
                room_id = await client.create_room(render_creation(spec, room_version, server_name))
            except MatrixConflictError:
                await asyncio.sleep(_BEING_MADE_WAITS_S[0])  # taken, and perhaps not visible yet
                continue
            return EnsuredRoom(room_id, created=True, encrypted=await _is_encrypted(client, room_id))
        if await _join_when_made(client, room_id):
            encrypted = await converge_room(client, spec, room_id, server_name)
            return EnsuredRoom(room_id, created=False, encrypted=encrypted)
        log.warning("the room of an alias is dead; making it anew", extra={"alias": spec.alias, "room_id": room_id})
        await client.delete_room_alias(spec.alias)


async def _join_when_made(client: MatrixClient, room_id: RoomId) -> bool:
    """Join; False where the room stays unjoinable (404) for as long as making one can take."""
    for wait_s in (*_BEING_MADE_WAITS_S, None):
        try:
            await client.join_room(room_id)
        except MatrixNotFoundError:
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        else:
            return True
    return False


async def converge_room(client: MatrixClient, spec: RoomSpec, room_id: RoomId, server_name: str) -> bool:
    """Compare the room with its spec, mend what the spec fixes, and return whether the room is encrypted.

    Name and topic are a person's to change and are left alone. A room without power levels is still being made, or
    was left half-made: it is given time to be finished before it is mended.
    """
    state = await _state_when_made(client, room_id)
    version = str(state.get(("m.room.create", ""), {}).get("room_version", "1"))
    wanted: dict[tuple[str, str], dict[str, Any]] = {
        ("m.room.power_levels", ""): wanted_power_levels(spec, version, state.get(("m.room.power_levels", ""), {})),
        ("m.room.join_rules", ""): spec.join_rules,
        ("m.room.history_visibility", ""): {"history_visibility": spec.history_visibility},
    }
    if spec.parent is not None:
        wanted["m.space.parent", spec.parent] = render_parent(server_name)
    if ("m.room.name", "") not in state:
        wanted["m.room.name", ""] = {"name": spec.name}
    for (kind, key), content in wanted.items():
        if not _contains(state.get((kind, key), {}), content):
            log.info("mending %s", kind, extra={"room_id": room_id})
            await client.put_state(room_id, kind, key, content)
    return ("m.room.encryption", "") in state


async def _state_when_made(client: MatrixClient, room_id: RoomId) -> dict[tuple[str, str], dict[str, Any]]:
    state: dict[tuple[str, str], dict[str, Any]] = {}
    for wait_s in (*_BEING_MADE_WAITS_S[:5], None):
        events = await client.get_full_state(room_id)
        state = {
            (event["type"], event["state_key"]): event["content"]
            for event in events
            if isinstance(event.get("content"), dict)
        }
        if ("m.room.history_visibility", "") in state or wait_s is None:
            break
        await asyncio.sleep(wait_s)
    return state


def _contains(present: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether all that is wanted is present; what else the server put there (defaults of its own) may stay."""
    return all(
        _contains(present.get(key, {}), value)
        if isinstance(value, dict) and isinstance(present.get(key), dict)
        else key in present and present[key] == value
        for key, value in wanted.items()
    )


async def _is_encrypted(client: MatrixClient, room_id: RoomId) -> bool:
    """A server may encrypt every new room, whatever was asked for."""
    try:
        await client.get_state(room_id, "m.room.encryption")
    except (MatrixNotFoundError, MatrixForbiddenError):
        return False
    return True
