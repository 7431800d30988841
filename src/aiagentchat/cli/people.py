"""`cchat invite`, `people` and `uninvite`: whom the agents' rooms are for, beside the operator."""

import sys
from collections import Counter
from typing import Any

from aiagentchat.cli.invocation import Invocation
from aiagentchat.connection import EventStream
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError, InvalidRequestError
from aiagentchat.model import USER_ID, one_line

Json = Any

_WORDS = {
    "join": "joined",
    "invite": "invited",
    "leave": "left",
    "ban": "banned",
    "knock": "asks to come in",
    "none": "not invited",
    "unknown": "not known",
}


def invite(call: Invocation) -> None:
    """Invite somebody, or change what they may."""
    args, user_id = call.args, _user_id(call)
    with call.client().invite(user_id, agents=args.agent or None, role=args.role) as events:
        person, rooms = _follow(call, events, f"inviting {user_id}")
    invited, failed = _count(rooms, "invited"), _count(rooms, "failed")
    if failed < len(rooms) or call.out.as_json or not rooms:
        counted = f"invited to {_rooms(invited)}" if invited or failed else "was there already"
        text = f"{one_line(user_id)}: {person['role']} ({_where(person['agents'])}; {counted})"
        call.out.result(person | {"rooms": rooms}, text)
    if person["warning"]:
        call.out.note(one_line(person["warning"]))
    again = [f"cchat invite {user_id}", *(f"--agent {agent}" for agent in args.agent)]
    again += [] if args.role is None else [f"--role {args.role}"]  # else it would widen what was asked for
    _tell_failures(call, rooms, f"{user_id} was not brought into", " ".join(again))


def uninvite(call: Invocation) -> None:
    """Take somebody out of all rooms."""
    user_id = _user_id(call)
    with call.client().uninvite(user_id) as events:
        person, rooms = _follow(call, events, f"uninviting {user_id}")
    rooms = [room for room in rooms if room["did"] != "absent"]
    removed = _rooms(_count(rooms, "removed"))
    call.out.result(person | {"rooms": rooms}, f"{one_line(user_id)}: uninvited (removed from {removed})")
    _tell_failures(call, rooms, f"{user_id} was not removed from", f"cchat uninvite {user_id}")


def people(call: Invocation) -> None:
    """Print whom the rooms are for: one JSON object a line, a table at a terminal, or a line each."""
    found = call.client().people()
    if call.out.as_json:
        for person in found:
            call.out.data(person)
        return
    rows = [_row(person) for person in found]
    if not call.out.is_terminal:
        for user_id, role, where, state in rows:
            call.out.line(f"{user_id}: {role} ({where}; {state})")
        return
    rows = [("PERSON", "ROLE", "ROOMS", "STATE"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        call.out.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _user_id(call: Invocation) -> str:
    user_id = str(call.args.user_id)
    if not USER_ID.fullmatch(user_id):
        raise InvalidRequestError(f"{user_id!r} is no Matrix user id", hint="it is like @alice:example.org")
    return user_id


def _follow(call: Invocation, events: EventStream, doing: str) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Return who it is about and what was done in each room, showing at a terminal how far it is."""
    person: dict[str, Json] = {}
    rooms: list[dict[str, Json]] = []
    is_shown = sys.stderr.isatty() and not call.out.as_json
    for event, data in events:
        if event == "person":
            person = data
        elif event == "room":
            of = data.pop("of")
            rooms.append(data)
            if is_shown:
                end = "\n" if len(rooms) == of else ""
                print(f"\r{one_line(doing)}: {len(rooms)} of {of} rooms", end=end, file=sys.stderr, flush=True)
        elif event == "done":
            return person, rooms
    raise DaemonNotRunningError("the daemon stopped before all was done", hint="the same again does the rest")


def _tell_failures(call: Invocation, rooms: list[dict[str, Json]], what: str, again: str) -> None:
    """Say why something was not done, each reason once, and end with an error."""
    failed: dict[str, list[str]] = {}
    for room in rooms:
        if room["did"] == "failed":
            failed.setdefault(room["reason"], []).append(room["alias"])
    for reason, aliases in failed.items():
        more = f" and {len(aliases) - 1} more" if len(aliases) > 1 else ""
        call.out.note(f"{one_line(aliases[0])}{more}: {one_line(reason)}")
    if failed:
        count = _count(rooms, "failed")
        raise AiAgentChatError(f"{what} {count} of {_rooms(len(rooms))}", hint=f"again, for these: {again}")


def _count(rooms: list[dict[str, Json]], did: str) -> int:
    return sum(room["did"] == did for room in rooms)


def _rooms(count: int) -> str:
    return "1 room" if count == 1 else f"{count} rooms"


def _row(person: dict[str, Json]) -> tuple[str, str, str, str]:
    role = person["role"] if person["source"] == "invited" else f"{person['role']}, {person['source']}"
    states = Counter(_WORDS.get(room["membership"], one_line(room["membership"])) for room in person["rooms"])
    state = ", ".join(f"{word} {count}" for word, count in states.items()) if len(states) > 1 else "".join(states)
    return one_line(person["user_id"]), role, _where(person["agents"]), state or "no room yet"


def _where(agents: list[str] | None) -> str:
    return "all rooms" if agents is None else ", ".join(agents)
