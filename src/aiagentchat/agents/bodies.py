"""What an event says, as text that an agent can read, whatever a client made of it. Pure, and never raises.

`agents.messages` makes messages of it.
"""

import re
from typing import Any
from urllib.parse import unquote

from aiagentchat.matrix.events import RoomEvent
from aiagentchat.matrix.filters import POLL_TYPES

_FALLBACK = re.compile(r"> (?:\* )?<@[^\n>]+>[^\n]*\n(?:>[^\n]*\n)*\n?")
"""What older clients put before a reply: the message that it answers. https://spec.matrix.org/v1.12/ (rich replies)"""
_PILL = re.compile(r"\[([^\[\]\n]{1,255})\]\(<?https://matrix\.to/#/([^\s)>]{1,700})>?\)")
_TEXT = ("m.text", "m.notice", "m.emote")
_VOICE = ("org.matrix.msc3245.voice", "org.matrix.msc3245.voice.v2", "m.voice")
_POLL = ("m.poll", *POLL_TYPES)
_MOST_ANSWERS = 50


def replaced_by(event: RoomEvent) -> str | None:
    """Return the id of the event whose text this one replaces: an edit; None: it is none."""
    relation = event.content.get("m.relates_to")
    if not isinstance(relation, dict) or relation.get("rel_type") != "m.replace":
        return None
    target = relation.get("event_id")
    return target if isinstance(target, str) and isinstance(event.content.get("m.new_content"), dict) else None


def read_content(event: RoomEvent) -> dict[str, Any]:
    """Return an event's content, of an edit with what it has the message say in place of its fallback."""
    return event.content if replaced_by(event) is None else with_edit(event.content, event.content)


def with_edit(content: dict[str, Any], edit: dict[str, Any]) -> dict[str, Any]:
    """Return content with what the content of an edit has it say."""
    kept = {key: value for key, value in content.items() if key not in ("format", "formatted_body")}
    return kept | {key: value for key, value in edit["m.new_content"].items() if key != "m.relates_to"}


def read_body(event: RoomEvent) -> str | None:
    """Return what an event says, the new text of an edit; None: nothing, as of one that was redacted.

    What is no plain text says so in front: `[image] cat.png`.
    """
    content = read_content(event)
    if event.type in POLL_TYPES:
        return _poll_ended(content) if event.type.endswith(".end") else _poll(content)
    body = content.get("body")
    if not isinstance(body, str):
        return None
    relation = content.get("m.relates_to")
    if isinstance(relation, dict) and isinstance(relation.get("m.in_reply_to"), dict):
        body = _FALLBACK.sub("", body, count=1) or body if _FALLBACK.match(body) else body
    body = _PILL.sub(_shown_name, body)
    msgtype = content.get("msgtype", event.type.removeprefix("m.room.message"))
    if msgtype in _TEXT:
        return body
    kind = str(msgtype)[:40].removeprefix("m.") or "attachment"
    if kind == "audio" and any(mark in content for mark in _VOICE):
        kind = "voice"
    place = content.get("geo_uri")
    if kind == "location" and isinstance(place, str) and place not in body:
        body = f"{body} ({place[:100]})"
    return f"[{kind}] {body}"


def _shown_name(pill: re.Match[str]) -> str:
    """Return how a client shows a mention, which in Markdown is a link to a user or a room."""
    return pill[1] if unquote(pill[2])[:1] in ("@", "#", "!") else pill[0]


def _poll(content: dict[str, Any]) -> str | None:
    block: dict[str, Any] = next((content[key] for key in _POLL if isinstance(content.get(key), dict)), {})
    question = _extensible(block.get("question"))
    given = block.get("answers")
    answers = [_extensible(each) or "?" for each in given[:_MOST_ANSWERS]] if isinstance(given, list) else []
    if question is None:
        text = _extensible(content)
        return None if text is None else f"[poll] {text}"
    return "\n".join([f"[poll] {question}", *(f"{number}. {answer}" for number, answer in enumerate(answers, 1))])


def _poll_ended(content: dict[str, Any]) -> str | None:
    text = _extensible(content)
    return None if text is None else f"[poll ended] {text}"


def _extensible(block: object) -> str | None:
    """Return the text of an extensible event's block, in its stable or its unstable form (MSC1767)."""
    if not isinstance(block, dict):
        return None
    for key in ("m.text", "org.matrix.msc1767.text", "body"):
        text = block.get(key)
        if isinstance(text, list):
            text = next((each["body"] for each in text if isinstance(each, dict) and "body" in each), None)
        if isinstance(text, str):
            return text
    return None
