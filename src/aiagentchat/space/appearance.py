"""How an agent looks to people: its name and picture, and the topic of its room. Called by `space.manager`."""

import logging

from aiagentchat.errors import AiAgentChatError, MatrixError, MatrixNotFoundError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, RoomId, UserId
from aiagentchat.space.avatar import MIMETYPE, render_avatar
from aiagentchat.space.content import Card
from aiagentchat.space.layout import render_topic

log = logging.getLogger(__name__)

_PICTURE_S = 2.0
"""Most seconds that an agent without a picture waits for it."""


async def introduce(client: MatrixClient, user: UserId, agent: AgentName, *, with_picture: bool) -> str:
    """Have an account be called as its agent, and have a picture; return that one's `mxc://` address.

    A picture that the account has is kept. "" where none is wanted, or to be had soon. To be called before the account
    is in any room: an event would tell each.
    """
    try:
        await client.set_displayname(user, agent)
    except MatrixError as error:  # Synapse 1.163 fails with 500 for some of several at once: one of them is enough
        log.warning("%s was not given its display name: %s", agent, error.message)
    return await _ensure_picture(client, user, agent) if with_picture else ""


async def _ensure_picture(client: MatrixClient, user: UserId, agent: AgentName) -> str:
    soon = client.with_deadline(_PICTURE_S)
    try:
        uri = await soon.get_avatar(user)
        if uri is None:
            uri = await upload_picture(soon, agent)
            await soon.set_avatar(user, uri)
    except AiAgentChatError as error:
        log.warning("%s was not given a picture: %s", agent, error.message)
        return ""
    return uri


async def upload_picture(client: MatrixClient, agent: AgentName, *, grey: bool = False) -> str:
    """Have the homeserver keep a picture of an agent's initials; return its `mxc://` address."""
    return await client.upload(render_avatar(agent, grey=grey), name=f"{agent}.png", mimetype=MIMETYPE)


async def renew_topic(client: MatrixClient, user: UserId, card: Card, host: str) -> None:
    """Have the topic of an agent's room say what its card says, unless somebody else wrote it."""
    room_id, topic = RoomId(card.room_id), render_topic(card.name, card.kind, card.description, host)
    try:
        event = await client.get_state_event(room_id, "m.room.topic")
    except MatrixNotFoundError:
        event = {}
    if event.get("sender", user) == user:
        await client.put_state(room_id, "m.room.topic", "", {"topic": topic})
