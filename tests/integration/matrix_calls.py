"""One call of every method of `MatrixClient`, for tests of what holds for all of them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from aiagentchat.errors import AiAgentChatError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import EventId, RoomAlias, RoomId, UserId

Call = Callable[[MatrixClient, RoomId], Coroutine[Any, Any, object]]

USER, DEVICE = UserId("@aiagentchat-a:example.org"), "AIAGENTCHAT"
ROOM, EVENT = RoomId("!room/1"), EventId("$event")
SOON_S = 5.0
"""Far above what anything takes that does not wait, far below the deadline of a client."""

WRITES: dict[str, Call] = {
    "send": lambda client, room: client.send(room, "m.room.message", {"body": "hello"}, "t1"),
    "put_state": lambda client, room: client.put_state(room, "io.x", USER, {}),
    "invite": lambda client, room: client.invite(room, USER),
    "join_room": lambda client, room: client.join_room(room),
    "kick": lambda client, room: client.kick(room, USER, "a reason"),
    "leave_room": lambda client, room: client.leave_room(room),
}
CALLS: dict[str, Call] = WRITES | {
    "versions": lambda client, _: client.versions(),
    "default_room_version": lambda client, _: client.default_room_version(),
    "whoami": lambda client, _: client.whoami(),
    "login_flows": lambda client, _: client.login_flows(),
    "log_in": lambda client, _: client.log_in({"type": "m.login.token", "token": "t"}),
    "refresh": lambda client, _: client.refresh("r"),
    "log_out": lambda client, _: client.log_out(),
    "register_appservice_user": lambda client, _: client.register_appservice_user("aiagentchat-a"),
    "put_device": lambda client, _: client.put_device(DEVICE, "name"),
    "set_displayname": lambda client, _: client.set_displayname(USER, "a"),
    "forget_room": lambda client, room: client.forget_room(room),
    "get_profile": lambda client, _: client.get_profile(USER),
    "get_avatar": lambda client, _: client.get_avatar(USER),
    "set_avatar": lambda client, _: client.set_avatar(USER, "mxc://example.org/abc"),
    "ping_appservice": lambda client, _: client.ping_appservice("aiagentchat"),
    "set_presence": lambda client, _: client.set_presence(USER, "online", "busy"),
    "get_presence": lambda client, _: client.get_presence(USER),
    "create_room": lambda client, _: client.create_room({}),
    "resolve_room_alias": lambda client, _: client.resolve_room_alias(RoomAlias("#known:example.org")),
    "put_room_alias": lambda client, room: client.put_room_alias(RoomAlias("#new:example.org"), room),
    "delete_room_alias": lambda client, _: client.delete_room_alias(RoomAlias("#old:example.org")),
    "joined_rooms": lambda client, _: client.joined_rooms(),
    "get_state": lambda client, room: client.get_state(room, "io.x", USER),
    "get_state_event": lambda client, room: client.get_state_event(room, "io.y", USER),
    "get_full_state": lambda client, room: client.get_full_state(room),
    "get_event": lambda client, room: client.get_event(room, EVENT),
    "get_messages": lambda client, room: client.get_messages(room, direction="b", start="t1", filter_json="{}"),
    "get_relations": lambda client, room: client.get_relations(room, EVENT, "m.annotation", "m.reaction"),
    "get_tokens_around": lambda client, room: client.get_tokens_around(room, EVENT),
    "get_room_account_data": lambda client, room: client.get_room_account_data(USER, room, "io.x"),
    "put_room_account_data": lambda client, room: client.put_room_account_data(USER, room, "io.x", {}),
    "get_room_tags": lambda client, room: client.get_room_tags(USER, room),
    "put_room_tag": lambda client, room: client.put_room_tag(USER, room, "m.lowpriority", {}),
    "delete_room_tag": lambda client, room: client.delete_room_tag(USER, room, "m.lowpriority"),
    "send_receipt": lambda client, room: client.send_receipt(room, EVENT),
    "get_receipts": lambda client, room: client.get_receipts(room),
    "set_typing": lambda client, room: client.set_typing(room, USER, 1.0),
    "upload_limit": lambda client, _: client.upload_limit(),
    "upload": lambda client, _: client.upload(b"bytes", name="a b.txt", mimetype="text/plain"),
    "download": lambda client, _: client.download("mxc://example.org/abc", most_bytes=1_000),
    "download_in_the_open": lambda client, _: client.download_in_the_open("mxc://example.org/abc", most_bytes=1_000),
    "put_filter": lambda client, _: client.put_filter(USER, "{}"),
    "sync": lambda client, _: client.sync(filter_json="{}", since="s1", timeout_s=0.0),
}


async def in_rooms_of_their_own(client: MatrixClient, calls: dict[str, Call] = CALLS) -> dict[str, Any]:
    """Do all at once; return what each returned or raised."""
    rooms = [RoomId(f"!{name}") for name in calls]
    done = await asyncio.gather(
        *(call(client, room) for call, room in zip(calls.values(), rooms, strict=True)), return_exceptions=True
    )
    return dict(zip(calls, done, strict=True))


async def failure_within(seconds: float, call: Awaitable[object], kind: type[AiAgentChatError]) -> AiAgentChatError:
    """Return the error of a call that has to fail within so many seconds."""
    async with asyncio.timeout(seconds):
        with pytest.raises(kind) as caught:
            await call
    return caught.value
