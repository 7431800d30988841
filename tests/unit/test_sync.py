"""The polled transport against answers that no homeserver gives on request."""

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.errors import HomeserverUnavailableError, MatrixError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import EventBatch
from aiagentchat.matrix.filters import POSITION_ONLY
from aiagentchat.matrix.sync import LatestMessages, SyncedRooms, SyncSource, parse_sync
from aiagentchat.model import RoomId, UserId
from tests.unit.test_content import JSON

OWN, SPACE, ALL = RoomId("!own"), RoomId("!space"), RoomId("!all")
ROOMS = SyncedRooms(OWN, SPACE, ALL)
Json = dict[str, Any]


def event(event_id: str, *, state_key: str | None = None, **fields: Any) -> Json:
    raw = {"event_id": event_id, "sender": "@a:example.org", "type": "t", "content": {}, "origin_server_ts": 1}
    return raw | ({} if state_key is None else {"state_key": state_key}) | fields


def answer(position: str, timelines: dict[RoomId, list[Any]], *, limited: tuple[RoomId, ...] = ()) -> Json:
    join = {room: {"timeline": {"events": each, "limited": room in limited}} for room, each in timelines.items()}
    return {"next_batch": position, "rooms": {"join": join}}


def ids(batch: EventBatch) -> list[str]:
    return [each.event_id for each in batch.events]


@given(
    JSON
    | st.fixed_dictionaries(
        {
            "rooms": JSON
            | st.fixed_dictionaries({"join": JSON | st.dictionaries(st.sampled_from([OWN, SPACE, ALL]), JSON)})
        }
    )
)
def test_whatever_the_answer_is_it_is_a_batch(raw: object) -> None:
    batch = parse_sync(raw, ROOMS)
    assert batch.gaps <= ROOMS.followed
    assert {each.room_id for each in batch.events} <= ROOMS.followed


def test_of_each_room_comes_what_is_followed_there() -> None:
    both = [event("$state", state_key="k"), event("$message")]
    raw = answer("p", {OWN: both, SPACE: both, ALL: both, RoomId("!strange"): both})
    assert [(each.room_id, each.event_id) for each in parse_sync(raw, ROOMS).events] == [
        (ALL, "$state"),
        (ALL, "$message"),
        (OWN, "$state"),
        (OWN, "$message"),
        (SPACE, "$state"),
    ]


def test_state_that_comes_apart_stands_before_the_timeline_and_what_is_no_event_is_counted() -> None:
    raw = answer("p", {SPACE: [event("$2", state_key="k"), 7, event("$x", state_key="k", room_id="!other")]})
    raw["rooms"]["join"][SPACE]["state"] = {"events": [event("$1", state_key="k"), {}]}
    batch = parse_sync(raw, ROOMS)
    assert (ids(batch), batch.skipped) == (["$1", "$2"], 2)


class Homeserver:
    """Answers one sync after the other, an error being raised; notes what it was asked."""

    def __init__(self, *answers: Json | Exception) -> None:
        self.answers = list(answers)
        self.keeps = True
        self.asked: list[Json] = []

    async def sync(self, **query: Any) -> Json:
        self.asked.append(query)
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    async def put_filter(self, user_id: UserId, filter_json: str) -> str:
        if not self.keeps:
            raise MatrixError(404, "M_UNRECOGNIZED", "Unrecognized request")
        return str(hash(filter_json))

    def source(self, *rooms: SyncedRooms) -> SyncSource:
        following = list(rooms)
        return SyncSource(
            cast("MatrixClient", self),
            UserId("@a:example.org"),
            lambda: following.pop(0) if len(following) > 1 else following[0],
            state_types=(),
        )


async def take(source: SyncSource, count: int) -> list[EventBatch]:
    """Take in `count` batches and be handed one more, which is not taken in."""
    batches: list[EventBatch] = []
    async with aclosing(source.batches()) as stream:
        async for batch in stream:
            batches.append(batch)
            if len(batches) > count:
                break
    return batches


def test_the_position_moves_on_once_a_batch_was_taken_in_and_outlives_the_loop() -> None:
    server = Homeserver(answer("p0", {}), *(answer(f"p{n}", {OWN: [event(f"${n}")]}) for n in range(1, 4)))
    source = server.source(SyncedRooms(OWN))
    assert [ids(batch) for batch in asyncio.run(take(source, 1))] == [["$1"], ["$2"]]
    asyncio.run(take(source, 0))
    assert [query.get("since") for query in server.asked] == [None, "p0", "p1", "p1"]
    assert server.asked[0]["filter_json"] == POSITION_ONLY
    assert server.asked[2]["timeout_s"] != server.asked[3]["timeout_s"], "Synapse would answer from its cache"


def test_where_the_homeserver_keeps_no_filter_it_is_sent_with_each_sync() -> None:
    server = Homeserver(*(answer(f"p{n}", {}) for n in range(3)))
    server.keeps = False
    asyncio.run(take(server.source(SyncedRooms(OWN)), 1))
    assert [OWN in query["filter_json"] for query in server.asked] == [False, True, True]


def test_an_answer_that_fails_or_names_no_position_ends_the_loop_and_keeps_the_position() -> None:
    server = Homeserver(
        answer("p0", {}), HomeserverUnavailableError("down"), {"rooms": {}}, answer("p1", {OWN: [event("$1")]})
    )
    source = server.source(SyncedRooms(OWN))
    for error in (HomeserverUnavailableError, MatrixError):
        with pytest.raises(error):
            asyncio.run(take(source, 0))
    [batch] = asyncio.run(take(source, 0))
    assert (ids(batch), server.asked[-1]["since"]) == (["$1"], "p0")


def test_a_room_has_a_gap_when_it_is_followed_from_now_on_and_where_the_server_says_so() -> None:
    server = Homeserver(answer("p0", {}), *(answer(f"p{n}", {OWN: []}, limited=(OWN,)[n - 2 :]) for n in (1, 2, 3)))
    source = server.source(SyncedRooms(OWN), SyncedRooms(OWN), ROOMS)
    assert [batch.gaps for batch in asyncio.run(take(source, 2))] == [{OWN}, {OWN}, {SPACE, ALL}]
    assert [query["timeout_s"] > 1 for query in server.asked] == [False, False, True, False], (
        "a new room is said at once"
    )


async def test_no_two_daemons_ask_for_the_latest_messages_in_the_same_words_which_have_an_old_answer() -> None:
    asked: list[tuple[Any, ...]] = []

    class Homeserver:
        async def sync(self, *, filter_json: str, since: str | None, timeout_s: float) -> dict[str, Any]:
            asked.append((filter_json, since, timeout_s))
            return {"next_batch": "s1"}

    for _ in range(20):
        latest = LatestMessages(cast("MatrixClient", Homeserver()))
        for _ in range(3):
            assert await latest.look() == []
    first = [each for each in asked if each[1] is None]
    assert (len(first), len(set(first))) == (20, 20)
    assert len(set(asked[:3])) == 3


async def test_a_position_that_the_homeserver_does_not_know_is_forgotten() -> None:
    asked: list[str | None] = []

    class Restored:
        async def sync(self, *, filter_json: str, since: str | None, timeout_s: float) -> dict[str, Any]:
            asked.append(since)
            if since is not None:
                raise MatrixError(400, "M_UNKNOWN", "no such position")
            return {"next_batch": "s1"}

    latest = LatestMessages(cast("MatrixClient", Restored()))
    await latest.look()
    with pytest.raises(MatrixError):
        await latest.look()
    await latest.look()
    assert asked == [None, "s1", None]
