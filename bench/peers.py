"""What the daemon is measured beside: bare users, ordinary accounts, and pairs of clients that others have written."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import web

from aiagentchat.config import Paths
from aiagentchat.homeserver.operator import OperatorAccount, ensure_operator
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId, UserId
from bench.asked import ask
from bench.exchange import LATE_S, Arrivals, Content, Way
from bench.system import Bench

MESSAGE = "m.room.message"
SYNC_MS = 30_000


async def make_account(bench: Bench, name: str) -> OperatorAccount:
    """Return an ordinary account, made now, that is logged in."""
    home = bench.synapse.paths.data_dir / "peers" / name
    config = bench.synapse.config
    return await ensure_operator(config.base_url, Paths(config_dir=home, data_dir=home), config, name)


async def make_room(owner: MatrixClient, guest: MatrixClient, guest_id: UserId) -> RoomId:
    """Return a room of these two alone."""
    room_id = await owner.create_room({"preset": "private_chat", "invite": [guest_id]})
    return await guest.join_room(room_id)


class BareRequests:
    """Requests of one user, and nothing between them and the wire.

    `acting_as`: by an application service's token; `device_id`: with it, so that the homeserver keeps what was sent.
    """

    def __init__(
        self,
        base_url: str,
        http: aiohttp.ClientSession,
        token: str,
        *,
        acting_as: UserId | None = None,
        device_id: str | None = None,
    ) -> None:
        self._base = f"{base_url}/_matrix/client/v3"
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}"}
        identity = {"user_id": acting_as, "device_id": device_id}
        query = urlencode({key: value for key, value in identity.items() if value is not None})
        self._query = f"?{query}" if query else ""
        self._numbers = count()

    async def send(self, room_id: RoomId, content: Content) -> str:
        """Send a message; return its event id."""
        txn_id = f"{id(self)}-{next(self._numbers)}"  # of this user alone, as it is an application service's
        url = f"{self._base}/rooms/{quote(room_id, safe='')}/send/{MESSAGE}/{txn_id}{self._query}"
        return str((await self._call("PUT", url, json=content))["event_id"])

    async def put_filter(self, user_id: UserId, room_id: RoomId) -> str:
        """Return the id of a filter that lets the messages of one room through, and nothing else."""
        nothing: dict[str, Any] = {"types": []}
        room = {"timeline": {"types": [MESSAGE]}} | dict.fromkeys(("state", "ephemeral", "account_data"), nothing)
        what = {"presence": nothing, "account_data": nothing, "room": {"rooms": [room_id], **room}}
        url = f"{self._base}/user/{quote(user_id)}/filter"
        return str((await self._call("POST", url, json=what))["filter_id"])

    async def sync(self, filter_id: str, arrivals: Arrivals, ready: asyncio.Event) -> None:
        """Note what arrives, for ever; `ready` is set as soon as it listens."""
        url = f"{self._base}/sync?filter={filter_id}&set_presence=offline"
        since = (await self._call("GET", url))["next_batch"]
        ready.set()
        while True:
            answer = await self._call("GET", f"{url}&timeout={SYNC_MS}&since={quote(since)}")
            for room in answer.get("rooms", {}).get("join", {}).values():
                for event in room["timeline"]["events"]:
                    arrivals.note(event["event_id"])
            since = answer["next_batch"]

    async def _call(self, method: str, url: str, **how: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await ask(self._http, method, url, self._headers, **how))
        return answer


@contextlib.asynccontextmanager
async def receiving(bench: Bench, arrivals: Arrivals | None = None) -> AsyncIterator[None]:
    """Take what the homeserver pushes to the bare application service, and note it. Before it has users."""

    async def take(request: web.BaseRequest) -> web.Response:
        if request.method != "PUT":  # whether there is a user, or an alias, that it claims and has not made
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        for event in json.loads(await request.read()).get("events", ()):
            if arrivals is not None:
                arrivals.note(event["event_id"])
        return web.json_response({})

    runner = web.ServerRunner(web.Server(take), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", bench.bare.port).start()
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def bare_appservice(bench: Bench, what: str, with_person: str) -> AsyncIterator[tuple[Way, Way]]:
    """Give the way from one bare user to another, to which the homeserver pushes; and in a room with a person in it."""
    arrivals = Arrivals()
    async with aiohttp.ClientSession() as http, receiving(bench, arrivals):
        (writer, owner), (reader, guest) = [await bench.bare_user(http, name) for name in ("writer", "reader")]
        requests = BareRequests(bench.synapse.config.base_url, http, bench.bare.as_token, acting_as=writer)

        def way(what: str, room_id: RoomId) -> Way:
            return Way(what, lambda content: requests.send(room_id, content), arrivals)

        alone, watched = [await make_room(owner, guest, reader) for _ in range(2)]
        await owner.invite(watched, bench.synapse.operator.user_id)
        await bench.synapse.operator_client(http).join_room(watched)
        yield way(what, alone), way(with_person, watched)


@contextlib.asynccontextmanager
async def _two_accounts(
    bench: Bench, stem: str, http: aiohttp.ClientSession
) -> AsyncIterator[tuple[OperatorAccount, OperatorAccount, RoomId, str]]:
    """Give two accounts, their room, and the id of the second's filter."""
    writer, reader = [await make_account(bench, f"{stem}-{name}") for name in ("writer", "reader")]
    base_url = bench.synapse.config.base_url
    owner, guest = (MatrixClient(base_url, each.access_token, http) for each in (writer, reader))
    room_id = await make_room(owner, guest, reader.user_id)
    filter_id = await BareRequests(base_url, http, reader.access_token).put_filter(reader.user_id, room_id)
    yield writer, reader, room_id, filter_id


@contextlib.asynccontextmanager
async def bare_accounts(bench: Bench, what: str, *, all_sync: bool = False) -> AsyncIterator[Way]:
    """Give the way from one bare account to another, which syncs.

    `all_sync`: a person is in the room too, and all three sync, as in the room of an agent.
    """
    arrivals, stem = Arrivals(), "all-sync" if all_sync else "raw"
    base_url = bench.synapse.config.base_url
    async with (
        aiohttp.ClientSession() as http,
        _two_accounts(bench, stem, http) as (writer, reader, room_id, filter_id),
        contextlib.AsyncExitStack() as stack,
    ):
        if all_sync:
            person = await make_account(bench, f"{stem}-person")
            await MatrixClient(base_url, writer.access_token, http).invite(room_id, person.user_id)
            await MatrixClient(base_url, person.access_token, http).join_room(room_id)
            for each in (person, writer):
                kept = await BareRequests(base_url, http, each.access_token).put_filter(each.user_id, room_id)
                await stack.enter_async_context(_syncing(base_url, http, each, kept, Arrivals()))
        await stack.enter_async_context(_syncing(base_url, http, reader, filter_id, arrivals))
        requests = BareRequests(base_url, http, writer.access_token)
        yield Way(what, lambda content: requests.send(room_id, content), arrivals)


@contextlib.asynccontextmanager
async def _syncing(
    base_url: str, http: aiohttp.ClientSession, account: OperatorAccount, filter_id: str, arrivals: Arrivals
) -> AsyncIterator[None]:
    """Have an account sync, from the beginning on. What its sync raises ends what is done meanwhile."""
    ready, requests = asyncio.Event(), BareRequests(base_url, http, account.access_token)
    async with asyncio.TaskGroup() as group:
        syncing = group.create_task(requests.sync(filter_id, arrivals, ready))
        async with asyncio.timeout(LATE_S):
            await ready.wait()
        yield
        syncing.cancel()


@contextlib.asynccontextmanager
async def nio_pair(bench: Bench, what: str) -> AsyncIterator[Way]:
    """Give the way from one client of `matrix-nio` to another, which syncs."""
    from nio import (  # type: ignore[import-untyped]  # noqa: PLC0415
        AsyncClient,
        AsyncClientConfig,
        MatrixRoom,
        RoomMessageText,
        RoomSendResponse,
    )

    arrivals = Arrivals()

    def client_of(account: OperatorAccount) -> AsyncClient:
        config = AsyncClientConfig(encryption_enabled=False)
        client = AsyncClient(bench.synapse.config.base_url, account.user_id, config=config)
        client.restore_login(account.user_id, account.device_id, account.access_token)
        return client

    async def note(_: MatrixRoom, event: RoomMessageText) -> None:
        arrivals.note(event.event_id)

    async with (
        aiohttp.ClientSession() as http,
        _two_accounts(bench, "nio", http) as (writer, reader, room_id, filter_id),
    ):
        sender, receiver = client_of(writer), client_of(reader)

        async def send(content: Content) -> str:
            answer = await sender.room_send(room_id, MESSAGE, content)
            assert isinstance(answer, RoomSendResponse), answer
            return str(answer.event_id)

        receiver.add_event_callback(note, RoomMessageText)
        syncing = asyncio.create_task(
            receiver.sync_forever(timeout=SYNC_MS, sync_filter=filter_id, set_presence="offline")
        )
        try:
            async with asyncio.timeout(LATE_S):
                await receiver.synced.wait()
            yield Way(what, send, arrivals)
        finally:
            syncing.cancel()
            await sender.close()
            await receiver.close()


@contextlib.asynccontextmanager
async def mautrix_pair(bench: Bench, what: str) -> AsyncIterator[Way]:
    """Give the way from one client of `mautrix` to another, which syncs."""
    from mautrix.client import Client, InternalEventType  # noqa: PLC0415 - nothing but `make bench` has it
    from mautrix.types import EventType, PresenceState  # noqa: PLC0415

    arrivals, ready = Arrivals(), asyncio.Event()

    def client_of(account: OperatorAccount) -> Any:
        return Client(
            mxid=account.user_id,
            device_id=account.device_id,
            base_url=bench.synapse.config.base_url,
            token=account.access_token,
        )

    async def note(event: Any) -> None:
        arrivals.note(event.event_id)

    async def note_ready(_: Any) -> None:
        ready.set()

    async with aiohttp.ClientSession() as http, _two_accounts(bench, "mautrix", http) as found:
        writer, reader, room_id, filter_id = found
        sender, receiver = client_of(writer), client_of(reader)

        async def send(content: Content) -> str:
            return str(await sender.send_message_event(room_id, EventType.ROOM_MESSAGE, content))

        receiver.presence = PresenceState.OFFLINE
        receiver.ignore_initial_sync = True
        receiver.add_event_handler(EventType.ROOM_MESSAGE, note)
        receiver.add_event_handler(InternalEventType.SYNC_SUCCESSFUL, note_ready)
        receiver.start(filter_id)
        try:
            async with asyncio.timeout(LATE_S):
                await ready.wait()
            yield Way(what, send, arrivals)
        finally:
            receiver.stop()
            await sender.api.session.close()
            await receiver.api.session.close()
