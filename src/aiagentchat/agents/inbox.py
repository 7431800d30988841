"""An agent's inbox: what it has not acknowledged, in its own room and in the broadcast room.

The homeserver holds both the messages and the cursor. What is here is a bounded window, read when it is first asked
for, extended by live events, and dropped with the agent. The host of the agent is the only writer of its cursor.
"""

import asyncio
import contextlib
import heapq
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable

from aiagentchat.agents.edits import fold_edits
from aiagentchat.agents.room_inbox import UNREAD_WINDOW, RoomInbox
from aiagentchat.errors import AckWindowFullError, AiAgentChatError, HomeserverUnavailableError, MatrixError
from aiagentchat.model import EventId, Message, UserId, parse_command

log = logging.getLogger(__name__)

_FAILED_S = 5.0
"""When to look again at a room that the homeserver would not show."""


class Inbox:
    """Both rooms of an agent as one: waits, merges by time, and acknowledges. One task at a time reads or writes.

    `on_acknowledged` is told after a cursor was written how many messages were unread before.
    """

    def __init__(self, own: RoomInbox, *, on_acknowledged: Callable[[int], None]) -> None:
        self._rooms = [own]
        self._on_acknowledged = on_acknowledged
        self._busy = asyncio.Lock()
        self._news = asyncio.Event()
        self.is_closed = False
        self.is_replaced = False
        self._last: EventId | None = None
        self._has_failed = False  # to read the broadcast room, for now
        self._taken_back: deque[EventId] = deque(maxlen=UNREAD_WINDOW)
        self._folded: dict[EventId, frozenset[EventId]] = {}  # into what was handed out: the edits that it was given by
        self._acknowledging: set[asyncio.Task[frozenset[EventId]]] = set()

    @property
    def anchor_lost(self) -> bool:
        """Whether a cursor's event was gone, so that reading began at what is left of the room."""
        return any(room.anchor_lost for room in self._rooms)

    @property
    def has_gap(self) -> bool:
        """Whether another homeserver did not send what it had left out."""
        return any(room.has_gap for room in self._rooms)

    @property
    def has_broadcast(self) -> bool:
        """Whether the broadcast room is part of it."""
        return len(self._rooms) > 1

    def unread_known(self) -> tuple[int | None, bool]:
        """Return how many are unread, as far as the rooms were read (None: not yet), and whether there may be more."""
        counts = [room.unread_count for room in self._rooms]
        if any(count is None for count in counts):
            return None, True
        return sum(count or 0 for count in counts), not all(room.is_read for room in self._rooms)

    def add_broadcast(self, room: RoomInbox) -> None:
        """Add the broadcast room, once the agent is in it."""
        self._rooms.append(room)
        self.look_again()

    def close(self) -> None:
        """End all waiting and following: the agent is not hosted any more."""
        self.is_closed = True
        self.look_again()

    def drop_broadcast(self) -> None:
        """Go on without the broadcast room: it is looked for again."""
        del self._rooms[1:]

    def replace(self) -> None:
        """End all waiting and following: the agent's room is another one now, and so is its inbox."""
        self.is_replaced = True
        self.close()

    def look_again(self) -> None:
        """Have every reader look that waits for the event it took before it looked last."""
        self._news.set()
        self._news = asyncio.Event()

    def offer(self, message: Message) -> None:
        """Take a live message of either room."""
        for room in self._rooms[1:] if message.broadcast else self._rooms[:1]:
            if room.offer(message):
                self.look_again()

    def doubt(self, *, anew: bool = False) -> None:
        """Have both rooms read on: the homeserver does not push again what it had in hand when it was killed.

        `anew`: from the cursor on, since something was not heard of.
        """
        self.distrust(anew=anew)
        self.look_again()

    def distrust(self, *, anew: bool = False) -> None:
        """Have both rooms read on before anything more is handed out: something may come late."""
        for room in self._rooms:
            room.doubt(anew=anew)

    def withdraw(self, event_id: EventId) -> None:
        """Drop a message that was taken back."""
        for room in self._rooms:
            room.withdraw(event_id)
        self._taken_back.append(event_id)
        self.look_again()

    async def _read_on(self) -> MatrixError | None:
        """Read what may be new; return why the broadcast room cannot be read now, or None."""
        failure = None
        for room in self._rooms:
            if room.needs_reading:
                try:
                    await room.read_on()
                except MatrixError as error:
                    if room.is_own_room:
                        raise
                    log.warning("the broadcast room cannot be read: %s", error.message)
                    failure = error
        return failure

    async def unread(self) -> list[Message]:
        """Return the unread messages of the window: each room in its order, the two merged by time."""
        async with self._busy:
            failure = await self._read_on()
        self._has_failed = failure is not None and failure.retryable
        return list(heapq.merge(*(room.unread() for room in self._rooms), key=lambda message: message.ts))

    async def wait_unread(self, limit: int, wait_s: float, *, peek: bool = False) -> list[Message]:
        """Return up to `limit` unread messages, as soon as one wakes; without any wait all that there are.

        `peek`: they are only looked at, and not handed out.
        """
        found = await self._wait(lambda unread, _: self._due(unread) if wait_s else unread, wait_s)
        return self._fold(found, limit, peek=peek)

    def _fold(self, messages: list[Message], limit: int | None = None, *, peek: bool = False) -> list[Message]:
        """Return messages with their edits in place of their texts; acknowledged, they are so with those edits."""
        standing, folded = fold_edits(messages)
        standing = standing[:limit]
        if not peek:
            for message in standing:
                self._folded.pop(message.event_id, None)
            held = frozenset[EventId]().union(*(room.known(frozenset(self._folded)) for room in self._rooms))
            self._folded = {each: self._folded[each] for each in held}
            self._folded |= {each.event_id: folded[each.event_id] for each in standing if each.event_id in folded}
        return standing

    async def wait_due(self, wanted: Callable[[list[Message]], list[Message]], wait_s: float) -> list[Message]:
        """Return what is wanted of the unread messages that wake, as soon as there is any; none after `wait_s` s."""
        return await self._wait(lambda unread, _: wanted(self._due(unread)), wait_s)

    async def _wait(self, find: Callable[[list[Message], bool], list[Message]], wait_s: float) -> list[Message]:
        """Return what is found among the unread messages; `find` is told whether there is no time left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            news = self._news
            unread = await self.unread()
            is_over = self.is_closed or loop.time() >= deadline
            if (found := find(unread, is_over)) or is_over:
                return found
            await self._await(news, deadline)

    async def _await(self, news: asyncio.Event, deadline: float = float("inf")) -> None:
        """Wait for news, until a time of the loop's, or until a room that could not be read is to be read again."""
        if self._has_failed:
            deadline = min(deadline, asyncio.get_running_loop().time() + _FAILED_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if deadline == float("inf") else deadline):
                await news.wait()

    async def follow(self) -> AsyncGenerator[Message | EventId, None]:
        """Yield every unread message once, then each new one as it comes, until the inbox is closed.

        Of one that is taken back then, also one that is acknowledged, its id. Quiet ones wait: see `_due`.

        No more are handed out ahead than the window holds: who never acknowledges gets no further.

        Raises:
            AiAgentChatError: the agent's own room cannot be read, at the beginning or for good. Once it was, an outage
                is waited for.
        """
        has_begun = False
        handed: set[EventId] = set()
        left: deque[EventId] = deque(maxlen=UNREAD_WINDOW)  # handed out, and not unread any more
        while not self.is_closed:
            news = self._news
            try:
                unread = await self.unread()
            except AiAgentChatError as error:
                if not (has_begun and error.retryable):
                    raise
                self._has_failed = True
                await self._await(news)
                continue
            has_begun = True
            gone = handed - {message.event_id for message in unread}
            handed -= gone
            left.extend(gone)
            for event_id in [each for each in left if each in self._taken_back]:
                left.remove(event_id)
                yield event_id
            fresh = [message for message in self._due(unread) if message.event_id not in handed]
            for message in self._fold(fresh):
                handed.add(message.event_id)
                handed |= self._folded.get(message.event_id, frozenset())
                yield message
            if not fresh:
                await self._await(news)

    def _due(self, unread: list[Message]) -> list[Message]:
        """Return what is to be handed out by itself: not what is quiet, unless a person or its sender wrote after it.

        All of it is where what waits would keep the window, or the cursor, from going on.
        """
        if len(unread) >= UNREAD_WINDOW or any(_goes_on(message) for message in unread):
            return unread
        if not any(message.quiet for message in unread) or any(room.is_held_up for room in self._rooms):
            return unread
        due: list[Message] = []
        went_on: set[UserId] = set()
        for message in reversed(unread):
            if not message.quiet or message.sender.user_id in went_on:
                went_on.add(message.sender.user_id)
                due.append(message)
        return due[::-1]

    async def acknowledge(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        """Move the cursors; return the ids that were in an inbox. Others were acknowledged before, or never here.

        What was begun is brought to its end, whatever becomes of the caller: of two cursors that are written at once
        the older one could stay.

        Raises:
            AckWindowFullError: nothing was acknowledged; see `cursor.AckWindow.plan`. AiAgentChatError: nothing was,
                since one of them may stand in the broadcast room, which cannot be read now.
        """
        task = asyncio.create_task(self._acknowledge(event_ids))
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)
        return await asyncio.shield(task)

    async def _acknowledge(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        known = frozenset[EventId]()
        async with self._busy:
            while True:
                found = await self._acknowledge_known(event_ids - known)
                known |= found
                # what was handed out before a restart may stand behind what fits the window
                if not found or event_ids <= known or not any(room.needs_reading for room in self._rooms):
                    break
        self.look_again()  # there may be room in the window for more
        return known

    async def _acknowledge_known(self, event_ids: frozenset[EventId]) -> frozenset[EventId]:
        """Acknowledge those that are in the windows; return them."""
        failure = await self._read_on()
        read = [message for room in self._rooms for message in room.unread() if message.event_id in event_ids]
        edits = frozenset[EventId]().union(*(self._folded.get(each, frozenset()) for each in event_ids))
        try:
            plans = [(room, await room.plan(event_ids | edits)) for room in self._rooms]
        except AckWindowFullError:
            if not edits:
                raise
            plans = [(room, await room.plan(event_ids)) for room in self._rooms]  # the edits come by themselves then
        known = frozenset[EventId]().union(*(room.known(event_ids) for room in self._rooms))
        if not event_ids <= known:
            self._require_all_rooms(failure)
        for room, plan in plans:
            if plan is not None:
                count = sum(message.event_id in event_ids for message in room.unread())
                await room.carry_out(plan)
                self._on_acknowledged(count)
        if read:
            self._last = max(read, key=lambda message: message.ts).event_id
        return known

    def _require_all_rooms(self, failure: MatrixError | None) -> None:
        if failure is not None and failure.retryable:
            raise failure
        if not self.has_broadcast:
            raise HomeserverUnavailableError("the broadcast room is not there yet, and one of them may stand in it")

    async def last_acknowledged(self) -> EventId | None:
        """Return the message acknowledged last; of what a daemon before this one saw, the newer of both rooms' last."""
        if self._last is None:
            found = [await room.last_acknowledged() for room in self._rooms]
            self._last = max((each for each in found if each is not None), default=(0, None))[1]
        return self._last


def _goes_on(message: Message) -> bool:
    """Whether a person has agents go on with it: not by having one stop."""
    return message.sender.kind == "person" and parse_command(message.body) is None
