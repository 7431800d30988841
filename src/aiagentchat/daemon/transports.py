"""The two ways in which events come, each with what it takes to keep it going. `daemon.main` runs one of them.

`Transport` is all that the rest of the daemon knows: where batches come from, and what is wrong.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Protocol

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.intake import Intake
from aiagentchat.errors import (
    AiAgentChatError,
    AlreadyRunningError,
    HomeserverUnavailableError,
    MatrixUnauthorizedError,
)
from aiagentchat.matrix.appservice import AppserviceReceiver
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import EventBatch, EventSource, parse_events
from aiagentchat.matrix.filters import MESSAGES_ALONE
from aiagentchat.matrix.sync import POLL_S, SyncedRooms, SyncSource
from aiagentchat.model import AgentName, EventId, RoomId, UserId
from aiagentchat.registration import Registration
from aiagentchat.space.directory import STATE_TYPES

log = logging.getLogger(__name__)

_SILENCE_S = 90.0
"""A sync loop that has got no answer for this long, on top of its deadline, does not go on."""
_LOOK_S = 30.0
_PUSH_S = 5.0
"""A push that has not come this long after it was due does not come."""
_ROOMS_A_LOOK = 8
_HELD_BACK_POLL_S = 5.0
_HELD_BACK_POLLS = 103  # 515 s: Synapse holds back no longer than 512
_RETRY_S = 2.0
_LONGEST_RETRY_S = 30.0
_REFUSED_S = 10.0
"""An account that is refused is tried again so often: somebody may log it in anew."""


class Transport(EventSource, Protocol):
    """How events come."""

    @property
    def mode(self) -> str: ...

    @property
    def unit(self) -> str:
        """What a batch is."""
        ...

    @property
    def batches_taken(self) -> int: ...

    @property
    def batches_waiting(self) -> int:
        """How many have come and are not taken in yet."""
        ...

    async def start(self) -> None:
        """Be reachable for events. Raises `AlreadyRunningError` where the place is taken."""
        ...

    async def stop(self) -> None:
        """Take nothing more."""
        ...

    async def run(self) -> None:
        """Do what else has to be done for events to come, until cancelled."""
        ...

    def begin_anew(self) -> None:
        """Forget the positions: the homeserver is an older copy of itself."""
        ...

    def failure(self) -> tuple[str, str]:
        """Return what is wrong, and what to do about it; two empty texts where nothing is."""
        ...


class Witness(Protocol):
    """Who is asked what the homeserver stores, beside what it pushes."""

    async def look(self) -> dict[EventId, RoomId]:
        """Return the latest message of each room looked into that has one since the last look; of none before that."""
        ...

    def forget(self) -> None:
        """Begin anew: the homeserver is an older copy of itself."""
        ...


class AgentsInTurn:
    """A `Witness` where no account is in all rooms: agents in use tell of their own, eight a look, in turn.

    Args:
        server_now_ms: the homeserver's clock, in ms since the epoch.
    """

    def __init__(self, host: AgentHost, server_now_ms: Callable[[], int]) -> None:
        self._host = host
        self._server_now_ms = server_now_ms
        self._began_ms = server_now_ms()
        self._latest: dict[RoomId, EventId | None] = {}  # the one that was looked into longest ago comes first

    async def look(self) -> dict[EventId, RoomId]:
        """Return the latest message of each of the next rooms that has one since it was looked into, or we began."""
        agents = {room_id: agent for agent, room_id in self._host.in_use.items()}
        self._latest = {room_id: latest for room_id, latest in self._latest.items() if room_id in agents}
        turn = [*(agents.keys() - self._latest.keys()), *self._latest][:_ROOMS_A_LOOK]
        found: dict[EventId, RoomId] = {}
        for room_id in turn:
            client = self._host.manager.client_of(agents[room_id])
            page = await client.get_messages(room_id, direction="b", limit=1, filter_json=MESSAGES_ALONE)
            event = next(iter(parse_events(page.chunk, room_id).events), None)
            latest = None if event is None else event.event_id
            is_known = room_id in self._latest
            is_other = self._latest.pop(room_id, None) != latest
            self._latest[room_id] = latest
            if event is not None and is_other and (is_known or event.ts > self._began_ms):
                found[event.event_id] = room_id
        return found

    def forget(self) -> None:
        """Begin anew."""
        self._latest.clear()
        self._began_ms = self._server_now_ms()


class PushTransport:
    """Events are pushed to the application service's receiver.

    Every 30 s, and when a transaction seems to be missing, the homeserver is asked to ping it, and a witness what was
    stored: what should have been pushed and was not is read from the rooms instead.

    Args:
        witness: of the operator's account, or, where nobody is logged in, of the agents'. intake: what arrived.
            events_host: the address of this machine to listen on.
    """

    mode, unit = "appservice", "transactions"

    def __init__(
        self,
        registration: Registration,
        client: MatrixClient,
        host: AgentHost,
        intake: Intake,
        witness: Witness,
        *,
        events_host: str,
    ) -> None:
        self._registration = registration
        self._client = client
        self._host = host
        self._intake = intake
        self._witness = witness
        self._receiver = AppserviceReceiver(registration, events_host)
        self._ping_failure = "the homeserver has not pinged the daemon yet"
        self._stalled_at: int | None = None
        self._gap_seen = asyncio.Event()

    @property
    def batches_taken(self) -> int:
        return self._receiver.transactions

    @property
    def batches_waiting(self) -> int:
        return self._receiver.untaken

    async def start(self) -> None:
        """Listen where the registration says."""
        try:
            await self._receiver.start()
        except OSError as error:
            raise AlreadyRunningError(
                f"{self._registration.url}, where the homeserver sends events, cannot be listened on: {error.strerror}",
                hint="one registration is for one daemon: does another run with it?",
            ) from None

    async def stop(self) -> None:
        """Stop listening: what was not taken in is sent again."""
        await self._receiver.stop()

    async def batches(self) -> AsyncGenerator[EventBatch, None]:
        """Yield each transaction."""
        async with aclosing(self._receiver.batches()) as batches:
            async for batch in batches:
                if batch.is_out_of_turn:
                    self._gap_seen.set()
                yield batch

    async def run(self) -> None:
        """Have the homeserver flush what it held back while the receiver was down, up to 512 s; then see it go on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_on())
            group.create_task(self._read_until_pushed())

    async def _ping(self) -> bool:
        try:
            await self._client.ping_appservice(self._registration.id)
        except AiAgentChatError as error:
            self._ping_failure = error.message
        else:
            self._ping_failure = ""
        return not self._ping_failure

    async def _is_there(self) -> bool:
        try:
            await self._client.versions()
        except AiAgentChatError:
            return False
        return True

    async def _read_until_pushed(self) -> None:
        """Have what waits be read until the first push: an older Synapse is not moved by a ping, and holds back all."""
        polls = 0
        while polls < _HELD_BACK_POLLS:
            await asyncio.sleep(_HELD_BACK_POLL_S)
            if self.batches_taken:
                return
            if not self._ping_failure:
                self._host.lost_track()
                polls += 1

    async def _look_on(self) -> None:
        read_at = float("-inf")
        while True:
            self._gap_seen.clear()
            is_reached = await self._ping()
            is_pushed = not is_reached or await self._is_pushed()
            if not is_pushed:
                log.warning("the homeserver has not pushed what it stored")
            is_due = not is_reached and time.monotonic() - read_at > _LOOK_S
            if not is_pushed or (is_due and await self._is_there()):  # while it is away, nothing can be read
                self._host.lost_track()
                read_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gap_seen.wait(), _LOOK_S if is_reached else _RETRY_S)

    async def _is_pushed(self) -> bool:
        """Whether the messages that were stored since the last look have been pushed, as far as anybody can tell."""
        try:
            stored = await self._witness.look()
        except AiAgentChatError as error:  # which `/health` says of the homeserver, or of the operator
            log.debug("the witness did not answer: %s", error.message)
            return True
        await asyncio.sleep(_PUSH_S)
        missing = [each for each, room in stored.items() if self._host.hears(room) and not self._intake.has_taken(each)]
        if missing:
            self._stalled_at = self.batches_taken  # until something is pushed, though nothing more is stored
        return not missing

    def begin_anew(self) -> None:
        """Have the witness begin anew; the homeserver's count of transactions tells the rest."""
        self._witness.forget()

    def failure(self) -> tuple[str, str]:
        """Say why the homeserver's ping did not come, or that its pushes do not."""
        if self._ping_failure:
            return self._ping_failure, "'cchat doctor' says why: it must reach the url in the registration"
        if self._stalled_at == self.batches_taken:
            return (
                "the homeserver pushes nothing of what it stores",
                f"messages are read from the rooms every {_LOOK_S:.0f} s; restart the homeserver if it stays so",
            )
        return "", ""


class PollTransport:
    """Events are polled: a sync loop for each agent that is in use, and one of the operator's.

    The operator's alone follows the Space, for all agents, so that what changes there wakes one. While it does not hear
    anything, or where nobody is logged in, each agent's does.

    Args:
        operator: their user id and client; None: nobody is logged in. patience_s: the deadline of a request.
    """

    mode, unit = "accounts", "syncs with something new"

    def __init__(self, host: AgentHost, operator: tuple[UserId, MatrixClient] | None, *, patience_s: float) -> None:
        self._host = host
        self._operator = operator
        self._patience_s = patience_s + POLL_S + _SILENCE_S
        self._queue: asyncio.Queue[tuple[EventBatch, asyncio.Future[None]]] = asyncio.Queue(1)
        self._loops: dict[AgentName | None, tuple[SyncedRooms, asyncio.Task[None]]] = {}
        self._sources: dict[AgentName | None, SyncSource] = {}
        self._answered_at: dict[AgentName | None, float] = {}
        self._failures: dict[AgentName | None, tuple[str, str]] = {}
        self._hears_as_operator = operator is not None
        self._is_anew = False
        self.batches_taken = self.batches_waiting = 0

    async def start(self) -> None:
        """Nothing: it is we who ask."""

    async def stop(self) -> None:
        """End the loops."""
        for _, loop in self._loops.values():
            loop.cancel()
        await asyncio.gather(*(loop for _, loop in self._loops.values()), return_exceptions=True)
        self._loops.clear()

    async def batches(self) -> AsyncGenerator[EventBatch, None]:
        """Yield what any loop gets. The loop goes on when the batch after it is asked for."""
        while True:
            batch, taken = await self._queue.get()
            yield batch
            self.batches_taken += 1
            if not taken.done():
                taken.set_result(None)

    async def run(self) -> None:
        """Have a loop for each agent in use, and no other."""
        try:
            while True:
                self._host.in_use_changed.clear()
                self._adjust_loops()
                changed = asyncio.create_task(self._host.in_use_changed.wait())
                loops = [loop for _, loop in self._loops.values()]
                done, _ = await asyncio.wait([changed, *loops], timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                for task in done:
                    await task  # a loop ends by a fault of ours alone
        finally:
            await self.stop()

    def _adjust_loops(self) -> None:
        """Begin and end loops. One that stalls, or has other rooms now, begins anew from the position it is at."""
        followers: list[AgentName | None] = [*self._host.in_use]
        if self._operator is not None:
            followers.append(None)
        wanted = {agent: self._rooms(agent) for agent in followers}
        for agent, (rooms, loop) in list(self._loops.items()):
            if wanted.get(agent) != rooms or self._is_anew or self._is_stalled(agent):
                loop.cancel()
                del self._loops[agent]
            if agent not in wanted or self._is_anew:
                for kept in (self._sources, self._failures, self._answered_at):
                    kept.pop(agent, None)
        self._is_anew = False
        for agent, rooms in wanted.items():
            if agent not in self._loops:
                self._answered_at[agent] = time.monotonic()
                self._loops[agent] = (
                    rooms,
                    asyncio.create_task(self._run_loop(agent), name=f"sync {agent or 'operator'}"),
                )

    def _is_stalled(self, agent: AgentName | None) -> bool:
        """Whether a loop has got no answer for longer than it can take, which is then said."""
        silence_s = time.monotonic() - self._answered_at[agent]
        if silence_s < self._patience_s:
            return False
        stalled = f"the sync of {agent or 'the operator'} got no answer for {silence_s:.0f} s, and was begun again"
        log.error("%s", stalled, extra={"agent": agent})
        self._failures[agent] = stalled, "nothing to do: it goes on from its position"
        self._note_heard(agent, False)
        return True

    def _note_heard(self, agent: AgentName | None, is_heard: bool) -> None:
        """Have the agents follow the Space while the operator does not."""
        if agent is None and is_heard != self._hears_as_operator:
            self._hears_as_operator = is_heard
            self._host.in_use_changed.set()

    def begin_anew(self) -> None:
        """Have each loop begin where the homeserver is now."""
        self._is_anew = True
        self._host.in_use_changed.set()

    def _rooms(self, agent: AgentName | None) -> SyncedRooms:
        own, manager = None if agent is None else self._host.in_use.get(agent), self._host.manager
        is_followed = agent is None or not self._hears_as_operator
        return SyncedRooms(own, manager.space_id if is_followed else None, manager.broadcast_id)

    async def _run_loop(self, agent: AgentName | None) -> None:
        """Sync until cancelled. Whatever goes wrong, the loop begins again from the position where it was."""
        source = self._sources.get(agent) or self._source(agent)
        self._sources[agent] = source
        wait_s = _RETRY_S
        while True:
            try:
                async with aclosing(source.batches()) as batches:
                    async for batch in batches:
                        self._failures.pop(agent, None)
                        self._note_heard(agent, True)
                        self._answered_at[agent] = time.monotonic()
                        wait_s = _RETRY_S
                        await self._hand_on(batch)
            except AiAgentChatError as error:
                is_refused, who = isinstance(error, MatrixUnauthorizedError), agent or "the operator"
                login = f"log it in again: cchat login {agent or '--operator'}"
                remedy = login if is_refused else "nothing to do: it is tried again"
                failure = f"the sync of {who} fails: {error.message}", remedy
                if self._failures.get(agent) != failure:
                    log.warning("%s", failure[0], extra={"agent": agent})
                self._failures[agent] = failure
                if is_refused:
                    wait_s = _REFUSED_S
                if not isinstance(error, HomeserverUnavailableError):  # which all wait for
                    self._note_heard(agent, False)
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_RETRY_S, wait_s * 2)

    def _source(self, agent: AgentName | None) -> SyncSource:
        if agent is None:
            assert self._operator is not None
            (user_id, client), presence = self._operator, "offline"
        else:
            user_id, client, presence = self._host.names.user(agent), self._host.manager.client_of(agent), "online"

        return SyncSource(client, user_id, partial(self._rooms, agent), state_types=STATE_TYPES, presence=presence)

    async def _hand_on(self, batch: EventBatch) -> None:
        if batch.events or batch.gaps or batch.skipped:
            taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.batches_waiting += 1
            try:
                await self._queue.put((batch, taken))
                await taken
            finally:
                self.batches_waiting -= 1

    def failure(self) -> tuple[str, str]:
        """Say which loop fails, or stalled and has not gone on since."""
        return next(iter(self._failures.values()), ("", ""))
