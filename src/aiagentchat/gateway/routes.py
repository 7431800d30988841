"""The route table, and a handler each: check who may, ask `agents.service`, answer."""

import json
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict

from aiohttp import web
from pydantic import BaseModel

from aiagentchat.agents.asides import Option, Request
from aiagentchat.agents.mail import Draft
from aiagentchat.agents.people import Access, Step
from aiagentchat.errors import InvalidRequestError, RefusedError
from aiagentchat.gateway.looking_on import overview, room_events, room_messages
from aiagentchat.gateway.routing import Call, Route
from aiagentchat.gateway.schemas import (
    AckAnswer,
    AckBody,
    ApprovalAnswer,
    ApprovalBody,
    AttachAnswer,
    AttachBody,
    BellAnswer,
    BellBody,
    BellSender,
    Done,
    EventsQuery,
    HealthAnswer,
    InviteBody,
    JanitorBody,
    LookQuery,
    NoQuery,
    OverviewAnswer,
    PeopleAnswer,
    PersonItem,
    PersonRoom,
    ProgressAnswer,
    ProgressBody,
    ReadAnswer,
    ReadQuery,
    RoomQuery,
    SendAnswer,
    SendBody,
    SentAnswer,
    SentItem,
    SentQuery,
    StatusBody,
    WhoAnswer,
)
from aiagentchat.gateway.sse import message_data
from aiagentchat.model import (
    BYTES,
    USER_ID,
    Attachment,
    EventId,
    Message,
    UserId,
    new_session_name,
    parse_address,
    parse_agent_name,
    visible,
)


async def _who(call: Call) -> WhoAnswer:
    view = await call.gateway.service.who()
    return WhoAnswer.model_construct(
        agents=list(view.entries),
        skipped=view.skipped,
        unavailable=view.unavailable,
        stalled=call.gateway.stalled(),
    )


async def _send(call: Call) -> SendAnswer:
    body: SendBody = call.body
    file = None
    if body.file is not None and call.file is not None:
        file = Attachment(body.file.name, body.file.mimetype, call.file)
    elif body.file is not None or call.file is not None:
        raise InvalidRequestError("a file is sent as a form: what it is in message, and itself in file")
    draft = Draft(
        body=body.body,
        key=body.key or uuid.uuid4().hex,
        to=parse_address(body.to, call.gateway.server_name) if body.to is not None else None,
        reply_to=EventId(body.reply_to) if body.reply_to is not None else None,
        format=body.format,
        file=file,
    )
    stored = await call.gateway.service.send(call.caller.agent, draft)
    return SendAnswer(event_id=stored.event_id, room_id=stored.room_id, state="stored", quiet=stored.quiet)


async def _read(call: Call) -> ReadAnswer:
    query: ReadQuery = call.query
    service = call.gateway.service
    if query.before is not None:
        messages = await service.history(call.agent, before=EventId(query.before), limit=query.limit)
    else:
        messages = await service.read(
            call.agent,
            limit=query.limit,
            wait_s=query.wait,
            reader_id=call.reader_id,
            label=call.reader_label,
            peek=query.peek,
        )
    return ReadAnswer.model_construct(messages=messages)


async def _file(call: Call) -> web.StreamResponse:
    event_id = EventId(call.request.match_info["event_id"])
    data = await call.gateway.service.fetch_file(call.caller.agent, event_id, reader_id=call.reader_id)
    response = web.StreamResponse(headers={"Content-Type": BYTES, "Content-Length": str(len(data))})
    await response.prepare(call.request)
    await response.write_eof(data)  # here, so that it is in memory no longer than its slot is taken
    return response


async def _bell(call: Call) -> BellAnswer:
    body: BellBody = call.body
    service = call.gateway.service
    messages = await service.ask_bell(call.agent, body.moment, body.wait)
    counts = Counter(each.sender for each in messages or ())
    return BellAnswer(
        messages=len(messages or ()),
        senders=[BellSender(name=each.name, kind=each.kind, messages=count) for each, count in counts.items()],
        online=service.is_online(call.agent),
        replaced=messages is None,
    )


async def _ack(call: Call) -> AckAnswer:
    body: AckBody = call.body
    event_ids = frozenset(EventId(event_id) for event_id in body.event_ids)
    known = await call.gateway.service.acknowledge(call.agent, event_ids, reader_id=call.reader_id)
    return AckAnswer(acknowledged=sorted(known))


async def _events(call: Call) -> web.StreamResponse:
    query: EventsQuery = call.query
    service = call.gateway.service
    following = service.follow(call.agent, reader_id=call.reader_id, label=call.reader_label, stops=query.stops)
    async with following as (messages, ended, lost), call.stream() as stream:

        async def pump() -> None:
            async for each in messages:
                if isinstance(each, Message):
                    await stream.send("message", message_data(each), event_id=each.event_id)
                else:
                    await stream.send("removed", json.dumps({"event_id": each}))

        await stream.run(ended, lost, work=pump())
        if ended.done():
            await stream.end("ended", json.dumps({"name": call.agent}))
    return stream.response


async def _sent(call: Call) -> SentAnswer:
    query: SentQuery = call.query
    service, agent = call.gateway.service, call.caller.agent
    to = parse_address(query.to, call.gateway.server_name) if query.to is not None else None
    if query.event_id is not None:
        event_id = EventId(query.event_id)
        found = [await service.sent_message(agent, event_id, to=to, wait_s=query.wait, until=query.until)]
    else:
        found = await service.sent(agent, to=to, limit=query.limit)
    items = [
        SentItem.model_construct(
            message=sent.message, state=sent.state, to=sent.to, read_by=list(sent.read_by), answer=sent.answer
        )
        for sent in found
    ]
    return SentAnswer.model_construct(messages=items)


async def _attach(call: Call) -> BaseModel | web.StreamResponse:
    body: AttachBody = call.body
    if body.name is None:
        name, kind = new_session_name(), body.kind or "ephemeral"
    else:
        name, kind = parse_agent_name(body.name), body.kind or "persistent"
    if not call.caller.is_operator and call.caller.agent != name:
        raise RefusedError("an agent's credential attaches that agent alone; a new name takes the operator's")
    gateway = call.gateway
    async with gateway.within(gateway.deadline_s):
        attached = await gateway.service.attach(name, kind=kind, description=body.description, take_over=body.take_over)
    is_detached = body.session == "timed" or (body.session == "none" and gateway.credentials.is_detached(name))
    token = gateway.credentials.issue(name, detached=is_detached)
    answer = AttachAnswer(
        name=name,
        user_id=attached.user_id,
        room_id=attached.room_id,
        alias=attached.alias,
        token=token,
        registered=attached.registered,
        taken_over_from=attached.taken_over_from,
    )
    if body.session == "timed":
        gateway.service.touch(name)
    if body.session != "held":
        return answer
    async with gateway.service.held_session(name) as ended, call.stream() as stream:
        await stream.send("attached", answer.model_dump_json())
        await stream.run(ended)
        if ended.done():
            await stream.end("ended", json.dumps({"name": name}))
    return stream.response


async def _detach(call: Call) -> Done:
    name = parse_agent_name(call.request.match_info["name"])
    if not call.caller.is_operator and call.caller.agent != name:
        raise RefusedError("an agent's credential detaches that agent alone")
    await call.gateway.service.require_agent(name)
    call.gateway.credentials.revoke(name)
    await call.gateway.service.detach(name)
    return Done()


async def _status(call: Call) -> Done:
    body: StatusBody = call.body
    await call.gateway.service.set_status(call.agent, body.line, body.typing_s)
    return Done()


async def _progress(call: Call) -> ProgressAnswer:
    body: ProgressBody = call.body
    shown = None if body.shown is None else EventId(body.shown)
    service = call.gateway.service
    return ProgressAnswer(event_id=await service.show_progress(call.agent, body.body, EventId(body.about), shown))


async def _approval(call: Call) -> ApprovalAnswer:
    body: ApprovalBody = call.body
    request = Request(
        body=body.body,
        options=tuple(Option(option.id, option.name, option.kind) for option in body.options),
        timeout_s=body.timeout_s,
        key=body.key or uuid.uuid4().hex,
        about=None if body.about is None else EventId(body.about),
        elsewhere=body.elsewhere,
    )
    decision = await call.gateway.service.ask_approval(call.agent, request)
    option = None if decision.option is None else decision.option.id
    return ApprovalAnswer(event_id=decision.event_id, option=option, by=decision.by, ts=decision.ts)


async def _withdraw(call: Call) -> Done:
    call.gateway.service.withdraw_approval(call.agent, call.request.match_info["key"])
    return Done()


async def _people(call: Call) -> PeopleAnswer:
    call.require_operator()
    return PeopleAnswer(people=[_person_item(access) for access in await call.gateway.service.people.view()])


def _person_item(access: Access) -> PersonItem:
    person = access.person
    return PersonItem(
        user_id=person.user_id,
        role=person.role,
        source=access.source,
        agents=None if person.agents is None else sorted(person.agents),
        rooms=[
            PersonRoom(alias=room.alias, room_id=room.room_id, membership=membership)
            for room, membership in access.memberships
        ],
    )


async def _invite(call: Call) -> web.StreamResponse:
    call.require_operator()
    body: InviteBody = call.body
    people, server_name = call.gateway.service.people, call.gateway.server_name
    agents = None if body.agents is None else frozenset(parse_address(name, server_name) for name in body.agents)
    async with call.gateway.within(call.gateway.deadline_s):
        enlisted = await people.enlist(UserId(body.user_id), agents, body.role)
    person = enlisted.person
    said = {
        "user_id": person.user_id,
        "role": person.role,
        "agents": None if person.agents is None else sorted(person.agents),
        "warning": enlisted.warning,
    }
    return await _tell_steps(call, said, people.bring(enlisted))


async def _uninvite(call: Call) -> web.StreamResponse:
    call.require_operator()
    people, user_id = call.gateway.service.people, UserId(call.request.match_info["user_id"])
    if not USER_ID.fullmatch(user_id):
        raise InvalidRequestError(f"{visible(user_id)[:100]!r} is no user id", hint="it is like @alice:example.org")
    async with call.gateway.within(call.gateway.deadline_s):
        was_listed = await people.strike(user_id)
    return await _tell_steps(call, {"user_id": user_id}, people.remove(user_id, was_listed=was_listed))


async def _tell_steps(call: Call, said: Mapping[str, object], steps: AsyncGenerator[Step, None]) -> web.StreamResponse:
    """Answer with a stream: who it is about, what was done in each room, and that it is done."""
    async with call.stream() as stream:

        async def pump() -> None:
            await stream.send("person", json.dumps(dict(said)))
            async with aclosing(steps):
                async for step in steps:
                    room = {"alias": step.room.alias, "room_id": step.room.room_id}
                    await stream.send(
                        "room", json.dumps(room | {"did": step.did, "reason": step.reason, "of": step.of})
                    )
            await stream.send("done", json.dumps({"user_id": said["user_id"]}))

        await stream.run(work=pump())
    return stream.response


async def _janitor(call: Call) -> web.StreamResponse:
    call.require_operator()
    body: JanitorBody = call.body
    async with call.stream() as stream:

        async def pump() -> None:
            async with aclosing(call.gateway.service.janitor.clear_all(dry_run=body.dry_run)) as cleared:
                async for each in cleared:
                    said = asdict(each.remains) | {"state": each.state, "detail": each.detail}
                    await stream.send("agent", json.dumps(said))
            await stream.send("done", "{}")

        await stream.run(work=pump())
    return stream.response


async def _health(call: Call) -> HealthAnswer:
    return await call.gateway.health()


async def _metrics(call: Call) -> web.StreamResponse:
    return web.Response(text=await call.gateway.metrics(), headers={"Content-Type": "text/plain; version=0.0.4"})


async def _openapi(call: Call) -> web.StreamResponse:
    return web.json_response(call.gateway.openapi)


ROUTES = (
    Route("GET", "/who", _who, "The directory.", WhoAnswer, NoQuery),
    Route("POST", "/send", _send, "Send a message.", SendAnswer, NoQuery, SendBody, takes_file=True, is_work=True),
    Route("GET", "/read", _read, "The own inbox, or history; acknowledges nothing.", ReadAnswer, ReadQuery, waits=True),
    Route(
        "GET",
        "/files/{event_id}",
        _file,
        "The file that came with a message.",
        None,
        NoQuery,
        media_type=BYTES,
        is_work=True,
    ),
    Route("POST", "/ack", _ack, "Move the own cursor forward.", AckAnswer, NoQuery, AckBody),
    Route(
        "GET",
        "/events",
        _events,
        "The own inbox as server-sent events: what is unread, then what comes.",
        None,
        EventsQuery,
        waits=True,
        media_type="text/event-stream",
    ),
    Route("POST", "/bell", _bell, "Whether somebody wrote, and who; never what.", BellAnswer, NoQuery, BellBody, True),
    Route(
        "GET", "/sent", _sent, "Own messages: stored, read, answered.", SentAnswer, SentQuery, waits=True, is_work=True
    ),
    Route(
        "POST",
        "/agents",
        _attach,
        "Attach an agent; boots it if needed.",
        AttachAnswer,
        NoQuery,
        AttachBody,
        waits=True,
        is_work=True,
    ),
    Route("DELETE", "/agents/{name}", _detach, "Detach an agent.", Done, NoQuery),
    Route("PUT", "/status", _status, "What the agent is doing.", Done, NoQuery, StatusBody, is_work=True),
    Route(
        "POST",
        "/progress",
        _progress,
        "How far the agent's work is.",
        ProgressAnswer,
        NoQuery,
        ProgressBody,
        is_work=True,
    ),
    Route(
        "POST",
        "/approvals",
        _approval,
        "Ask people for approval, and wait.",
        ApprovalAnswer,
        NoQuery,
        ApprovalBody,
        waits=True,
        is_work=True,
    ),
    Route("DELETE", "/approvals/{key}", _withdraw, "Wait for an approval no more.", Done, NoQuery),
    Route("GET", "/people", _people, "Whom the rooms are for.", PeopleAnswer, NoQuery),
    Route(
        "POST",
        "/people",
        _invite,
        "Invite somebody, room by room.",
        None,
        NoQuery,
        InviteBody,
        waits=True,
        media_type="text/event-stream",
    ),
    Route(
        "DELETE",
        "/people/{user_id}",
        _uninvite,
        "Take somebody out, room by room.",
        None,
        NoQuery,
        waits=True,
        media_type="text/event-stream",
    ),
    Route("GET", "/overview", overview, "All agents at a glance; the operator's.", OverviewAnswer, NoQuery),
    Route(
        "GET",
        "/rooms/{name}/messages",
        room_messages,
        "What was written in an agent's room; the operator's.",
        ReadAnswer,
        RoomQuery,
    ),
    Route(
        "GET",
        "/rooms/{name}/events",
        room_events,
        "What goes on in an agent's room as server-sent events; the operator's.",
        None,
        LookQuery,
        waits=True,
        media_type="text/event-stream",
    ),
    Route(
        "POST",
        "/janitor",
        _janitor,
        "Clear away passing sessions that have been over for long.",
        None,
        NoQuery,
        JanitorBody,
        waits=True,
        media_type="text/event-stream",
    ),
    Route("GET", "/health", _health, "Named conditions, each with a remedy.", HealthAnswer, NoQuery),
    Route("GET", "/metrics", _metrics, "Prometheus metrics.", None, NoQuery, media_type="text/plain"),
    Route("GET", "/openapi.json", _openapi, "This document.", None, NoQuery),
)
