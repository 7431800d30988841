"""`ensure_room`: the one way a room of ours comes to be. Its alias is the lock; it is mended after every resolve.

Used by `space.manager` for the Space, the broadcast room and every agent's room.
"""

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass, field
from typing import Any

from aiagentchat.errors import (
    AiAgentChatError,
    HomeserverUnavailableError,
    MatrixConflictError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    RefusedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import RoomEvent, parse_events
from aiagentchat.model import EventId, RoomAlias, RoomId, UserId
from aiagentchat.space.layout import RoomSpec, render_creation, render_parent, render_picture, wanted_power_levels

log = logging.getLogger(__name__)

_BEING_MADE_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 4.0)
"""A creator elsewhere holds the alias some seconds before the room can be joined; only then is it taken for dead."""

_SPREAD_S = 1.0
"""Those who found the same dead room at the same time free its alias one after the other, and the first is enough."""

_State = dict[tuple[str, str], RoomEvent]


@dataclass(frozen=True, slots=True)
class EnsuredRoom:
    """A room that exists, is joined by its creator and is as its spec says.

    `encrypted`: it must not be written to. `invited`: who of the spec's people has an invite, and has not joined yet.
    `state`: what the homeserver gave as its state, before anything was mended.
    """

    room_id: RoomId
    created: bool
    encrypted: bool
    invited: frozenset[UserId]
    state: object = field(repr=False)


async def ensure_room(client: MatrixClient, spec: RoomSpec, *, room_version: str, server_name: str) -> EnsuredRoom:
    """Return the room of the spec's alias: joined and mended where there is one, created where there is none.

    Args:
        client: acts as the spec's creator.

    A conflict on creation, whatever its errcode, means that somebody was first: resolve again and join. An alias
    whose room is dead is deleted and made anew. Bounded: at most as many rounds as there are waits.

    Raises:
        MatrixConflictError: the alias could neither be resolved nor taken, round after round.
        RefusedError: the alias names a room that somebody else made.
        MatrixError: every other answer (401, 403, 500 …), unchanged.
    """
    conflict = MatrixConflictError(409, "M_UNKNOWN", f"{spec.alias} was lost to others time after time")
    freed = False
    for wait_s in _BEING_MADE_WAITS_S:
        try:
            room_id = await client.resolve_room_alias(spec.alias)
        except MatrixNotFoundError:
            try:
                room_id = await _create(client, spec, room_version, server_name)
            except MatrixConflictError as error:
                conflict = error
                await asyncio.sleep(wait_s)  # taken, and perhaps not visible yet
                continue
            if freed and not await _is_named(client, spec.alias, room_id):
                await client.leave_room(room_id)
                continue
            return await _converged(client, spec, room_id, server_name, created=True)
        if (
            spec.history_visibility == "joined"
        ):  # an agent's room that is open to the Space: it could come back by itself
            await require_not_removed(client, spec.creator, room_id)
        if await _join_when_made(client, spec, room_id):
            return await _converged(client, spec, room_id, server_name, created=False)
        await _free_alias(client, spec.alias, room_id)
        freed = True
    raise conflict


async def _create(client: MatrixClient, spec: RoomSpec, room_version: str, server_name: str) -> RoomId:
    """Create the room, or return the half-made one of a creation that our own power levels ended.

    They do so before room version 12 on a homeserver that encrypts every room: they forbid that, and bind the creator
    too. What it leaves is in clear, and is mended as any half-made room.
    """
    try:
        return await client.create_room(render_creation(spec, room_version, server_name))
    except MatrixForbiddenError as refusal:
        try:
            return await client.resolve_room_alias(spec.alias)
        except MatrixNotFoundError:
            raise refusal from None


async def _converged(
    client: MatrixClient, spec: RoomSpec, room_id: RoomId, server_name: str, *, created: bool
) -> EnsuredRoom:
    raw, state = await _state_when_made(client, room_id)
    await converge_room(client, spec, room_id, server_name, state)
    invited = await _invite_missing(client, spec, room_id, state)
    return EnsuredRoom(room_id, created, ("m.room.encryption", "") in state, invited, raw)


async def require_not_removed(client: MatrixClient, user_id: UserId, room_id: RoomId) -> None:
    """Raise `RefusedError` where somebody else took a user out of a room: nobody comes back against their will."""
    try:
        raw = await client.get_state_event(room_id, "m.room.member", user_id)
    except (MatrixForbiddenError, MatrixNotFoundError):  # never in it, or the room is gone
        return
    content, sender = raw.get("content", raw), raw.get("sender", user_id)
    if isinstance(content, dict) and content.get("membership") in ("leave", "ban") and sender != user_id:
        raise RefusedError(
            f"{sender} took {user_id} out of its room", hint=f"invite {user_id} there again to have it back"
        )


async def _join_when_made(client: MatrixClient, spec: RoomSpec, room_id: RoomId) -> bool:
    """Join; False where the room stays unjoinable (404) for as long as making one can take, or the alias leaves it."""
    for wait_s in (*_BEING_MADE_WAITS_S, None):
        try:
            await client.join_room(room_id)
        except MatrixForbiddenError:
            await require_not_removed(client, spec.creator, room_id)
            raise
        except MatrixNotFoundError:
            if wait_s is not None:
                await asyncio.sleep(wait_s)
            if not await _is_named(client, spec.alias, room_id):
                break
        else:
            return True
    return False


async def accept_invite(client: MatrixClient, user_id: UserId, room_id: RoomId) -> None:
    """Have a person be in a room without a click, and the invite be read: it counts as a message to them."""
    try:
        await client.join_room(room_id)
        joined = (await client.get_state_event(room_id, "m.room.member", user_id)).get("event_id")
        if isinstance(joined, str):  # an older Synapse does not tell it
            await client.send_receipt(room_id, EventId(joined))
    except AiAgentChatError as error:  # the invite stands, or counts
        log.warning("%s did not join: %s", user_id, error.message, extra={"room_id": room_id})


async def membership_of(client: MatrixClient, room_id: RoomId, user_id: UserId) -> str:
    """Return a user's membership of a room as a client sees it, "" where it cannot."""
    try:
        return str((await client.get_state(room_id, "m.room.member", user_id)).get("membership", ""))
    except MatrixError:
        return ""


async def try_to_invite(inviter: MatrixClient, room_id: RoomId, user_id: UserId) -> bool:
    """Invite a user; return whether it was done. A member cannot be, nor can who may not come: a join tells which."""
    try:
        await inviter.invite(room_id, user_id)
    except MatrixForbiddenError:
        log.debug("%s could not be invited; joining all the same", user_id)
        return False
    return True


async def _free_alias(client: MatrixClient, alias: RoomAlias, dead: RoomId) -> None:
    """Delete the alias of a dead room, unless somebody else did so meanwhile: it then names their room, or none."""
    log.warning("the room of an alias is dead; making it anew", extra={"alias": alias, "room_id": dead})
    await asyncio.sleep(random.uniform(0, _SPREAD_S))
    with contextlib.suppress(MatrixNotFoundError):
        if await client.resolve_room_alias(alias) == dead:
            await client.delete_room_alias(alias)


async def _is_named(client: MatrixClient, alias: RoomAlias, room_id: RoomId) -> bool:
    """Whether the alias of a new room is still its own: one who freed it at the same time may have freed it again."""
    try:
        return await client.resolve_room_alias(alias) == room_id
    except MatrixNotFoundError:
        return False


async def converge_room(client: MatrixClient, spec: RoomSpec, room_id: RoomId, server_name: str, state: _State) -> None:
    """Compare the room's state with its spec, and mend what the spec fixes.

    Name, topic and picture are a person's to change and are left alone; a topic that is still ours may have to say
    something else by now, such as another host.

    Raises:
        RefusedError: somebody else made the room. Its creator could do in it whatever they want. Exceptions are the
            Space, since nobody chats in it and a team may have one, and what a room of ours was upgraded to.
    """
    if ("m.room.tombstone", "") in state:
        raise HomeserverUnavailableError(
            f"{spec.alias} still leads to a room that was upgraded", hint="point the alias to the new room"
        )
    create = state.get(("m.room.create", ""))
    creator = spec.creator if create is None else create.sender
    if creator != spec.creator and not spec.is_space and not await _is_upgrade_of_ours(client, spec, room_id, create):
        await client.leave_room(room_id)
        raise RefusedError(
            f"{spec.alias} names a room that {creator} made, and not {spec.creator}",
            hint="remove that alias; a room under it is then made",
        )
    version = "1" if create is None else str(create.content.get("room_version", "1"))
    levels = wanted_power_levels(spec, version, _content(state, "m.room.power_levels"), creator)
    wanted: dict[tuple[str, str], dict[str, Any]] = {("m.room.power_levels", ""): levels}
    if not spec.awaits_space:
        wanted["m.room.join_rules", ""] = spec.join_rules
        wanted["m.room.history_visibility", ""] = {"history_visibility": spec.history_visibility}
    if spec.parent is not None:
        wanted["m.space.parent", spec.parent] = render_parent(server_name)
    shown = {"m.room.name": {"name": spec.name}, "m.room.topic": {"topic": spec.topic}}
    if spec.picture:
        shown["m.room.avatar"] = render_picture({"online": spec.picture})
    wanted |= {(kind, ""): content for kind, content in shown.items() if (kind, "") not in state}
    topic = state.get(("m.room.topic", ""))
    is_creators = topic is not None and topic.sender == spec.creator
    if spec.topic_end and is_creators and str(_content(state, "m.room.topic").get("topic")).endswith(spec.topic_end):
        wanted["m.room.topic", ""] = shown["m.room.topic"]
    for (kind, key), content in wanted.items():
        if not _contains(_content(state, kind, key), content):
            log.info("mending %s", kind, extra={"room_id": room_id})
            await client.put_state(room_id, kind, key, content)


async def _is_upgrade_of_ours(client: MatrixClient, spec: RoomSpec, room_id: RoomId, create: RoomEvent | None) -> bool:
    """Whether a room that another made stands in place of one of ours: whoever may write its tombstone meant it."""
    predecessor = None if create is None else create.content.get("predecessor")
    old = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    if not isinstance(old, str):
        return False
    try:
        state = _by_key(await client.get_full_state(RoomId(old)), RoomId(old))
    except (MatrixForbiddenError, MatrixNotFoundError):
        return False
    made = state.get(("m.room.create", ""))
    replaced_by = _content(state, "m.room.tombstone").get("replacement_room")
    return made is not None and made.sender == spec.creator and replaced_by == room_id


async def _invite_missing(client: MatrixClient, spec: RoomSpec, room_id: RoomId, state: _State) -> frozenset[UserId]:
    """Invite whom the spec names and who was never in the room; return who has an invite now.

    Someone who cannot be invited (no such user, a server that does not answer) is no reason to go without the room.
    """
    invited = set()
    for user_id in spec.invite:
        membership = _content(state, "m.room.member", user_id).get("membership")
        if membership is None:
            try:
                await client.invite(room_id, user_id)
            except AiAgentChatError as error:
                log.warning("%s was not invited: %s", user_id, error.message, extra={"room_id": room_id})
                continue
        if membership in (None, "invite"):
            invited.add(user_id)
    return frozenset(invited)


async def _state_when_made(client: MatrixClient, room_id: RoomId) -> tuple[object, _State]:
    """Return a room's state, as it came and by its keys.

    A room that is still being made, or was left half-made, is given time to be finished.
    """
    for wait_s in (*_BEING_MADE_WAITS_S[:5], None):
        raw = await client.get_full_state(room_id)
        state = _by_key(raw, room_id)
        if ("m.room.history_visibility", "") in state or wait_s is None:
            break
        await asyncio.sleep(wait_s)
    return raw, state


def _by_key(raw: object, room_id: RoomId) -> _State:
    events = parse_events(raw, room_id).events
    return {(event.type, event.state_key): event for event in events if event.state_key is not None}


def _content(state: _State, kind: str, key: str = "") -> dict[str, Any]:
    event = state.get((kind, key))
    return {} if event is None else event.content


def _contains(present: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether all that is wanted is present; what else the server put there (defaults of its own) may stay."""
    return all(
        _contains(present.get(key, {}), value)
        if isinstance(value, dict) and isinstance(present.get(key), dict)
        else key in present and present[key] == value
        for key, value in wanted.items()
    )
