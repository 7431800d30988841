"""`Overview`: all agents at a glance, for the operator: what is unread, what was said last, how much is said.

At most one request to the homeserver each time it is asked for, however many agents there are: the rest is what this
daemon has heard. What it does not know it does not guess.
"""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.messages import ANSWERED_FOR_AGENTS, command_in, parse_message
from aiagentchat.agents.onlooker import is_heard
from aiagentchat.errors import AiAgentChatError
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.matrix.sync import LatestMessages
from aiagentchat.model import AgentName, DirectoryEntry, EventId, Message, RoomId, Sender

MINUTE_MS = 60_000
_LOOK_S = 10.0
"""How old at most what the homeserver was asked may be."""
_PATIENCE_S = 2.0
_BODY_CHARACTERS = 200
_MOST_RECENT = 10_000
_MOST_ROOMS = 10_000


@dataclass(frozen=True, slots=True)
class Said:
    """The latest message of a room, with the text of its last edit; of a long one the beginning."""

    event_id: EventId
    ts: int
    sender: Sender
    body: str


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent at a glance. None: it is not known.

    `unread`: in its inbox; `unread_more`: at least so many. `per_minute`: messages in its room in the last minute.
    """

    entry: DirectoryEntry
    unread: int | None
    unread_more: bool
    per_minute: int | None
    last: Said | None


@dataclass(frozen=True, slots=True)
class Glance:
    """All agents; `unavailable`: why there are none."""

    agents: tuple[AgentView, ...]
    unavailable: str


class Overview:
    """Keeps what was heard.

    Args:
        latest: the latest messages of all rooms by the word of the operator's account; None: there is none.
        server_now_ms: the homeserver's clock.
    """

    def __init__(
        self,
        host: AgentHost,
        latest: LatestMessages | None,
        server_now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._latest = latest
        self._server_now_ms = server_now_ms
        self._clock = clock
        self._last: dict[RoomId, Said] = {}
        self._recent: deque[tuple[int, RoomId]] = deque(maxlen=_MOST_RECENT)
        self._waiting: Counter[AgentName] = Counter()  # heard while nobody read, so that all of it is unread
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    def note(self, event: RoomEvent, message: Message | None, owner: AgentName) -> None:
        """Take note of what has arrived in an agent's room, and of the message that it is, if any."""
        if event.type == "m.room.redaction":
            known = self._last.get(event.room_id)
            if known is not None and known.event_id == event.content.get("redacts"):
                del self._last[event.room_id]
        if message is None or not self._note_last(event, message):
            return
        self._recent.append((message.ts, message.room_id))
        self._forget_old()
        if message.sender.user_id != self._host.names.user(owner) and not self._host.inboxes_of(message.room_id):
            self._waiting[owner] += 1
            _bound(self._waiting)

    def _note_last(self, event: RoomEvent, message: Message) -> bool:
        """Keep what was said last, whichever way it comes; return whether it is a message of its own, and no edit."""
        if command_in(event, message) in ANSWERED_FOR_AGENTS:
            return False
        known, event_id = self._last.get(message.room_id), message.edits or message.event_id
        ts = message.ts
        if known is None:
            counts = True
        elif message.edits is None:
            counts = known.ts <= ts
        else:
            counts, ts = (known.event_id, known.sender.user_id) == (event_id, message.sender.user_id), known.ts
        if counts:
            self._last.pop(message.room_id, None)
            self._last[message.room_id] = Said(event_id, ts, message.sender, message.body[:_BODY_CHARACTERS])
            _bound(self._last)
        return message.edits is None

    def _forget_old(self) -> None:
        oldest_ms = self._server_now_ms() - MINUTE_MS
        while self._recent and self._recent[0][0] < oldest_ms:
            self._recent.popleft()

    async def look(self) -> Glance:
        """Return all agents as far as they are known; what the homeserver does not tell soon is left out."""
        view = await self._host.who()
        await self._ask_homeserver()
        self._forget_old()
        counts = Counter(room_id for _, room_id in self._recent)
        rooms = {entry.room_id for entry in view.entries}
        self._last = {room_id: said for room_id, said in self._last.items() if room_id in rooms}
        for agent in self._waiting.keys() - {entry.name for entry in view.entries}:
            del self._waiting[agent]
        inboxes = self._host.inboxes()
        agents = tuple(self._describe(entry, inboxes.get(AgentName(entry.name)), counts) for entry in view.entries)
        return Glance(agents, view.unavailable)

    def _describe(self, entry: DirectoryEntry, inbox: Inbox | None, counts: Counter[RoomId]) -> AgentView:
        name = AgentName(entry.name)
        unread: int | None
        if inbox is not None:
            del self._waiting[name]
            unread, more = inbox.unread_known()
        else:
            unread, more = self._waiting.get(name), True
        if unread is None:
            more = False
        per_minute = counts[entry.room_id] if is_heard(self._host, name, entry.room_id) else None
        return AgentView(entry, unread, more, per_minute, self._last.get(entry.room_id))

    async def _ask_homeserver(self) -> None:
        """Have the latest messages be known of rooms of which nothing was heard."""
        if self._latest is None:
            return
        if self._looking is None and self._clock() - self._looked_at >= _LOOK_S:
            self._looked_at = self._clock()
            self._looking = asyncio.create_task(self._ask(self._latest), name="overview")
        if self._looking is not None:
            await asyncio.wait((self._looking,), timeout=_PATIENCE_S)
            if self._looking.done():
                self._looking = None

    async def _ask(self, latest: LatestMessages) -> None:
        with contextlib.suppress(AiAgentChatError):  # what is known is shown, and the homeserver asked again
            for event in await latest.look():
                message = parse_message(event, self._host.sender_of, None)
                if message is not None:
                    self._note_last(event, message)


def _bound(kept: dict[Any, Any]) -> None:
    """Forget what was noted first where it is too much: agents come and go, and nobody need look."""
    if len(kept) > _MOST_ROOMS:
        del kept[next(iter(kept))]
