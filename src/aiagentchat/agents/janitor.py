"""`Janitor`: clears away what is left of ephemeral agents that have been gone for long.

Of this daemon's own agents alone, as each of them: what is another daemon's, a persistent agent's or a person's it has
no way to touch. Every step is idempotent; what a crash leaves half done is found again by the alias, which goes last.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from aiagentchat.agents.at_once import for_each
from aiagentchat.agents.host import AgentHost
from aiagentchat.errors import AiAgentChatError, MatrixError, MatrixForbiddenError, MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import RoomEvent, parse_event, parse_events
from aiagentchat.matrix.filters import MESSAGES_ALONE
from aiagentchat.model import AgentName, EventId, RoomId, UserId
from aiagentchat.space.content import CARD, Card, parse_content

log = logging.getLogger(__name__)

FIRST_S, EVERY_S = 300.0, 3_600.0
GAP_S = 1.0
"""Between two agents: some twenty requests each, most of them an event that everybody in the room is told."""
_REASON = "this passing session has been over for long"

State = Literal["found", "cleared", "in use again", "failed"]


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of an ephemeral agent. `room_id` None: no room.

    `since_ms`: nothing of it is later, by the homeserver's clock. `is_listed`: its card is still there.
    """

    agent: AgentName
    room_id: RoomId | None
    since_ms: int
    is_listed: bool


@dataclass(frozen=True, slots=True)
class Cleared:
    """What became of it. `detail`: why it failed."""

    remains: Remains
    state: State
    detail: str = ""


class Janitor:
    """Clears away ephemeral agents.

    Args:
        ttl_s: how long one has to be gone.
    """

    def __init__(self, host: AgentHost, *, ttl_s: float) -> None:
        self._host = host
        self._manager = host.manager
        self._names = host.names
        self._ttl_s = ttl_s
        self._turn = asyncio.Lock()
        self._has_nothing: set[EventId] = set()  # cards that were emptied, of agents of which no room is left
        self._of_others: set[RoomId] = set()  # the operator's rooms that no agent of ours has made

    async def run(self) -> None:
        """Clear away once an hour, until cancelled."""
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                async for _ in self.clear_all():
                    pass
            except AiAgentChatError as error:
                log.info("nothing was cleared away: %s", error.message)
            await asyncio.sleep(EVERY_S)

    async def clear_all(self, *, dry_run: bool = False) -> AsyncGenerator[Cleared, None]:
        """Clear away what is old enough, an agent at a time, and yield what became of each; `dry_run`: only find it.

        Raises:
            AiAgentChatError: the Space is not to be had.
        """
        async with self._turn:
            for number, remains in enumerate(await self.find()):
                if dry_run:
                    yield Cleared(remains, "found")
                    continue
                if number:
                    await asyncio.sleep(GAP_S)
                yield await self._clear(remains)

    # --- what there is

    async def find(self) -> list[Remains]:
        """Return what is left of ephemeral agents that are gone for long enough, the longest first."""
        await self._manager.require_space()
        space_id, client = self._manager.space_id, self._manager.client_of_daemon
        assert space_id is not None
        now_ms = client.server_now_ms()
        cards: dict[AgentName, tuple[RoomEvent, dict[str, Any]]] = {}
        for raw in await client.get_full_state(space_id):
            event = parse_event(raw, space_id)
            if event is None or event.type != CARD or event.sender != event.state_key:
                continue
            agent = self._names.agent_of(event.sender)
            if agent is not None and not self._is_used(agent) and event.event_id not in self._has_nothing:
                cards[agent] = event, raw

        async def look(agent: AgentName) -> Remains | None:
            try:
                return await self._look(agent, *cards[agent])
            except AiAgentChatError as error:  # one that cannot be looked at keeps no other from it
                log.info("%s was not looked at: %s", agent, error.message, extra={"agent": agent})
                return None

        found = [*(await for_each(cards, look)).values(), *await self._find_unlisted(frozenset(cards))]
        old = [each for each in found if each is not None and now_ms - each.since_ms > self._ttl_s * 1000]
        return sorted(old, key=lambda each: each.since_ms)

    def _is_used(self, agent: AgentName) -> bool:
        return agent in self._host.pending or agent in self._host.sessions.online()

    async def _is_used_elsewhere(self, agent: AgentName) -> bool:
        """Whether an ordinary account is in use in another home: its lease stands, and nobody syncs as it here."""
        if self._names.has_own_daemon:
            return False
        return await self._manager.others.is_alive(self._names.daemon_of(agent), anew=True)

    async def _look(self, agent: AgentName, event: RoomEvent, raw: dict[str, Any]) -> Remains | None:
        """Return what is left of the agent of a card; None: it is persistent, or there is nothing."""
        if event.content:
            card = parse_content(Card, event.content)
            if card is None or card.kind != "ephemeral" or await self._is_used_elsewhere(agent):
                return None
            return await self._aged(agent, RoomId(card.room_id), event.ts, is_listed=True)
        try:
            room_id = await self._manager.client_of_daemon.resolve_room_alias(self._names.alias(agent))
        except MatrixNotFoundError:
            self._has_nothing.add(event.event_id)
            return None
        if await self._was_ephemeral(event, raw):
            return await self._aged(agent, room_id, event.ts, is_listed=False)
        return None

    async def _was_ephemeral(self, event: RoomEvent, raw: dict[str, Any]) -> bool:
        """Whether a card that was emptied had been that of an ephemeral agent."""
        unsigned = raw.get("unsigned")
        before = unsigned.get("replaces_state") if isinstance(unsigned, dict) else None
        if not isinstance(before, str):
            return False
        with suppress(MatrixNotFoundError, MatrixForbiddenError):
            told = await self._manager.client_of_daemon.get_event(event.room_id, EventId(before))
            card = parse_content(Card, told.get("content"))
            return card is not None and card.kind == "ephemeral"
        return False

    async def _aged(self, agent: AgentName, room_id: RoomId, ts: int, *, is_listed: bool) -> Remains:
        """Return it with the time of the latest of what there is: card, message, and when this daemon last saw it."""
        latest = await self._latest_message(self._manager.client_of(agent), room_id)
        seen_ms = self._host.sessions.last_seen_ms(agent) or 0
        return Remains(agent, None if latest is None else room_id, max(ts, seen_ms, latest or 0), is_listed)

    async def _latest_message(self, client: MatrixClient, room_id: RoomId) -> int | None:
        """Return the time of a room's latest message, 0 where it has none; None: the user is in no such room."""
        try:
            page = await client.get_messages(room_id, direction="b", limit=1, filter_json=MESSAGES_ALONE)
        except (MatrixForbiddenError, MatrixNotFoundError):
            return None
        return max((event.ts for event in parse_events(page.chunk, room_id).events), default=0)

    async def _find_unlisted(self, known: frozenset[AgentName]) -> list[Remains]:
        """Return rooms of agents that never had a card, and in which nobody has written: of creations that crashed.

        Found among the operator's rooms; without the operator nobody can list them.
        """
        operator, manager = self._manager.operator, self._manager
        if operator is None or not self._names.has_own_daemon:  # accounts of people's have rooms of their own as well
            return []
        others = {manager.space_id, manager.broadcast_id, *self._host.in_use.values(), *self._of_others}
        others |= {RoomId(card.room_id) for card in manager.directory.own_cards()}
        found = []
        for room_id in set(await operator.joined_rooms()) - others:
            state = parse_events(await operator.get_full_state(room_id), room_id).events
            made = next((event for event in state if event.type == "m.room.create"), None)
            agent = None if made is None or made.content.get("type") else self._names.agent_of(made.sender)
            if made is None or agent is None:
                self._of_others.add(room_id)
                continue
            is_unlisted = agent not in known and not self._is_used(agent) and manager.directory.card(agent) is None
            if is_unlisted and await self._latest_message(operator, room_id) == 0:
                seen_ms = self._host.sessions.last_seen_ms(agent) or 0
                found.append(Remains(agent, room_id, max(made.ts, seen_ms), is_listed=False))
        return found

    # --- clearing it away

    async def _clear(self, remains: Remains) -> Cleared:
        agent = remains.agent
        ids = {"agent": agent, "room_id": remains.room_id}
        async with self._manager.one_at_a_time(self._names.alias(agent)):  # who boots it waits, and makes a new room
            try:
                is_used = self._is_used(agent) or await self._is_used_elsewhere(agent)
                if is_used or await self._is_written_to(remains):
                    return Cleared(remains, "in use again")
                self._host.drop(agent)
                await self._manager.unregister(agent)
                if remains.room_id is not None:
                    await self._empty(agent, remains.room_id)
                await self._leave_all(agent, remains.room_id)
            except AiAgentChatError as error:
                log.warning("%s was not cleared away: %s", agent, error.message, extra=ids)
                return Cleared(remains, "failed", error.message)
        self._host.sessions.forget(agent)
        log.info("%s was cleared away", agent, extra=ids)
        return Cleared(remains, "cleared")

    async def _is_written_to(self, remains: Remains) -> bool:
        if remains.room_id is None:
            return False
        latest = await self._latest_message(self._manager.client_of(remains.agent), remains.room_id)
        return latest is not None and latest > remains.since_ms

    async def _empty(self, agent: AgentName, room_id: RoomId) -> None:
        """Take everybody out of an agent's room, then its alias away: until then the room is found by it."""
        client, user, alias = self._manager.client_of(agent), self._names.user(agent), self._names.alias(agent)
        if self._manager.operator is not None:
            with suppress(MatrixError):  # they were not in it
                await _leave(self._manager.operator, room_id)
        for event in parse_events(await client.get_full_state(room_id), room_id).events:
            member = UserId(event.state_key or "")
            is_there = event.type == "m.room.member" and event.content.get("membership") in ("join", "invite", "knock")
            if not is_there or member == user:
                continue
            visitor = self._names.agent_of(member)
            with suppress(MatrixError):  # left meanwhile
                if visitor is None:
                    await client.kick(room_id, member, _REASON)
                else:
                    await _leave(self._manager.client_of(visitor), room_id)
        with suppress(MatrixNotFoundError):
            if await client.resolve_room_alias(alias) == room_id:
                await client.delete_room_alias(alias)

    async def _leave_all(self, agent: AgentName, room_id: RoomId | None) -> None:
        """Have an agent be nowhere; an ordinary account stays in rooms that are none of ours."""
        client, manager = self._manager.client_of(agent), self._manager
        ours = {room_id, manager.space_id, manager.broadcast_id}
        for joined in await client.joined_rooms():
            if self._names.has_own_daemon or joined in ours or manager.directory.agent_of_room(joined) is not None:
                await _leave(client, joined)


async def _leave(client: MatrixClient, room_id: RoomId) -> None:
    """Leave a room for good: when all have, a homeserver may remove it."""
    await client.leave_room(room_id)
    with suppress(MatrixError):  # an older one keeps it a little longer
        await client.forget_room(room_id)
