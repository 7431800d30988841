"""What the homeserver says of others: whether a daemon lives, and whether the card of somebody else's agent is true.

Used by `space.manager`. Answers are cached for seconds, so that a directory is not a request for each of its lines.
"""

import asyncio
import logging
import time

from aiagentchat.errors import (
    AiAgentChatError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    NameTakenError,
    RefusedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import parse_events
from aiagentchat.model import AgentName, UserId
from aiagentchat.space.directory import Claim, Directory
from aiagentchat.space.identities import Identities

log = logging.getLogger(__name__)

LEASE_EVENT_S = 300.0
"""A daemon on a homeserver without presence writes its lease event this often."""

_LEASE_EVENT_LAPSES_MS = (2 * LEASE_EVENT_S + 60) * 1000
_LEASE_CACHED_S = 10.0
_NO_LEASE_CACHED_S = 2.0
_TRUE_CACHED_S = 300.0
_FALSE_CACHED_S = 15.0
_PATIENCE_S = 2.0
"""How long a directory waits for what other servers say; it goes on without, and has it the next time."""
_ANSWER_S = 10.0
"""What another server has not said by then it does not say."""
_AT_ONCE = 8
_MOST_CACHED = 20_000


class Others:
    """Asks about others, as the daemon's own user."""

    def __init__(self, identities: Identities, directory: Directory) -> None:
        self._identities = identities
        self._directory = directory
        self._leases: dict[UserId, tuple[float, bool]] = {}
        self._checked: dict[Claim, tuple[float, bool]] = {}
        self._checking: dict[Claim, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._made_by: set[Claim] = set()
        self._made_by_another: set[Claim] = set()

    # --- leases

    async def alive(self, daemons: frozenset[UserId]) -> frozenset[UserId]:
        """Return those daemons whose lease stands, and this one."""
        alive = set()
        for daemon in daemons:
            try:
                if await self.is_alive(daemon):
                    alive.add(daemon)
            except MatrixError as error:
                log.warning("the lease of %s could not be read: %s", daemon, error.message)
            except AiAgentChatError as error:  # no answer in time: there would be none for the rest either
                log.warning("the leases of other daemons could not be read: %s", error.message)
                break
        return frozenset(alive)

    async def is_alive(self, daemon: UserId, *, anew: bool = False) -> bool:
        """Whether a daemon's lease stands: the presence of its user, or a lease event that is not old.

        `anew`: whatever was known a moment ago.
        """
        read_at, alive = self._leases.get(daemon, (float("-inf"), False))
        if anew or time.monotonic() - read_at > (_LEASE_CACHED_S if alive else _NO_LEASE_CACHED_S):
            alive = self._has_lease_event(daemon) or await self._is_present(daemon)
            if len(self._leases) >= 1000:
                self._leases.clear()
            self._leases[daemon] = (time.monotonic(), alive)
        return alive

    def _has_lease_event(self, daemon: UserId) -> bool:
        written = self._directory.lease_ts(daemon)
        return written is not None and self._identities.daemon.server_now_ms() - written < _LEASE_EVENT_LAPSES_MS

    async def _is_present(self, daemon: UserId) -> bool:
        try:
            presence = (await self._identities.daemon.get_presence(daemon)).get("presence")
        except (MatrixForbiddenError, MatrixNotFoundError):  # shares no room with us, or is no user at all
            return False
        # "unavailable" is what the homeserver makes of "online" after minutes without a new activity: it stands too
        return presence in ("online", "unavailable")

    async def refuse_name_of_live_daemon(self, agent: AgentName) -> None:
        """Raise `NameTakenError` when another daemon that is alive hosts this name."""
        listed = self._directory.find(agent)
        if listed is None or listed.is_hosted:
            return
        daemon = UserId(listed.card.daemon)
        if await self.is_alive(daemon, anew=True):
            raise NameTakenError(
                f"{agent} is hosted by {daemon}, which is running",
                hint="choose another name, or insist: cchat join NAME --take-over",
            )

    # --- cards

    async def check_claims(self) -> None:
        """Tell the directory which cards of others are true, as far as that is known within seconds."""
        claims, now = self._directory.claims(), time.monotonic()
        new = [claim for claim in claims if claim not in self._checked]
        for claim in claims:
            checked_at, is_true = self._checked.get(claim, (float("-inf"), False))
            if now - checked_at > (_TRUE_CACHED_S if is_true else _FALSE_CACHED_S) and claim not in self._checking:
                self._checking[claim] = asyncio.create_task(self._check(claim), name=f"check {claim.user_id}")
        if waiting := [self._checking[claim] for claim in new]:
            await asyncio.wait(waiting, timeout=_PATIENCE_S)
        self._confirm()

    def _confirm(self) -> None:
        claims = self._directory.claims()
        self._directory.confirm(frozenset(claim for claim in claims if self._checked.get(claim, (0.0, False))[1]))

    async def _check(self, claim: Claim) -> None:
        """Whether the alias, which its homeserver owns, leads to the room that the card names."""
        try:
            async with self._slots:
                client = self._identities.daemon.with_deadline(_ANSWER_S)
                leads_there = await client.resolve_room_alias(claim.alias) == claim.room_id
            self._note(claim, is_true=leads_there and claim not in self._made_by_another)
        except MatrixError:
            self._note(claim, is_true=False)
        except AiAgentChatError as error:  # nothing was learned: it is as it was
            log.info("the card of %s could not be checked: %s", claim.user_id, error.message)
            self._note(claim, is_true=self._checked.get(claim, (0.0, False))[1])
        finally:
            del self._checking[claim]

    def _note(self, claim: Claim, *, is_true: bool) -> None:
        if len(self._checked) >= _MOST_CACHED:
            for known in (self._checked, self._made_by, self._made_by_another):
                known.clear()
        self._checked[claim] = (time.monotonic(), is_true)
        self._confirm()

    def is_proven(self, claim: Claim) -> bool:
        """Whether the room of a card was seen to be its user's own."""
        return claim in self._made_by

    async def require_made_by(self, client: MatrixClient, claim: Claim) -> None:
        """Have the room of a card be its user's own: only who made a room can say whose it is. `client` has joined.

        Raises:
            RefusedError: somebody else made it, and the card does not count.
        """
        if self.is_proven(claim):
            return
        state = parse_events(await client.get_full_state(claim.room_id), claim.room_id).events
        creator = next((event.sender for event in state if event.type == "m.room.create"), None)
        if creator != claim.user_id:
            self._made_by_another.add(claim)
            self._note(claim, is_true=False)
            raise RefusedError(
                f"the room {claim.alias} was made by {creator}, and {claim.user_id} claims to be the agent of it",
                hint="nothing was sent; only the room that an agent's own account made is its own",
            )
        self._made_by.add(claim)
