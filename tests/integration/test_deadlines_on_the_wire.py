"""Deadlines of `MatrixClient`, and the queue of writes to a room: nothing waits for ever, nothing is left locked."""

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from aiagentchat.errors import HomeserverUnavailableError, MatrixNotFoundError, RateLimitedError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId, UserId
from tests.integration.fake_homeserver import LIMITED, TOKEN, Answer, Cut, FakeHomeserver, fake_homeserver
from tests.integration.matrix_calls import ROOM, SOON_S, USER, WRITES, failure_within, in_rooms_of_their_own

ROOM_PATH = "/rooms/%21room%2F1/"


@pytest.fixture
def client(fake: FakeHomeserver, http: aiohttp.ClientSession) -> MatrixClient:
    return fake.client(http)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.005)


# --- deadlines


@pytest.mark.parametrize("fault", [Answer(502), Cut(), Answer(200, b"{")], ids=str)
async def test_a_homeserver_that_stays_ill_is_given_up_within_the_deadline(
    fake: FakeHomeserver, http: aiohttp.ClientSession, fault: Answer | Cut
) -> None:
    fake.always = fault
    call = WRITES["send"](fake.client(http, timeout_s=1.0), ROOM)
    error = await failure_within(2.0, call, HomeserverUnavailableError)
    assert not isinstance(error, RateLimitedError)
    assert len(fake.seen) > 1


async def test_a_homeserver_that_is_not_there_is_given_up_with_its_address_and_the_reason(
    http: aiohttp.ClientSession,
) -> None:
    async with fake_homeserver() as fake:
        client = fake.client(http, timeout_s=0.5)
    error = await failure_within(2.0, client.whoami(), HomeserverUnavailableError)
    assert fake.url in error.message
    assert "Connect" in error.message
    assert client.stats.last_failure


async def test_a_homeserver_that_never_answers_is_given_up_at_the_deadline(
    fake: FakeHomeserver, http: aiohttp.ClientSession
) -> None:
    fake.open.clear()
    await failure_within(2.0, fake.client(http, timeout_s=0.3).whoami(), HomeserverUnavailableError)


async def test_a_long_poll_is_given_the_time_that_the_server_may_take_on_top_and_no_more(
    fake: FakeHomeserver, http: aiohttp.ClientSession
) -> None:
    fake.open.clear()
    clock = asyncio.get_running_loop().time
    began = clock()
    poll = fake.client(http, timeout_s=0.3).sync(filter_json="{}", timeout_s=0.6)
    await failure_within(3.0, poll, HomeserverUnavailableError)
    assert clock() - began >= 0.9


async def test_waiting_for_earlier_writes_to_the_room_is_within_the_deadline(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    fake.open.clear()
    first = asyncio.create_task(WRITES["send"](client, ROOM))
    await until(lambda: len(fake.seen) == 1)
    hasty = client.as_user(USER)
    hasty._timeout_s = 0.2
    error = await failure_within(2.0, WRITES["put_state"](hasty, ROOM), HomeserverUnavailableError)
    assert "earlier writes" in error.message
    assert len(fake.seen) == 1, "it was never sent"
    fake.open.set()
    await first


async def test_a_good_answer_ends_what_was_said_of_a_failure(fake: FakeHomeserver, http: aiohttp.ClientSession) -> None:
    client = fake.client(http, timeout_s=0.2)
    fake.always = Answer(503)
    await failure_within(2.0, client.whoami(), HomeserverUnavailableError)
    assert client.stats.last_failure in ("HTTP 503 M_UNKNOWN", "TimeoutError"), "its last try may be cut short"
    assert client.stats.last_success_at is None
    fake.always = Answer(404, {"errcode": "M_NOT_FOUND"})
    await failure_within(2.0, client.whoami(), MatrixNotFoundError)
    assert client.stats.last_failure == ""
    assert client.stats.last_success_at is not None


async def test_the_clock_of_the_homeserver_is_taken_from_its_answers_and_nonsense_is_passed_over(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    fake.always = Answer(body={}, headers={"Date": "Fri, 01 Jan 2038 00:00:00 GMT"})
    await client.versions()
    assert 0 <= client.server_now_ms() - 2_145_916_800_000 < SOON_S * 1000
    fake.always = Answer(body={}, headers={"Date": "the day after " + "9" * 30})
    await client.versions()
    assert 0 <= client.server_now_ms() - 2_145_916_800_000 < SOON_S * 1000


# --- the queue of a room


async def test_writes_to_one_room_go_one_after_the_other_whoever_writes_and_in_their_order(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    writers = [client, client.as_user(UserId("@aiagentchat-b:example.org")), client.with_token(TOKEN)]
    fake.open.clear()
    writing = asyncio.gather(*(call(writer, ROOM) for call in WRITES.values() for writer in writers))
    await until(lambda: fake.inside == 1)
    await client.versions()  # what else had been sent would have come in before this
    assert fake.inside == 1
    fake.open.set()
    await asyncio.wait_for(writing, SOON_S)
    assert fake.most_inside == 1
    kinds = [request.raw_path.split("/")[6].partition("?")[0] for request in fake.seen if ROOM_PATH in request.raw_path]
    assert kinds == [kind for kind in ("send", "state", "invite", "kick", "leave") for _ in writers]


async def test_writes_to_different_rooms_and_reads_of_the_same_one_do_not_wait(
    fake: FakeHomeserver, client: MatrixClient
) -> None:
    fake.open.clear()
    room = RoomId("!send")
    reading = asyncio.gather(client.get_state(room, "io.x"), client.get_full_state(room), return_exceptions=True)
    writing = asyncio.create_task(in_rooms_of_their_own(client, WRITES))
    await until(lambda: fake.inside == len(WRITES) + 2)
    fake.open.set()
    await asyncio.wait_for(asyncio.gather(reading, writing), SOON_S)


@pytest.mark.parametrize("when", ["in flight", "backing off", "waiting for its turn"])
async def test_a_cancelled_write_leaves_the_room_to_the_next_one(
    fake: FakeHomeserver, client: MatrixClient, when: str
) -> None:
    if when == "backing off":
        fake.faults = (Answer(429, LIMITED | {"retry_after_ms": 20_000}),)
    else:
        fake.open.clear()
    first, second, third = (
        asyncio.create_task(client.send(ROOM, "m.room.message", {}, txn_id)) for txn_id in ("t1", "t2", "t3")
    )
    await until(lambda: len(fake.seen) == 1 and (fake.inside == 1 or client.stats.retries == 1))
    cancelled = second if when == "waiting for its turn" else first
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    fake.open.set()
    fake.faults = ()
    await asyncio.wait_for(asyncio.gather(*({first, second, third} - {cancelled})), SOON_S)
    assert sum("/t2" in request.raw_path for request in fake.seen) == (when != "waiting for its turn")
    del first, second, third, cancelled
    assert len(client._shared.writes) == 0, "nothing is kept for a room that nobody writes to"
