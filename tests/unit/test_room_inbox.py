"""The inbox of one room against a homeserver whose room order is not its order of arrival, and whose pushes come
late, twice, or never: what no real homeserver does on request.

Sizes are made small here, so that few messages reach every bound.
"""

import asyncio
import itertools
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiagentchat.agents import cursor, room_inbox
from aiagentchat.agents.inbox import Inbox
from aiagentchat.agents.messages import parse_message
from aiagentchat.agents.room_inbox import UNREAD_WINDOW, Reader, RoomInbox
from aiagentchat.errors import (
    AckWindowFullError,
    HomeserverUnavailableError,
    MatrixForbiddenError,
    MatrixNotFoundError,
)
from aiagentchat.matrix.client import MatrixClient, MessagesPage
from aiagentchat.matrix.events import parse_event
from aiagentchat.model import EventId, Message, RoomId, UserId
from aiagentchat.space.content import CURSOR
from aiagentchat.space.directory import Directory
from aiagentchat.space.names import Naming

SENDER_OF = Directory(Naming("example.org"), ttl_s=300).sender_of
AGENT, ROOM = UserId("@aiagentchat-a:example.org"), RoomId("!room")
TRAILING, ACKED, WINDOW, PAGE = 5, 8, 6, 2
MOST_BEHIND, MOST_ON_THE_WAY = 2, 3  # together they stay within what the anchor trails behind
_T = TypeVar("_T")
Json = dict[str, Any]


def done(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run what never has to wait, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("_T", stop.value)
    raise AssertionError("it waits")


@dataclass
class FakeRoom:
    """One room of a homeserver, and the agent's account data in it. A token is the id of the event it stands behind.

    `unsent`: ids of events that another homeserver has not sent, and that are fetched when somebody reads backwards.
    `breaks`: whether the next cursor is written, before the request for it fails; None: it does not fail.
    """

    timeline: list[Json] = field(default_factory=list)
    cursors: list[Json] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)
    unsent: set[str] = field(default_factory=set)
    covered: set[str] = field(default_factory=set)
    breaks: bool | None = None
    clock_ms: int = 1_000_000
    requests: int = 0

    def __post_init__(self) -> None:
        content = {"membership": "join"}
        self.add("$join", AGENT, type="m.room.member", state_key=AGENT, content=content)

    def add(
        self, event_id: str, sender: str = "@alice:example.org", *, before_end: int = 0, age_ms: int = 0, **fields: Any
    ) -> Json:
        event = {"type": "m.room.message", "content": {"msgtype": "m.text", "body": event_id}} | fields
        event |= {"event_id": event_id, "room_id": ROOM, "sender": sender, "origin_server_ts": self.clock_ms - age_ms}
        self.timeline.insert(len(self.timeline) - before_end, event)
        return event

    def ids(self) -> list[str]:
        return [event["event_id"] for event in self.timeline]

    def server_now_ms(self) -> int:
        return self.clock_ms

    def with_deadline(self, timeout_s: float) -> "FakeRoom":
        return self

    async def get_messages(
        self, room_id: RoomId, *, direction: str, start: str | None, limit: int, filter_json: str
    ) -> MessagesPage:
        assert room_id == ROOM
        self.requests += 1
        if direction == "b":
            before = self.timeline[: None if start is None else self.ids().index(start)]
            page = before[-limit:][::-1]
            self.unsent -= {event["event_id"] for event in page}
            return MessagesPage(tuple(page), page[-1]["event_id"] if len(page) == limit else None)
        wanted = json.loads(filter_json)
        after = self.timeline if start is None else self.timeline[self.ids().index(start) + 1 :]
        sent = [event for event in after if event["event_id"] not in self.unsent]
        fitting = [e for e in sent if e["type"] in wanted["types"] and e["sender"] not in wanted["not_senders"]]
        page = fitting[:limit]
        return MessagesPage(tuple(page), page[-1]["event_id"] if page else None)

    async def get_tokens_around(self, room_id: RoomId, event_id: EventId) -> tuple[str, str]:
        if event_id not in self.ids():
            raise MatrixNotFoundError(404, "M_NOT_FOUND", "gone")
        return "", event_id

    async def get_state_event(self, room_id: RoomId, kind: str, key: str) -> Json:
        return self.timeline[0]

    async def get_room_account_data(self, user: UserId, room_id: RoomId, kind: str) -> Json:
        if not self.cursors:
            raise MatrixNotFoundError(404, "M_NOT_FOUND", "none")
        return self.cursors[-1]

    async def put_room_account_data(self, user: UserId, room_id: RoomId, kind: str, content: Json) -> None:
        assert kind == CURSOR
        breaks, self.breaks = self.breaks, None
        if breaks is not False:
            covered = {*self.ids()[: self.ids().index(content["anchor"]) + 1], *content["acked"]}
            assert self.covered <= covered, "the cursor moved back"
            self.covered = covered
            self.cursors.append(content)
        if breaks is not None:
            raise HomeserverUnavailableError("no answer")

    async def send_receipt(self, room_id: RoomId, event_id: EventId) -> None:
        self.receipts.append(event_id)


def inbox_on(room: FakeRoom, *, is_own_room: bool = True) -> RoomInbox:
    return RoomInbox(cast("MatrixClient", room), Reader(AGENT, ROOM, is_own_room=is_own_room), SENDER_OF)


def as_message(event: Json) -> Message:
    parsed = parse_event(event)
    assert parsed is not None
    message = parse_message(parsed, SENDER_OF, None)
    assert message is not None
    return message


def acknowledge(inbox: RoomInbox, event_ids: set[EventId]) -> None:
    plan = done(inbox.plan(frozenset(event_ids)))
    if plan is not None:
        done(inbox.carry_out(plan))


def read_all(inbox: RoomInbox) -> list[str]:
    """Read and acknowledge until nothing is left; return what was handed out, in order."""
    handed: list[str] = []
    while inbox.needs_reading or inbox.unread():
        done(inbox.read_on())
        handed += [message.event_id for message in inbox.unread()]
        acknowledge(inbox, {message.event_id for message in inbox.unread()})
    return handed


def small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cursor, "TRAILING", TRAILING)
    patch.setattr(cursor, "ACKED_LIMIT", ACKED)
    patch.setattr(room_inbox, "UNREAD_WINDOW", WINDOW)
    patch.setattr(room_inbox, "_PAGE", PAGE)
    patch.setattr(room_inbox, "_LONGEST_PAUSE_S", 0.0)
    patch.setattr(room_inbox, "_MOST_LIVE", 4)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)


class RoomAndPushes(RuleBasedStateMachine):
    """Writers, pushes and one reader, in any order. Nothing is lost, and nothing acknowledged comes again."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        small(self.patch)
        self.room = FakeRoom()
        self.inbox = inbox_on(self.room)
        self.events: list[Json] = []
        self.on_the_way: list[Json] = []
        self.pushed: list[Json] = []
        self.left_out = 0
        self.acked: set[EventId] = set()
        self.perhaps_acked: set[EventId] = set()

    def teardown(self) -> None:
        """Whatever happened: once every push has come, all is handed out, and then nothing any more."""
        try:
            for event in self.on_the_way:
                self.inbox.offer(as_message(event))
            for _ in range(len(self.events) + 1):
                self.read()
                self.acknowledge_all({message.event_id for message in self.unread()})
            assert self.acked | self.perhaps_acked == {event["event_id"] for event in self.events}
            fresh = inbox_on(self.room)
            done(fresh.read_on())
            assert not fresh.unread()
        finally:
            self.patch.undo()

    def unread(self) -> list[Message]:
        unread = self.inbox.unread()
        assert not self.acked & {message.event_id for message in unread}, "acknowledged, and handed again"
        return unread

    @precondition(lambda self: len(self.on_the_way) < MOST_ON_THE_WAY)
    @rule(
        before_end=st.integers(0, MOST_BEHIND), passes_ms=st.sampled_from([0, 1, 3000]), age_ms=st.sampled_from([0, 1])
    )
    def write(self, before_end: int, passes_ms: int, age_ms: int) -> None:
        """Somebody writes; the event's place in the room is among the latest, not always the last."""
        self.room.clock_ms += passes_ms
        before_end = min(before_end, len(self.room.timeline) - 1)
        event = self.room.add(f"${len(self.events)}", before_end=before_end, age_ms=age_ms)
        self.events.append(event)
        self.on_the_way.append(event)

    @precondition(lambda self: len(self.on_the_way) < MOST_ON_THE_WAY)
    @rule(left_out=st.integers(0, 3), before_end=st.integers(0, MOST_BEHIND), passes_ms=st.sampled_from([0, 1, 3000]))
    def write_from_afar(self, left_out: int, before_end: int, passes_ms: int) -> None:
        """Somebody on another homeserver writes, and that sends the last message alone."""
        self.room.clock_ms += passes_ms
        before_end = min(before_end, len(self.room.timeline) - 1)
        for _ in range(left_out + 1):
            self.events.append(self.room.add(f"${len(self.events)}", "@bob:elsewhere.org", before_end=before_end))
        *unsent, sent = self.events[-left_out - 1 :]
        self.room.unsent |= {event["event_id"] for event in unsent}
        self.left_out += left_out
        self.on_the_way.append(sent)

    @precondition(lambda self: self.on_the_way)
    @rule()
    def push(self) -> None:
        self.pushed.append(self.on_the_way.pop(0))
        self.inbox.offer(as_message(self.pushed[-1]))

    @precondition(lambda self: self.pushed)
    @rule(data=st.data())
    def push_again(self, data: st.DataObject) -> None:
        self.inbox.offer(as_message(data.draw(st.sampled_from(self.pushed))))

    @rule()
    def read(self) -> None:
        if self.inbox.needs_reading:
            done(self.inbox.read_on())
        self.unread()

    @precondition(lambda self: self.inbox.unread())
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        unread = [message.event_id for message in self.unread()]
        self.acknowledge_all(set(unread) if data.draw(st.booleans()) else {data.draw(st.sampled_from(unread))})

    def acknowledge_all(self, event_ids: set[EventId]) -> None:
        try:
            acknowledge(self.inbox, event_ids)
        except AckWindowFullError:  # a late one stands before them: it is read, and acknowledged with them
            return
        self.acked |= event_ids

    @precondition(lambda self: self.inbox.unread())
    @rule(is_written=st.booleans())
    def acknowledge_without_answer(self, is_written: bool) -> None:
        """The request for it ends without an answer: it may have been written, and its reader knows nothing."""
        self.room.breaks = is_written
        event_ids = {message.event_id for message in self.unread()}
        try:
            acknowledge(self.inbox, event_ids)
        except HomeserverUnavailableError:
            self.perhaps_acked |= event_ids if is_written else set()
        except AckWindowFullError:
            self.room.breaks = None

    @rule()
    def start_anew(self) -> None:
        """The daemon is killed; what was on the way comes to the next one."""
        self.inbox = inbox_on(self.room)

    @invariant()
    def memory_is_bounded(self) -> None:
        """But for what was left out, which may stand before what was handed out already."""
        assert len(self.inbox.unread()) <= WINDOW + PAGE + 4 + self.left_out
        assert len(self.inbox._missed) <= 5


TestRoomAndPushes = RoomAndPushes.TestCase
TestRoomAndPushes.settings = settings(max_examples=200, stateful_step_count=60)


def test_messages_are_read_page_by_page_until_the_window_is_full() -> None:
    room = FakeRoom()
    for number in range(20):
        room.add(f"${number}")
    inbox = inbox_on(room)
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == [f"${number}" for number in range(WINDOW)]
    assert not inbox.needs_reading
    acknowledge(inbox, {EventId("$0"), EventId("$1")})
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == [f"${number}" for number in range(2, WINDOW + 2)]


def test_between_pages_the_homeserver_is_left_to_others_for_as_long_as_one_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room_inbox, "_LONGEST_PAUSE_S", 0.25)
    monkeypatch.setattr(room_inbox, "time", SimpleNamespace(monotonic=itertools.count(0.0, 0.125).__next__))
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(room_inbox, "asyncio", SimpleNamespace(sleep=sleep))
    room = FakeRoom()
    for number in range(2 * PAGE):
        room.add(f"${number}")
    done(inbox_on(room).read_on())
    assert pauses == [0.125] * (room.requests - 1) != []


def test_a_live_message_costs_no_request_and_a_late_one_is_found_where_it_stands() -> None:
    room = FakeRoom()
    inbox = inbox_on(room)
    done(inbox.read_on())
    room.clock_ms += 10_000
    before = room.requests
    for number in range(3):
        room.clock_ms += 1
        assert inbox.offer(as_message(room.add(f"${number}")))
    assert (room.requests, inbox.needs_reading) == (before, False)
    late = room.add("$late", before_end=2, age_ms=5)
    assert inbox.offer(as_message(late))
    assert inbox.needs_reading
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == ["$0", "$late", "$1", "$2"]


def test_a_push_of_what_is_behind_the_cursor_hands_nothing_out() -> None:
    room = FakeRoom()
    events = [room.add(f"${number}") for number in range(ACKED + 1)]
    inbox = inbox_on(room)
    for event in events:
        done(inbox.read_on())
        acknowledge(inbox, {EventId(event["event_id"])})
    assert room.cursors[-1]["anchor"] == f"${ACKED - TRAILING}"
    inbox.offer(as_message(events[0]))
    done(inbox.read_on())
    assert inbox.unread() == []


async def test_what_was_handed_out_before_a_restart_is_acknowledged_though_the_window_ends_before_it() -> None:
    room = FakeRoom()
    event_ids = frozenset(EventId(str(room.add(f"${number}")["event_id"])) for number in range(2 * UNREAD_WINDOW))
    inbox = Inbox(inbox_on(room), on_acknowledged=lambda count: None)
    inbox.add_broadcast(inbox_on(FakeRoom(), is_own_room=False))
    assert await inbox.acknowledge(event_ids) == event_ids
    assert await inbox.unread() == []


def test_what_was_never_pushed_and_stands_before_what_was_read_is_found_when_all_is_doubted() -> None:
    room = FakeRoom()
    inbox = inbox_on(room)
    room.add("$read")
    done(inbox.read_on())
    room.add("$before", before_end=1)
    inbox.doubt(anew=True)
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == ["$before", "$read"]
    assert not inbox.needs_reading


def test_what_was_never_pushed_is_found_when_it_is_doubted_and_nothing_twice() -> None:
    room = FakeRoom()
    inbox = inbox_on(room)
    done(inbox.read_on())
    room.clock_ms += 10_000
    inbox.offer(as_message(room.add("$pushed")))
    room.add("$unheard")
    assert not inbox.needs_reading
    inbox.doubt()
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == ["$pushed", "$unheard"]
    assert not inbox.needs_reading


def test_the_receipt_follows_in_the_own_room_alone_and_once() -> None:
    for is_own_room, receipts in ((True, ["$1"]), (False, [])):
        room = FakeRoom()
        for number in range(4):
            room.add(f"${number}")
        inbox = inbox_on(room, is_own_room=is_own_room)
        done(inbox.read_on())
        acknowledge(inbox, {EventId("$0"), EventId("$1")})
        acknowledge(inbox, {EventId("$3")})  # out of turn: the receipt stays
        assert (room.receipts, len(room.cursors)) == (receipts, 2)


def test_own_messages_and_an_agent_that_is_not_a_member_yet() -> None:
    class NotJoined(FakeRoom):
        joined = False

        async def get_state_event(self, room_id: RoomId, kind: str, key: str) -> Json:
            if not self.joined:
                raise MatrixForbiddenError(403, "M_FORBIDDEN", "not in the room")
            return await super().get_state_event(room_id, kind, key)

        async def join_room(self, room_id: RoomId) -> RoomId:
            self.joined = True
            return room_id

    room = NotJoined()
    inbox = inbox_on(room)
    room.add("$own", AGENT)
    room.add("$theirs")
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == ["$theirs"]
    assert not inbox.offer(as_message(room.add("$own too", AGENT)))


def test_a_membership_without_its_id_is_found_in_the_whole_state() -> None:
    """As Synapse 1.97 answers."""

    class WithoutId(FakeRoom):
        async def get_state_event(self, room_id: RoomId, kind: str, key: str) -> Json:
            event = await super().get_state_event(room_id, kind, key)
            return {field: value for field, value in event.items() if field != "event_id"}

        async def get_full_state(self, room_id: RoomId) -> list[Json]:
            return [{"type": "m.room.create", "state_key": ""}, self.timeline[0]]

    room = WithoutId()
    inbox = inbox_on(room)
    room.add("$theirs")
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == ["$theirs"]


def test_a_message_that_was_taken_back_leaves_the_inbox() -> None:
    room = FakeRoom()
    inbox = inbox_on(room)
    inbox.withdraw(EventId("$0"))  # before anything was read
    done(inbox.read_on())
    room.clock_ms += 10_000
    inbox.offer(as_message(room.add("$0")))
    inbox.withdraw(EventId("$0"))
    assert inbox.unread() == []


@pytest.mark.parametrize("is_own_room", [True, False])
def test_what_the_daemon_answers_is_not_for_the_agent_but_its_edit_is(is_own_room: bool) -> None:
    room = FakeRoom()
    inbox = inbox_on(room, is_own_room=is_own_room)
    for command in ("help", "status", "stop"):
        room.add(f"${command}", content={"msgtype": "m.text", "body": f"!{command}"})
    relation = {"m.new_content": {"msgtype": "m.text", "body": "help me"}}
    relation |= {"m.relates_to": {"rel_type": "m.replace", "event_id": "$help"}}
    room.add("$edit", content={"msgtype": "m.text", "body": "* help me"} | relation)
    for_the_agent = ["$stop", "$edit"]
    assert read_all(inbox) == (for_the_agent if is_own_room else ["$help", "$status", *for_the_agent])


@pytest.mark.parametrize("is_live", [True, False])
def test_with_a_message_that_was_taken_back_its_edits_leave(is_live: bool) -> None:
    room = FakeRoom()
    inbox = inbox_on(room)
    if is_live:
        done(inbox.read_on())
        room.clock_ms += 10_000
    original = room.add("$0")
    relation = {"m.new_content": {"msgtype": "m.text", "body": "new"}}
    relation |= {"m.relates_to": {"rel_type": "m.replace", "event_id": "$0"}}
    edit = room.add("$1", content={"msgtype": "m.text", "body": "* new"} | relation)
    if is_live:
        inbox.offer(as_message(original))
        inbox.offer(as_message(edit | {"origin_server_ts": room.clock_ms + 1}))
        assert len(inbox.unread()) == 2
        inbox.withdraw(EventId("$0"))
        assert inbox.unread() == []
    original["content"] = {}  # as it is in the room from then on
    room.add("$2")
    inbox.doubt()
    assert read_all(inbox) == ["$2"]


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("count", [3, WINDOW + 2 * PAGE])
def test_what_another_homeserver_left_out_is_fetched_and_stands_in_its_place(count: int, is_live: bool) -> None:
    room, afar = FakeRoom(), "@bob:elsewhere.org"
    inbox = inbox_on(room)
    if is_live:
        done(inbox.read_on())
    room.clock_ms += 10_000
    ids = [f"${number}" for number in range(count)]
    events = [room.add(event_id, afar) for event_id in ids]
    room.unsent = set(ids[: count - 1])
    if is_live:
        inbox.offer(as_message(events[-1]))
    assert read_all(inbox) == ids


@pytest.mark.parametrize("count", [4, WINDOW + 2 * PAGE])
@pytest.mark.parametrize("where", ["get_messages", "get_tokens_around"])
def test_a_reader_that_goes_away_while_the_gap_is_filled_leaves_that_to_the_next_one(
    count: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = FakeRoom()
    inbox = inbox_on(room)
    done(inbox.read_on())
    ids = [f"${number}" for number in range(count)]
    for event_id in ids:
        room.add(event_id, "@bob:elsewhere.org")
    room.unsent = set(ids[1:-1])
    real = getattr(room, where)

    async def cut(*args: Any, **query: Any) -> Any:
        if query.get("direction") == "f":
            return await real(*args, **query)
        raise asyncio.CancelledError

    inbox.doubt()
    with monkeypatch.context() as patched:
        patched.setattr(room, where, cut)
        with pytest.raises(asyncio.CancelledError):
            done(inbox.read_on())
    assert read_all(inbox) == ids


def test_a_gap_that_is_not_filled_holds_nobody_up_and_is_said_until_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    room, afar = FakeRoom(), "@bob:elsewhere.org"
    inbox = inbox_on(room)
    room.unsent = {room.add("$left out", afar)["event_id"]}
    room.add("$sent", afar)
    real = room.get_messages

    async def fail(*args: Any, **query: Any) -> MessagesPage:
        if query["direction"] == "b":
            raise HomeserverUnavailableError("the other homeserver is away")
        return await real(*args, **query)

    with monkeypatch.context() as patched:
        patched.setattr(room, "get_messages", fail)
        done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == ["$sent"]
    assert inbox.has_gap
    room.add("$next", afar)
    inbox.doubt()
    assert read_all(inbox) == ["$left out", "$sent", "$next"]
    assert not inbox.has_gap


def test_pushes_that_come_late_one_after_the_other_keep_no_reader_waiting() -> None:
    """After a long stop thousands are pushed that were read from the room long ago."""

    class Late(FakeRoom):
        async def get_messages(self, room_id: RoomId, **query: Any) -> MessagesPage:
            page = await super().get_messages(room_id, **query)
            assert self.requests < 100
            inbox.offer(as_message(self.timeline[1 + self.requests % 10]))
            return page

    room = Late()
    ids = [room.add(f"${number}")["event_id"] for number in range(40)]
    inbox = inbox_on(room)
    handed: list[str] = []
    while len(handed) < len(ids):
        room.requests = 0
        done(inbox.read_on())
        handed += [message.event_id for message in inbox.unread()]
        acknowledge(inbox, {message.event_id for message in inbox.unread()})
    assert handed == ids
    done(inbox.read_on())
    assert inbox.unread() == []


def test_what_was_left_out_after_a_gap_was_filled_is_fetched_too() -> None:
    room, afar = FakeRoom(), "@bob:elsewhere.org"
    inbox = inbox_on(room)
    ids = [f"${number}" for number in range(WINDOW)]
    for event_id in ids:
        room.add(event_id, afar)
    done(inbox.read_on())  # a full window: the end is not reached
    room.add("$left out", afar)
    room.unsent = {"$left out"}
    room.add("$sent", afar)
    assert read_all(inbox) == [*ids, "$left out", "$sent"]


def test_what_was_handed_out_is_acknowledged_all_of_it_though_a_gap_is_filled_meanwhile() -> None:
    room, afar = FakeRoom(), "@bob:elsewhere.org"
    inbox = inbox_on(room)
    ids = [f"${number}" for number in range(ACKED + PAGE)]
    for event_id in ids:
        room.add(event_id, afar)
    room.unsent = set(ids[1:-1])
    done(inbox.read_on())
    handed = {message.event_id for message in inbox.unread()}
    assert handed == set(ids)
    inbox.offer(as_message(room.add("$next", afar)))
    acknowledge(inbox, handed)
    assert read_all(inbox) == ["$next"]


def test_what_was_handed_out_is_looked_for_until_it_is_found_again_though_a_request_fails_meanwhile() -> None:
    class Failing(FakeRoom):
        fails_once = False

        async def get_messages(self, room_id: RoomId, **query: Any) -> MessagesPage:
            if self.fails_once and len(inbox.unread()) >= WINDOW:
                self.fails_once = False
                raise HomeserverUnavailableError("away")
            return await super().get_messages(room_id, **query)

    room, afar = Failing(), "@bob:elsewhere.org"
    inbox = inbox_on(room)
    for number in range(WINDOW):
        room.add(f"${number}")
    done(inbox.read_on())
    handed = {message.event_id for message in inbox.unread()}
    for number in range(WINDOW):
        room.add(f"$early {number}", afar, before_end=WINDOW)
    inbox.offer(as_message(room.add("$sent", afar)))
    done(inbox._open())
    room.fails_once = True  # the window is full then, of the early ones
    with pytest.raises(HomeserverUnavailableError):
        done(inbox.read_on())
    assert inbox.needs_reading
    done(inbox.read_on())
    assert handed <= {message.event_id for message in inbox.unread()}


def test_who_writes_from_another_homeserver_without_a_pause_keeps_no_reader_waiting() -> None:
    class Busy(FakeRoom):
        async def get_messages(self, room_id: RoomId, **query: Any) -> MessagesPage:
            page = await super().get_messages(room_id, **query)
            if query["direction"] == "b" and len(self.timeline) < 100:
                write()
            return page

    def write() -> None:
        inbox.offer(as_message(room.add(f"${len(room.timeline)}", "@bob:elsewhere.org")))

    room = Busy()
    inbox = inbox_on(room)
    room.add("$first", "@bob:elsewhere.org")
    done(inbox.read_on())
    assert room.requests < 10
    assert inbox.unread()[0].event_id == "$first"
    assert inbox.needs_reading, "for what was left out before what came meanwhile"
    read_all(inbox)
    assert not inbox.needs_reading


def test_fetching_what_another_homeserver_left_out_ends_in_time_and_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room_inbox, "_BACKFILL_S", 0.0)
    room = FakeRoom()
    room.add("$0", "@bob:elsewhere.org")
    inbox = inbox_on(room)
    done(inbox.read_on())
    assert [message.event_id for message in inbox.unread()] == ["$0"]
    assert "messages of other homeservers may be missing" in caplog.text


def test_messages_of_other_homeservers_without_a_gap_are_read_backwards_once_for_all_of_them() -> None:
    room = FakeRoom()
    for number in range(WINDOW - 1):
        room.add(f"${number}", "@bob:elsewhere.org")
    inbox = inbox_on(room)
    done(inbox.read_on())
    pages = -(-WINDOW // PAGE)
    assert len(inbox.unread()) == WINDOW - 1
    assert room.requests <= 1 + 2 * pages + 1
