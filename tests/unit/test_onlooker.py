"""How a message reads that was edited, and what becomes of what is told to somebody who looks on slowly."""

from typing import Any

import pytest

from aiagentchat.agents.bodies import replaced_by
from aiagentchat.agents.onlooker import _Feed, as_it_reads
from aiagentchat.agents.sights import Removed
from aiagentchat.matrix.events import RoomEvent, parse_event
from aiagentchat.model import EventId, Sender, UserId

ALICE = Sender(UserId("@alice:b"), "alice", "person")


def raw(**fields: Any) -> dict[str, Any]:
    event = {"event_id": "$1", "room_id": "!r", "sender": "@a:b", "type": "m.room.message", "origin_server_ts": 1}
    return event | {"content": {"msgtype": "m.text", "body": "first"}} | fields


def edit(body: object, **fields: Any) -> dict[str, Any]:
    new = {"msgtype": "m.text", "body": body, "m.relates_to": {"rel_type": "m.thread", "event_id": "$x"}}
    relation = {"rel_type": "m.replace", "event_id": "$1"}
    content = {"msgtype": "m.text", "body": f"* {body}", "m.new_content": new, "m.relates_to": relation}
    return raw(event_id="$2", content=content) | fields


def event(told: dict[str, Any]) -> RoomEvent:
    parsed = parse_event(told)
    assert parsed
    return parsed


def test_a_message_reads_as_its_latest_edit_says_and_stays_where_it_stands() -> None:
    relation = {"m.in_reply_to": {"event_id": "$0"}}
    html = {"format": "org.matrix.custom.html", "formatted_body": "<b>first</b>"}
    content = {"msgtype": "m.text", "body": "first", "m.relates_to": relation, "io.aiagentchat.hops": 2} | html
    told = raw(content=content, unsigned={"m.relations": {"m.replace": edit("second")}})
    assert as_it_reads(event(told), told).content == {
        "msgtype": "m.text",
        "body": "second",
        "m.relates_to": relation,
        "io.aiagentchat.hops": 2,
    }


@pytest.mark.parametrize(
    "unsigned",
    [
        None,
        [],
        {"m.relations": []},
        {"m.relations": {"m.replace": {"event_id": "$2"}}},
        {"m.relations": {"m.replace": raw(event_id="$2")}},
        {"m.relations": {"m.replace": edit("forged", sender="@mallory:b")}},
        {"m.relations": {"m.replace": edit("x", content={"m.new_content": 1, "m.relates_to": {}})}},
    ],
)
def test_what_is_no_edit_of_its_sender_changes_nothing(unsigned: object) -> None:
    told = raw(unsigned=unsigned)
    assert as_it_reads(event(told), told) == event(told)


@pytest.mark.parametrize("content", [{}, {"m.relates_to": []}, {"m.relates_to": {"rel_type": "m.replace"}}])
def test_what_names_no_message_is_no_edit(content: dict[str, Any]) -> None:
    assert replaced_by(event(raw(content=content))) is None
    assert replaced_by(event(edit("x"))) is not None


async def test_who_looks_on_slowly_costs_no_more_memory_and_is_told_to_read_the_room() -> None:
    feed = _Feed()
    for number in range(1000):
        feed.put(Removed(EventId(f"${number}"), ALICE))
    lost = [feed.has_lost]
    feed.put(Removed(EventId("$last"), ALICE))
    lost.append(feed.has_lost)
    assert lost == [False, True]
    await feed.wait(0)
    assert feed.take() == [Removed(EventId("$last"), ALICE)]
