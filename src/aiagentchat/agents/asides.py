"""What an agent shows its people beside messages: how far its work is, and what it asks their approval for.

Both stand in the agent's own room. Whether they approved is read from the homeserver, as it has verified them.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.messages import check_size, render_message, transaction_id
from aiagentchat.agents.onlooker import Onlooker
from aiagentchat.agents.past import Past, Speaker
from aiagentchat.agents.sights import Asked, Choice
from aiagentchat.errors import AiAgentChatError, NotFoundError
from aiagentchat.matrix.events import parse_events
from aiagentchat.model import AgentName, EventId, Message, RoomId, UserId, render_time

OptionKind = Literal["allow_once", "allow_always", "reject_once", "reject_always"]

_SIGNS: dict[str, str] = {"allow_once": "✅", "allow_always": "♾️", "reject_once": "❌", "reject_always": "⛔"}
_NUMBERS = ("1️⃣", "2️⃣", "3️⃣", "4️⃣", "5️⃣", "6️⃣", "7️⃣", "8️⃣", "9️⃣")
_VARIANT = "\ufe0f"
"""Stands behind some signs, and is left out by some clients."""
_WORDS = {
    "allow": ("y", "yes", "ok", "allow", "approve", "approved"),
    "reject": ("n", "no", "reject", "deny", "denied"),
}
_LOOK_S = 1.5


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers that may be given. `sign`: the reaction that gives it."""

    id: str
    name: str
    kind: OptionKind
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided. `option` None: nobody did in time, which rejects. `ts`: of the homeserver, in milliseconds."""

    event_id: EventId
    option: Option | None
    by: UserId | None = None
    ts: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What an agent asks approval for. `about`: the message because of which. The same key is the same request.

    `elsewhere`: it is asked in another place too, of which nobody tells us how it ended.
    """

    body: str
    options: tuple[Option, ...]
    timeout_s: float
    key: str
    about: EventId | None = None
    elsewhere: bool = False


class Asides:
    """Shows and asks.

    Args:
        approvers: returns the user ids that may decide for an agent now, and no others. onlooker: is told what is
            asked.
    """

    def __init__(
        self,
        host: AgentHost,
        past: Past,
        approvers: Callable[[AgentName], frozenset[UserId]],
        onlooker: Onlooker,
    ) -> None:
        self._host = host
        self._past = past
        self._approvers = approvers
        self._onlooker = onlooker
        self._withdrawn: dict[tuple[AgentName, str], asyncio.Event] = {}

    # --- how far the work is

    async def show_progress(self, speaker: Speaker, body: str, about: EventId, shown: EventId | None) -> EventId:
        """Show a notice in the thread of a message in the agent's own room; `shown`: in place of that earlier one.

        Raises:
            NotFoundError: the message is not in that room. InvalidRequestError: empty, or too large.
        """
        room_id, parent = await self._parent(speaker, about)
        notice = render_message(body, "markdown") | {"msgtype": "m.notice"}
        if shown is None:
            notice |= _in_thread(parent.thread or parent.edits or parent.event_id)
        else:
            notice = _edit(shown, notice)
        check_size(notice)
        txn_id = transaction_id(speaker.user_id, f"progress {about} {shown} {body}")
        return await speaker.client.send(room_id, "m.room.message", notice, txn_id)

    async def _parent(self, speaker: Speaker, about: EventId) -> tuple[RoomId, Message]:
        assert speaker.agent is not None
        room_id = await self._host.ready(speaker.agent)
        parent = await self._past.message_in(speaker, room_id, about)
        if parent is None:
            raise NotFoundError(f"there is no message {about} in your room")
        return room_id, await self._past.complete(speaker, parent)

    # --- approval

    async def ask_approval(self, speaker: Speaker, request: Request) -> Decision:
        """Ask the people for their approval, and wait for it; without an answer in time it is refused.

        In the end the message says who decided what, and when, in place of the options.
        """
        assert speaker.agent is not None
        options = with_signs(request.options)
        content = render_message(_question(request, options), "markdown")
        content["m.mentions"] = {"user_ids": sorted(self._approvers(speaker.agent))}
        if request.about is not None:
            room_id, parent = await self._parent(speaker, request.about)
            content |= {} if parent.thread is None else _in_thread(parent.thread)
        else:
            room_id = await self._host.ready(speaker.agent)
        check_size(content)
        withdrawn = self._withdrawn[speaker.agent, request.key] = asyncio.Event()
        said, event_id = f"Withdrawn: {speaker.agent} waits for it no more.", None
        try:
            event_id = await self._post(speaker, room_id, content, options, request.key)
            approvers = tuple(sorted(self._approvers(speaker.agent)))
            asked = Asked(event_id, request.body, _choices(options), approvers)
            with self._onlooker.asking(room_id, asked, said) as settle:
                decision = await self._await_decision(speaker, room_id, event_id, options, request, withdrawn)
                if decision.option is not None or not withdrawn.is_set():
                    said = _outcome(decision, request)
                settle(said)
        finally:
            self._withdrawn.pop((speaker.agent, request.key), None)
            if event_id is not None:
                await self._note(speaker, room_id, event_id, f"{request.body}\n\n{said}")
        return decision

    async def _post(
        self, speaker: Speaker, room_id: RoomId, content: dict[str, Any], options: Sequence[Option], key: str
    ) -> EventId:
        """Send the question, with the options below it, so that one is only to be clicked."""
        txn_id = transaction_id(speaker.user_id, key)
        event_id = await speaker.client.send(room_id, "m.room.message", content, txn_id)
        for option in options:
            reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": option.sign}}
            txn_id = transaction_id(speaker.user_id, f"{key} {option.sign}")
            await speaker.client.send(room_id, "m.reaction", reaction, txn_id)
        return event_id

    def withdraw(self, agent: AgentName, key: str) -> None:
        """Have who waits for an approval wait no more.

        Raises:
            NotFoundError: nobody does, under this key.
        """
        withdrawn = self._withdrawn.get((agent, key))
        if withdrawn is None:
            raise NotFoundError("no approval is waited for under this key")
        withdrawn.set()

    async def _await_decision(
        self,
        speaker: Speaker,
        room_id: RoomId,
        event_id: EventId,
        options: Sequence[Option],
        request: Request,
        withdrawn: asyncio.Event,
    ) -> Decision:
        asked = await speaker.client.get_event(room_id, event_id)
        asked_at_ms = int(asked.get("origin_server_ts", 0))
        until_ms = asked_at_ms + int(request.timeout_s * 1000)
        was_withdrawn = "m.replace" in asked.get("unsigned", {}).get("m.relations", {})
        while True:
            is_over = withdrawn.is_set() or speaker.client.server_now_ms() > until_ms
            try:
                decided = await self._look(speaker, room_id, event_id, options, asked_at_ms)
            except AiAgentChatError as error:
                if not (error.retryable or is_over):
                    raise
                decided = None
            if decided is not None or is_over:
                return decided or Decision(event_id, None)
            if was_withdrawn:  # and is asked again
                was_withdrawn = False
                await self._note(speaker, room_id, event_id, _question(request, options))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(withdrawn.wait(), _LOOK_S)

    async def _look(
        self, speaker: Speaker, room_id: RoomId, event_id: EventId, options: Sequence[Option], asked_at_ms: int
    ) -> Decision | None:
        """Return the first decision that one of the approvers made, with a reaction or in an answer."""
        assert speaker.agent is not None
        made: list[Decision] = []
        reactions = await speaker.client.get_relations(room_id, event_id, "m.annotation", "m.reaction")
        for event in parse_events(reactions, room_id).events:
            relation = event.content.get("m.relates_to")
            key = relation.get("key") if isinstance(relation, dict) else None
            option = None if not isinstance(key, str) else by_sign(key, options)
            if option is not None and self._may_decide(speaker.agent, event.sender):
                made.append(Decision(event_id, option, event.sender, event.ts))
        pages = await self._past.page_back(speaker.client, room_id, since_ms=asked_at_ms)
        for message in pages.messages:
            is_answer = message.in_reply_to is not None and message.in_reply_to.event_id == event_id
            option = by_words(message.body, options) if is_answer or message.thread == event_id else None
            if option is not None and self._may_decide(speaker.agent, message.sender.user_id):
                made.append(Decision(event_id, option, message.sender.user_id, message.ts))
        return min(made, key=lambda decision: decision.ts or 0, default=None)

    def _may_decide(self, agent: AgentName, user_id: UserId) -> bool:
        """Whether somebody may decide: a person, by the exact user id, whoever else is in the room."""
        return user_id in self._approvers(agent) and self._host.sender_of(user_id).kind == "person"

    async def _note(self, speaker: Speaker, room_id: RoomId, event_id: EventId, body: str) -> None:
        """Have the message say what was decided."""
        txn_id = transaction_id(speaker.user_id, f"noted {event_id} {uuid4()}")
        with contextlib.suppress(AiAgentChatError):  # what was decided holds, whether it is shown or not
            await speaker.client.send(
                room_id, "m.room.message", _edit(event_id, render_message(body, "markdown")), txn_id
            )


def _choices(options: Sequence[Option]) -> tuple[Choice, ...]:
    """Return options as they are shown, each with an answer that gives this one and no other."""
    choices: list[Choice] = []
    for number, option in enumerate(options, 1):
        answers = (said for said in (option.name, str(number), option.sign) if by_words(said, options) is option)
        choices.append(Choice(option.name, option.kind, option.sign, next(answers, None)))
    return tuple(choices)


def _outcome(decision: Decision, request: Request) -> str:
    if decision.option is None and request.elsewhere:
        return f"Nobody decided here within {request.timeout_s:g} s: refused, unless it was answered elsewhere before."
    if decision.option is None:
        return f"❌ Refused: nobody allowed it within {request.timeout_s:g} s."
    return f"{decision.option.sign} {decision.option.name}: {decision.by}, {render_time(decision.ts or 0)}."


def _in_thread(root: EventId) -> dict[str, Any]:
    """Return content that puts an event into a thread without answering anything in it."""
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


def _edit(event_id: EventId, content: dict[str, Any]) -> dict[str, Any]:
    """Return content that replaces what an event of one's own says."""
    fallback = {key: value for key, value in content.items() if key != "m.relates_to"}
    return fallback | {
        "body": f"* {content['body']}",
        "m.new_content": fallback,
        "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
    }


def _question(request: Request, options: Sequence[Option]) -> str:
    choices = " · ".join(f"{option.sign} {option.name}" for option in options)
    return f"{request.body}\n\n{choices}"


def with_signs(options: Sequence[Option]) -> tuple[Option, ...]:
    """Return options with a sign each: that of its kind, or a number where another has it."""
    numbers, taken = iter(_NUMBERS), set[str]()
    signed: list[Option] = []
    for option in options:
        sign = _SIGNS[option.kind]
        if sign in taken:
            sign = next(numbers)
        taken.add(sign)
        signed.append(Option(option.id, option.name, option.kind, sign))
    return tuple(signed)


def by_sign(key: str, options: Sequence[Option]) -> Option | None:
    """Return the option that a reaction gives."""
    bare = key.replace(_VARIANT, "").strip()
    return next((option for option in options if option.sign.replace(_VARIANT, "") == bare), None)


def by_words(body: str, options: Sequence[Option]) -> Option | None:
    """Return the option that an answer gives: by its name, its sign, its number, or yes and no; None: none of them."""
    said = " ".join(line for line in body.splitlines() if not line.startswith("> ")).strip().rstrip(".!").casefold()
    for number, option in enumerate(options, 1):
        if said in (option.name.casefold(), option.id.casefold(), str(number)):
            return option
    for kind, words in _WORDS.items():
        if said in words:
            return _meant(kind, options)
    return by_sign(said, options)


def _meant(kind: str, options: Sequence[Option]) -> Option | None:
    """Return what yes or no gives: for once; else for always, which of several a person does not allow unnamed."""
    once, always = ([option for option in options if option.kind == f"{kind}_{how}"] for how in ("once", "always"))
    if once:
        return once[0]
    return always[0] if len(always) == 1 or (always and kind == "reject") else None
