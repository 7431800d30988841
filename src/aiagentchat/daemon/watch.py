"""`Watch`: notices what nothing tells of by itself: the homeserver was away, or is an older copy of what it was."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aiagentchat.agents.intake import Intake, Landmark
from aiagentchat.config import read_private, write_private
from aiagentchat.daemon.retries import retries
from aiagentchat.errors import (
    AiAgentChatError,
    HomeserverUnavailableError,
    InvalidRequestError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import parse_events
from aiagentchat.matrix.filters import MESSAGES_ALONE
from aiagentchat.model import render_time
from aiagentchat.space.identities import Identities

log = logging.getLogger(__name__)

_LOOK_S = 30.0
_NOTICE_S = 1.0
_SETTLE_S = 5.0
"""From one return to the next: where requests end unanswered because there are too many, a return makes more."""
_KEPT_MS = 86_400_000
"""Where a homeserver lets messages expire, one this old may be hidden while older state is not."""
_LANDMARKS = TypeAdapter(tuple[Landmark, ...])


class Watch:
    """Looks every 30 s, and as soon as the homeserver answers again, whether it still has the latest events.

    Args:
        file: where they are kept for the next daemon. probe: a client without a token and with a short deadline.
        on_return: called when the homeserver answers again after requests that it did not. on_restored: called instead,
            with the reason, where it is an older copy of itself.
    """

    def __init__(
        self,
        file: Path,
        identities: Identities,
        intake: Intake,
        probe: MatrixClient,
        *,
        on_return: Callable[[], None],
        on_restored: Callable[[str], None],
    ) -> None:
        self._file = file
        self._identities = identities
        self._intake = intake
        self._probe = probe
        self._on_return = on_return
        self._on_restored = on_restored
        self._known = parse_landmarks(_read(file))
        self.lost: Landmark | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        breaks = self._probe.stats.breaks
        while True:
            was_away = self._probe.stats.breaks != breaks
            if was_away:
                breaks = await self._until_it_answers()
            is_restored = False
            try:
                is_restored = await self._look()
            except HomeserverUnavailableError:
                if was_away:  # again perhaps, or it was still going
                    breaks = await self._until_it_answers()
            except AiAgentChatError as error:
                log.info("whether the homeserver has all that it had was not seen: %s", error.message)
            if was_away:
                if not is_restored:
                    self._on_return()
                await asyncio.sleep(_SETTLE_S)
            await self._wait(breaks)

    async def _until_it_answers(self) -> int:
        """Return, then, how many requests have found no homeserver so far."""
        async for _ in retries():
            try:
                await self._probe.versions()
            except AiAgentChatError as error:
                log.debug("the homeserver is away: %s", error.message)
            else:
                break
        return self._probe.stats.breaks

    async def _wait(self, breaks: int) -> None:
        """Return after a while; sooner when a request finds no homeserver."""
        for _ in range(int(_LOOK_S / _NOTICE_S)):
            await asyncio.sleep(_NOTICE_S)
            if self._probe.stats.breaks != breaks:
                return

    async def _look(self) -> bool:
        """Return whether the homeserver lacks what it had; else take over what it has now."""
        for landmark in self._known:
            if await self._is_gone(landmark):
                self._known = ()
                self._intake.landmarks.clear()
                with self._noting_failure():
                    self._file.unlink(missing_ok=True)  # said once
                self.lost = landmark
                reason = f"the homeserver no longer has {landmark.event_id} of {render_time(landmark.ts)}"
                log.error("%s: it was restored from an older copy", reason)
                self._on_restored(reason)
                return True
        latest = tuple(self._intake.landmarks.values())
        if latest and latest != self._known:
            self._known = latest
            with self._noting_failure():
                write_private(self._file, _LANDMARKS.dump_json(latest).decode() + "\n")
        return False

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Go on though the disk is full, say: the next daemon alone would have had something of it."""
        try:
            yield
        except OSError as error:
            log.warning("%s is not as it should be: %s", self._file, error.strerror)

    async def _is_gone(self, landmark: Landmark) -> bool:
        """Whether an event is not there any more, though its room is, further back than it, and the reader is in it."""
        room_id = landmark.room_id
        try:
            client = self._identities.client_as(landmark.user_id)
            with contextlib.suppress(MatrixForbiddenError, MatrixNotFoundError):
                await client.get_event(room_id, landmark.event_id)
                return False
            member = await client.get_state(room_id, "m.room.member", landmark.user_id)
            compared = MESSAGES_ALONE if client.server_now_ms() - landmark.ts > _KEPT_MS else ""
            page = await client.get_messages(room_id, direction="f", limit=1, filter_json=compared)
        except (InvalidRequestError, MatrixForbiddenError, MatrixNotFoundError, MatrixUnauthorizedError):
            return False  # it is not in the room any more, or its account is logged out
        oldest = next(iter(parse_events(page.chunk, room_id).events), None)
        may_have_gone = oldest is None or oldest.ts > landmark.ts  # purged or expired, with all before it
        return member.get("membership") == "join" and not may_have_gone


def _read(file: Path) -> str:
    try:
        return read_private(file) or ""
    except InvalidRequestError as error:
        log.warning("%s", error.message)
        return ""


def parse_landmarks(text: str) -> tuple[Landmark, ...]:
    """Return the landmarks that a file holds, none where it is none of ours. Never raises."""
    try:
        return _LANDMARKS.validate_json(text)
    except ValidationError:
        return ()
