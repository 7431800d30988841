"""`RoomCheck`: looks after the rooms of agents that nobody uses.

Once through all of them when what they follow from has changed: people, or the Space, say. For as long as it has not,
`AgentHost.boot` trusts the directory, and a start costs the same however many agents there are. And every few minutes
it looks, by one request for all, whether one was purged, of which nothing tells.
"""

import asyncio
import logging

from aiagentchat.agents.host import AgentHost
from aiagentchat.errors import AiAgentChatError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from aiagentchat.space.content import Card

log = logging.getLogger(__name__)

_GAP_S = 0.1
"""From one room to the next: nobody waits for it, and the homeserver has others to serve."""
_LOOK_S = 300.0


class RoomCheck:
    """Looks after the rooms.

    Args:
        operator: is in each room for as long as it is there; None: nobody is logged in.
    """

    def __init__(self, host: AgentHost, operator: MatrixClient | None) -> None:
        self._host = host
        self._manager = host.manager
        self._operator = operator

    async def run(self) -> None:
        """Look after them until cancelled. The Space is there."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_through_all())
            if self._operator is not None:
                group.create_task(self._look_for_purged(self._operator))

    async def _look_through_all(self) -> None:
        order = self._host.order
        if not order.is_kept or order.is_for(wanted := self._manager.rooms_are_for()):
            return
        cards = [card for card in self._manager.directory.own_cards() if self._host.is_known(card.name)]
        if all([await self._look_through(card) for card in cards]) and wanted == self._manager.rooms_are_for():
            order.settle(wanted)

    async def _look_through(self, card: Card) -> bool:
        """Have an agent's room be in order, and return whether it is now, or will not be by trying again."""
        name = card.name
        try:
            room = await self._manager.find_or_create_agent_room(name)
        except AiAgentChatError as error:  # which is said when the agent comes
            log.info("the room of %s is not in order: %s", name, error.message, extra={"agent": name})
            self._host.order.note(name, in_order=False)
            return not error.retryable
        if room.room_id != card.room_id:
            self._host.list_later(name)
        self._host.order.note(name, in_order=True)
        await asyncio.sleep(_GAP_S)
        return True

    async def _look_for_purged(self, operator: MatrixClient) -> None:
        """The operator is in each room, and in one that was purged no more."""
        known = frozenset(RoomId(card.room_id) for card in self._manager.directory.own_cards())
        while True:
            try:
                joined = frozenset(await operator.joined_rooms())
                for room_id in known - joined:
                    await self._look_at(room_id)
                known = joined
            except AiAgentChatError as error:
                log.info("the rooms were not looked after: %s", error.message)
            await asyncio.sleep(_LOOK_S)

    async def _look_at(self, room_id: RoomId) -> None:
        name = self._host.owner_of(room_id)
        if name is not None and self._host.is_known(name) and not await self._host.is_in_its_room(name):
            self._host.lose_room(name, f"its room {room_id} is gone")
