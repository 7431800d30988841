"""The daemon's two signs of life: the roster of who has a session, and the lease that says the daemon itself lives.

One of each per daemon, however many agents it hosts; nothing is written while nothing changes but the lease's
presence, of which the homeserver keeps no rows. The daemon runs both loops.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from aiagentchat.agents.sessions import Sessions
from aiagentchat.errors import AiAgentChatError, RefusedError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, RoomId, UserId
from aiagentchat.space.content import ROSTER, ROSTER_LIMIT_BYTES

log = logging.getLogger(__name__)

ROSTER_GAP_S = 2.0
"""Least time between two writes of the roster: a burst of comings and goings is one event."""
_RETRY_S = 5.0


class Heartbeat:
    """Keeps the roster and the lease of one daemon.

    Args:
        space: returns the Space, or None while it is not to be had. on_return: called when the homeserver answers
            again after requests that it did not.
    """

    def __init__(
        self,
        client: MatrixClient,
        user_id: UserId,
        sessions: Sessions,
        space: Callable[[], RoomId | None],
        on_return: Callable[[], None],
    ) -> None:
        self._client = client
        self._user_id = user_id
        self._sessions = sessions
        self._space = space
        self._on_return = on_return
        self._written: frozenset[AgentName] | None = None
        self._writing = asyncio.Lock()
        self.lease_refreshed_at: float | None = None

    async def run_lease(self) -> None:
        """Refresh the daemon's presence every 20–25 s until cancelled; 43–66 s after the last it lapses by itself."""
        breaks = self._client.stats.breaks
        while True:
            wait_s = random.uniform(20.0, 25.0)
            try:
                await self._client.set_presence(self._user_id, "online")
                self.lease_refreshed_at = time.monotonic()
                if self._client.stats.breaks != breaks:
                    breaks = self._client.stats.breaks
                    self._on_return()
            except AiAgentChatError as error:
                log.warning("the lease was not refreshed: %s", error.message)
                wait_s = _RETRY_S
            await asyncio.sleep(wait_s)

    async def run_roster(self) -> None:
        """Write the roster when who is online changes, at most every `ROSTER_GAP_S`, until cancelled."""
        while True:
            wait_s = self._sessions.expire()
            try:
                async with asyncio.timeout(wait_s):
                    await self._sessions.changed.wait()
            except TimeoutError:
                continue
            self._sessions.changed.clear()
            if not await self.write_roster():
                self._sessions.changed.set()
                await asyncio.sleep(_RETRY_S)
            else:
                await asyncio.sleep(ROSTER_GAP_S)

    async def write_roster(self) -> bool:
        """Write who is online, unless it stands so already; return whether it does now."""
        async with self._writing:  # what stands is not known while it is being written
            space, online = self._space(), self._sessions.online()
            if space is None:
                return False
            if online == self._written:
                return True
            self._written = None
            try:
                await self._client.put_state(space, ROSTER, self._user_id, {"online": sorted(online)})
            except AiAgentChatError as error:
                log.warning("the roster was not written: %s", error.message)
                return False
            self._written = online
            return True

    async def resign(self) -> None:
        """Say goodbye: an empty roster, and a lease that is over."""
        self._sessions.end_all()
        await self.write_roster()
        await self._client.set_presence(self._user_id, "offline")


def check_roster_has_room(online: frozenset[AgentName], agent: AgentName) -> None:
    """Raise `RefusedError` where one more name would pass the size limit of the roster."""
    size = sum(len(name) + 3 for name in online | {agent})
    if size > ROSTER_LIMIT_BYTES:
        raise RefusedError(
            f"{len(online)} agents are online here, and the roster has no room for more",
            hint="run a further daemon for more agents",
        )
