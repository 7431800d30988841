"""What passing sessions leave behind is cleared away; what is anybody else's, or in use, is not."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiagentchat.agents import janitor
from aiagentchat.errors import HomeserverUnavailableError, MatrixNotFoundError, RefusedError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomAlias, RoomId
from aiagentchat.space.content import CARD
from aiagentchat.space.manager import SpaceManager
from tests.integration.correspondents import Hosted, attach, person, say, until
from tests.integration.systems import ACCOUNTS_ALONE, IN_ONE_MODE, RunningDaemon, Synapse, fresh_name, running_daemon

Json = dict[str, Any]
TTL_S = 1.5


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "GAP_S", 0.0)


@pytest.fixture
async def first(synapse: Synapse, tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    """A daemon that is killed in the middle."""
    async with running_daemon(synapse, synapse.settings(tmp_path / "first")) as daemon:
        yield daemon


@contextlib.asynccontextmanager
async def after_a_crash(first: RunningDaemon, ttl_s: float = TTL_S) -> AsyncIterator[RunningDaemon]:
    """Kill a daemon, and run the next one when its sessions have been over for long enough."""
    await first.kill()
    home = first.settings.paths.data_dir.with_name("second")
    settings = first.synapse.settings(home, AIAGENTCHAT_EPHEMERAL_TTL=str(ttl_s))
    async with aiohttp.ClientSession() as session:
        for agent in first.synapse.accounts:
            first.synapse.lend_account(settings.paths, agent)
            await show(first.synapse, session, agent, "offline")  # as its lease lapses, a minute later
    async with running_daemon(first.synapse, settings) as daemon:
        await asyncio.sleep(TTL_S + 0.5)
        yield daemon


async def show(synapse: Synapse, session: aiohttp.ClientSession, agent: str, presence: str) -> None:
    """Have an agent's user be present, or no more."""
    client = synapse.agent_client(session, agent)
    await client.set_presence((await client.whoami())[0], presence)


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The operator's own Matrix client."""
    return synapse.operator_client(http)


async def clear(daemon: RunningDaemon, *agents: Hosted, dry_run: bool = False) -> dict[str, Json]:
    """Have it be done; return what became of each of these agents: those of other tests are cleared away as well."""
    found: dict[str, Json] = {}
    async with daemon.api.stream("POST", "/janitor", {"dry_run": dry_run}) as stream:
        async for event, data in stream:
            if event == "done":
                return found
            if data["agent"] in {agent.name for agent in agents}:
                found[data["agent"]] = data
    raise AssertionError(f"the stream ended with {found}")


async def is_there(client: MatrixClient, agent: Hosted) -> bool:
    """Whether the agent's room is found by its name, and the operator in it."""
    with contextlib.suppress(MatrixNotFoundError):
        alias = RoomAlias(f"#aiagentchat-{agent.name}:example.org")
        is_found = await client.resolve_room_alias(alias) == agent.room_id
        assert is_found == (agent.room_id in await client.joined_rooms())
        return is_found
    assert agent.room_id not in await client.joined_rooms()
    return False


async def test_a_session_that_has_been_over_for_long_is_nowhere_and_its_name_is_free(
    first: RunningDaemon, alice: MatrixClient, http: aiohttp.ClientSession
) -> None:
    crashed, left = await attach(first, "crashed", kind="ephemeral"), await attach(first, "left", kind="ephemeral")
    other = await attach(first)
    private = await first.synapse.agent_client(http, crashed.name).create_room(
        {"invite": [first.synapse.operator.user_id]}
    )
    await alice.join_room(private)
    await crashed.send("hello", to=other.name)
    await other.send("hello", to=crashed.name)
    assert (await first.api.call("DELETE", f"/agents/{left.name}")).status < 300
    async with after_a_crash(first) as daemon:
        found = await clear(daemon, crashed, left, other, dry_run=True)
        assert {name: (each["state"], each["room_id"], each["is_listed"]) for name, each in found.items()} == {
            crashed.name: ("found", crashed.room_id, True),
            left.name: ("found", left.room_id, False),
        }
        assert await is_there(alice, crashed), "it was only looked at"
        assert {each["state"] for each in (await clear(daemon, crashed, left)).values()} == {"cleared"}
        for agent in (crashed, left):
            assert not await is_there(alice, agent)
            rooms = await daemon.synapse.agent_client(http, agent.name).joined_rooms()
            is_account = daemon.synapse.mode == "accounts" and agent is crashed
            assert rooms == ((private,) if is_account else ()), "what an account does elsewhere is its owner's business"
        assert await clear(daemon, crashed, left, dry_run=True) == {}
        health = await daemon.api.get("/health")
        assert health["status"] == "ok"
        state = await alice.get_full_state(RoomId(health["system"]["space_id"]))
        gone = (crashed.room_id, crashed.user_id, left.room_id, left.user_id)
        listed = [each for each in state if each["state_key"] in gone and each["type"] in (CARD, "m.space.child")]
        assert [each["content"] for each in listed if each["content"] != {}] == []

        again = await attach(daemon, name=crashed.name, kind="ephemeral")
        assert again.room_id != crashed.room_id
        await other.on(daemon).send("welcome back", to=again.name)
        assert await again.bodies(wait="20") == ["welcome back"]


async def test_who_is_persistent_or_online_or_was_written_to_lately_stays(
    first: RunningDaemon, alice: MatrixClient
) -> None:
    persistent, online, written_to = [await attach(first, kind=kind) for kind in ("persistent", *["ephemeral"] * 2)]
    async with after_a_crash(first) as daemon:
        await attach(daemon, name=online.name)
        await say(alice, written_to.room_id, "are you there?")
        assert await clear(daemon, persistent, online, written_to) == {}
        for agent in (persistent, online, written_to):
            assert await is_there(alice, agent)


@ACCOUNTS_ALONE
async def test_an_account_that_is_in_use_in_another_home_stays(
    first: RunningDaemon, alice: MatrixClient, http: aiohttp.ClientSession
) -> None:
    agent = await attach(first, kind="ephemeral")
    async with after_a_crash(first) as daemon:
        await show(daemon.synapse, http, agent.name, "online")  # as a sync of the other home's does
        assert await clear(daemon, agent) == {}
        assert await is_there(alice, agent)
        await show(daemon.synapse, http, agent.name, "offline")
        assert (await clear(daemon, agent))[agent.name]["state"] == "cleared"


@IN_ONE_MODE
async def test_nobody_is_older_by_a_clock_of_this_machine_that_is_wrong(
    first: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, right = await attach(first, kind="ephemeral"), time.time
    monkeypatch.setattr(time, "time", lambda: right() + 7_200)
    async with after_a_crash(first, ttl_s=3_600) as daemon:
        assert await clear(daemon, agent, dry_run=True) == {}


@IN_ONE_MODE
async def test_a_card_whose_room_is_no_more_is_emptied(
    first: RunningDaemon, alice: MatrixClient, http: aiohttp.ClientSession
) -> None:
    agent = await attach(first, kind="ephemeral")
    space = RoomId((await first.api.get("/health"))["system"]["space_id"])
    card = await alice.get_state(space, CARD, agent.user_id)
    as_agent = first.synapse.agent_client(http, agent.name)
    await first.kill()  # it would mend the card
    await as_agent.put_state(space, CARD, agent.user_id, card | {"room_id": "!of-before:example.org"})
    async with after_a_crash(first) as daemon:

        async def is_emptied() -> bool:
            await clear(daemon, agent)
            return await alice.get_state(space, CARD, agent.user_id) == {}

        await until(is_emptied)


@IN_ONE_MODE
async def test_between_two_agents_it_leaves_the_homeserver_alone_for_a_while(
    first: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [await attach(first, kind="ephemeral") for _ in range(3)]
    async with after_a_crash(first) as daemon:
        monkeypatch.setattr(janitor, "GAP_S", 0.7)
        came: list[float] = []
        async with daemon.api.stream("POST", "/janitor", {}) as stream:
            async for event, _ in stream:
                came += [time.monotonic()] if event == "agent" else []
                if event == "done":
                    break
    assert len(came) >= len(agents)
    assert min(after - before for before, after in pairwise(came)) > 0.6


@IN_ONE_MODE
async def test_who_comes_back_meanwhile_stays_or_has_a_new_room(first: RunningDaemon) -> None:
    agents = [await attach(first, kind="ephemeral") for _ in range(4)]
    async with after_a_crash(first) as daemon:
        clearing = asyncio.create_task(clear(daemon, *agents))
        await asyncio.sleep(0.3)
        back = [await attach(daemon, name=agent.name, kind="ephemeral") for agent in agents]
        done = await clearing
        assert done
        for before, now in zip(agents, back, strict=True):
            was_cleared = done.get(before.name, {}).get("state") == "cleared"
            assert (before.room_id != now.room_id) == was_cleared
            await back[back.index(now) - 1].send("hello", to=now.name)
            assert await now.bodies(wait="20") == ["hello"]


@IN_ONE_MODE
@pytest.mark.parametrize("broken", ["put_state", "leave_room", "delete_room_alias"])
async def test_what_fails_in_between_is_done_the_next_time(
    first: RunningDaemon,
    alice: MatrixClient,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    agent, writer = await attach(first, kind="ephemeral"), await attach(first)
    await writer.send("hello", to=agent.name)
    bob = await person(first.synapse, http, tmp_path, "bob")
    await alice.invite(agent.room_id, (await bob.whoami())[0])
    await bob.join_room(agent.room_id)

    async def fail(*_: object, **__: object) -> None:
        raise HomeserverUnavailableError("not now")

    async with after_a_crash(first) as daemon:
        with monkeypatch.context() as patched:
            patched.setattr(MatrixClient, broken, fail)
            assert (await clear(daemon, agent))[agent.name]["state"] == "failed"
        await asyncio.sleep(TTL_S + 0.5)
        assert (await clear(daemon, agent))[agent.name]["state"] == "cleared"
        assert not await is_there(alice, agent)
        assert await bob.joined_rooms() == ()


@IN_ONE_MODE
async def test_a_room_of_a_creation_that_crashed_goes_if_nobody_wrote_there(
    first: RunningDaemon, alice: MatrixClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise RefusedError("not now")

    with monkeypatch.context() as patched:
        patched.setattr(SpaceManager, "register_in_space", crash)
        empty, written_to = [await attach(first, fresh_name("orphan")) for _ in range(2)]
    await say(alice, written_to.room_id, "who are you?")
    async with after_a_crash(first) as daemon:
        found = await clear(daemon, empty, written_to)
        assert {name: each["state"] for name, each in found.items()} == {empty.name: "cleared"}
        assert not await is_there(alice, empty)
        assert await is_there(alice, written_to)


@IN_ONE_MODE
async def test_the_daemon_does_it_by_itself(
    first: RunningDaemon, alice: MatrixClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "FIRST_S", 0.0)
    monkeypatch.setattr(janitor, "EVERY_S", 0.5)
    agent = await attach(first, kind="ephemeral")

    async def is_gone() -> bool:
        return agent.room_id not in await alice.joined_rooms()

    async with after_a_crash(first):
        await until(is_gone)
