"""`MatrixClient`: a typed method per endpoint, all through `matrix.wire`.

One client is one identity. `as_user` gives a cheap view that acts as another user of the application service and
shares connections, write queues and statistics. Endpoints are those of the client-server API v3
(https://spec.matrix.org/latest/client-server-api/) and of the application-service API.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from aiagentchat.errors import MatrixConflictError, MatrixError, MatrixNotFoundError
from aiagentchat.matrix.wire import AccessToken, Json, Wire
from aiagentchat.model import EventId, RoomAlias, RoomId, UserId, transfer_s

_V3 = ("_matrix", "client", "v3")
_V1 = ("_matrix", "client", "v1")
_MEDIA = ("_matrix", "media", "v3")
_MEDIA_QUERY = {"timeout_ms": "10000"}  # for one of which the homeserver knows that it is to come
_OLDEST_DEFAULT_ROOM_VERSION = "10"


@dataclass(frozen=True, slots=True)
class MessagesPage:
    """A page of a room's timeline. `end` is None where there is no more in that direction."""

    chunk: tuple[dict[str, Json], ...]
    end: str | None


class MatrixClient(Wire):
    """One identity's access to a homeserver; see `Wire` for what it takes, and what every method may raise."""

    def as_user(self, user_id: UserId, device_id: str | None = None) -> "MatrixClient":
        """Return a view of this client that acts as `user_id` (application services only)."""
        return MatrixClient(
            self._base_url,
            self._token,
            self._shared.session,
            timeout_s=self._timeout_s,
            user_id=user_id,
            device_id=device_id,
            _shared=self._shared,
        )

    def with_token(self, access_token: str | AccessToken) -> "MatrixClient":
        """Return a client of another account on this homeserver; it shares what views share."""
        return MatrixClient(
            self._base_url, access_token, self._shared.session, timeout_s=self._timeout_s, _shared=self._shared
        )

    def with_deadline(self, timeout_s: float) -> "MatrixClient":
        """Return a view of this client whose requests have `timeout_s` seconds."""
        return MatrixClient(
            self._base_url,
            self._token,
            self._shared.session,
            timeout_s=timeout_s,
            user_id=self._user_id,
            device_id=self._device_id,
            _shared=self._shared,
        )

    # --- accounts and devices

    async def versions(self) -> dict[str, Json]:
        """GET /versions: what the server supports; needs no token."""
        return await self._request("GET", ("_matrix", "client", "versions"))

    async def default_room_version(self) -> str:
        """Return the version of rooms that this server makes when not told otherwise."""
        answer: Json = await self._request("GET", (*_V3, "capabilities"))
        for key in ("capabilities", "m.room_versions", "default"):
            answer = answer.get(key) if isinstance(answer, dict) else None
        return answer if isinstance(answer, str) else _OLDEST_DEFAULT_ROOM_VERSION

    async def whoami(self) -> tuple[UserId, str]:
        """Return the user and the device of this client's token; "" for the device where it has none."""
        answer = await self._request("GET", (*_V3, "account", "whoami"))
        device_id = answer.get("device_id")
        return UserId(_text(answer, "user_id")), device_id if isinstance(device_id, str) else ""

    async def login_flows(self) -> tuple[str, ...]:
        """Return the kinds of login that this server takes, `m.login.password` and the like."""
        flows = _list(await self._request("GET", (*_V3, "login")), "flows")
        return tuple(flow["type"] for flow in flows if isinstance(flow, dict) and isinstance(flow.get("type"), str))

    async def log_in(self, body: Mapping[str, Json]) -> dict[str, Json]:
        """POST /login. Raises `MatrixForbiddenError` where the server does not accept what was given."""
        return await self._request("POST", (*_V3, "login"), body=body)

    async def refresh(self, refresh_token: str) -> dict[str, Json]:
        """POST /refresh: a new access token. Raises `MatrixUnauthorizedError` where the refresh token is not known."""
        return await self._request("POST", (*_V3, "refresh"), body={"refresh_token": refresh_token})

    async def log_out(self) -> None:
        """End this client's device: its token is worthless from now on."""
        await self._request("POST", (*_V3, "logout"), body={})

    async def register_appservice_user(self, localpart: str) -> None:
        """Make an account in the application service's namespace; one that exists already is success."""
        body = {"type": "m.login.application_service", "username": localpart, "inhibit_login": True}
        try:
            await self._request("POST", (*_V3, "register"), body=body)
        except MatrixConflictError:
            return

    async def put_device(self, device_id: str, display_name: str) -> None:
        """Make or rename a device of the user acted as (MSC4190)."""
        path = (*_V3, "devices", device_id)
        await self._request("PUT", path, body={"display_name": display_name}, with_device=False)

    async def set_displayname(self, user_id: UserId, name: str) -> None:
        """Set the own display name."""
        await self._request("PUT", (*_V3, "profile", user_id, "displayname"), body={"displayname": name})

    async def get_profile(self, user_id: UserId) -> dict[str, Json]:
        """Return what a user shows of themselves. 404: there is nobody, or nothing to show; 403: it is not told."""
        return await self._request("GET", (*_V3, "profile", user_id))

    async def get_avatar(self, user_id: UserId) -> str | None:
        """Return the `mxc://` address of somebody's picture; None: they have none."""
        try:
            url = (await self._request("GET", (*_V3, "profile", user_id, "avatar_url"))).get("avatar_url")
        except MatrixNotFoundError:
            return None
        return url if isinstance(url, str) and url else None

    async def set_avatar(self, user_id: UserId, uri: str) -> None:
        """Set the own picture; each room that the user is in gets an event that says so."""
        await self._request("PUT", (*_V3, "profile", user_id, "avatar_url"), body={"avatar_url": uri})

    async def ping_appservice(self, appservice_id: str) -> None:
        """Have the homeserver send a ping to the receiver, and with it what it held back (MSC2659)."""
        await self._request("POST", (*_V1, "appservice", appservice_id, "ping"), body={})

    async def set_presence(self, user_id: UserId, presence: str, status_msg: str | None = None) -> None:
        """PUT presence: `online`, `unavailable` or `offline`, with a line of text."""
        body = {"presence": presence} | ({"status_msg": status_msg} if status_msg is not None else {})
        await self._request("PUT", (*_V3, "presence", user_id, "status"), body=body)

    async def get_presence(self, user_id: UserId) -> dict[str, Json]:
        """GET presence of somebody who shares a room with the user acted as (else 403)."""
        return await self._request("GET", (*_V3, "presence", user_id, "status"))

    # --- rooms

    async def create_room(self, body: Mapping[str, Json]) -> RoomId:
        """Create a room. Raises `MatrixConflictError` when its alias is taken, whatever errcode says so."""
        return RoomId(_text(await self._request("POST", (*_V3, "createRoom"), body=body), "room_id"))

    async def resolve_room_alias(self, alias: RoomAlias) -> RoomId:
        """Return the room of an alias. Raises `MatrixNotFoundError`."""
        return RoomId(_text(await self._request("GET", (*_V3, "directory", "room", alias)), "room_id"))

    async def put_room_alias(self, alias: RoomAlias, room_id: RoomId) -> None:
        """Point a free alias at a room."""
        await self._request("PUT", (*_V3, "directory", "room", alias), body={"room_id": room_id})

    async def delete_room_alias(self, alias: RoomAlias) -> None:
        """Free an alias; one that is free already is success, as it is after a request that had to be repeated."""
        try:
            await self._request("DELETE", (*_V3, "directory", "room", alias))
        except MatrixNotFoundError:
            return

    async def join_room(self, room: RoomId | RoomAlias) -> RoomId:
        """Join a room; joining again is success. 404: the room is dead; 403: not invited."""
        answer = await self._request("POST", (*_V3, "join", room), body={}, writes_to=room)
        return RoomId(_text(answer, "room_id"))

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        """Invite somebody. Inviting a member again is a 403."""
        path = (*_V3, "rooms", room_id, "invite")
        await self._request("POST", path, body={"user_id": user_id}, writes_to=room_id)

    async def kick(self, room_id: RoomId, user_id: UserId, reason: str) -> None:
        """Take somebody out of a room, or an invite to it back. Somebody who is not in it is a 403."""
        body = {"user_id": user_id, "reason": reason}
        await self._request("POST", (*_V3, "rooms", room_id, "kick"), body=body, writes_to=room_id)

    async def leave_room(self, room_id: RoomId) -> None:
        """Leave a room, or refuse an invite to it; leaving again is success."""
        await self._request("POST", (*_V3, "rooms", room_id, "leave"), body={}, writes_to=room_id)

    async def forget_room(self, room_id: RoomId) -> None:
        """Have a room that was left be on no list of the user's any more; a homeserver may then remove it."""
        await self._request("POST", (*_V3, "rooms", room_id, "forget"), body={})

    async def joined_rooms(self) -> tuple[RoomId, ...]:
        """Return the rooms that the user acted as is a member of."""
        rooms = _list(await self._request("GET", (*_V3, "joined_rooms")), "joined_rooms")
        return tuple(RoomId(room) for room in rooms if isinstance(room, str))

    # --- events

    async def send(self, room_id: RoomId, event_type: str, content: Mapping[str, Json], txn_id: str) -> EventId:
        """Send an event. The same `txn_id` in the same room is the same event, however often sent.

        It is so for one account. Synapse shares an application service's ids among all its users: the sender has to be
        part of `txn_id`, or the second user's event is lost in the first one's.
        """
        path = (*_V3, "rooms", room_id, "send", event_type, txn_id)
        return EventId(_text(await self._request("PUT", path, body=content, writes_to=room_id), "event_id"))

    async def put_state(self, room_id: RoomId, event_type: str, state_key: str, content: Mapping[str, Json]) -> EventId:
        """Set a piece of state; the same content again makes no new event on Synapse."""
        path = (*_V3, "rooms", room_id, "state", event_type, state_key)
        return EventId(_text(await self._request("PUT", path, body=content, writes_to=room_id), "event_id"))

    async def get_state(self, room_id: RoomId, event_type: str, state_key: str = "") -> dict[str, Json]:
        """Return the content of a piece of state. Raises `MatrixNotFoundError` where there is none."""
        return await self._request("GET", (*_V3, "rooms", room_id, "state", event_type, state_key))

    async def get_state_event(self, room_id: RoomId, event_type: str, state_key: str = "") -> dict[str, Json]:
        """Return a piece of state as a whole event (`format=event`). An older Synapse leaves the `event_id` out."""
        path = (*_V3, "rooms", room_id, "state", event_type, state_key)
        return await self._request("GET", path, query={"format": "event"})

    async def get_full_state(self, room_id: RoomId) -> list[dict[str, Json]]:
        """Return all state events of a room that the user acted as is in."""
        answer: Json = await self._request("GET", (*_V3, "rooms", room_id, "state"), shape=list)
        return [event for event in answer if isinstance(event, dict)]

    async def get_event(self, room_id: RoomId, event_id: EventId) -> dict[str, Json]:
        """Return one event. Raises `MatrixNotFoundError`."""
        return await self._request("GET", (*_V3, "rooms", room_id, "event", event_id))

    async def get_messages(
        self, room_id: RoomId, *, direction: str, start: str | None = None, limit: int = 100, filter_json: str = ""
    ) -> MessagesPage:
        """Return a page of a room's timeline, `direction` "f" or "b", from the token `start` (None: an end of it)."""
        query = {"dir": direction, "limit": str(limit)}
        query |= {"from": start} if start is not None else {}
        query |= {"filter": filter_json} if filter_json else {}
        page = await self._request("GET", (*_V3, "rooms", room_id, "messages"), query=query)
        end = page.get("end")
        return MessagesPage(tuple(_list(page, "chunk")), end if isinstance(end, str) else None)

    async def get_relations(
        self, room_id: RoomId, event_id: EventId, rel_type: str, event_type: str
    ) -> tuple[Json, ...]:
        """Return events of a type that relate so to an event: the latest hundred, the newest first."""
        path = (*_V1, "rooms", room_id, "relations", event_id, rel_type, event_type)
        return tuple(_list(await self._request("GET", path, query={"limit": "100"}), "chunk"))

    async def get_tokens_around(self, room_id: RoomId, event_id: EventId) -> tuple[str, str]:
        """Return the timeline tokens just before and just after an event.

        Raises:
            MatrixNotFoundError: the event was purged, or is not visible.
        """
        path = (*_V3, "rooms", room_id, "context", event_id)
        context = await self._request("GET", path, query={"limit": "0"})
        return _text(context, "start"), _text(context, "end")

    async def get_room_account_data(self, user_id: UserId, room_id: RoomId, kind: str) -> dict[str, Json]:
        """Return the own account data of a room. Raises `MatrixNotFoundError` where there is none."""
        return await self._request("GET", (*_V3, "user", user_id, "rooms", room_id, "account_data", kind))

    async def put_room_account_data(
        self, user_id: UserId, room_id: RoomId, kind: str, content: Mapping[str, Json]
    ) -> None:
        """Set the own account data of a room."""
        await self._request("PUT", (*_V3, "user", user_id, "rooms", room_id, "account_data", kind), body=content)

    async def get_room_tags(self, user_id: UserId, room_id: RoomId) -> dict[str, Json]:
        """Return the own tags of a room, by their names."""
        tags = (await self._request("GET", (*_V3, "user", user_id, "rooms", room_id, "tags"))).get("tags")
        return tags if isinstance(tags, dict) else {}

    async def put_room_tag(self, user_id: UserId, room_id: RoomId, tag: str, content: Mapping[str, Json]) -> None:
        """Give a room a tag of one's own; nobody else sees it, and it is no event of the room."""
        await self._request("PUT", (*_V3, "user", user_id, "rooms", room_id, "tags", tag), body=content)

    async def delete_room_tag(self, user_id: UserId, room_id: RoomId, tag: str) -> None:
        """Take a tag of one's own from a room; one that is not there is success."""
        await self._request("DELETE", (*_V3, "user", user_id, "rooms", room_id, "tags", tag))

    async def send_receipt(self, room_id: RoomId, event_id: EventId) -> None:
        """Move the own public read receipt; the server never moves it back."""
        await self._request("POST", (*_V3, "rooms", room_id, "receipt", "m.read", event_id), body={})

    async def get_receipts(self, room_id: RoomId) -> tuple[Json, ...]:
        """Return the receipts of a room, as events, by an endpoint that the specification calls deprecated."""
        answer = await self._request("GET", (*_V3, "rooms", room_id, "initialSync"), query={"limit": "0"})
        receipts = answer.get("receipts")
        return tuple(receipts) if isinstance(receipts, list) else ()

    async def set_typing(self, room_id: RoomId, user_id: UserId, timeout_s: float) -> None:
        """Show the own typing for `timeout_s` seconds; 0 ends it."""
        body = {"typing": timeout_s > 0} | ({"timeout": int(timeout_s * 1000)} if timeout_s > 0 else {})
        await self._request("PUT", (*_V3, "rooms", room_id, "typing", user_id), body=body)

    async def put_filter(self, user_id: UserId, filter_json: str) -> str:
        """Have the homeserver keep a sync filter of one's own; return its id. The same one has the same id."""
        answer = await self._request("POST", (*_V3, "user", user_id, "filter"), body=filter_json.encode())
        return _text(answer, "filter_id")

    async def sync(
        self, *, filter_json: str, since: str | None = None, timeout_s: float = 30.0, presence: str = "offline"
    ) -> dict[str, Json]:
        """Long-poll what is new after `since`; ordinary accounts only (an application service's own user gets 500).

        `filter_json`: the filter, or the id of one that is kept. `timeout_s`: how long the server may hold the request;
        the answer itself is bounded by the client's deadline.
        """
        query = {"filter": filter_json, "timeout": str(int(timeout_s * 1000)), "set_presence": presence}
        query |= {"since": since} if since is not None else {}
        return await self._request("GET", (*_V3, "sync"), query=query, extra_s=timeout_s)

    # --- files

    async def upload_limit(self) -> int | None:
        """Return how many bytes a file may have; None: the homeserver does not say."""
        try:
            limit = (await self._request("GET", (*_V1, "media", "config"))).get("m.upload.size")
        except MatrixNotFoundError:
            return None
        return limit if isinstance(limit, int) else None

    async def upload(self, data: bytes | bytearray, *, name: str, mimetype: str) -> str:
        """Have the homeserver keep a file; return its `mxc://` address."""
        query, extra_s = {"filename": name}, transfer_s(len(data))
        answer = await self._request(
            "POST", (*_MEDIA, "upload"), query=query, body=data, content_type=mimetype, extra_s=extra_s
        )
        return _text(answer, "content_uri")

    async def download(self, uri: str, *, most_bytes: int) -> bytes:
        """Return the file at an `mxc://` address.

        Raises:
            FileTooLargeError: it is larger than that. MatrixError: the homeserver has none, or not yet, or another
                homeserver that has it does not answer.
        """
        server, media_id = uri.removeprefix("mxc://").split("/", 1)
        path = (*_V1, "media", "download", server, media_id)
        try:
            data: Json = await self._request(
                "GET", path, query=_MEDIA_QUERY, shape=bytes, most_bytes=most_bytes, extra_s=transfer_s(most_bytes)
            )
        except MatrixNotFoundError as error:
            if error.errcode != "M_UNRECOGNIZED":
                raise
            return await self.download_in_the_open(uri, most_bytes=most_bytes)
        return cast("bytes", data)

    async def download_in_the_open(self, uri: str, *, most_bytes: int) -> bytes:
        """Return the file likewise where anybody may have it: on a server of before version 1.11 of the protocol."""
        server, media_id = uri.removeprefix("mxc://").split("/", 1)
        path = (*_MEDIA, "download", server, media_id)
        data: Json = await self._request(
            "GET", path, query=_MEDIA_QUERY, shape=bytes, most_bytes=most_bytes, extra_s=transfer_s(most_bytes)
        )
        return cast("bytes", data)


def _text(answer: dict[str, Json], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str):
        raise MatrixError(200, "M_BAD_JSON", f"its answer has no {key}")
    return value


def _list(answer: dict[str, Json], key: str) -> list[Json]:
    value = answer.get(key)
    if not isinstance(value, list):
        raise MatrixError(200, "M_BAD_JSON", f"its answer has no {key}")
    return value
