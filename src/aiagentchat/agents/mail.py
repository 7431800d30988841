"""Sending and answering: what a speaker, an agent or the operator, does with messages.

`agents.host` says which rooms there are; this decides where a message goes and in whose name. What became of it is
`agents.delivery`'s.
"""

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from aiagentchat.agents.files import Files
from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.loops import Loops
from aiagentchat.agents.messages import (
    add_answer,
    add_chain,
    add_quiet,
    add_reply,
    check_size,
    render_file,
    render_message,
    render_notice,
    transaction_id,
)
from aiagentchat.agents.past import Past, Speaker
from aiagentchat.errors import (
    AiAgentChatError,
    HomeserverUnavailableError,
    InvalidRequestError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
    NotFoundError,
    RefusedError,
)
from aiagentchat.model import AgentName, Attachment, EventId, Message, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CHAIN, HOPS
from aiagentchat.space.directory import Listed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to send. `to` None and `reply_to` None: to all. `key`: the same key is the same message."""

    body: str
    key: str
    to: AgentName | None = None
    reply_to: EventId | None = None
    format: Literal["plain", "markdown"] = "plain"
    file: Attachment | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that the homeserver has. `quiet`: why it wakes nobody, "": it does."""

    event_id: EventId
    room_id: RoomId
    quiet: str = ""


class Mail:
    """Sends.

    Args:
        operator: who the operator is, with a client that acts as them; None: there is none.
    """

    def __init__(self, host: AgentHost, past: Past, files: Files, operator: Speaker | None, loops: Loops) -> None:
        self._host = host
        self._files = files
        self._loops = loops
        self._past = past
        self._operator = operator
        self._invited: defaultdict[AgentName, set[UserId]] = defaultdict(set)

    def speaker(self, agent: AgentName | None) -> Speaker:
        """Return in whose name an agent, or the operator, speaks.

        Raises:
            RefusedError: there is no operator's device.
        """
        if agent is not None:
            return Speaker(self._host.names.user(agent), self._host.manager.client_of(agent), agent)
        if self._operator is None:
            raise RefusedError("this daemon holds no device of the operator", hint="speak as an agent: --as NAME")
        return self._operator

    # --- sending

    async def send(self, speaker: Speaker, draft: Draft) -> Stored:
        """Send, and return what the homeserver stored, where.

        Raises:
            InvalidRequestError: empty, too large, or to oneself. FileTooLargeError: the file is too large.
            AgentNotFoundError: no such agent. RefusedError: the operator's device is logged out.
            RoomEncryptedError: the room is encrypted. HomeserverUnavailableError: not stored, as far as is known.
        """
        began = time.monotonic()
        try:
            stored = await self._send_noted(speaker, draft)
        except MatrixUnauthorizedError as error:
            if speaker.agent is not None:
                raise
            raise RefusedError(
                f"the operator's device is not, or no longer, logged in: {error.error}",
                hint="stop the daemon and start it with 'cchat up', which logs it in again",
            ) from None
        self._host.tally.sending.observe(time.monotonic() - began)
        return stored

    async def _send_noted(self, speaker: Speaker, draft: Draft) -> Stored:
        who = speaker.agent or "the operator"
        try:
            stored = await self._send(speaker, draft)
        except (InvalidRequestError, NotFoundError):  # the caller's business alone
            raise
        except AiAgentChatError as error:
            log.warning("a message of %s was not stored: %s", who, error.message, extra={"agent": speaker.agent})
            raise
        ids = {"agent": speaker.agent, "room_id": stored.room_id, "event_id": stored.event_id}
        log.info("a message of %s is stored%s", who, ", and waits for a person" if stored.quiet else "", extra=ids)
        return stored

    async def _send(self, speaker: Speaker, draft: Draft) -> Stored:
        if draft.file is None:
            content = render_message(draft.body, draft.format)
        else:
            content = render_file(draft.body, draft.format, draft.file)
        check_size(content)
        if speaker.agent is not None:
            await self._host.ready(speaker.agent)
        answers = None if draft.reply_to is None else await self._past.find(speaker, draft.reply_to)
        if answers is not None:
            answers = replace(answers[0], hops=self._loops.hops_of(answers[0])), answers[1]
        if speaker.agent is not None:
            content = add_chain(content, speaker.user_id, answers)
        if answers is not None:
            return await self._answer(speaker, draft, answers[0], content)
        if draft.to is None:
            return await self._send_to_all(speaker, draft, content)
        if draft.to == speaker.agent:
            raise InvalidRequestError(f"{draft.to} is you; a message to yourself would never be read")
        return await self._send_to_agent(speaker, draft, draft.to, content)

    async def _answer(self, speaker: Speaker, draft: Draft, parent: Message, content: dict[str, Any]) -> Stored:
        asker = AgentName(parent.sender.name) if parent.sender.kind == "agent" else None
        if asker is not None and asker != speaker.agent:
            return await self._send_to_agent(speaker, draft, asker, add_answer(content, parent))
        content = add_reply(content, parent)
        if parent.broadcast:
            return await self._send_to_all(speaker, draft, content)
        owner = self._host.owner_of(parent.room_id)
        if owner is None:
            raise NotFoundError(f"{parent.event_id} stands in a room of no agent")
        return await self._send_to_agent(speaker, draft, owner, content)

    async def _send_to_agent(
        self, speaker: Speaker, draft: Draft, target: AgentName, content: dict[str, Any]
    ) -> Stored:
        other = None if self._host.is_known(target) else await self._host.manager.find_agent(target)
        if other is not None:
            return await self._send_to_other(speaker, draft, other, content)
        try:
            return await self._send_to_own(speaker, draft, target, content)
        except (MatrixForbiddenError, MatrixNotFoundError) as error:
            if await self._host.is_in_its_room(target):
                raise RefusedError(
                    f"the room of {target} takes nothing from {speaker.user_id}: {error.error}"
                ) from None
            # of a room that was purged nothing else tells
            self._host.lose_room(target, f"its room takes nothing any more: {error.error}")
        return await self._send_to_own(speaker, draft, target, content)

    async def _send_to_own(self, speaker: Speaker, draft: Draft, target: AgentName, content: dict[str, Any]) -> Stored:
        """Send to an agent of this daemon, which can let others into its room."""
        host = self._host
        room_id = await host.ready(target)  # which tells whether it is encrypted
        is_open = host.manager.layout.open_rooms and speaker.agent is not None

        async def admit() -> None:
            if target != speaker.agent and not is_open:
                with contextlib.suppress(MatrixForbiddenError):  # a member already: an invite is a 403, a join none
                    await host.manager.client_of(target).invite(room_id, speaker.user_id)
            await speaker.client.join_room(room_id)

        stored = await self._put(speaker, draft, room_id, content, admit)
        if is_open and target != speaker.agent:
            host.visits.note(speaker.client, speaker.user_id, room_id)
        return stored

    async def _send_to_other(self, speaker: Speaker, draft: Draft, target: Listed, content: dict[str, Any]) -> Stored:
        """Send to somebody else's agent: by joining its room, which is its own to let others into."""
        host, manager = self._host, self._host.manager
        if target.card.encrypted:
            host.encrypted.add(target.room_id)

        async def admit() -> None:
            await self._enter(speaker, target)

        host.require_clear(target.room_id)
        try:
            if not manager.others.is_proven(target.claim):  # though the speaker may be in that room already
                await self._enter(speaker, target)
            stored = await self._put(speaker, draft, target.room_id, content, admit)
        except MatrixForbiddenError as error:
            raise RefusedError(
                f"the room of {target.name} takes nothing from {speaker.user_id}: {error.error}",
                hint=f"its daemon lets in whoever is in the Space with AIAGENTCHAT_DAEMONS; or have {speaker.user_id} "
                "be invited there",
            ) from None
        if speaker.agent is not None:
            host.visits.note(speaker.client, speaker.user_id, target.room_id)
            if not manager.layout.open_rooms and target.user_id not in self._invited[speaker.agent]:
                # so that it can write to this agent as well
                with contextlib.suppress(AiAgentChatError):  # the message is stored, whatever becomes of this
                    await speaker.client.invite(await host.ready(speaker.agent), target.user_id)
                self._invited[speaker.agent].add(target.user_id)
        return stored

    async def _enter(self, speaker: Speaker, target: Listed) -> None:
        """Join the room of somebody else's agent, through its alias, which leads there from another server too.

        One that turns out to be another's is left again, unless the speaker was in it before.
        """
        before = await speaker.client.joined_rooms()
        try:
            room_id = await speaker.client.join_room(RoomAlias(target.card.alias))
        except MatrixForbiddenError:
            if speaker.agent is None or self._operator is None:
                raise
            # the operator may be a moderator there
            await self._operator.client.invite(target.room_id, speaker.user_id)
            room_id = await speaker.client.join_room(RoomAlias(target.card.alias))
        try:
            if room_id != target.room_id:
                raise RefusedError(
                    f"{target.card.alias} does not lead to the room that {target.user_id} says is its own"
                )
            await self._host.manager.others.require_made_by(speaker.client, target.claim)
        except RefusedError:
            if room_id not in before:
                await speaker.client.leave_room(room_id)
            raise

    async def _send_to_all(self, speaker: Speaker, draft: Draft, content: dict[str, Any]) -> Stored:
        room_id = self._host.manager.broadcast_id
        if room_id is None:
            raise HomeserverUnavailableError(
                f"the broadcast room is not to be had: {self._host.manager.unavailable}",
                hint="send to one agent with --to NAME, or see 'cchat status'",
            )

        async def admit() -> None:
            await speaker.client.join_room(room_id)

        return await self._put(speaker, draft, room_id, content, admit)

    async def _put(
        self,
        speaker: Speaker,
        draft: Draft,
        room_id: RoomId,
        content: dict[str, Any],
        admit: Callable[[], Awaitable[None]],
    ) -> Stored:
        """Send; a 403 may mean that the speaker is not in the room yet: then it is let in, and sends again."""
        self._host.require_clear(room_id)
        if draft.file is not None:
            check_size(content)
            content = content | {"url": await self._files.store(speaker, draft.key, draft.file)}
        quiet = "" if speaker.agent is None else self._loops.judge(speaker.agent, room_id, content[HOPS])
        if quiet:
            content = add_quiet(content)
        check_size(content)
        txn_id = transaction_id(speaker.user_id, draft.key)
        try:
            event_id = await speaker.client.send(room_id, "m.room.message", content, txn_id)
        except MatrixForbiddenError as refused:
            try:
                await admit()
            except MatrixForbiddenError:
                raise refused from None
            event_id = await speaker.client.send(room_id, "m.room.message", content, txn_id)
        if quiet and speaker.agent is not None and self._loops.is_news(speaker.agent, room_id):
            await self._ask_people(speaker, draft, room_id, event_id, content, quiet)
        return Stored(event_id, room_id, quiet)

    async def _ask_people(
        self, speaker: Speaker, draft: Draft, room_id: RoomId, event_id: EventId, content: dict[str, Any], reason: str
    ) -> None:
        """Say in the room, once, that agents wait there for a person."""
        owner = None if room_id == self._host.manager.broadcast_id else self._host.owner_of(room_id)
        people = self._host.manager.layout.talking(owner)
        notice = render_notice(
            f"{reason}. What {speaker.agent} writes here waits until a person writes.", event_id, people
        )
        txn_id = transaction_id(speaker.user_id, f"{draft.key} waits")
        with contextlib.suppress(AiAgentChatError):  # the message is stored, whatever becomes of this
            notice |= {CHAIN: content[CHAIN], HOPS: content[HOPS]}  # an answer to it is one to what waits
            await speaker.client.send(room_id, "m.room.message", notice, txn_id)
