"""The rooms of one daemon, as far as people are in them: which there are, and what is done there to somebody.

`agents.people` decides whom it is done to. In each room it acts as who made it.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiagentchat.agents.at_once import for_each
from aiagentchat.agents.host import AgentHost
from aiagentchat.errors import AiAgentChatError, MatrixForbiddenError, MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import parse_events
from aiagentchat.model import AgentName, Role, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CARD
from aiagentchat.space.layout import render_level

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """A room of ours. `agent` None: the Space, or the broadcast room."""

    room_id: RoomId
    alias: RoomAlias
    agent: AgentName | None = None


class Rooms:
    """The Space, the broadcast room, and those of this daemon's agents."""

    def __init__(self, host: AgentHost) -> None:
        self._host = host
        self._manager = host.manager
        self._names = host.names

    def common(self) -> list[Room]:
        """Return the Space, and the broadcast room: not one that the person named, who keep its people themselves."""
        manager = self._manager
        space, broadcast = manager.common_rooms
        rooms = [] if manager.space_id is None else [Room(manager.space_id, RoomAlias(space))]
        if manager.broadcast_id is not None and manager.settings.shared_room is None:
            rooms.append(Room(manager.broadcast_id, RoomAlias(broadcast)))
        return rooms

    def of_agents(self) -> list[Room]:
        """Return the rooms of this daemon's agents."""
        cards = {card.name: RoomId(card.room_id) for card in self._manager.directory.own_cards()}
        rooms = {agent: room for agent, room in cards.items() if self._host.is_known(agent)} | self._host.in_use
        return [Room(room_id, self._names.alias(agent), agent) for agent, room_id in sorted(rooms.items())]

    def _clients(self, room: Room) -> list[MatrixClient]:
        """Return who may act in a room: its maker, and where that is somebody else the operator."""
        manager = self._manager
        if room.agent is not None:
            return [manager.client_of(room.agent)]
        return [manager.client_of_daemon, *([] if manager.operator is None else [manager.operator])]

    async def _act(self, room: Room, do: Callable[[MatrixClient], Awaitable[None]]) -> None:
        first, *others = self._clients(room)
        try:
            await do(first)
        except MatrixForbiddenError:
            if not others:
                raise
            await do(others[0])

    async def set_level(self, room: Room, user_id: UserId, role: Role | None) -> None:
        """Have somebody's level be that of their role; None: of nobody's."""
        key = self._manager.settings.alias if room.agent is None else room.alias
        async with self._manager.one_at_a_time(key):  # with whatever mends the room
            client = self._clients(room)[0]
            present = await client.get_state(room.room_id, "m.room.power_levels")
            wanted = render_level(present, user_id, role)
            if wanted != present:
                await client.put_state(room.room_id, "m.room.power_levels", "", wanted)

    async def _membership(self, room: Room, user_id: UserId) -> str:
        try:
            member = await self._clients(room)[0].get_state(room.room_id, "m.room.member", user_id)
        except MatrixNotFoundError:
            return "none"
        return str(member.get("membership"))

    async def invite(self, room: Room, user_id: UserId) -> bool:
        """Invite somebody who is not there; return whether that had to be done."""
        if await self._membership(room, user_id) in ("join", "invite"):
            return False
        await self._act(room, lambda client: client.invite(room.room_id, user_id))
        return True

    async def kick(self, room: Room, user_id: UserId, reason: str) -> bool:
        """Take somebody out of a room, or an invite back; return whether there was something to take."""
        if await self._membership(room, user_id) not in ("join", "invite", "knock"):
            return False
        await self._act(room, lambda client: client.kick(room.room_id, user_id, reason))
        return True

    async def of_agents_ever(self) -> list[Room]:
        """Return the rooms of this daemon's agents, with those of ephemeral ones that are off the list."""
        manager, rooms = self._manager, self.of_agents()
        assert manager.space_id is not None
        state = parse_events(await manager.client_of_daemon.get_full_state(manager.space_id), manager.space_id).events
        users = (event.state_key or "" for event in state if event.type == CARD and not event.content)
        gone = {agent for user in users if (agent := self._names.agent_of(user)) is not None}

        async def find(agent: AgentName) -> Room | None:
            alias = self._names.alias(agent)
            try:
                return Room(await manager.client_of_daemon.resolve_room_alias(alias), alias, agent)
            except MatrixNotFoundError:
                return None

        found = await for_each(gone - {room.agent for room in rooms if room.agent is not None}, find)
        return rooms + [room for room in found.values() if room is not None]

    async def members(self, room: Room) -> dict[str, str] | None:
        """Return the membership of everybody who ever had one, by user id; None: it cannot be read."""
        try:
            state = await self._clients(room)[0].get_full_state(room.room_id)
        except AiAgentChatError as error:
            log.warning("who is in %s is not known: %s", room.alias, error.message)
            return None
        events = parse_events(state, room.room_id).events
        return {
            str(event.state_key): str(event.content.get("membership"))
            for event in events
            if event.type == "m.room.member"
        }
