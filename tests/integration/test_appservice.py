"""The receiver of pushed transactions: who may push, and that nothing is answered before it was taken in."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from io import BytesIO

import aiohttp
import pytest

from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.matrix.appservice import AppserviceReceiver
from aiagentchat.matrix.events import EventBatch
from aiagentchat.model import EventId
from aiagentchat.registration import Registration
from tests.integration.matrix_calls import SOON_S
from tests.integration.systems import Synapse


@pytest.fixture(scope="session")
def mode() -> str:
    """Application service alone: the pushed transport is what is tested here."""
    return "appservice"


HS_TOKEN = "hs-sécret"
EVENT = {
    "event_id": "$1",
    "room_id": "!room",
    "sender": "@alice:example.org",
    "type": "m.room.message",
    "content": {"body": "hello"},
    "origin_server_ts": 1_700_000_000_000,
}
ROUTES = [("PUT", "transactions/1"), ("POST", "ping"), ("GET", "users/@x:example.org"), ("GET", "rooms/%23x:y")]


class ReaderFailedError(Exception):
    """What a reader of batches fails with."""


class Pushing:
    """Plays the homeserver that pushes to a receiver."""

    def __init__(self, receiver: AppserviceReceiver, registration: Registration, http: aiohttp.ClientSession) -> None:
        self.receiver = receiver
        self._base = f"{registration.url}/_matrix/app/v1"
        self._http = http

    async def ask(
        self, method: str, route: str, body: bytes = b"{}", authorization: str | None = f"Bearer {HS_TOKEN}"
    ) -> int:
        """Return the status of the answer."""
        headers = {} if authorization is None else {"Authorization": authorization}
        async with self._http.request(method, f"{self._base}/{route}", data=BytesIO(body), headers=headers) as response:
            await response.read()
            return response.status

    def push(self, *events: object, txn_id: str = "1", body: bytes | None = None) -> asyncio.Task[int]:
        """Begin a transaction; its status is the result."""
        data = json.dumps({"events": events}).encode() if body is None else body
        return asyncio.create_task(self.ask("PUT", f"transactions/{txn_id}", data))

    async def is_quiet(self) -> bool:
        """Return whether, with all requests before this one come in, nothing waits to be read."""
        await self.ask("POST", "ping")
        return self.receiver._queue.empty()


async def start(registration: Registration) -> tuple[AppserviceReceiver, Registration]:
    """Listen on a port that nobody has."""
    while True:
        on_free_port = replace(registration, url=f"http://127.0.0.1:{any_free_port()}")
        receiver = AppserviceReceiver(on_free_port)
        try:
            await receiver.start()
        except OSError:  # somebody was faster
            await receiver.stop()
        else:
            return receiver, on_free_port


@pytest.fixture
async def homeserver(http: aiohttp.ClientSession) -> AsyncIterator[Pushing]:
    receiver, registration = await start(Registration("x", "", "x", "as-secret", HS_TOKEN))
    yield Pushing(receiver, registration, http)
    await receiver.stop()


async def done(task: asyncio.Task[int]) -> int:
    return await asyncio.wait_for(task, SOON_S)


# --- who may push


@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", HS_TOKEN, f"Basic {HS_TOKEN}", f"Bearer {HS_TOKEN}x", "Bearer ü"],
)
async def test_whoever_does_not_hold_the_homeservers_token_is_refused_and_nothing_is_taken(
    homeserver: Pushing, method: str, route: str, authorization: str | None
) -> None:
    assert await homeserver.ask(method, route, json.dumps({"events": [EVENT]}).encode(), authorization) == 403
    assert await homeserver.is_quiet()


async def test_a_token_in_bytes_that_are_no_text_is_refused_as_any_other(homeserver: Pushing) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", homeserver.receiver._registration.port)
    writer.write(b"POST /_matrix/app/v1/ping HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n")
    writer.write(b"Connection: close\r\nContent-Length: 0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), SOON_S)
    writer.close()
    await writer.wait_closed()
    assert b" 403 " in answer.splitlines()[0]


async def test_a_ping_is_answered_and_there_are_no_users_or_rooms_to_ask_for(homeserver: Pushing) -> None:
    assert [await homeserver.ask(method, route) for method, route in ROUTES[1:]] == [200, 404, 404]


# --- when a transaction is answered


async def test_a_transaction_is_answered_only_when_the_batch_after_it_is_asked_for(homeserver: Pushing) -> None:
    async with aclosing(homeserver.receiver.batches()) as batches:
        first = homeserver.push(EVENT, "no event")
        batch = await anext(batches)
        assert [event.event_id for event in batch.events] == ["$1"]
        assert batch.skipped == 1
        assert await homeserver.is_quiet()
        assert not first.done()
        assert homeserver.receiver.transactions == 0
        asking = asyncio.create_task(anext(batches))
        assert await done(first) == 200
        assert homeserver.receiver.transactions == 1
        second = homeserver.push(EVENT | {"event_id": "$2"}, txn_id="2")
        assert [event.event_id for event in (await asyncio.wait_for(asking, SOON_S)).events] == ["$2"]
    assert await done(second) == 503


async def test_what_a_failing_reader_had_is_refused_and_comes_again_to_the_next_one(homeserver: Pushing) -> None:
    """Lesson: Position saved before it was handled."""

    async def fail() -> None:
        async with aclosing(homeserver.receiver.batches()) as batches:
            async for _ in batches:
                raise ReaderFailedError

    pushed = homeserver.push(EVENT)
    with pytest.raises(ReaderFailedError):
        await fail()
    assert await done(pushed) == 503
    assert homeserver.receiver.transactions == 0
    again = homeserver.push(EVENT)
    assert [event.event_id for event in (await take(homeserver, again)).events] == ["$1"]


async def test_a_reader_that_is_cancelled_leaves_its_batch_to_be_sent_again(homeserver: Pushing) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async with aclosing(homeserver.receiver.batches()) as batches:
            async for _ in batches:
                reading.set()
                await asyncio.Event().wait()

    reader, pushed = asyncio.create_task(read()), homeserver.push(EVENT)
    await asyncio.wait_for(reading.wait(), SOON_S)
    reader.cancel()
    await asyncio.wait([reader])
    assert await done(pushed) == 503


async def test_a_transaction_id_that_comes_again_brings_its_new_events(homeserver: Pushing) -> None:
    """Synapse counts from 1 again after a restart."""
    for number in range(3):
        pushed = homeserver.push(EVENT | {"event_id": f"${number}"}, txn_id="1")
        assert [event.event_id for event in (await take(homeserver, pushed)).events] == [f"${number}"]


async def test_a_count_that_falls_back_is_a_loss_of_track_and_the_same_again_is_none(homeserver: Pushing) -> None:
    """Synapse was killed, and does not send what it had in hand then."""
    numbers = ("7", "8", "8", "odd", "1", "2")
    batches = [await take(homeserver, homeserver.push(EVENT, txn_id=number)) for number in numbers]
    assert [batch.lost_track for batch in batches] == [False, False, False, False, True, False]
    assert not any(batch.is_out_of_turn for batch in batches)


async def test_a_count_that_jumps_ahead_is_out_of_turn(homeserver: Pushing) -> None:
    numbers = ("3", "4", "7", "5", "6")
    batches = [await take(homeserver, homeserver.push(EVENT, txn_id=number)) for number in numbers]
    assert [batch.is_out_of_turn for batch in batches] == [False, False, True, False, False]
    assert [batch.lost_track for batch in batches] == [False, False, False, True, False]


async def take(homeserver: Pushing, pushed: asyncio.Task[int]) -> EventBatch:
    """Read one batch as a reader that goes on."""
    async with aclosing(homeserver.receiver.batches()) as batches:
        batch = await asyncio.wait_for(anext(batches), SOON_S)
        asking = asyncio.create_task(anext(batches))
        assert await done(pushed) == 200
        asking.cancel()
        await asyncio.wait([asking])
    return batch


async def test_a_homeserver_that_hangs_up_does_not_disturb_the_reader(homeserver: Pushing) -> None:
    async with aclosing(homeserver.receiver.batches()) as batches:
        hung_up = homeserver.push(EVENT)
        await asyncio.wait_for(anext(batches), SOON_S)
        hung_up.cancel()
        await asyncio.wait([hung_up])
        second = homeserver.push(EVENT | {"event_id": "$2"}, txn_id="2")
        batch = await asyncio.wait_for(anext(batches), SOON_S)
        assert [event.event_id for event in batch.events] == ["$2"]
    assert await done(second) == 503


async def test_stopping_waits_for_no_reader_and_refuses_what_was_not_taken(homeserver: Pushing) -> None:
    held, unread = homeserver.push(EVENT), homeserver.push(EVENT, txn_id="2")
    async with aclosing(homeserver.receiver.batches()) as batches:
        await asyncio.wait_for(anext(batches), SOON_S)
        await homeserver.ask("POST", "ping")  # the second has come in as well
        await asyncio.wait_for(homeserver.receiver.stop(), 0.9)  # sooner than handlers are cut off
        assert [await done(held), await done(unread)] == [503, 503]
    assert homeserver.receiver.transactions == 0


# --- what is pushed


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"<html>", b"\xff", b"[" * 200_000, b"9" * 5_000, b"[]", b"null", b"7", b'"events"'],
    ids=lambda body: repr(body[:8]),
)
async def test_a_body_that_is_no_json_object_is_refused_and_not_taken(homeserver: Pushing, body: bytes) -> None:
    assert await done(homeserver.push(body=body)) == 400
    assert await homeserver.is_quiet()


@pytest.mark.parametrize(
    ("body", "skipped"),
    [
        ({}, 0),
        ({"events": None}, 0),
        ({"events": {"a": EVENT}}, 0),
        ({"ephemeral": [{"type": "m.typing"}]}, 0),
        ({"events": [7, [], {}, EVENT | {"content": "x"}]}, 4),
    ],
    ids=str,
)
async def test_what_is_no_event_is_counted_and_holds_up_nothing(
    homeserver: Pushing, body: dict[str, object], skipped: int
) -> None:
    assert await take(homeserver, homeserver.push(body=json.dumps(body).encode())) == EventBatch((), skipped)


async def test_a_transaction_as_large_as_a_homeserver_makes_them_is_taken(homeserver: Pushing) -> None:
    events = [EVENT | {"event_id": f"${number}", "content": {"body": "x" * 64_000}} for number in range(100)]
    batch = await take(homeserver, homeserver.push(*events))
    assert [event.event_id for event in batch.events] == [f"${number}" for number in range(100)]


async def test_a_port_that_is_taken_is_said_and_the_receiver_can_be_stopped_all_the_same(homeserver: Pushing) -> None:
    second = AppserviceReceiver(homeserver.receiver._registration)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()
    assert await homeserver.ask("POST", "ping") == 200


# --- Synapse


async def test_synapse_sends_again_what_a_reader_failed_to_take(
    own_synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    client, registration = own_synapse.appservice(http), own_synapse.registration
    receiver = AppserviceReceiver(registration)
    await receiver.start()
    try:
        await client.ping_appservice(registration.id)
        room = await client.create_room({})
        event_id = await client.send(room, "m.room.message", {"msgtype": "m.text", "body": "hello"}, "t1")

        async def read_until(found: EventId, *, failing: bool) -> None:
            async with asyncio.timeout(SOON_S * 4), aclosing(receiver.batches()) as batches:
                async for batch in batches:
                    if found in [event.event_id for event in batch.events]:
                        if failing:
                            raise ReaderFailedError
                        return

        with pytest.raises(ReaderFailedError):
            await read_until(event_id, failing=True)
        again = asyncio.create_task(read_until(event_id, failing=False))
        await client.ping_appservice(registration.id)
        await again
    finally:
        await receiver.stop()
