"""A homeserver that fails as it is told: what a real one cannot be made to do (storms of 429s, cut connections).

It knows just enough of rooms, aliases, state and transactions for the contract that it shares with Synapse
(`test_matrix_client.py`). Every other request gets an answer that any method of our client can be content with.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiagentchat.matrix.client import MatrixClient
from tests.integration.matrix_calls import DEVICE, ROOM, USER

TOKEN = "a-secret-token"
LIMITED = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests"}
_UNCARING = {"room_id": "!room", "event_id": "$event", "user_id": "@someone:example.org", "start": "t1", "end": "t2"}
_UNCARING |= {"filter_id": "1", "content_uri": "mxc://example.org/abc"}


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer with this. `body` bytes go out as they are, everything else as JSON."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut the connection before the request was taken, after it, or in the middle of the answer."""

    taken: bool = False
    answering: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came in, byte for byte; `at` in seconds of the loop's clock."""

    at: float
    method: str
    raw_path: str
    body: bytes
    headers: dict[str, str]


class FakeHomeserver:
    """Scripted by its test.

    Attributes:
        url: where it listens. seen: all requests.
        faults: what the first requests to each method and path get, one after the other.
        always: what every request gets, where it is set. open: while it is cleared, requests wait at the door.
        inside: how many wait or are being answered now. most_inside: the most there ever were.
        rooms: creator of each room. events: event id of each transaction.
    """

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[Seen] = []
        self.faults: tuple[Answer | Cut, ...] = ()
        self.always: Answer | Cut | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.inside = 0
        self.most_inside = 0
        self.rooms: dict[str, str] = {}
        self.events: dict[str, str] = {}
        self._aliases = {"#known:example.org": str(ROOM)}
        self._state: dict[tuple[str, str, str], Any] = {}
        self._times: Counter[tuple[str, str]] = Counter()

    def client(self, session: aiohttp.ClientSession, *, timeout_s: float = 30.0) -> MatrixClient:
        return MatrixClient(self.url, TOKEN, session, timeout_s=timeout_s, user_id=USER, device_id=DEVICE)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        at = asyncio.get_running_loop().time()
        self.seen.append(Seen(at, request.method, request.raw_path, body, dict(request.headers)))
        path = request.rel_url.raw_path
        if not path.endswith("/versions"):  # which answers at any time, and tells that all before it came in
            self.inside += 1
            self.most_inside = max(self.inside, self.most_inside)
            await self.open.wait()
            self.inside -= 1
        time = self._times[request.method, path]
        self._times[request.method, path] += 1
        fault = self.faults[time] if time < len(self.faults) else self.always
        if isinstance(fault, Answer):
            return _response(fault)
        answer = Answer() if fault is not None and not fault.taken else self._answer(request, body)
        return _response(answer) if fault is None else await _cut(request, answering=fault.answering)

    def _answer(self, request: web.Request, body: bytes) -> Answer:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}" and not request.path.endswith("/versions"):
            return Answer(401, {"errcode": "M_UNKNOWN_TOKEN", "error": "unknown token"})
        user = request.query.get("user_id", "")
        content = json.loads(body) if body and "json" in request.headers.get("Content-Type", "") else {}
        match request.method, [unquote(part) for part in request.rel_url.raw_path.split("/")[4:]]:
            case "POST", ["createRoom"]:
                return self._create(user, content)
            case "GET", ["directory", "room", alias]:
                return _found({"room_id": self._aliases[alias]} if alias in self._aliases else None)
            case "PUT", ["rooms", room, "send" | "state", *_] if self.rooms.get(room, user) != user:
                return Answer(403, {"errcode": "M_FORBIDDEN", "error": "not in the room"})
            case "PUT", ["rooms", _, "send", _, _]:
                transaction = request.rel_url.raw_path
                return Answer(body={"event_id": self.events.setdefault(transaction, f"${len(self.events)}")})
            case "PUT", ["rooms", room, "state", kind, key]:
                self._state[room, kind, key] = content
                return Answer(body={"event_id": f"$state{len(self._state)}"})
            case "GET", ["rooms", room, "state", kind, key] if room in self.rooms:
                return _found(self._state.get((room, kind, key)))
            case "GET", ["rooms", _, "state"]:
                return Answer(body=[])
        return Answer(body=_UNCARING | {"joined_rooms": [], "chunk": [], "flows": []})

    def _create(self, user: str, content: dict[str, Any]) -> Answer:
        alias = content.get("room_alias_name")
        if alias is not None and f"#{alias}:example.org" in self._aliases:
            return Answer(400, {"errcode": "M_ROOM_IN_USE", "error": "taken"})
        room = f"!room{len(self.rooms)}"
        self.rooms[room] = user
        if alias is not None:
            self._aliases[f"#{alias}:example.org"] = room
        return Answer(body={"room_id": room})


@contextlib.asynccontextmanager
async def fake_homeserver() -> AsyncIterator[FakeHomeserver]:
    """Run one on a free port."""
    fake = FakeHomeserver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    async with TestServer(app) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake
        fake.open.set()


def _found(content: object) -> Answer:
    if content is None:
        return Answer(404, {"errcode": "M_NOT_FOUND", "error": "no such thing"})
    return Answer(body=content)


def _response(answer: Answer) -> web.Response:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    return web.Response(status=answer.status, body=body, headers=answer.headers, content_type="application/json")


async def _cut(request: web.Request, *, answering: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    if answering:
        await response.prepare(request)
        await response.write(b'{"event_id": "$tr')
    assert request.transport is not None
    request.transport.close()
    return response
