"""The handlers of what the operator alone sees: all agents at a glance, and what is written and goes on in a room."""

import json
from contextlib import aclosing
from dataclasses import asdict

from aiohttp import web

from aiagentchat.agents.sights import Asked, Edited, Live, Read, Removed, Settled, State
from aiagentchat.gateway.routing import Call
from aiagentchat.gateway.schemas import AgentOverview, LookQuery, OverviewAnswer, ReadAnswer, RoomQuery
from aiagentchat.gateway.sse import message_data
from aiagentchat.model import AgentName, EventId, Message, parse_address

SIGHTS: dict[type, str] = {
    Asked: "approval",
    Edited: "edited",
    Live: "live",
    Read: "read",
    Removed: "removed",
    Settled: "settled",
    State: "state",
}
"""What the events are called of what is seen in a room."""


async def overview(call: Call) -> OverviewAnswer:
    """Answer with all agents at a glance."""
    call.require_operator()
    glance = await call.gateway.service.overview()
    agents = [
        AgentOverview.model_construct(
            name=each.entry.name,
            kind=each.entry.kind,
            status=each.entry.status,
            reach=each.entry.reach,
            status_line=each.entry.status_line,
            unread=each.unread,
            unread_more=each.unread_more,
            per_minute=each.per_minute,
            last=each.last,
        )
        for each in glance.agents
    ]
    return OverviewAnswer.model_construct(agents=agents, unavailable=glance.unavailable, stalled=call.gateway.stalled())


def _room_of(call: Call) -> AgentName:
    call.require_operator()
    return parse_address(call.request.match_info["name"], call.gateway.server_name)


async def room_messages(call: Call) -> ReadAnswer:
    """Answer with what was written in an agent's room."""
    query: RoomQuery = call.query
    before = None if query.before is None else EventId(query.before)
    messages = await call.gateway.service.history_of(_room_of(call), before=before, limit=query.limit)
    return ReadAnswer.model_construct(messages=messages)


async def room_events(call: Call) -> web.StreamResponse:
    """Stream what goes on in an agent's room."""
    query: LookQuery = call.query
    looking = await call.gateway.service.look_on(_room_of(call), limit=query.limit, has_receipts=query.receipts)
    async with aclosing(looking) as sights, call.stream() as stream:

        async def pump() -> None:
            async for each in sights:
                if isinstance(each, Message):
                    await stream.send("message", message_data(each))
                else:
                    await stream.send(SIGHTS[type(each)], json.dumps(asdict(each), ensure_ascii=False))

        await stream.run(work=pump())
    return stream.response
