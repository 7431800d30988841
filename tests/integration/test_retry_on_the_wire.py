"""Retry in `MatrixClient`, for each of its requests, against a homeserver that fails on purpose."""

import asyncio
import inspect
from itertools import pairwise

import aiohttp
import pytest

from aiagentchat.errors import (
    AiAgentChatError,
    HomeserverUnavailableError,
    InvalidRequestError,
    MatrixConflictError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
    RateLimitedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomAlias, RoomId
from tests.integration.fake_homeserver import LIMITED, TOKEN, Answer, Cut, FakeHomeserver, Seen
from tests.integration.matrix_calls import CALLS, ROOM, SOON_S, failure_within, in_rooms_of_their_own

EVERY = pytest.mark.parametrize("name", CALLS)


@pytest.fixture
def client(fake: FakeHomeserver, http: aiohttp.ClientSession) -> MatrixClient:
    return fake.client(http)


def gaps(seen: list[Seen]) -> list[float]:
    return [later.at - earlier.at for earlier, later in pairwise(seen)]


def test_every_request_that_the_client_has_is_tried_here() -> None:
    methods = inspect.getmembers(MatrixClient, inspect.iscoroutinefunction)
    assert {name for name, _ in methods if not name.startswith("_")} == set(CALLS)


# --- 429


@EVERY
async def test_a_429_is_waited_out_as_its_body_says_and_the_same_request_comes_again(
    fake: FakeHomeserver, client: MatrixClient, name: str
) -> None:
    fake.faults = (Answer(429, LIMITED | {"retry_after_ms": 120}, {"Retry-After": "9"}),)
    async with asyncio.timeout(SOON_S):
        await CALLS[name](client, ROOM)
    first, second = fake.seen
    assert second.at - first.at >= 0.12
    assert (second.method, second.raw_path, second.body) == (first.method, first.raw_path, first.body)
    assert second.headers == first.headers
    assert client.stats.retries == 1


@EVERY
async def test_a_429_that_asks_for_more_than_is_left_fails_at_once(
    fake: FakeHomeserver, client: MatrixClient, name: str
) -> None:
    fake.always = Answer(429, LIMITED | {"retry_after_ms": 326_599_000})
    error = await failure_within(SOON_S, CALLS[name](client, ROOM), RateLimitedError)
    assert "326599.0 s" in error.message
    assert TOKEN not in error.message + error.hint
    assert len(fake.seen) == 1


async def test_a_429_with_a_header_alone_is_waited_out_as_it_says_by_every_request(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    fake.faults = (Answer(429, b"<html>", {"Retry-After": "1"}),)
    done = await in_rooms_of_their_own(client)
    assert [name for name, result in done.items() if isinstance(result, BaseException)] == []
    assert len(fake.seen) == 2 * len(CALLS)
    requests: dict[tuple[str, str], list[Seen]] = {}
    for request in fake.seen:
        requests.setdefault((request.method, request.raw_path), []).append(request)
    assert [key for key, seen in requests.items() if len(seen) != 2 or gaps(seen)[0] < 1.0] == []


async def test_a_429_without_any_wait_is_backed_off_from_by_every_request(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    fake.faults = (Answer(429, LIMITED), Answer(429, LIMITED | {"retry_after_ms": 0}))
    done = await in_rooms_of_their_own(client)
    assert [name for name, result in done.items() if isinstance(result, BaseException)] == []
    sent = [request for request in fake.seen if "/send/" in request.raw_path]
    first, second = gaps(sent)
    assert first >= 0.125
    assert second >= 0.25, "the second wait is longer"


async def test_a_storm_of_every_fault_ends_in_success_for_every_request(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    limited = Answer(429, LIMITED | {"retry_after_ms": 60})
    fake.faults = (Answer(503), Cut(), Answer(502, b"<html>"), Answer(200, b"{"), *[limited] * 10)
    done = await in_rooms_of_their_own(client)
    failed = {name: result for name, result in done.items() if isinstance(result, BaseException)}
    assert set(failed) == {"download", "download_in_the_open"}, "a 503 says that there is none of this file"
    assert {type(error) for error in failed.values()} == {MatrixError}


async def test_a_storm_that_does_not_end_is_left_within_the_deadline(
    fake: FakeHomeserver, http: aiohttp.ClientSession
) -> None:
    """Lesson: A rate limit that loses, or waits without end."""
    fake.always = Answer(429, LIMITED | {"retry_after_ms": 100})
    client = fake.client(http, timeout_s=1.5)
    done = await asyncio.wait_for(in_rooms_of_their_own(client), SOON_S)
    kinds = {type(result) for result in done.values()}
    # The last attempt may still be on the wire when the deadline passes.
    assert RateLimitedError in kinds <= {RateLimitedError, HomeserverUnavailableError}


# --- other faults


@pytest.mark.parametrize(
    "fault",
    [
        Answer(502, b"<html>Bad Gateway</html>"),
        Answer(503, b""),
        Answer(504, {"errcode": "M_UNKNOWN"}),
        Cut(),
        Cut(taken=True),
        Cut(taken=True, answering=True),
        *(Answer(200, body) for body in (b"", b"<html>", b'{"event_id": "$tr', b'{"a": "\xff"}', b"null", b"[]")),
        Answer(200, b"[" * 100_000),
        Answer(200, b"9" * 5_000),
        Answer(200, b"{}", {"Content-Encoding": "gzip"}),
    ],
    ids=lambda fault: str(fault)[:60],
)
async def test_a_message_survives_every_fault_and_is_one_message(
    fake: FakeHomeserver, client: MatrixClient, fault: Answer | Cut
) -> None:
    """Lesson: A rate limit that loses, or waits without end."""
    fake.faults = (fault, fault) if isinstance(fault, Cut) else (fault,)  # aiohttp mends a single cut by itself
    async with asyncio.timeout(SOON_S):
        assert await CALLS["send"](client, ROOM) == "$0"
    assert len(fake.seen) == len(fake.faults) + 1
    assert len({(request.raw_path, request.body) for request in fake.seen}) == 1
    assert list(fake.events) == ["/_matrix/client/v3/rooms/%21room%2F1/send/m.room.message/t1"]
    identity = "user_id=%40aiagentchat-a%3Aexample.org&device_id=AIAGENTCHAT&org.matrix.msc3202.device_id=AIAGENTCHAT"
    assert fake.seen[-1].raw_path.endswith(f"/t1?{identity}")


async def test_a_room_whose_creation_was_not_confirmed_is_a_conflict_and_never_a_second_room(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    fake.faults = (Cut(taken=True),)
    with pytest.raises(MatrixConflictError):
        await client.create_room({"room_alias_name": "aiagentchat-a"})
    assert len(fake.rooms) == 1
    assert await client.resolve_room_alias(RoomAlias("#aiagentchat-a:example.org")) in fake.rooms


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, MatrixError),
        (400, MatrixError),
        (401, MatrixUnauthorizedError),
        (403, MatrixForbiddenError),
        (404, MatrixNotFoundError),
        (409, MatrixConflictError),
        (413, MatrixError),
        (500, MatrixError),
    ],
)
async def test_a_final_answer_is_raised_at_once_by_every_request(
    fake: FakeHomeserver, client: MatrixClient, status: int, kind: type[MatrixError]
) -> None:
    fake.always = Answer(status, {"errcode": "M_X", "error": "no"}, {"Location": f"{fake.url}/elsewhere"})
    done = await in_rooms_of_their_own(client)
    missing = {"delete_room_alias", "get_avatar", "upload_limit"}
    harmless = {404: missing, 409: {"register_appservice_user"}}.get(status, set())
    assert {name for name, result in done.items() if result is None} == harmless
    assert {type(result) for name, result in done.items() if name not in harmless} == {kind}
    assert len(fake.seen) == len(CALLS), "nothing is repeated, and no redirect is followed"


@pytest.mark.parametrize("value", [None, 7, [None], {"a": None}, "missing"], ids=repr)
async def test_an_answer_that_is_json_of_another_shape_is_a_typed_error_or_harmless(
    fake: FakeHomeserver, http: aiohttp.ClientSession, value: object
) -> None:
    keys = ("room_id", "event_id", "user_id", "chunk", "start", "end", "joined_rooms", "capabilities")
    fake.always = Answer(body={} if value == "missing" else dict.fromkeys(keys, value))
    done = await in_rooms_of_their_own(fake.client(http, timeout_s=3.0))
    assert {type(done[name]) for name in ("send", "create_room", "whoami", "get_tokens_around")} == {MatrixError}
    assert isinstance(done["get_full_state"], HomeserverUnavailableError), "an object where a list is due"
    failed = {name: result for name, result in done.items() if isinstance(result, BaseException)}
    assert [name for name, result in failed.items() if not isinstance(result, AiAgentChatError)] == []


async def test_half_a_surrogate_pair_is_refused_before_anything_is_sent(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    with pytest.raises(InvalidRequestError):
        await client.send(ROOM, "m.room.message", {"body": "\ud800"}, "t1")
    with pytest.raises(InvalidRequestError):
        await client.join_room(RoomId("!\udfff"))
    assert fake.seen == []
