"""`Sidebar`: people see in their list of rooms who is online. Off the path of a boot: it follows the roster.

Two ways, by the setting `sidebar`. `quiet`: the rooms of agents that are offline have the operator's tag
`m.lowpriority`, which is no event, and which clients show as a section or at the end. `pictures`: besides, the room's
picture is grey, which every client of everybody shows, and which Element Web takes for news in that room.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiagentchat.agents.sessions import Sessions
from aiagentchat.agents.shown import Shown
from aiagentchat.errors import AiAgentChatError, MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, RoomId, UserId
from aiagentchat.space.appearance import upload_picture
from aiagentchat.space.content import OFFLINE, PICTURES
from aiagentchat.space.layout import render_picture
from aiagentchat.space.manager import SpaceManager

log = logging.getLogger(__name__)

OFFLINE_AFTER_S = 30.0
"""Who is back before that was not away: nothing is written."""
GAP_S = 0.25
"""Least time between two agents, however many come and go."""
MOST_AT_STOP = 20
"""Agents that are shown as offline when the daemon stops; the others are when it is started again."""
_RETRY_S = 60.0

LOW_PRIORITY = "m.lowpriority"
_OF_PERSON = ("m.favourite", LOW_PRIORITY)


@dataclass(frozen=True, slots=True)
class _Change:
    """How an agent is to be shown, and from when on."""

    agent: AgentName
    online: bool
    due: float


class Sidebar:
    """Shows who is online.

    Args:
        operator: whose tags they are; None: nobody's. with_pictures: rooms' pictures are grey as well. file: keeps how
            they are shown for the next daemon; None: it looks at each. clock: monotonic seconds.

    `changed` is to be set when the set of online agents has changed.
    """

    def __init__(
        self,
        manager: SpaceManager,
        sessions: Sessions,
        operator: tuple[UserId, MatrixClient] | None,
        *,
        with_pictures: bool,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._sessions = sessions
        self._operator = operator
        self._with_pictures = with_pictures
        self._clock = clock
        self._rooms: dict[AgentName, RoomId] = {}
        who, how = "nobody" if operator is None else operator[0], "pictures" if with_pictures else "quiet"
        self._shown = Shown(file, f"{how} {who}")
        self._changes: dict[AgentName, _Change] = {}
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Show what changes, until cancelled. While nothing does, nothing runs."""
        while True:
            self.changed.clear()
            self._note_rooms()
            change = self._next()
            wait_s = None if change is None else change.due - self._clock()
            if change is not None and wait_s is not None and wait_s <= 0:
                await self._show(change.agent, online=change.online)
                await asyncio.sleep(GAP_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.changed.wait()

    async def end(self) -> None:
        """Show the agents of a daemon that stops as offline, as far as they are few."""
        online = [agent for agent, room_id in self._rooms.items() if self._shown.is_online(room_id)]
        self._shown.forget(self._rooms[agent] for agent in online[:MOST_AT_STOP])  # in one write, as time is short
        for agent in online[:MOST_AT_STOP]:
            await self._show(agent, online=False)

    def doubt(self) -> None:
        """Have each agent's room be looked at: the homeserver is an older copy of itself."""
        self._shown.keep_only(())
        self.changed.set()

    def _note_rooms(self) -> None:
        cards = self._manager.directory.own_cards()
        if self._manager.space_id is not None:  # else nobody has a card, and all may be there
            for agent in self._rooms.keys() - {card.name for card in cards}:
                if self._shown.is_online(self._rooms[agent]) is False:  # it is no more, and shown so
                    self._forget(agent)
        self._rooms |= {card.name: RoomId(card.room_id) for card in cards}
        if not self._manager.directory.is_stale():  # else they may not be all
            self._shown.keep_only(frozenset(self._rooms.values()))

    def _next(self) -> _Change | None:
        """Return the change that is due first."""
        online, now = self._sessions.online(), self._clock()
        for agent, room_id in self._rooms.items():
            is_online, change = agent in online, self._changes.get(agent)
            if self._shown.is_online(room_id) == is_online:
                self._changes.pop(agent, None)
            elif change is None or change.online != is_online:
                self._changes[agent] = _Change(agent, is_online, now if is_online else now + OFFLINE_AFTER_S)
        return min(self._changes.values(), key=lambda change: change.due, default=None)

    def _forget(self, agent: AgentName) -> None:
        self._rooms.pop(agent, None)
        self._changes.pop(agent, None)

    async def _show(self, agent: AgentName, *, online: bool) -> None:
        room_id = self._rooms.get(agent)
        if room_id is None:  # it was shown as it is meanwhile, for good
            return
        self._shown.forget((room_id,))
        try:
            if self._operator is not None:
                await self._tag(*self._operator, room_id, online=online)
            if self._with_pictures:
                await self._picture(agent, room_id, online=online)
        except AiAgentChatError as error:
            log.info("%s is not shown as it is: %s", agent, error.message, extra={"agent": agent})
            self._changes[agent] = _Change(agent, online, self._clock() + _RETRY_S)
            return
        self._changes.pop(agent, None)
        self._shown.note(room_id, online=online)
        if not online and self._manager.directory.card(agent) is None:  # it is no more
            self._forget(agent)

    async def _tag(self, user_id: UserId, client: MatrixClient, room_id: RoomId, *, online: bool) -> None:
        """Have the operator's tag be there or not. What they have set themselves stays."""
        tags = await client.get_room_tags(user_id, room_id)
        if online and _is_ours(tags):
            await client.delete_room_tag(user_id, room_id, LOW_PRIORITY)
        elif not online and not any(tag in tags for tag in _OF_PERSON):
            await client.put_room_tag(user_id, room_id, LOW_PRIORITY, {OFFLINE: True})

    async def _picture(self, agent: AgentName, room_id: RoomId, *, online: bool) -> None:
        """Have the room's picture be as the agent is. One that somebody else chose stays."""
        client = self._manager.client_of(agent)
        try:
            content = await client.get_state(room_id, "m.room.avatar")
        except MatrixNotFoundError:
            content = {}
        known = content.get(PICTURES)
        pictures = {key: uri for key, uri in known.items() if isinstance(uri, str)} if isinstance(known, dict) else {}
        if content.get("url") and content["url"] not in pictures.values():
            return
        key = "online" if online else "offline"
        if key not in pictures:
            pictures[key] = await upload_picture(client, agent, grey=not online)
        wanted = render_picture(pictures, shown=key)
        if content != wanted:
            await client.put_state(room_id, "m.room.avatar", "", wanted)


def _is_ours(tags: dict[str, Any]) -> bool:
    """Whether a room's tags are those that we give to an agent's that is offline."""
    low = tags.get(LOW_PRIORITY)
    return isinstance(low, dict) and OFFLINE in low
