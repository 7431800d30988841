"""Rooms of other agents that ours are in only to write there: each is left when nothing was written for a while.

So an agent's account does not go on seeing what others write in a room that was joined for one message.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from aiagentchat.errors import AiAgentChatError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, RoomId, UserId

log = logging.getLogger(__name__)

IDLE_S = 60.0
"""How long an agent stays in another's room after its last message."""


class Visits:
    """The visits that go on."""

    def __init__(self) -> None:
        self._visits: dict[tuple[UserId, RoomId], tuple[MatrixClient, float]] = {}
        self._changed = asyncio.Event()

    def note(self, client: MatrixClient, user_id: UserId, room_id: RoomId) -> None:
        """A user wrote in a room that is not its own."""
        self._visits[user_id, room_id] = (client, time.monotonic() + IDLE_S)
        self._changed.set()

    async def run(self) -> None:
        """Leave each room when its visit is over, until cancelled."""
        while True:
            now = time.monotonic()
            for (user_id, room_id), (client, until) in list(self._visits.items()):
                if until <= now:
                    del self._visits[user_id, room_id]
                    await self._leave(client, user_id, room_id)
            self._changed.clear()
            next_end = min((until for _, until in self._visits.values()), default=None)
            try:
                async with asyncio.timeout(None if next_end is None else max(0.0, next_end - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def end_all(self) -> None:
        """Leave all rooms now: the daemon stops."""
        visits, self._visits = self._visits, {}
        await asyncio.gather(
            *(self._leave(client, user_id, room_id) for (user_id, room_id), (client, _) in visits.items())
        )

    async def _leave(self, client: MatrixClient, user_id: UserId, room_id: RoomId) -> None:
        try:
            await client.leave_room(room_id)
        except AiAgentChatError as error:
            log.warning("%s did not leave: %s", user_id, error.message, extra={"room_id": room_id})


async def end_old_visits(
    client: MatrixClient, agent: AgentName, owner_of: Callable[[RoomId], AgentName | None]
) -> None:
    """Have an agent leave the rooms of others that a daemon before this one did not come to leave."""
    with contextlib.suppress(AiAgentChatError):
        for room_id in await client.joined_rooms():
            if owner_of(room_id) not in (None, agent):
                await client.leave_room(room_id)
