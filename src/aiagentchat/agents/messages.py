"""Between Matrix events and messages, both ways. Pure."""

import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from aiagentchat.agents.bodies import read_body, read_content, replaced_by
from aiagentchat.agents.markdown import render_html
from aiagentchat.errors import BodyTooLargeError, InvalidRequestError
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.matrix.filters import MESSAGE_TYPES
from aiagentchat.model import (
    BYTES,
    CONTENT_LIMIT_BYTES,
    MIME_TYPE,
    Attachment,
    Command,
    EventId,
    EventRef,
    File,
    Message,
    RoomId,
    Sender,
    UserId,
    parse_command,
    parse_text,
)
from aiagentchat.space.content import (
    CHAIN,
    HOPS,
    IN_REPLY_TO,
    VISITED_LIMIT,
    Chain,
    InReplyTo,
    parse_content,
)

ANSWERED_FOR_AGENTS: tuple[Command, ...] = ("help", "status")
"""What the daemon answers in an agent's place, and the agent does not get."""

SenderOf = Callable[[UserId], Sender]
"""Who a user is, as `Directory.sender_of` knows it."""

MOST_HOPS = 1_000_000
_FILE_TYPES = {"image": "m.image", "audio": "m.audio", "video": "m.video", "file": "m.file"}
_ADDRESS = re.compile(r"mxc://(?!\.+/)[A-Za-z0-9.:\[\]-]{1,255}/(?!\.+$)[A-Za-z0-9._~-]{1,255}")
_NAME_CHARACTERS = 255
_QUOTE_CHARACTERS = 300
_MOST_NAMED = 50


def parse_message(event: RoomEvent, sender_of: SenderOf, broadcast: RoomId | None) -> Message | None:
    """Return the message in an event, or None where it is none (state, redacted, no body). Never raises."""
    content = read_content(event)
    body = read_body(event) if event.type in MESSAGE_TYPES and event.state_key is None else None
    if body is None:
        return None
    sender, chain = sender_of(event.sender), parse_content(Chain, content.get(CHAIN))
    if content.get("msgtype") == "m.emote":  # else what somebody tells of themselves would read as an order
        body = f"* {sender.name} {body}"
    relation, edited = content.get("m.relates_to"), replaced_by(event)
    relation = relation if isinstance(relation, dict) else {}
    is_thread = relation.get("rel_type") == "m.thread" and isinstance(relation.get("event_id"), str)
    hops = content.get(HOPS)
    is_html = content.get("format") == "org.matrix.custom.html" and isinstance(content.get("formatted_body"), str)
    return Message(
        event_id=event.event_id,
        room_id=event.room_id,
        sender=sender,
        ts=event.ts,
        body=_text(_name_agents(body, content, sender_of)),
        format="html" if is_html else "plain",
        in_reply_to=_parse_in_reply_to(content, relation, event.room_id),
        thread=EventId(_text(relation["event_id"])) if is_thread else None,
        broadcast=event.room_id == broadcast,
        hops=hops if isinstance(hops, int) and not isinstance(hops, bool) and 0 <= hops <= MOST_HOPS else 0,
        quiet=sender.kind == "agent" and chain is not None and chain.quiet,
        file=None if file_address(event) is None else _parse_file(content),
        edits=None if edited is None else EventId(_text(edited)),
    )


def command_in(event: RoomEvent, message: Message) -> Command | None:
    """Return what a person asks of the system with the message in an event, in an agent's own room; None: nothing."""
    if message.sender.kind != "person" or message.broadcast or event.content.get("msgtype") != "m.text":
        return None
    return parse_command(message.body)


def file_address(event: RoomEvent) -> str | None:
    """Return where the homeserver has the file that comes with an event, `mxc://…`, or None where none does."""
    url = event.content.get("url")
    is_file = event.type == "m.sticker" or event.content.get("msgtype") in _FILE_TYPES.values()
    return url if is_file and isinstance(url, str) and _ADDRESS.fullmatch(url) else None


def _parse_file(content: dict[str, Any]) -> File:
    info, name = content.get("info"), content.get("filename")
    info = info if isinstance(info, dict) else {}
    mimetype, size = info.get("mimetype"), info.get("size")
    is_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**53
    return File(
        name=_text(name if isinstance(name, str) and name else str(content.get("body", "")))[:_NAME_CHARACTERS],
        mimetype=mimetype if isinstance(mimetype, str) and MIME_TYPE.fullmatch(mimetype) else BYTES,
        size=size if is_size else None,
    )


def _name_agents(body: str, content: dict[str, Any], sender_of: SenderOf) -> str:
    """Return a text in which agents that it mentions by their user ids have their names."""
    mentions = content.get("m.mentions")
    user_ids = mentions.get("user_ids") if isinstance(mentions, dict) else None
    for user_id in user_ids[:_MOST_NAMED] if isinstance(user_ids, list) else ():
        if isinstance(user_id, str) and user_id in body and (sender := sender_of(UserId(user_id))).kind == "agent":
            body = body.replace(user_id, f"@{sender.name}")
    return body


def _text(foreign: str) -> str:
    """Return foreign text without halves of surrogate pairs, which JSON can hold and no UTF-8 can."""
    return foreign.encode("utf-8", "replace").decode()


def _parse_in_reply_to(content: dict[str, Any], relation: dict[str, Any], room_id: RoomId) -> EventRef | None:
    ours = parse_content(InReplyTo, content.get(IN_REPLY_TO))
    if ours is not None:
        return EventRef(RoomId(_text(ours.room_id)), EventId(_text(ours.event_id)))
    reply = relation.get("m.in_reply_to")
    if isinstance(reply, dict) and isinstance(reply.get("event_id"), str):
        return EventRef(room_id, EventId(_text(reply["event_id"])))
    return None


def render_message(body: str, fmt: str) -> dict[str, Any]:
    """Return the content of a new message; `fmt` "plain" or "markdown".

    Raises:
        InvalidRequestError: the body is empty, holds control characters, or is too large.
    """
    body = parse_text(body, "the message")
    if not body.strip():
        raise InvalidRequestError("the message is empty; nothing was sent")
    content: dict[str, Any] = {"msgtype": "m.text", "body": body, "m.mentions": {}}
    check_size(content)  # before it is rendered, which takes its time
    if fmt == "markdown":
        content |= {"format": "org.matrix.custom.html", "formatted_body": render_html(body)}
    return content


def render_file(body: str, fmt: str, file: Attachment) -> dict[str, Any]:
    """Return the content of a message that a file comes with, but for its address; the body, if any, is its caption.

    Raises:
        InvalidRequestError: body or name hold control characters, or the file has no name.
    """
    name = parse_text(file.name, "the file's name").strip()
    if not name or "\n" in name:
        raise InvalidRequestError("the file's name is none; nothing was sent")
    kind = _FILE_TYPES.get(file.mimetype.split("/", 1)[0], _FILE_TYPES["file"])
    content = render_message(body, fmt) if body.strip() else {"body": name, "m.mentions": {}}
    info = {"mimetype": file.mimetype, "size": len(file.data)}
    return content | {"msgtype": kind, "filename": name, "info": info}


def add_reply(content: dict[str, Any], parent: Message) -> dict[str, Any]:
    """Return content that answers `parent` in the room where it stands, in its thread if it has one."""
    relation: dict[str, Any] = {"m.in_reply_to": {"event_id": parent.edits or parent.event_id}}
    if parent.thread is not None:
        relation |= {"rel_type": "m.thread", "event_id": parent.thread, "is_falling_back": False}
    return content | {
        "m.relates_to": relation,
        "m.mentions": {"user_ids": [parent.sender.user_id]},
        HOPS: next_hops(parent),
    }


def add_answer(content: dict[str, Any], parent: Message) -> dict[str, Any]:
    """Return content that answers `parent` in the asker's own room: named for programs, quoted for who looks on."""
    quoted = parent.body[:_QUOTE_CHARACTERS] + ("…" if len(parent.body) > _QUOTE_CHARACTERS else "")
    own = content.get("formatted_body") or html.escape(content["body"], quote=False).replace("\n", "<br>")
    quote = html.escape(quoted, quote=False).replace("\n", "<br>")
    return content | {
        IN_REPLY_TO: {"room_id": parent.room_id, "event_id": parent.edits or parent.event_id},
        HOPS: next_hops(parent),
        "format": "org.matrix.custom.html",
        "formatted_body": f"<blockquote>{quote}</blockquote>{own}",
    }


def add_chain(content: dict[str, Any], agent: UserId, answers: tuple[Message, RoomEvent] | None) -> dict[str, Any]:
    """Return an agent's content with what led to it: what it `answers` (None: nothing), and what led to that."""
    chain: dict[str, Any] = {"origin": agent}
    if answers is not None:
        parent, event = answers
        passed = [parent.sender.user_id] if parent.sender.kind == "agent" else []
        before = parse_content(Chain, event.content.get(CHAIN)) if passed else None
        origin, visited = (parent.sender.user_id, []) if before is None else (before.origin, before.visited)
        chain = {"origin": origin, "visited": [*visited, *passed][-VISITED_LIMIT:]}
    return {HOPS: 0} | content | {CHAIN: chain}


def render_notice(body: str, about: EventId, people: Iterable[UserId]) -> dict[str, Any]:
    """Return the content of a notice about a message, which its people are told of."""
    return {
        "msgtype": "m.notice",
        "body": body,
        "m.relates_to": {"m.in_reply_to": {"event_id": about}},
        "m.mentions": {"user_ids": sorted(people)},
    }


def add_quiet(content: dict[str, Any]) -> dict[str, Any]:
    """Return an agent's content that wakes nobody."""
    return content | {CHAIN: content[CHAIN] | {"quiet": True}}


def next_hops(parent: Message) -> int:
    """Return the hops of an answer: a person's message starts the count anew."""
    return min(parent.hops + 1, MOST_HOPS) if parent.sender.kind == "agent" else 1


def check_size(content: dict[str, Any]) -> None:
    """Raise `BodyTooLargeError` where the content is larger than what every homeserver takes."""
    size = len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
    if size > CONTENT_LIMIT_BYTES:
        raise BodyTooLargeError(
            f"the message makes an event of {size} bytes; the limit is {CONTENT_LIMIT_BYTES}. Nothing was sent",
            hint="send it in parts, or as a file: --file PATH",
        )


def transaction_id(sender: UserId, key: str) -> str:
    """Return a transaction id for one message of one sender.

    The sender is part of it, since Synapse shares an application service's transaction ids among all its users.
    """
    return sha256(f"{sender}\0{key}".encode()).hexdigest()[:40]


def mark_late(message: Message, session_began_ms: int | None) -> Message:
    """Return the message, marked `late` where it was stored before the session began, or there is no session."""
    return replace(message, late=session_began_ms is None or message.ts < session_began_ms)
