"""The pushed transport: the receiver that Synapse sends transactions to.

The application-service API (https://spec.matrix.org/latest/application-service-api/). A transaction is answered only
once its events were taken in, so that Synapse sends again what a crash of ours lost. Transactions are never
deduplicated by their id: Synapse counts from 1 again after a restart, with new events. What it had in hand when it was
killed it does not send at all, so that a count that falls back is a loss of track. One that jumps ahead may be one too,
or the count of another application service, with which it is shared.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from aiohttp import web

from aiagentchat.matrix.events import EventBatch, parse_events
from aiagentchat.registration import Registration

_TRANSACTION_LIMIT_BYTES = 64 * 1024 * 1024
"""Synapse sends up to 100 events of up to 64 kB in one transaction; the rest is room for ephemeral data."""
_QUEUED_TRANSACTIONS = 8


class AppserviceReceiver:
    """Listens where the registration says, verifies `hs_token`, and yields each transaction's events as a batch.

    Args:
        host: the address of this machine to listen on, at the registration's port.
    """

    def __init__(self, registration: Registration, host: str = "127.0.0.1") -> None:
        self._registration = registration
        self._host = host
        self._queue: asyncio.Queue[tuple[EventBatch, asyncio.Future[bool]]] = asyncio.Queue(_QUEUED_TRANSACTIONS)
        self._untaken: set[asyncio.Future[bool]] = set()
        self._runner: web.AppRunner | None = None
        self._latest: int | None = None
        self.transactions = 0

    @property
    def untaken(self) -> int:
        """How many transactions are here that were not taken in yet."""
        return len(self._untaken)

    async def start(self) -> None:
        """Listen. Raises `OSError` when the port is taken."""
        app = web.Application(client_max_size=_TRANSACTION_LIMIT_BYTES)
        base = "/_matrix/app/v1"
        app.router.add_put(base + "/transactions/{txn_id}", self._transaction)
        app.router.add_post(base + "/ping", self._ping)
        app.router.add_get(base + "/users/{user_id}", self._query)
        app.router.add_get(base + "/rooms/{alias}", self._query)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._registration.port).start()

    async def stop(self) -> None:
        """Stop listening. What was not taken in is refused, and sent again by the homeserver."""
        for taken in self._untaken:
            _settle(taken, is_taken=False)
        if self._runner is not None:
            await self._runner.cleanup()

    async def batches(self) -> AsyncGenerator[EventBatch, None]:
        """Yield batches; a transaction is answered when the batch after it is asked for.

        A reader that ends or fails closes this generator (`contextlib.aclosing`): what it held comes again.
        """
        while True:
            batch, taken = await self._queue.get()
            is_taken = False
            try:
                yield batch
                is_taken = True
            finally:
                _settle(taken, is_taken=is_taken)

    def _verify(self, request: web.Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        expected = self._registration.hs_token if scheme == "Bearer" else ""
        # aiohttp makes bytes that are no text into halves of surrogate pairs
        if not expected or not hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode()):
            raise web.HTTPForbidden(text=json.dumps({"errcode": "M_FORBIDDEN"}), content_type="application/json")

    async def _transaction(self, request: web.Request) -> web.Response:
        self._verify(request)
        try:
            body: Any = json.loads(await request.read())
        except (ValueError, RecursionError):
            return web.json_response({"errcode": "M_NOT_JSON"}, status=400)
        if not isinstance(body, dict):
            return web.json_response({"errcode": "M_BAD_JSON"}, status=400)
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._untaken.add(taken)
        try:
            number = _number(request.match_info["txn_id"])
            batch = self._in_turn(parse_events(body.get("events")), number)
            await self._queue.put((batch, taken))
            self._latest = self._latest if number is None else number
            is_taken = await taken
        finally:
            self._untaken.discard(taken)
        if not is_taken:
            return web.json_response({"errcode": "M_UNKNOWN"}, status=503)
        self.transactions += 1
        return web.json_response({})

    def _in_turn(self, batch: EventBatch, number: int | None) -> EventBatch:
        """Return a transaction's events with what is known to be missing before them."""
        before = self._latest
        if before is None or number is None or number in (before, before + 1):  # the same again is a repeat
            return batch
        if number < before:
            return replace(batch, lost_track=True)
        return replace(batch, is_out_of_turn=True)

    async def _ping(self, request: web.Request) -> web.Response:
        self._verify(request)
        return web.json_response({})

    async def _query(self, request: web.Request) -> web.Response:
        self._verify(request)
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)


def _number(txn_id: str) -> int | None:
    return int(txn_id) if txn_id.isascii() and txn_id.isdigit() and len(txn_id) < 16 else None


def _settle(taken: asyncio.Future[bool], *, is_taken: bool) -> None:
    if not taken.done():  # the homeserver may have hung up meanwhile
        taken.set_result(is_taken)
