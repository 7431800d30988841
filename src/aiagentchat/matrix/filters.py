"""The sync filter of an ordinary account, as a pure function: own room whole, Space state, broadcast messages."""

import json

from aiagentchat.model import RoomId

_MESSAGES = ["m.room.message", "m.room.encrypted", "m.sticker", "m.room.redaction"]


def render_sync_filter(
    *, own_room: RoomId, space: RoomId | None, broadcast: RoomId | None, state_types: tuple[str, ...]
) -> str:
    """Return the JSON of a `/sync` filter that cuts all that one agent does not need.

    Args:
        own_room: the agent's room: its messages and state. space: only state of `state_types`, which arrives in the
            timeline as well. broadcast: only messages. None: there is no such room (yet).

    A room filter is one for all its rooms, so types are the union and `rooms` keeps everything else out. Filters cut
    bytes, not wake-ups (https://spec.matrix.org/latest/client-server-api/#filtering).
    """
    rooms = [room for room in (own_room, space, broadcast) if room is not None]
    own_state = ["m.room.member", "m.room.encryption", "m.room.tombstone", "m.room.power_levels", "m.room.join_rules"]
    nothing: dict[str, object] = {"types": [], "limit": 0}
    return json.dumps(
        {
            "event_fields": ["type", "content", "sender", "state_key", "event_id", "origin_server_ts", "unsigned"],
            "presence": nothing,
            "account_data": nothing,
            "room": {
                "rooms": rooms,
                "include_leave": False,
                "account_data": {"types": []},
                "ephemeral": {"types": []},
                "state": {
                    "types": sorted({*state_types, *own_state}),
                    "lazy_load_members": True,
                    "rooms": [room for room in (own_room, space) if room is not None],
                },
                "timeline": {"types": sorted({*_MESSAGES, *state_types, *own_state}), "limit": 50, "rooms": rooms},
            },
        },
        separators=(",", ":"),
    )
