"""The polled transport: one account's filtered `/sync` loop, for homeservers where we are an ordinary user.

The client-server API (https://spec.matrix.org/latest/client-server-api/#syncing). The position moves on only once its
events were taken in. What a sync leaves out (`limited`) is not fetched here: the batch names the room as one with a
gap, and whoever reads that room reads it on from where it stands.
"""

import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

from aiagentchat.errors import MatrixError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import EventBatch, RoomEvent, parse_events
from aiagentchat.matrix.filters import LATEST_MESSAGES, POSITION_ONLY, render_receipt_filter, render_sync_filter
from aiagentchat.model import EventId, RoomId, UserId

log = logging.getLogger(__name__)

POLL_S = 30.0
"""How long the homeserver may hold a sync that has nothing new."""


@dataclass(frozen=True, slots=True)
class SyncedRooms:
    """What one account follows. None: there is no such room, or not yet, or another follows it."""

    own: RoomId | None = None
    space: RoomId | None = None
    broadcast: RoomId | None = None

    @property
    def followed(self) -> frozenset[RoomId]:
        return frozenset(room for room in (self.own, self.space, self.broadcast) if room is not None)

    def wants(self, event: RoomEvent) -> bool:
        """Whether an event of a followed room is one of those that are followed there: nobody chats in the Space."""
        return event.room_id != self.space or event.state_key is not None


class SyncSource:
    """An `EventSource`: one account's events, in the order in which the homeserver hands them.

    Args:
        client: acts as the account, `user_id`. rooms: what to follow, asked before each sync. state_types: of the
        Space's state. presence: what each sync makes the account's presence; `offline` leaves it as it is.

    The position outlives the generator: who asks for `batches` again goes on where the last batch was taken in. A room
    that is followed from now on has a gap: what came before is on the homeserver.
    """

    def __init__(
        self,
        client: MatrixClient,
        user_id: UserId,
        rooms: Callable[[], SyncedRooms],
        *,
        state_types: tuple[str, ...],
        presence: str = "online",
        poll_s: float = POLL_S,
    ) -> None:
        self._client = client
        self._user_id = user_id
        self._rooms = rooms
        self._state_types = state_types
        self._presence = presence
        self._poll_s = poll_s
        self._since: str | None = None
        self._filter = ("", "")  # and what stands for it in a sync
        self._followed = frozenset[RoomId]()
        self._untaken = 0  # batches handed out from this position, and not taken in

    async def batches(self) -> AsyncGenerator[EventBatch, None]:
        """Yield what is new, batch by batch.

        Raises:
            MatrixUnauthorizedError: the token is not, or no longer, known. AiAgentChatError: no answer in time, or a
                final one; the position stays.
        """
        while True:
            if self._since is None:
                self._since = _position(await self._client.sync(filter_json=POSITION_ONLY, timeout_s=0.0))
                self._followed = frozenset()
            rooms = self._rooms()
            answer = await self._sync(rooms)
            position = _position(answer)
            self._untaken += 1
            batch = parse_sync(answer, rooms)
            gaps = batch.gaps | (rooms.followed - self._followed)
            yield replace(batch, gaps=gaps, user_id=self._user_id)
            self._since, self._followed, self._untaken = position, rooms.followed, 0

    async def _sync(self, rooms: SyncedRooms) -> dict[str, Any]:
        filter_json = render_sync_filter(
            own_room=rooms.own, space=rooms.space, broadcast=rooms.broadcast, state_types=self._state_types
        )
        # A room that is followed from now on is said at once. Synapse answers the very same request from a cache of
        # two minutes, so a repeated one differs by a millisecond.
        poll_s = self._poll_s if rooms.followed == self._followed else 0.0
        try:
            return await self._ask(await self._kept(filter_json), poll_s + self._untaken / 1000)
        except MatrixError as error:
            if error.status == 400:  # a position that the server does not know, after it was restored from a backup
                self._since, self._filter = None, ("", "")
            raise

    async def _kept(self, filter_json: str) -> str:
        """Return the id of a filter that the homeserver keeps: it is not sent, nor read through, with each sync."""
        if self._filter[0] != filter_json:
            try:
                self._filter = filter_json, await self._client.put_filter(self._user_id, filter_json)
            except MatrixError as error:  # which may have no place for one
                log.info("the filter of %s is sent with each sync: %s", self._user_id, error.message)
                self._filter = filter_json, filter_json
        return self._filter[1]

    async def _ask(self, filter_json: str, timeout_s: float) -> dict[str, Any]:
        return await self._client.sync(
            filter_json=filter_json, since=self._since, timeout_s=timeout_s, presence=self._presence
        )


class Witness:
    """What the homeserver stores, by the word of an account that is in the rooms: one short sync each time.

    Args:
        client: acts as the account.
    """

    def __init__(self, client: MatrixClient) -> None:
        self._latest = LatestMessages(client, at_first=POSITION_ONLY)

    async def look(self) -> dict[EventId, RoomId]:
        """Return the latest message of each room that has one since the last look; of none before the first."""
        return {event.event_id: event.room_id for event in await self._latest.look()}

    def forget(self) -> None:
        """Begin anew: the homeserver's positions are others now."""
        self._latest.forget()


class LatestMessages:
    """The latest message of each room that an account is in: one short sync each time, for all rooms.

    Args:
        client: acts as the account. at_first: the JSON of the first sync's filter.
    """

    def __init__(self, client: MatrixClient, *, at_first: str = LATEST_MESSAGES) -> None:
        self._client = client
        self._at_first = at_first
        self._since: str | None = None
        self._asked = 0

    async def look(self) -> list[RoomEvent]:
        """Return the latest message of each room that has one since the last look; at first of all rooms."""
        self._asked += 1
        timeout_s = self._asked % 100 / 1000  # the very same sync Synapse has in a cache of two minutes
        filter_json = LATEST_MESSAGES
        if self._since is None:  # answered at once, whatever its timeout; another daemon may have asked as well
            timeout_s, filter_json = random.uniform(0.001, POLL_S), self._at_first
        try:
            answer = await self._client.sync(filter_json=filter_json, since=self._since, timeout_s=timeout_s)
        except MatrixError as error:
            if error.status == 400:  # a position that the server does not know, after it was restored from a backup
                self._since = None
            raise
        self._since = _position(answer)
        found: list[RoomEvent] = []
        for room_id, part in _dict(_dict(answer.get("rooms")).get("join")).items():
            found += parse_events(_dict(_dict(part).get("timeline")).get("events"), room_id).events
        return found

    def forget(self) -> None:
        """Begin anew: the homeserver's positions are others now."""
        self._since = None


async def get_receipt(client: MatrixClient, room_id: RoomId, user_id: UserId) -> EventId | None:
    """Return the event up to which a user has publicly read a room of this client's account, as far as it is told."""
    # One without a position is answered at once, whatever its timeout; the very same one Synapse has in a cache.
    timeout_s = random.uniform(0.001, POLL_S)
    answer = await client.sync(filter_json=render_receipt_filter(room_id), timeout_s=timeout_s)
    part = _dict(_dict(_dict(answer.get("rooms")).get("join")).get(room_id))
    found = _find_receipt(_dict(part.get("ephemeral")).get("events"), user_id)
    if found is None:  # an older Synapse tells users of an application service nothing of receipts there
        with contextlib.suppress(MatrixError):
            found = _find_receipt(await client.get_receipts(room_id), user_id)
    return found


def _find_receipt(events: object, user_id: UserId) -> EventId | None:
    for event in events if isinstance(events, list | tuple) else ():
        if _dict(event).get("type") != "m.receipt":
            continue
        for event_id, receipts in _dict(event.get("content")).items():
            if user_id in _dict(_dict(receipts).get("m.read")):
                return EventId(event_id)
    return None


def _position(answer: dict[str, Any]) -> str:
    position = answer.get("next_batch")
    if not isinstance(position, str):
        raise MatrixError(200, "M_BAD_JSON", "a sync names no next_batch")
    return position


def parse_sync(answer: object, rooms: SyncedRooms) -> EventBatch:
    """Return the events of a sync, and the rooms of which it left some out. Never raises, whatever `answer` is.

    Of each room comes what is followed there: of the Space its state, of the others what the filter let through. One
    that was left comes once more, with how that happened.
    """
    rooms_answer = _dict(_dict(answer).get("rooms"))
    parts = _dict(rooms_answer.get("leave")) | _dict(rooms_answer.get("join"))
    events: list[RoomEvent] = []
    gaps = set()
    skipped = 0
    for room_id in sorted(rooms.followed):
        part = _dict(parts.get(room_id))
        timeline = _dict(part.get("timeline"))
        if timeline.get("limited") is True:
            gaps.add(room_id)
        for section in (_dict(part.get("state")), timeline):
            batch = parse_events(section.get("events"), room_id)
            skipped += batch.skipped
            events += [event for event in batch.events if event.room_id == room_id and rooms.wants(event)]
    return EventBatch(tuple(events), skipped=skipped, gaps=frozenset(gaps))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
