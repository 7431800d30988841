"""The sync filter against the real Synapse: what comes through, at first and as it changes, and what does not."""

from typing import Any

import pytest

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.filters import render_sync_filter
from aiagentchat.model import RoomId, UserId
from tests.integration.systems import fresh_name


@pytest.fixture(scope="session")
def mode() -> str:
    """Application service alone: its users are accounts, whose syncs are made here at will."""
    return "appservice"


CARD = "io.aiagentchat.agent"


class Sync:
    """Syncs as one user, from where the last one ended."""

    def __init__(self, client: MatrixClient, filter_json: str) -> None:
        self._client = client
        self._filter = filter_json
        self._since: str | None = None

    async def next(self) -> tuple[dict[str, list[tuple[str, str]]], dict[str, list[tuple[str, str]]]]:
        """Return timeline and state by room, as (type, state key or message)."""
        synced = await self._client.sync(filter_json=self._filter, since=self._since, timeout_s=0.0)
        self._since = synced["next_batch"]
        rooms: dict[str, Any] = synced.get("rooms", {}).get("join", {})
        timeline, state = (
            {room: [self._short(event) for event in part[key]["events"]] for room, part in rooms.items()}
            for key in ("timeline", "state")
        )
        return timeline, state

    @staticmethod
    def _short(event: dict[str, Any]) -> tuple[str, str]:
        return event["type"], event["state_key"] if "state_key" in event else event["content"]["body"]


async def say(client: MatrixClient, room: RoomId, body: str) -> None:
    await client.send(room, "m.room.message", {"msgtype": "m.text", "body": body}, f"{room} {body}")


async def test_an_agent_syncs_its_own_room_state_of_the_space_and_broadcasts_and_nothing_else(
    appservice: MatrixClient,
) -> None:
    localpart = f"aiagentchat-{fresh_name()}"
    await appservice.register_appservice_user(localpart)
    agent = UserId(f"@{localpart}:example.org")
    client = appservice.as_user(agent)
    own = await client.create_room({})
    members = {"users_default": 50}
    space, broadcast, other = [
        await appservice.create_room({"invite": [agent], "power_level_content_override": members, "name": name})
        for name in ("space", "broadcast", "other")
    ]
    for room in (space, broadcast, other):
        await client.join_room(room)
    await appservice.put_state(space, "m.space.child", own, {"via": ["example.org"]})
    await appservice.put_state(broadcast, CARD, "x", {})
    for number in range(60):  # more than a timeline holds, so that state of before comes apart from it
        await client.put_state(space, CARD, agent, {"number": number})
    await say(client, own, "mine")
    await say(appservice, broadcast, "to all")
    await say(appservice, other, "secret")

    sync = Sync(
        client,
        render_sync_filter(own_room=own, space=space, broadcast=broadcast, state_types=("m.space.child", CARD)),
    )
    timeline, state = await sync.next()
    assert set(timeline) == {own, space, broadcast}
    assert ("m.room.message", "mine") in timeline[own]
    assert ("m.room.message", "to all") in timeline[broadcast]
    assert len(timeline[space]) == 50
    assert ("m.space.child", own) in state[space]
    assert "m.room.member" not in dict(state[space]), "the Space has too many"
    assert not state[broadcast]

    await say(client, own, "more")
    await client.put_state(space, CARD, agent, {"name": "a"})
    await client.put_state(space, "m.room.topic", "", {"topic": "not asked for"})
    await say(appservice, broadcast, "again")
    await say(appservice, other, "more secrets")
    await appservice.put_state(other, CARD, "x", {})
    timeline, state = await sync.next()
    assert timeline == {
        own: [("m.room.message", "more")],
        space: [(CARD, agent)],
        broadcast: [("m.room.message", "again")],
    }
    assert not any(state.values())


async def test_an_agent_without_a_space_syncs_its_own_room(appservice: MatrixClient) -> None:
    localpart = f"aiagentchat-{fresh_name()}"
    await appservice.register_appservice_user(localpart)
    client = appservice.as_user(UserId(f"@{localpart}:example.org"))
    own, other = await client.create_room({}), await client.create_room({})
    sync = Sync(client, render_sync_filter(own_room=own, space=None, broadcast=None, state_types=()))
    await say(client, own, "mine")
    await say(client, other, "elsewhere")
    timeline, _ = await sync.next()
    assert set(timeline) == {own}
    assert ("m.room.message", "mine") in timeline[own]
