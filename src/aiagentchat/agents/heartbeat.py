"""The daemon's two signs of life: the roster of who has a session, and the lease that says the daemon itself lives.

One of each per daemon, however many agents it hosts; nothing is written while nothing changes but the lease's
presence, of which the homeserver keeps no rows. The daemon runs both loops.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from aiagentchat.agents.sessions import Sessions
from aiagentchat.errors import AiAgentChatError, MatrixForbiddenError, MatrixNotFoundError, RefusedError
from aiagentchat.model import AgentName, UserId
from aiagentchat.space.content import LEASE, ROSTER, ROSTER_LIMIT_BYTES
from aiagentchat.space.manager import SpaceManager
from aiagentchat.space.others import LEASE_EVENT_S

log = logging.getLogger(__name__)

ROSTER_GAP_S = 2.0
"""Least time between two writes of the roster: a burst of comings and goings is one event."""
_COMING_BACK_S = 0.1
"""Of silence, after which nobody more is waited for at a start."""
_RETRY_S = 5.0


class Heartbeat:
    """Keeps the rosters and the lease of one daemon. Where each agent is its own daemon, its sync loop is its lease.

    `on_written` is called when the roster has been written, or stood so already.
    """

    def __init__(self, manager: SpaceManager, sessions: Sessions, *, on_written: Callable[[], None]) -> None:
        self._manager = manager
        self._sessions = sessions
        self._on_written = on_written
        self._writing = asyncio.Lock()
        self._leases: dict[UserId, float] = {}
        self.lease_refreshed_at: float | None = None
        self.has_presence: bool | None = None

    async def run_lease(self) -> None:
        """Refresh the daemon's presence every 20–25 s until cancelled; 43–66 s after the last it lapses by itself."""
        client, user_id = self._manager.client_of_daemon, self._manager.names.daemon
        while self.has_presence is not False:
            wait_s = random.uniform(20.0, 25.0)
            try:
                await client.set_presence(user_id, "online")
                self.lease_refreshed_at = time.monotonic()
            except AiAgentChatError as error:
                log.warning("the lease was not refreshed: %s", error.message)
                wait_s = _RETRY_S
            await asyncio.sleep(wait_s)

    async def run_lease_events(self) -> None:
        """Where the homeserver keeps no presence, write lease events in its place, until cancelled."""
        while True:
            wait_s = _RETRY_S
            try:
                if self.has_presence is None:
                    self.has_presence = await self._sees_presence()
                if self.has_presence:
                    return
                if self.has_presence is False and self._manager.space_id is not None:
                    await self._write_leases()
                    wait_s = LEASE_EVENT_S
            except AiAgentChatError as error:
                log.warning("the lease event was not written: %s", error.message)
            await asyncio.sleep(wait_s)

    async def _write_leases(self) -> None:
        """Write the lease event of each daemon of ours that has none from the last minutes."""
        now = time.monotonic()
        for daemon in self._daemons():
            if now - self._leases.get(daemon, float("-inf")) > LEASE_EVENT_S / 2:
                now_ms = self._manager.identities.client_as(daemon).server_now_ms()
                await self._manager.write_own(daemon, LEASE, {"refreshed": now_ms})
                self._leases[daemon] = now
                self.lease_refreshed_at = now

    def _daemons(self) -> frozenset[UserId]:
        names = self._manager.names
        if names.has_own_daemon:
            return frozenset({names.daemon})
        found = (self._daemon_of(agent) for agent in self._sessions.online())
        return frozenset(daemon for daemon in found if daemon is not None)

    async def _sees_presence(self) -> bool | None:
        """Whether the homeserver keeps presence: it says so of what it was told just now. None: nobody to ask for."""
        for daemon in self._daemons():
            client = self._manager.identities.client_as(daemon)
            try:
                await client.set_presence(daemon, "online")
                return (await client.get_presence(daemon)).get("presence") == "online"
            except (MatrixForbiddenError, MatrixNotFoundError):
                return False
        return None

    async def run_roster(self) -> None:
        """Write the roster when who is online changes, at most every `ROSTER_GAP_S`, until cancelled."""
        is_begun = False
        while True:
            wait_s = self._sessions.expire()
            try:
                async with asyncio.timeout(wait_s):
                    await self._sessions.changed.wait()
            except TimeoutError:
                continue
            if not is_begun and self._manager.space_id is not None:
                is_begun = True
                await self._until_all_are_back()
            self._sessions.changed.clear()
            if not await self.write_roster():
                self._sessions.changed.set()
                await asyncio.sleep(_RETRY_S)
            else:
                self._on_written()
                await asyncio.sleep(ROSTER_GAP_S)

    async def _until_all_are_back(self) -> None:
        """Return once nobody has come for a moment, `ROSTER_GAP_S` at most: at a start many come at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROSTER_GAP_S):
                while self._sessions.changed.is_set():
                    self._sessions.changed.clear()
                    await asyncio.sleep(_COMING_BACK_S)

    async def write_roster(self) -> bool:
        """Write who is online, unless it stands so already; return whether it does now."""
        async with self._writing:  # what stands is not known while it is being written
            if self._manager.space_id is None:
                return False
            written = [await self._write_one(daemon, online) for daemon, online in self._wanted_rosters().items()]
            try:
                if self.has_presence is False:
                    await self._write_leases()
            except AiAgentChatError as error:
                log.warning("the lease event was not written: %s", error.message)
                return False
            return all(written)

    async def _write_one(self, daemon: UserId, online: frozenset[AgentName]) -> bool:
        try:
            if (self._manager.directory.roster(daemon) or frozenset()) != online:
                await self._manager.write_own(daemon, ROSTER, {"online": sorted(online)})
        except AiAgentChatError as error:  # of one agent that may not write; the others' say all the same
            log.warning("the roster of %s was not written: %s", daemon, error.message)
            return False
        return True

    def _wanted_rosters(self) -> dict[UserId, frozenset[AgentName]]:
        """Return each roster of ours as it should be: of the daemon, or of each agent with a card.

        Those that a daemon before this one did not come to empty are among them.
        """
        names, online = self._manager.names, self._sessions.online()
        if names.has_own_daemon:
            return {names.daemon: online}
        wanted = {self._daemon_of(card.name): frozenset[AgentName]() for card in self._manager.directory.own_cards()}
        wanted |= {self._daemon_of(agent): frozenset({agent}) for agent in online}
        return {daemon: roster for daemon, roster in wanted.items() if daemon is not None}

    def _daemon_of(self, agent: AgentName) -> UserId | None:
        """Return whose roster an agent is in; None: its account is gone."""
        try:
            return self._manager.names.daemon_of(agent)
        except AiAgentChatError:
            return None

    async def resign(self) -> None:
        """Say goodbye: empty rosters, and leases that are over."""
        daemons = self._daemons()
        self._sessions.end_all()
        await self.write_roster()
        if self._manager.space_id is not None:
            for daemon in self._leases:
                await self._manager.write_own(daemon, LEASE, {})
        for daemon in daemons:
            await self._manager.identities.client_as(daemon).set_presence(daemon, "offline")


def check_roster_has_room(online: frozenset[AgentName], agent: AgentName) -> None:
    """Raise `RefusedError` where one more name would pass the size limit of the roster."""
    names = online | {agent}
    size = sum(map(len, names)) + 3 * len(names)
    if size > ROSTER_LIMIT_BYTES:
        raise RefusedError(
            f"{len(online)} agents are online here, and the roster has no room for more",
            hint="run a further daemon for more agents",
        )
