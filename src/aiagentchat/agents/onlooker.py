"""What the operator sees of agents' rooms from a terminal: what was written there, and what happens, live.

Read from the homeserver as the agent whose room it is, or, where that is somebody else's, as the operator. What comes
by itself is told by `agents.intake`, what the daemon does by `agents.service` and `agents.asides`. Nothing is
acknowledged by it; where that is asked for, the operator's own read receipt follows what was shown.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from aiagentchat.agents.bodies import replaced_by, with_edit
from aiagentchat.agents.delivery import Delivery
from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.messages import parse_message
from aiagentchat.agents.past import Pages, Past, Speaker
from aiagentchat.agents.sights import Asked, Edited, Live, Read, Removed, Settled, Sight, State
from aiagentchat.errors import AiAgentChatError, MatrixForbiddenError, MatrixNotFoundError, NotFoundError, RefusedError
from aiagentchat.matrix.events import RoomEvent, parse_event
from aiagentchat.matrix.filters import MESSAGES_ALONE
from aiagentchat.model import AgentName, EventId, Message, RoomId, UserId

_PAGE = 100
_MOST_PAGES = 20
_MOST_WAITING = 1000
"""Events kept for one who looks on; what is missed beyond is read from the room."""
_MOST_SEEN = 5000
_TURN_S = 2.0
"""How often it is seen whether the agent is online; and a room looked at of which no event arrives."""
_LOOK_ANYWAY_S = 30.0
"""How often a room is looked at of which events arrive: one may have been left out."""
_RECEIPT_S = 2.0
"""How long what happens may wait for a receipt."""


@dataclass(frozen=True, slots=True)
class _Place:
    """An agent's room, and as whom it is read. `has_receipts`: the operator's read receipt follows."""

    name: AgentName
    room_id: RoomId
    user_id: UserId
    reader: Speaker
    has_receipts: bool = False


class _Feed:
    """What happens in a room for one who looks on. `has_lost`: some of it was left out, to be read from the room."""

    def __init__(self) -> None:
        self._waiting: deque[RoomEvent | Sight] = deque()
        self._news = asyncio.Event()
        self.has_lost = False

    def put(self, each: RoomEvent | Sight | None) -> None:
        """Add something; None: the agent's state may be another."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            self.has_lost = True
        if each is not None:
            self._waiting.append(each)
        self._news.set()

    def take(self) -> list[RoomEvent | Sight]:
        """Return what waits."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._news.clear()
        return taken

    async def wait(self, wait_s: float) -> None:
        """Return when there is something, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()


class Onlooker:
    """Looks on.

    Args:
        operator: who the operator is, with a client that acts as them; None: there is none.
    """

    def __init__(
        self, host: AgentHost, past: Past, operator: Speaker | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._host = host
        self._delivery = Delivery(host, past)
        self._operator = operator
        self._clock = clock
        self._feeds: dict[RoomId, list[_Feed]] = {}
        self._typing: dict[AgentName, float] = {}
        self._asked: dict[EventId, tuple[RoomId, Asked]] = {}

    # --- what is told

    def tell(self, room_id: RoomId | None, each: RoomEvent | Sight | None) -> None:
        """Tell whoever looks on at a room."""
        for feed in self._feeds.get(room_id, ()) if room_id is not None else ():
            feed.put(each)

    def note_typing(self, agent: AgentName, seconds: float) -> None:
        """The agent is shown as typing for so many seconds; 0: no more."""
        self._typing.pop(agent, None)
        if seconds:
            self._typing[agent] = self._clock() + seconds
        self.tell(self._host.in_use.get(agent), None)

    def note_read(self, agent: AgentName, event_ids: frozenset[EventId]) -> None:
        """The agent has acknowledged messages."""
        if event_ids:
            self.tell(self._host.in_use.get(agent), Read(tuple(sorted(event_ids))))

    @contextmanager
    def asking(self, room_id: RoomId, asked: Asked, outcome: str) -> Iterator[Callable[[str], None]]:
        """Show an approval for as long as it is waited for; gives what to call with what came of it, else `outcome`."""

        def settle(said: str) -> None:
            nonlocal outcome
            outcome = said

        self._asked[asked.event_id] = (room_id, asked)
        self.tell(room_id, asked)
        try:
            yield settle
        finally:
            self._asked.pop(asked.event_id, None)
            self.tell(room_id, Settled(asked.event_id, outcome))

    # --- what was

    async def history(self, name: AgentName, *, before: EventId | None, limit: int) -> list[Message]:
        """Return the latest messages of an agent's room, or those before an event, in order: as they read now.

        Raises:
            AgentNotFoundError: no such agent. NotFoundError: no such event there. RefusedError: the operator is not in
                the room of somebody else's agent.
        """
        place = await self._find(name)
        with _refusing(place):
            start = None if before is None else await self._before(place, before)
            return (await self._look_back(place, start, limit)).messages[::-1]

    async def _find(self, name: AgentName) -> _Place:
        host = self._host
        other = None if host.is_known(name) else await host.manager.find_agent(name)
        if other is None:
            room_id, client = await host.ready(name), host.manager.client_of(name)
            user_id = host.names.user(name)
            return _Place(name, room_id, user_id, Speaker(user_id, client, None))
        if self._operator is None:
            raise RefusedError(f"{name} is somebody else's agent, and this daemon holds no device of the operator")
        return _Place(name, other.room_id, other.user_id, self._operator)

    async def _before(self, place: _Place, event_id: EventId) -> str:
        try:
            return (await place.reader.client.get_tokens_around(place.room_id, event_id))[0]
        except MatrixNotFoundError:
            raise NotFoundError(f"there is no event {event_id} in the room of {place.name}") from None

    async def _pages(self, place: _Place, start: str | None) -> AsyncGenerator[list[tuple[RoomEvent, Any]], None]:
        """Yield the room's messages page by page, each newest first, and each as an event and as it came."""
        for _ in range(_MOST_PAGES):
            page = await place.reader.client.get_messages(
                place.room_id, direction="b", start=start, limit=_PAGE, filter_json=MESSAGES_ALONE
            )
            parsed = [(parse_event(raw, place.room_id), raw) for raw in page.chunk]
            yield [(event, raw) for event, raw in parsed if event is not None]
            start = page.end
            if start is None:
                return

    async def _look_back(self, place: _Place, start: str | None, limit: int) -> Pages:
        """Return messages from `start` (None: the latest) backwards, newest first, and the ids of all that was met."""
        found: list[Message] = []
        ids: list[EventId] = []
        async with aclosing(self._pages(place, start)) as pages:
            async for page in pages:
                ids += [event.event_id for event, _ in page]
                messages = [self._parse(as_it_reads(event, raw)) for event, raw in page if replaced_by(event) is None]
                found += [message for message in messages if message is not None]
                if len(found) >= limit:
                    break
        return Pages(found[:limit], ids)

    def _parse(self, event: RoomEvent) -> Message | None:
        return parse_message(event, self._host.sender_of, self._host.manager.broadcast_id)

    # --- what is

    async def follow(self, name: AgentName, *, limit: int, has_receipts: bool = False) -> AsyncGenerator[Sight, None]:
        """Return a stream of an agent's room: what is read of the latest messages, these, `Live`, and what happens.

        It ends when the agent has another room. With `has_receipts` what was shown is no longer unread in the
        operator's other clients. Where the operator may not read it, it raises `RefusedError`.

        Raises:
            AgentNotFoundError: no such agent. RefusedError: somebody else's, and there is no operator's device.
        """
        return self._follow(replace(await self._find(name), has_receipts=has_receipts), limit)

    async def _follow(self, place: _Place, limit: int) -> AsyncGenerator[Sight, None]:
        with self._feeding(place.room_id) as feed, _refusing(place):
            past = await self._look_back(place, None, limit)
            if read := await self._read(place, past):
                yield read
            for message in reversed(past.messages):
                yield message
            for room_id, asked in list(self._asked.values()):
                if room_id == place.room_id:
                    yield asked
            yield Live(place.room_id, place.user_id, None if self._operator is None else self._operator.user_id)
            seen = dict.fromkeys(reversed(past.ids))
            async with aclosing(self._go_on(place, feed, seen)) as sights:
                async for sight in sights:
                    yield sight

    async def _go_on(self, place: _Place, feed: _Feed, seen: dict[EventId, None]) -> AsyncGenerator[Sight, None]:
        """Yield what happens, until the agent has another room."""
        state, looked_at, shown = None, self._clock(), None
        while self._host.in_use.get(place.name, place.room_id) == place.room_id:
            now = await self._state(place)
            if now != state:
                state = now
                yield now
            for each in feed.take():
                sight = self._see(each, seen) if isinstance(each, RoomEvent) else each
                if sight is not None:
                    yield sight
            if feed.has_lost or self._clock() - looked_at >= self._look_s(place):
                feed.has_lost, looked_at = False, self._clock()
                async with aclosing(self._catch_up(place, seen)) as sights:
                    async for sight in sights:
                        yield sight
            if place.has_receipts and seen and (latest := next(reversed(seen))) != shown:
                shown = latest
                await self._show_receipt(place.room_id, latest)
            await feed.wait(self._until_change_s(place.name))

    async def _show_receipt(self, room_id: RoomId, event_id: EventId) -> None:
        """Have the operator's read receipt follow; without it the room only counts as unread elsewhere."""
        if self._operator is not None:
            with contextlib.suppress(AiAgentChatError, TimeoutError):
                async with asyncio.timeout(_RECEIPT_S):
                    await self._operator.client.send_receipt(room_id, event_id)

    @contextmanager
    def _feeding(self, room_id: RoomId) -> Iterator[_Feed]:
        feed = _Feed()
        self._feeds.setdefault(room_id, []).append(feed)
        try:
            yield feed
        finally:
            self._feeds[room_id].remove(feed)
            if not self._feeds[room_id]:
                del self._feeds[room_id]

    def _look_s(self, place: _Place) -> float:
        """Return how often the room is looked at, beside what arrives of it by itself."""
        return _LOOK_ANYWAY_S if is_heard(self._host, place.name, place.room_id) else _TURN_S

    def _until_change_s(self, name: AgentName) -> float:
        """Return how long to wait at most: until the agent's typing is over, if that is sooner."""
        left_s = self._typing.get(name, 0.0) - self._clock()
        return min(left_s, _TURN_S) if left_s > 0 else _TURN_S

    async def _state(self, place: _Place) -> State:
        view = await self._host.who()
        entry = next((each for each in view.entries if each.room_id == place.room_id), None)
        is_typing = self._typing.get(place.name, 0.0) > self._clock()
        if entry is None:
            return State("offline", "", is_typing)
        return State(entry.status, entry.status_line, is_typing)

    def _see(self, event: RoomEvent, seen: dict[EventId, None]) -> Sight | None:
        """Return what an event is to who looks on; None: nothing, or it was seen before."""
        if event.event_id in seen:
            return None
        seen[event.event_id] = None
        while len(seen) > _MOST_SEEN:
            del seen[next(iter(seen))]
        if event.type == "m.room.redaction":
            return Removed(EventId(str(event.content.get("redacts"))), self._host.sender_of(event.sender))
        message = self._parse(event)
        if message is None or message.edits is None:
            return message
        return Edited(message.edits, message.sender, message.ts, message.body)

    async def _catch_up(self, place: _Place, seen: dict[EventId, None]) -> AsyncGenerator[Sight, None]:
        """Yield what was written and not heard of, and what was read meanwhile."""
        events: list[RoomEvent] = []
        async with aclosing(self._pages(place, None)) as pages:
            async for page in pages:
                events += [event for event, _ in page]
                if any(event.event_id in seen for event in events):
                    break
        for event in reversed(events):
            sight = self._see(event, seen)
            if sight is not None:
                yield sight
        messages = [message for event in events if (message := self._parse(event)) is not None]
        if read := await self._read(place, Pages(messages, [event.event_id for event in events])):
            yield read

    async def _read(self, place: _Place, pages: Pages) -> Read | None:
        others = [message for message in pages.messages if message.sender.user_id != place.user_id]
        read = await self._delivery.read_in_room(place.reader, place.name, place.room_id, Pages(others, pages.ids))
        return Read(tuple(sorted(read))) if read else None


@contextmanager
def _refusing(place: _Place) -> Iterator[None]:
    try:
        yield
    except MatrixForbiddenError as error:
        raise RefusedError(
            f"the operator cannot read the room of {place.name}: {error.error}",
            hint=f"who has written there can: cchat send --to {place.name} TEXT",
        ) from None


def is_heard(host: AgentHost, agent: AgentName, room_id: RoomId) -> bool:
    """Whether what is written in an agent's room arrives by itself: all is pushed, or the agent is in use."""
    return host.is_known(agent) and (host.names.has_own_daemon or host.hears(room_id))


def as_it_reads(event: RoomEvent, raw: Any) -> RoomEvent:
    """Return an event with what its latest edit says, which the homeserver gives with it.

    https://spec.matrix.org/latest/client-server-api/#server-side-aggregation-of-mreplace-relationships
    """
    edit: Any = raw
    for key in ("unsigned", "m.relations", "m.replace"):
        edit = edit.get(key) if isinstance(edit, dict) else None
    edit = None if edit is None else parse_event(edit, event.room_id)
    if edit is None or edit.sender != event.sender or replaced_by(edit) is None:
        return event
    return replace(event, content=with_edit(event.content, edit.content))
