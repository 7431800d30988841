"""`AgentService`: everything that can be asked of a daemon's agents, an operation each. The gateway adds only HTTP.

`agent` None is the operator. Reader ids are whatever tells one reader from another.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from aiagentchat.agents.asides import Asides, Decision, Request
from aiagentchat.agents.bells import Moment
from aiagentchat.agents.delivery import Delivery, Sent, Until
from aiagentchat.agents.files import Files
from aiagentchat.agents.heartbeat import check_roster_has_room
from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.hosted import Attached, Wish
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.janitor import Janitor
from aiagentchat.agents.mail import Draft, Mail, Stored
from aiagentchat.agents.messages import mark_late
from aiagentchat.agents.onlooker import Onlooker
from aiagentchat.agents.overview import Glance, Overview
from aiagentchat.agents.past import Past
from aiagentchat.agents.people import People
from aiagentchat.agents.readers import Readers
from aiagentchat.agents.sights import Sight
from aiagentchat.errors import AiAgentChatError, InvalidRequestError, NotFoundError
from aiagentchat.model import AgentKind, AgentName, EventId, Message, parse_text
from aiagentchat.space.directory import DirectoryView

log = logging.getLogger(__name__)

LAST_READ = "last"
"""In place of an event id to answer: the message that was acknowledged last."""
_ANSWERS_REMEMBERED = 1000
_ANEW_S = 1.0


class Following(NamedTuple):
    """A stream of an inbox: its messages, and the ids of those that are taken back.

    `ended` is done when somebody else has ended the session, `lost` when the same reader has opened another stream.
    """

    messages: AsyncGenerator[Message | EventId, None]
    ended: asyncio.Future[None]
    lost: asyncio.Future[None]


class AgentService:
    """The operations. `people` and `janitor` are asked themselves for what they do."""

    def __init__(
        self,
        host: AgentHost,
        mail: Mail,
        past: Past,
        files: Files,
        asides: Asides,
        people: People,
        janitor: Janitor,
        onlooker: Onlooker,
        overview: Overview,
    ) -> None:
        self.people = people
        self.janitor = janitor
        self._host = host
        self._mail = mail
        self._past = past
        self._files = files
        self._asides = asides
        self._onlooker = onlooker
        self._overview = overview
        self._delivery = Delivery(host, past)
        self._readers = Readers()
        self._retiring: set[asyncio.Task[None]] = set()
        self._answered: dict[tuple[AgentName, str], EventId] = {}

    async def require_agent(self, name: AgentName) -> None:
        """Raise `AgentNotFoundError` where there is no agent of this name."""
        if not self._host.is_known(name):
            await self._host.manager.find_agent(name)

    def touch(self, agent: AgentName) -> None:
        """Open or renew the agent's timed session: it has just done something.

        Raises:
            RefusedError: so many are online that the roster has no room for it.
        """
        self._require_place(agent)
        self._host.sessions.renew(agent)

    def _require_place(self, agent: AgentName) -> None:
        online = self._host.sessions.online()
        if agent not in online:
            check_roster_has_room(online, agent)

    async def who(self) -> DirectoryView:
        """Return the directory."""
        return await self._host.who()

    async def send(self, agent: AgentName | None, draft: Draft) -> Stored:
        """Send a message; see `Mail.send`."""
        if draft.reply_to == LAST_READ:
            if agent is None:
                raise InvalidRequestError(
                    "the operator has no inbox: name the message to answer",
                    hint="cchat reply EVENT TEXT; 'cchat --as NAME read --json' shows an agent's events",
                )
            draft = replace(draft, reply_to=await self._last_read(agent, draft.key))
        return await self._mail.send(self._mail.speaker(agent), draft)

    async def _last_read(self, agent: AgentName, key: str) -> EventId:
        """Return what was acknowledged last when this key was first sent: sent again, it goes to the same room."""
        last = self._answered.get((agent, key)) or await (await self._host.inbox(agent)).last_acknowledged()
        if last is None:
            raise NotFoundError("nothing was read yet that could be answered", hint="name the message to answer")
        self._answered[agent, key] = last
        if len(self._answered) > _ANSWERS_REMEMBERED:
            del self._answered[next(iter(self._answered))]
        return last

    async def read(
        self, agent: AgentName, *, limit: int, wait_s: float, reader_id: str, label: str, peek: bool
    ) -> list[Message]:
        """Return unread messages, waiting up to `wait_s` seconds for one. Acknowledges nothing.

        Raises:
            ReaderBusyError: another reads; `peek` looks all the same.
        """
        inbox = await self._host.inbox(agent)
        inbox.doubt()
        if peek:
            async with self._held_while_waiting(agent, wait_s):
                return await self._finish(agent, await self._wait_unread(agent, inbox, limit, wait_s, peek=True))
        claim = self._readers.claim(agent, reader_id, label)
        messages: list[Message] = []
        try:
            async with self._held_while_waiting(agent, wait_s):
                messages = await self._finish(agent, await self._wait_unread(agent, inbox, limit, wait_s))
        finally:
            if messages:
                self._note_handed_out(agent, messages)
                self._readers.hand_out(agent, claim)
            else:
                self._readers.release(agent, claim)
        return messages

    async def _wait_unread(
        self, agent: AgentName, inbox: Inbox, limit: int, wait_s: float, *, peek: bool = False
    ) -> list[Message]:
        """Wait in the agent's inbox, and in what takes its place when the room is another one meanwhile."""
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            messages = await inbox.wait_unread(limit, left_s, peek=peek)
            if messages or not inbox.is_replaced or not left_s:
                return messages
            inbox = await self._host.inbox(agent)

    @asynccontextmanager
    async def _held_while_waiting(self, agent: AgentName, wait_s: float) -> AsyncIterator[None]:
        """Who waits is not silent: a timed session lasts as long as the wait, and begins anew after it."""
        sessions = self._host.sessions
        if not wait_s or not sessions.is_timed(agent):
            yield
            return
        async with self.held_session(agent) as ended:
            try:
                yield
            finally:
                if not ended.done():
                    sessions.renew(agent)

    @asynccontextmanager
    async def follow(self, agent: AgentName, *, reader_id: str, label: str, stops: bool) -> AsyncIterator[Following]:
        """Give a stream of unread and then new messages; hold a session and the reader's slot while it stands.

        `stops`: the reader ends what it works at when a person writes `!stop`.
        """
        inbox = await self._host.inbox(agent)
        inbox.doubt()
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        claim = self._readers.claim(agent, reader_id, label, on_lost=partial(lost.set_result, None))
        try:
            with self._host.hosted(agent).streaming(stops=stops):
                async with self.held_session(agent) as ended, aclosing(self._follow(agent, inbox)) as messages:
                    yield Following(messages, ended, lost)
        finally:
            self._readers.release(agent, claim)

    async def _follow(self, agent: AgentName, inbox: Inbox) -> AsyncGenerator[Message | EventId, None]:
        while True:
            async with aclosing(inbox.follow()) as messages:
                async for each in messages:
                    if isinstance(each, Message):
                        self._note_handed_out(agent, [each])
                        (each,) = await self._finish(agent, [each])
                    yield each
            if not inbox.is_replaced:
                return
            inbox = await self._inbox_anew(agent)

    async def _inbox_anew(self, agent: AgentName) -> Inbox:
        """Return an agent's inbox in place of one that was replaced, once its room is to be had that is looked for."""
        while True:
            looked_for = self._host.pending.get(agent)
            try:
                return await self._host.inbox(agent)
            except AiAgentChatError:  # of a room that is being deleted the alias goes last
                if looked_for is None or looked_for.is_final:
                    raise
            await asyncio.sleep(_ANEW_S)

    def _note_handed_out(self, agent: AgentName, messages: list[Message]) -> None:
        self._host.tally.handed_out += len(messages)
        for message in messages:
            ids = {"agent": agent, "room_id": message.room_id, "event_id": message.event_id}
            log.debug("a message was handed to %s", agent, extra=ids)

    async def _finish(self, agent: AgentName, messages: list[Message]) -> list[Message]:
        """Return messages as they are handed out: marked where they are late, edits complete."""
        speaker, began_ms = self._mail.speaker(agent), self._host.sessions.began_ms(agent)
        return [mark_late(await self._past.complete(speaker, message), began_ms) for message in messages]

    async def ask_bell(self, agent: AgentName, moment: Moment, wait_s: float) -> list[Message] | None:
        """Return the messages that the agent's doorbell rings for; see `Bell.ask`.

        Nobody is told of an agent that is not online, who would have it come back.
        """
        host = self._host
        if moment == "idle" and not self.is_online(agent):
            return []
        inbox, bell = await host.inbox(agent), host.hosted(agent).bell
        bell.asked_in = host.sessions.began_ms(agent)
        return await bell.ask(inbox, moment, wait_s)

    async def history(self, agent: AgentName, *, before: EventId, limit: int) -> list[Message]:
        """Return messages that stand before an event; see `Past.history`."""
        return await self._past.history(self._mail.speaker(agent), before, limit)

    async def fetch_file(self, agent: AgentName | None, event_id: EventId, *, reader_id: str) -> bytes:
        """Return the file that came with a message; see `Files.fetch`. Its reader has longer to acknowledge."""
        speaker = self._mail.speaker(agent)
        if agent is None:
            return await self._files.fetch(speaker, event_id)
        with self._readers.busy(agent, reader_id):
            return await self._files.fetch(speaker, event_id)

    async def acknowledge(
        self, agent: AgentName, event_ids: frozenset[EventId], *, reader_id: str
    ) -> frozenset[EventId]:
        """Acknowledge messages; return those that are or were in the inbox of this daemon's life."""
        inbox = await self._host.inbox(agent)
        known = await inbox.acknowledge(event_ids)
        for event_id in known:
            log.info("%s acknowledged a message", agent, extra={"agent": agent, "event_id": event_id})
        self._readers.confirm(agent, reader_id)
        self._onlooker.note_read(agent, known)
        return known

    def take_back(self, agent: AgentName, *, reader_id: str) -> None:
        """What a reader was handed does not reach it: another may read at once."""
        self._readers.confirm(agent, reader_id)

    async def show_progress(self, agent: AgentName, body: str, about: EventId, shown: EventId | None) -> EventId:
        """Show how far the agent's work is; see `Asides.show_progress`."""
        return await self._asides.show_progress(self._mail.speaker(agent), body, about, shown)

    async def ask_approval(self, agent: AgentName, request: Request) -> Decision:
        """Ask the people for their approval; see `Asides.ask_approval`."""
        return await self._asides.ask_approval(self._mail.speaker(agent), request)

    def withdraw_approval(self, agent: AgentName, key: str) -> None:
        """Wait for an approval no more; see `Asides.withdraw`."""
        self._asides.withdraw(agent, key)

    async def sent(self, agent: AgentName | None, *, to: AgentName | None, limit: int) -> list[Sent]:
        """Return own messages and how far they came; see `Delivery.sent`."""
        return await self._delivery.sent(self._mail.speaker(agent), to=to, limit=limit)

    async def sent_message(
        self, agent: AgentName | None, event_id: EventId, *, to: AgentName | None, wait_s: float, until: Until
    ) -> Sent:
        """Return one own message, waiting until it came so far; see `Delivery.sent_message`."""
        speaker = self._mail.speaker(agent)
        return await self._delivery.sent_message(speaker, event_id, to=to, wait_s=wait_s, until=until)

    async def attach(
        self, name: AgentName, *, kind: AgentKind, description: str | None, take_over: bool = False
    ) -> Attached:
        """Boot an agent; see `AgentHost.boot`."""
        if description is not None:
            description = parse_text(description, "the description")
        return await self._host.boot(name, Wish(kind, description), take_over=take_over)

    @asynccontextmanager
    async def held_session(self, name: AgentName) -> AsyncIterator[asyncio.Future[None]]:
        """Hold a session of an agent; gives a future that is done when somebody else ends it.

        Raises:
            RefusedError: so many are online that the roster has no room for it.
        """
        self._require_place(name)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session_id = self._host.sessions.hold(name, partial(ended.set_result, None))
        try:
            yield ended
        finally:
            self._host.sessions.release(name, session_id)

    def is_online(self, name: AgentName) -> bool:
        """Whether an agent has a session."""
        return name in self._host.sessions.online()

    async def detach(self, name: AgentName) -> None:
        """End an agent's sessions; see `AgentHost.retire`. It is brought to its end, whatever becomes of the caller."""
        task = asyncio.create_task(self._host.retire(name), name=f"retire {name}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        await asyncio.shield(task)

    async def set_status(self, agent: AgentName, line: str | None, typing_s: float | None) -> None:
        """Say what the agent is doing."""
        if line is not None:
            line = parse_text(line, "the status line")
        await self._host.set_status(agent, line, typing_s)
        if typing_s is not None:
            self._onlooker.note_typing(agent, typing_s)

    # --- what the operator sees

    async def overview(self) -> Glance:
        """Return all agents at a glance; see `Overview.look`."""
        return await self._overview.look()

    async def history_of(self, agent: AgentName, *, before: EventId | None, limit: int) -> list[Message]:
        """Return messages of an agent's room; see `Onlooker.history`."""
        return await self._onlooker.history(agent, before=before, limit=limit)

    async def look_on(self, agent: AgentName, *, limit: int, has_receipts: bool) -> AsyncGenerator[Sight, None]:
        """Return what goes on in an agent's room; see `Onlooker.follow`."""
        return await self._onlooker.follow(agent, limit=limit, has_receipts=has_receipts)
