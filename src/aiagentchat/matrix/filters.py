"""The sync filter of an ordinary account, as a pure function: own room whole, Space state, broadcast messages."""

import json

from aiagentchat.model import RoomId

_POLL_ENDS = ("m.poll.end", "org.matrix.msc3381.poll.end")
POLL_TYPES = ("m.poll.start", "org.matrix.msc3381.poll.start", *_POLL_ENDS)
"""A poll's events, its start and its end, stable and as clients send them."""
MESSAGE_TYPES = ("m.room.message", "m.sticker", *POLL_TYPES)
"""Event types that are messages to an agent."""
MESSAGES_ALONE = json.dumps({"types": list(MESSAGE_TYPES)}, separators=(",", ":"))
"""The JSON of a filter that lets through no other events of a room."""

_MESSAGES = (*MESSAGE_TYPES, "m.room.encrypted", "m.room.redaction")
_OWN_STATE = ("m.room.encryption", "m.room.tombstone", "m.room.power_levels", "m.room.join_rules")
POSITION_ONLY = '{"account_data":{"types":[]},"presence":{"types":[]},"room":{"rooms":[]}}'
"""The JSON of a filter that lets nothing through: a sync with it says where one stands."""

LATEST_MESSAGES = (
    '{"account_data":{"types":[]},"presence":{"types":[]},"room":{"account_data":{"types":[]},"ephemeral":{"types":[]},'
    '"state":{"types":[]},"timeline":{"limit":1,"types":["m.room.message"]}}}'
)
"""The JSON of a filter that lets through the latest message of each room."""

_FIELDS = ("type", "content", "sender", "state_key", "event_id", "origin_server_ts")


def render_sync_filter(
    *, own_room: RoomId | None, space: RoomId | None, broadcast: RoomId | None, state_types: tuple[str, ...]
) -> str:
    """Return the JSON of a `/sync` filter that cuts what one agent does not need. None: there is no such room (yet).

    Args:
        own_room: its messages and state. space: its state of `state_types`. broadcast: its messages.

    A filter has one list of types for all its rooms, and state that changes arrives in the timeline, so that a room
    cannot have state alone: messages of the Space and changes of the broadcast room's state come as well, and their
    reader drops them. Who is a member of what does not come at first (a Space has thousands), only as it changes;
    lazy loading is no way around that, since Synapse then names members of rooms outside the filter.
    Filters cut bytes, not wake-ups (https://spec.matrix.org/latest/client-server-api/#filtering).
    """
    rooms = [room for room in (own_room, space, broadcast) if room is not None]
    with_state = [room for room in (own_room, space) if room is not None]
    state = {*_OWN_STATE, *(state_types if space is not None else ())}
    nothing: dict[str, object] = {"types": [], "limit": 0}
    return json.dumps(
        {
            "event_fields": _FIELDS,
            "presence": nothing,
            "account_data": nothing,
            "room": {
                "rooms": rooms,
                "include_leave": False,
                "account_data": {"types": []},
                "ephemeral": {"types": []},
                "state": {"types": sorted(state), "rooms": with_state},
                "timeline": {"types": sorted({*state, "m.room.member", *_MESSAGES}), "rooms": rooms, "limit": 50},
            },
        },
        separators=(",", ":"),
    )


def render_receipt_filter(room_id: RoomId) -> str:
    """Return the JSON of a filter that lets through who has read what in one room."""
    nothing: dict[str, object] = {"types": []}
    room = {"rooms": [room_id], "state": nothing, "timeline": nothing, "account_data": nothing}
    room["ephemeral"] = {"types": ["m.receipt"]}
    return json.dumps({"presence": nothing, "account_data": nothing, "room": room}, separators=(",", ":"))
