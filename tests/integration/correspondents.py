"""Who writes to whom in the tests of the gateway: attached agents, and people with Matrix clients of their own."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from aiagentchat.config import Paths
from aiagentchat.homeserver.operator import ensure_operator
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, EventId, RoomId, UserId
from tests.integration.systems import WAIT_S, Api, RunningDaemon, Synapse, fresh_name

Json = dict[str, Any]


@dataclass(frozen=True)
class Hosted:
    """An agent with its own credential alone."""

    name: AgentName
    user_id: UserId
    room_id: RoomId
    api: Api

    def on(self, daemon: RunningDaemon) -> "Hosted":
        """Return the same agent on another daemon, by the operator's leave."""
        daemon.synapse.lend_account(daemon.settings.paths, self.name)
        return Hosted(self.name, self.user_id, self.room_id, daemon.api.as_agent(self.name))

    async def unread(self, **query: str) -> list[Json]:
        """Return what is unread."""
        return list((await self.api.get("/read", **query))["messages"])

    async def bodies(self, **query: str) -> list[str]:
        """Return the bodies of what is unread."""
        return [message["body"] for message in await self.unread(**query)]

    async def acknowledge(self, messages: Iterable[Json]) -> list[str]:
        """Acknowledge messages; return the ids that the inbox knew."""
        answer = await self.api.post("/ack", event_ids=[message["event_id"] for message in messages])
        return list(answer["acknowledged"])

    async def send(self, body: str, **fields: object) -> Json:
        """Send a message; return what was stored."""
        return dict(await self.api.post("/send", body=body, **fields))


async def attach(daemon: RunningDaemon, stem: str = "agent", *, name: str = "", **body: object) -> Hosted:
    """Attach an agent of a fresh name."""
    answer = await daemon.api.post("/agents", name=name or fresh_name(stem), **body)
    api = Api(daemon.api.socket, answer["token"])
    return Hosted(AgentName(answer["name"]), UserId(answer["user_id"]), RoomId(answer["room_id"]), api)


async def person(synapse: Synapse, session: aiohttp.ClientSession, home: Path, stem: str = "person") -> MatrixClient:
    """Return the client of a fresh account of the homeserver."""
    paths = Paths(config_dir=home / stem, data_dir=home / stem)
    account = await ensure_operator(synapse.config.base_url, paths, synapse.config, fresh_name(stem))
    return MatrixClient(synapse.config.base_url, account.access_token, session)


async def say(client: MatrixClient, room_id: RoomId, body: str, **content: object) -> EventId:
    """Write into a room as a Matrix client does."""
    message = {"msgtype": "m.text", "body": body} | content
    return await client.send(room_id, "m.room.message", message, secrets.token_hex(8))


async def say_all(client: MatrixClient, room_id: RoomId, bodies: list[str]) -> list[EventId]:
    return [await say(client, room_id, body) for body in bodies]


def numbered(count: int) -> list[str]:
    return [f"message {number}" for number in range(count)]


async def matrix(synapse: Synapse, token: str, method: str, *path: str, body: object = None, ok: bool = True) -> Json:
    """Do a request that our own client has no method for; return its JSON."""
    url = "/".join([synapse.config.base_url, *(quote(segment, safe="") for segment in path)])
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as session,
        session.request(method, URL(url, encoded=True), json=body, headers=headers) as response,
    ):
        answer = await response.json()
        assert not ok or response.status == 200, answer
        return dict(answer)


async def redact(synapse: Synapse, room_id: RoomId, event_id: EventId) -> None:
    """Take back an event, as the operator."""
    path = ("_matrix", "client", "v3", "rooms", room_id, "redact", event_id, secrets.token_hex(8))
    await matrix(synapse, synapse.operator.access_token, "PUT", *path, body={})


async def register_admin(synapse: Synapse) -> str:
    """Return the token of a fresh administrator."""
    register = ("_synapse", "admin", "v1", "register")
    nonce, name = (await matrix(synapse, "", "GET", *register))["nonce"], fresh_name("admin")
    proof = b"\0".join(part.encode() for part in (nonce, name, name, "admin"))
    mac = hmac.new(synapse.config.registration_shared_secret.encode(), proof, hashlib.sha1).hexdigest()
    account = {"nonce": nonce, "username": name, "password": name, "admin": True, "mac": mac}
    return str((await matrix(synapse, "", "POST", *register, body=account))["access_token"])


async def purge(synapse: Synapse, room_id: RoomId, before: EventId) -> None:
    """Delete a room's history before an event, as an administrator does."""
    token = await register_admin(synapse)
    start = ("_synapse", "admin", "v1", "purge_history", room_id)
    body = {"purge_up_to_event_id": before, "delete_local_events": True}
    purge_id = (await matrix(synapse, token, "POST", *start, body=body))["purge_id"]
    status = ("_synapse", "admin", "v1", "purge_history_status", purge_id)

    async def is_purged() -> bool:
        return bool((await matrix(synapse, token, "GET", *status))["status"] == "complete")

    await until(is_purged)


async def messages_of(stream: AsyncIterator[tuple[str, Any]], count: int) -> list[Json]:
    """Return the next messages of a stream, as many as are asked for."""
    found: list[Json] = []
    async with asyncio.timeout(WAIT_S):
        async for event, data in stream:
            assert event != "error", data
            if event == "message":
                found.append(data)
            if len(found) == count:
                break
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once the condition holds; asked again and again, for a bounded time.

    Between two questions, three times what one took is left to what is waited for, as they share processors; less
    where the answer itself waited.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        asked_at = loop.time()
        while not await condition():
            await asyncio.sleep(min(max(0.05, 3 * (loop.time() - asked_at)), 1))
            asked_at = loop.time()


async def restart(synapse: Synapse) -> None:
    """Stop a homeserver and start it again on the same data and ports."""
    await synapse.stop()
    await synapse.start()
