"""Edits of messages that are unread yet: the message is handed out with its new text, in its place. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from aiagentchat.model import EventId, Message, RoomId, UserId


def fold_edits(messages: Iterable[Message]) -> tuple[list[Message], Mapping[EventId, frozenset[EventId]]]:
    """Return messages in order, each with its latest text, and of those with a new one which edits gave it.

    An edit counts from who wrote the message. Of edits of one that is not among them the first stands for all.
    """
    standing: dict[EventId, Message] = {}
    folded: dict[EventId, frozenset[EventId]] = {}
    first: dict[tuple[EventId, RoomId, UserId], EventId] = {}
    for message in messages:
        text = (message.edits or message.event_id, message.room_id, message.sender.user_id)
        stands = first.setdefault(text, message.event_id)
        if message.edits is None or stands == message.event_id:
            standing[message.event_id] = message
            continue
        standing[stands] = replace(standing[stands], body=message.body, format=message.format)
        folded[stands] = folded.get(stands, frozenset()) | {message.event_id}
    return list(standing.values()), folded
