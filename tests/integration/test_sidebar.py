"""What a person sees of agents without opening a room: names, pictures, order, and who is online."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from aiagentchat.agents import sidebar
from aiagentchat.errors import MatrixNotFoundError
from aiagentchat.matrix.sync import get_receipt
from aiagentchat.model import AgentName, RoomAlias, RoomId, UserId
from aiagentchat.space.avatar import render_avatar
from aiagentchat.space.names import broadcast_alias, broadcast_alias_of_accounts
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import attach, person
from tests.integration.systems import (
    ACCOUNTS_ALONE,
    IN_ONE_MODE,
    UNLIKE_USE,
    WAIT_S,
    Api,
    RunningDaemon,
    Synapse,
    fresh_name,
    running_daemon,
)

Json = dict[str, Any]
T = TypeVar("T")
Http = aiohttp.ClientSession

LOW = "m.lowpriority"
SOON_S = 0.5


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show what changes, and soon."""
    monkeypatch.delitem(UNLIKE_USE, "AIAGENTCHAT_SIDEBAR")
    monkeypatch.setattr(sidebar, "OFFLINE_AFTER_S", SOON_S)
    monkeypatch.setattr(sidebar, "GAP_S", 0.01)


async def eventually(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Ask until the answer is as it should be, and return it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await ask()
            if holds(answer):
                return answer
            await asyncio.sleep(0.05)


class Operator:
    """The operator's own account."""

    def __init__(self, synapse: Synapse, http: Http) -> None:
        self.user_id = synapse.operator.user_id
        self.client = synapse.operator_client(http)

    async def tags(self, room_id: RoomId) -> Json:
        return await self.client.get_room_tags(self.user_id, room_id)

    async def until_low(self, room_id: RoomId) -> None:
        await eventually(lambda: self.tags(room_id), lambda tags: LOW in tags)

    async def until_not_low(self, room_id: RoomId) -> None:
        await eventually(lambda: self.tags(room_id), lambda tags: LOW not in tags)

    async def picture(self, room_id: RoomId) -> str:
        return str((await self.client.get_state(room_id, "m.room.avatar"))["url"])

    async def until_picture(self, room_id: RoomId, expected: bytes) -> str:
        async def shown() -> bytes:
            return await self.client.download(await self.picture(room_id), most_bytes=10_000)

        await eventually(shown, lambda data: data == expected)
        return await self.picture(room_id)


@pytest.fixture
def operator(synapse: Synapse, http: Http) -> Operator:
    return Operator(synapse, http)


async def attached(api: Api, stem: str = "agent", **body: object) -> tuple[AgentName, RoomId, UserId]:
    name = fresh_name(stem)
    answer = await api.post("/agents", name=name, **body)
    return name, RoomId(answer["room_id"]), UserId(answer["user_id"])


async def detach(api: Api, name: AgentName) -> None:
    assert (await api.call("DELETE", f"/agents/{name}")).status < 300


# --- how an agent looks


async def test_an_agent_has_its_own_picture_in_its_room_and_wherever_it_writes(
    daemon: RunningDaemon, operator: Operator
) -> None:
    name, room_id, user_id = await attached(daemon.api, "claude-dev")
    other, other_room, _ = await attached(daemon.api, "other")
    picture = await operator.picture(room_id)
    assert await operator.client.download(picture, most_bytes=10_000) == render_avatar(name)
    assert await operator.client.get_avatar(user_id) == picture
    await daemon.api.as_agent(name).post("/send", to=other, body="hello")
    sender = await operator.client.get_state(other_room, "m.room.member", user_id)
    assert (sender["displayname"], sender["avatar_url"]) == (name, picture)


def common_rooms(daemon: RunningDaemon) -> tuple[RoomAlias, RoomAlias]:
    space = RoomAlias(daemon.settings.space_alias)
    make = broadcast_alias if daemon.synapse.mode == "appservice" else broadcast_alias_of_accounts
    return space, make(space)


@ACCOUNTS_ALONE
async def test_a_picture_that_an_account_has_stays_its_own(
    daemon: RunningDaemon, synapse: Synapse, operator: Operator, http: Http
) -> None:
    name = fresh_name()
    await synapse.provide_account(daemon.settings.paths, name)
    client, user_id = synapse.agent_client(http, name), synapse.accounts[name].user_id
    own = await client.upload(b"a face", name="face.png", mimetype="image/png")
    await client.set_avatar(user_id, own)
    room_id = RoomId((await daemon.api.post("/agents", name=name))["room_id"])
    assert await operator.client.get_avatar(user_id) == own
    assert await operator.picture(room_id) == own


@IN_ONE_MODE
async def test_rooms_stand_in_the_space_by_name_the_one_for_all_first_and_those_that_pass_last(
    daemon: RunningDaemon, operator: Operator
) -> None:
    beta, alpha = await attached(daemon.api, "b"), await attached(daemon.api, "a")
    passing = await attached(daemon.api, "a", kind="ephemeral")
    space_id, broadcast_id = [await operator.client.resolve_room_alias(alias) for alias in common_rooms(daemon)]
    state = await operator.client.get_full_state(space_id)
    children = {event["state_key"]: event["content"] for event in state if event["type"] == "m.space.child"}
    ours = [broadcast_id, alpha[1], beta[1], passing[1]]
    in_order = sorted((room_id for room_id in children if room_id in ours), key=lambda room: children[room]["order"])
    assert in_order == ours
    assert {child["suggested"] for child in children.values() if child} == {True}


@IN_ONE_MODE
async def test_the_topic_says_what_the_agent_is_where_it_runs_and_how_it_is_reached_and_stopped(
    daemon: RunningDaemon, operator: Operator
) -> None:
    name, room_id, _ = await attached(daemon.api, description="Reviews pull requests.")

    async def topic() -> str:
        return str((await operator.client.get_state(room_id, "m.room.topic"))["topic"])

    rest = (
        f"Persistent agent on {socket.gethostname()}. "
        f"Write to it here, or with 'cchat send --to {name}'. 'cchat leave {name}' stops it."
    )
    assert await topic() == f"Reviews pull requests. {rest}"
    await daemon.api.post("/agents", name=name)
    assert await topic() == f"Reviews pull requests. {rest}"
    await daemon.api.post("/agents", name=name, description="Writes tests")
    assert await topic() == f"Writes tests. {rest}"
    await operator.client.put_state(room_id, "m.room.topic", "", {"topic": "mine"})
    await daemon.api.post("/agents", name=name, description="Reads")
    assert await topic() == "mine"


@IN_ONE_MODE
async def test_a_home_that_has_moved_to_another_machine_says_so_in_topics_that_nobody_else_wrote(
    synapse: Synapse, tmp_path: Path, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = synapse.settings(tmp_path)
    async with running_daemon(synapse, settings) as daemon:
        name, room_id, user_id = await attached(daemon.api, description="Reviews")
        other, changed, _ = await attached(daemon.api)
        await operator.client.put_state(changed, "m.room.topic", "", {"topic": "mine"})
    before = await operator.client.get_state_event(room_id, "m.room.topic")
    async with running_daemon(synapse, settings) as daemon:
        await daemon.api.post("/agents", name=name)
        same = await operator.client.get_state_event(room_id, "m.room.topic")
        assert same["event_id"] == before["event_id"]
    monkeypatch.setattr(socket, "gethostname", lambda: "another.example.org")
    async with running_daemon(synapse, settings) as daemon:
        for each in (name, other):
            await daemon.api.post("/agents", name=each)
        moved = await operator.client.get_state_event(room_id, "m.room.topic")
        assert moved["content"]["topic"].startswith("Reviews. Persistent agent on another.example.org. ")
        assert moved["sender"] == user_id
        assert (await operator.client.get_state(changed, "m.room.topic"))["topic"] == "mine"


async def test_other_people_are_invited_to_the_space_and_every_room_in_it_those_that_come_later_too(
    synapse: Synapse, http: Http, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    bob = await person(synapse, http, tmp_path)
    user_id, _ = await bob.whoami()
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "daemon", AIAGENTCHAT_PEOPLE=user_id))
    name, room_id, _ = await attached(daemon.api)
    later, later_room, _ = await attached(daemon.api, "later")
    space_id, broadcast_id = [await bob.resolve_room_alias(alias) for alias in common_rooms(daemon)]
    invites = (await bob.sync(filter_json="{}", timeout_s=0))["rooms"]["invite"]
    expected = {space_id: "AIChatSpace", broadcast_id: "AIChatRoom", room_id: name, later_room: later}
    shown = {room: titles(invites[room]["invite_state"]["events"]) for room in expected}  # there may be older agents
    assert shown == {room: [title] for room, title in expected.items()}


def titles(state: list[Json]) -> list[str]:
    return [event["content"]["name"] for event in state if event["type"] == "m.room.name"]


# --- who is online: the operator's tag


async def test_who_is_offline_is_of_low_priority_to_the_operator_until_it_is_back(
    daemon: RunningDaemon, operator: Operator
) -> None:
    name, room_id, _ = await attached(daemon.api)
    before = await operator.picture(room_id)
    await detach(daemon.api, name)
    await operator.until_low(room_id)
    await daemon.api.post("/agents", name=name)
    await operator.until_not_low(room_id)
    assert await operator.picture(room_id) == before, "by default no event tells of it"


@IN_ONE_MODE
async def test_an_agent_that_is_gone_for_good_is_shown_so_too(daemon: RunningDaemon, operator: Operator) -> None:
    name, room_id, _ = await attached(daemon.api, kind="ephemeral")
    await all_shown(daemon, operator)
    await detach(daemon.api, name)
    await operator.until_low(room_id)


@IN_ONE_MODE
async def test_what_the_operator_has_set_themselves_stays(daemon: RunningDaemon, operator: Operator) -> None:
    favourite, unloved, witness = [await attached(daemon.api) for _ in range(3)]
    await operator.client.put_room_tag(operator.user_id, favourite[1], "m.favourite", {"order": 0.5})
    await operator.client.put_room_tag(operator.user_id, unloved[1], LOW, {"order": 0.25})
    for name, _, _ in (favourite, unloved, witness):
        await detach(daemon.api, name)
    await operator.until_low(witness[1])
    for name, _, _ in (favourite, unloved, witness):
        await daemon.api.post("/agents", name=name)
    await operator.until_not_low(witness[1])
    assert await operator.tags(favourite[1]) == {"m.favourite": {"order": 0.5}}
    assert await operator.tags(unloved[1]) == {LOW: {"order": 0.25}}


@IN_ONE_MODE
@pytest.mark.parametrize("ends", ["stop", "kill"])
async def test_the_agents_of_a_daemon_that_ended_are_shown_so_at_its_end_or_its_next_start(
    synapse: Synapse, tmp_path: Path, operator: Operator, ends: str
) -> None:
    settings = synapse.settings(tmp_path)
    async with running_daemon(synapse, settings) as daemon:
        name, room_id, _ = await attached(daemon.api)
        await all_shown(daemon, operator)
        await (daemon.stop() if ends == "stop" else daemon.kill())
        assert (LOW in await operator.tags(room_id)) == (ends == "stop")
    async with running_daemon(synapse, settings) as daemon:
        await operator.until_low(room_id)
        await daemon.api.post("/agents", name=name)
        await operator.until_not_low(room_id)


async def all_shown(daemon: RunningDaemon, operator: Operator) -> None:
    """Return when all that was to be shown is."""
    name, room_id, _ = await attached(daemon.api, "witness")
    await detach(daemon.api, name)
    await operator.until_low(room_id)


# --- who is online: grey pictures, for those who want them


@IN_ONE_MODE
async def test_a_picture_turns_grey_and_back_and_is_uploaded_once_over_a_restart_too(
    synapse: Synapse, tmp_path: Path, operator: Operator
) -> None:
    settings = synapse.settings(tmp_path, AIAGENTCHAT_SIDEBAR="pictures")
    async with running_daemon(synapse, settings) as daemon:
        name, room_id, _ = await attached(daemon.api)
        colour = await operator.until_picture(room_id, render_avatar(name))
        await detach(daemon.api, name)
        grey = await operator.until_picture(room_id, render_avatar(name, grey=True))
        await operator.until_low(room_id)
    async with running_daemon(synapse, settings) as daemon:
        await daemon.api.post("/agents", name=name)
        assert await operator.until_picture(room_id, render_avatar(name)) == colour
        await detach(daemon.api, name)
        assert await operator.until_picture(room_id, render_avatar(name, grey=True)) == grey


@IN_ONE_MODE
async def test_a_picture_that_a_person_gave_a_room_stays(
    synapse: Synapse, tmp_path: Path, operator: Operator, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_SIDEBAR="pictures"))
    name, room_id, _ = await attached(daemon.api)
    own = await operator.client.upload(b"a face", name="face.png", mimetype="image/png")
    await operator.client.put_state(room_id, "m.room.avatar", "", {"url": own})
    await detach(daemon.api, name)
    await operator.until_low(room_id)
    await daemon.api.post("/agents", name=name)
    await operator.until_not_low(room_id)
    assert await operator.picture(room_id) == own


@IN_ONE_MODE
async def test_where_it_is_off_there_are_neither_pictures_nor_tags(
    synapse: Synapse, tmp_path: Path, operator: Operator, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_SIDEBAR="off"))
    name, room_id, user_id = await attached(daemon.api)
    await detach(daemon.api, name)
    await daemon.stop()
    assert await operator.tags(room_id) == {}
    assert await operator.client.get_avatar(user_id) is None
    with pytest.raises(MatrixNotFoundError):
        await operator.client.get_state(room_id, "m.room.avatar")


async def test_the_invite_that_was_accepted_for_the_operator_counts_as_no_message(
    daemon: RunningDaemon, synapse: Synapse, http: Http
) -> None:
    operator, agent = Operator(synapse, http), await attach(daemon)
    member = await operator.client.get_state_event(agent.room_id, "m.room.member", operator.user_id)
    assert await get_receipt(operator.client, agent.room_id, operator.user_id) == member["event_id"]
