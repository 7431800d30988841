"""What does not depend on the machine: how many requests, state events and bytes things cost. More is a defect.

`make bench` measures what does.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.agents.room_inbox import _SETTLING_MS as SETTLING_MS
from aiagentchat.config import Settings
from aiagentchat.model import AgentName, RoomId
from aiagentchat.space.content import ROSTER
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Json, attach, messages_of, until
from tests.integration.relay import Relay, relay_to
from tests.integration.systems import (
    ACCOUNTS_ALONE,
    APPSERVICE_ALONE,
    RunningDaemon,
    Synapse,
    fresh_name,
    running_daemon,
)

BY_THE_CLOCK = {
    "PUT /presence/{}/status",
    "GET /presence/{}/status",
    "POST /_matrix/client/v1/appservice/aiagentchat/ping",
    "GET /joined_rooms",
    "GET /_matrix/client/versions",
}
"""What is requested from time to time, whatever agents do."""
LOOKED_FOR = "PATCH …"
"""A method that none takes, by which endpoints are looked for: all together."""


@pytest.fixture
async def relay(synapse: Synapse) -> AsyncIterator[Relay]:
    """Stands before the homeserver."""
    async with relay_to(synapse.config.base_url) as relay:
        yield relay


@pytest.fixture
def behind(synapse: Synapse, relay: Relay) -> Synapse:
    """The homeserver, as it is reached through the relay."""
    return replace(synapse, config=replace(synapse.config, port=relay.port))


class Costs:
    """What has been requested since it was asked last."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._before = relay.asked.copy()

    def read(self) -> dict[str, int]:
        asked, self._before = self._relay.asked - self._before, self._relay.asked.copy()
        costs: Counter[str] = Counter()
        for what in asked.keys() - BY_THE_CLOCK:
            costs[LOOKED_FOR if what.startswith("PATCH ") else what] += asked[what]
        return dict(costs)


async def state_of_space(synapse: Synapse, http: aiohttp.ClientSession, daemon: RunningDaemon) -> list[Json]:
    """Return all state events of the Space, in their order."""
    client = synapse.operator_client(http)
    space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    page = await client.get_messages(space, direction="f", limit=1000, filter_json="{}")
    return [event for event in page.chunk if "state_key" in event]


async def latest_of(synapse: Synapse, http: aiohttp.ClientSession, room_id: RoomId) -> str:
    """Return the id of a room's latest event, whatever it is."""
    page = await synapse.operator_client(http).get_messages(room_id, direction="b", limit=1, filter_json="{}")
    return str(page.chunk[0]["event_id"])


async def until_roster(
    synapse: Synapse, http: aiohttp.ClientSession, daemon: RunningDaemon, names: set[AgentName]
) -> None:
    async def is_written() -> bool:
        said = [event for event in await state_of_space(synapse, http, daemon) if event["type"] == ROSTER]
        return bool(said) and set(said[-1]["content"]["online"]) == names

    await until(is_written)


async def until_quiet(daemon: RunningDaemon) -> None:
    """Return once a start is through: all rooms were looked at, and the homeserver pushes; until then they are read."""

    async def is_through() -> bool:
        is_pushed = "aiagentchat_transactions_total 0" not in await daemon.api.get("/metrics")
        return is_pushed and daemon.settings.paths.rooms_checked.exists()

    await until(is_through)


async def start_anew(
    synapse: Synapse, relay: Relay, http: aiohttp.ClientSession, settings: Settings, names: list[AgentName]
) -> dict[str, int]:
    """Start a daemon whose agents all come back, and kill it; return what was requested until the roster has them."""
    costs = Costs(relay)
    behind = replace(synapse, config=replace(synapse.config, port=relay.port))
    async with running_daemon(behind, settings, ready=False) as daemon:  # they come before it knows its Space
        await asyncio.gather(*(daemon.api.post("/agents", name=name) for name in names))
        await until_roster(synapse, http, daemon, set(names))
        await asyncio.sleep(1)  # for how they are shown
        asked = costs.read()
        await daemon.kill()
    return asked


@APPSERVICE_ALONE  # an account has a sync of its own anyway
async def test_a_start_costs_the_same_however_many_agents_come_back(
    synapse: Synapse, behind: Synapse, relay: Relay, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    settings = behind.settings(tmp_path, AIAGENTCHAT_SIDEBAR="quiet")
    async with running_daemon(behind, settings) as daemon:
        names = [fresh_name() for _ in range(8)]
        for name in names:
            await daemon.api.post("/agents", name=name)

        async def are_shown() -> bool:
            return settings.paths.rooms_shown.read_text().count("online !") == len(names)

        await until(are_shown)
        await daemon.kill()
    few, many = [await start_anew(synapse, relay, http, settings, each) for each in (names[:2], names)]
    assert many == few
    assert few == {
        "GET /account/whoami": 1,
        "GET /capabilities": 1,  # the default room version
        "GET /directory/room/{}": 2,  # the Space, and the room for all
        "POST /join/{}": 2,
        "GET /rooms/{}/state": 2,  # of both, whether they are as they should be; the Space's is the directory
        "PUT /rooms/{}/state/io.aiagentchat.roster/{}": 1,
        "GET /sync": 1,  # where the operator stands, whose next one tells what should have been pushed
        LOOKED_FOR: 15,  # once a start, and beside all else
    }


SHOWN = {
    "off": {},
    "quiet": {
        "GET /profile/{}/avatar_url": 1,  # whether it has a picture, which is kept
        "POST /_matrix/media/v3/upload": 1,
        "PUT /profile/{}/avatar_url": 1,
    },
}


@APPSERVICE_ALONE
@pytest.mark.parametrize("sidebar", SHOWN)
async def test_a_new_agent_costs_these_requests_and_no_others(
    behind: Synapse, relay: Relay, start_daemon: StartDaemon, tmp_path: Path, sidebar: str
) -> None:
    daemon = await start_daemon(behind, behind.settings(tmp_path, AIAGENTCHAT_SIDEBAR=sidebar))
    await attach(daemon, session="none")  # the first one has the homeserver say its default room version
    await until_quiet(daemon)
    costs = Costs(relay)
    await attach(daemon, session="none")
    assert costs.read() == SHOWN[sidebar] | {
        "POST /register": 1,
        "PUT /devices/{}": 1,  # by which the homeserver knows a message that is sent again
        "PUT /profile/{}/displayname": 1,
        "GET /directory/room/{}": 1,  # is there a room?
        "POST /createRoom": 1,
        "GET /rooms/{}/state": 1,  # is it as it should be: in clear above all
        "POST /rooms/{}/invite": 2,  # the operator into it, the agent into the Space
        "POST /join/{}": 3,  # those two, and the agent into the room for all
        "GET /rooms/{}/state/m.room.member/{}": 1,  # which event let the operator in
        "POST /rooms/{}/receipt/m.read/{}": 1,  # so that it does not count as unread
        "PUT /rooms/{}/state/io.aiagentchat.agent/{}": 1,
        "PUT /rooms/{}/state/m.space.child/{}": 1,
    }


@APPSERVICE_ALONE
async def test_a_message_costs_one_request_to_read_it_none_and_to_acknowledge_it_two(
    behind: Synapse, relay: Relay, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(behind, behind.settings(tmp_path))
    writer, reader = await attach(daemon, "writer"), await attach(daemon, "reader")
    async with reader.api.stream("GET", "/events") as stream:
        await writer.send("the first: the writer comes into the room", to=reader.name)
        await reader.acknowledge(await messages_of(stream, 1))
        await until_quiet(daemon)
        await asyncio.sleep(SETTLING_MS / 1000)
        costs = Costs(relay)
        for number in range(5):
            await writer.send(f"message {number}", to=reader.name)
        messages = await messages_of(stream, 5)
        assert costs.read() == {"PUT /rooms/{}/send/m.room.message/{}": 5}
        await reader.acknowledge(messages)
        assert costs.read() == {
            "PUT /user/{}/rooms/{}/account_data/io.aiagentchat.cursor": 1,
            "POST /rooms/{}/receipt/m.read/{}": 1,
        }


@APPSERVICE_ALONE
async def test_agents_that_do_nothing_cost_no_request_and_no_task(
    behind: Synapse, relay: Relay, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(behind, behind.settings(tmp_path))
    tasks, asked = len(asyncio.all_tasks()), []
    for more in (2, 8):
        for _ in range(more):
            await attach(daemon)
        await until_quiet(daemon)
        await asyncio.sleep(3)  # for the roster
        costs, before = Costs(relay), relay.asked.copy()
        await asyncio.sleep(31)  # longer than each of what is done by the clock, but the look for purged rooms
        agents = costs.read()
        landmarks = agents.pop("GET /rooms/{}/event/{}", 0)  # once there are any: of three rooms
        assert landmarks <= 3
        assert agents.items() <= {"GET /sync": 1}.items()  # the operator's, for all rooms
        asked.append((relay.asked - before).total() - landmarks)
    assert asked[1] <= asked[0] + 1, "what the clock asks may fall into the time or not"
    assert max(asked) <= 8
    assert len(asyncio.all_tasks()) <= tasks + 1


@APPSERVICE_ALONE
async def test_an_agent_that_listens_is_two_tasks_of_the_server_and_one_of_ours(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path))
    agents = [await attach(daemon) for _ in range(4)]
    before = len(asyncio.all_tasks())
    async with AsyncExitStack() as streams:
        for agent in agents:
            stream = await streams.enter_async_context(agent.api.stream("GET", "/events"))
            await daemon.api.post("/send", body="the first", to=agent.name)
            await messages_of(stream, 1)  # it listens
        await asyncio.sleep(3)  # for the roster
        assert len(asyncio.all_tasks()) <= before + 3 * len(agents) + 1, "but for one that waits by the clock"


@APPSERVICE_ALONE  # an account has a roster of its own
async def test_to_come_or_to_go_is_one_state_event_and_so_is_that_of_many_at_once(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path))
    agents = [await attach(daemon, session="none") for _ in range(8)]
    names = {agent.name for agent in agents}
    before = len(await state_of_space(synapse, http, daemon))
    rooms = [RoomId((await daemon.api.get("/health"))["system"]["broadcast_id"]), *(agent.room_id for agent in agents)]
    in_rooms = [await latest_of(synapse, http, room_id) for room_id in rooms]
    for name in (agents[0].name, *names):
        await daemon.api.post("/agents", name=name)
    await until_roster(synapse, http, daemon, names)
    for name in names:
        await daemon.api.call("DELETE", f"/agents/{name}")
    await until_roster(synapse, http, daemon, set())
    written = (await state_of_space(synapse, http, daemon))[before:]
    assert {event["type"] for event in written} == {ROSTER}
    assert len(written) <= 4, "the first at once, the others 2 s later; and so when they go"
    assert [await latest_of(synapse, http, room_id) for room_id in rooms] == in_rooms


@ACCOUNTS_ALONE
async def test_what_changes_in_the_space_comes_once_and_what_is_said_to_all_to_each_and_little_besides(
    behind: Synapse, relay: Relay, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(behind, behind.settings(tmp_path))
    for _ in range(4):
        await attach(daemon)
    going = await attach(daemon)
    await asyncio.sleep(3)  # for the rosters
    bytes_before, syncs_before = relay.answered, relay.asked["GET /sync"]
    await daemon.api.call("DELETE", f"/agents/{going.name}")
    await asyncio.sleep(3)
    syncs = relay.asked["GET /sync"] - syncs_before
    assert 1 <= syncs <= 3, "the operator's: that it has gone, and its roster"
    assert relay.answered - bytes_before <= syncs * 1000

    bytes_before, syncs_before = relay.answered, relay.asked["GET /sync"]
    await daemon.api.post("/send", body="to all")
    await asyncio.sleep(3)
    syncs = relay.asked["GET /sync"] - syncs_before
    assert 5 <= syncs <= 12, "of each agent and of the operator: the message, and what its writer did for it"
    assert relay.answered - bytes_before <= syncs * 1000


@ACCOUNTS_ALONE
async def test_who_comes_has_nobody_read_on_who_listens(
    behind: Synapse, relay: Relay, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(behind, behind.settings(tmp_path))
    async with AsyncExitStack() as streams:
        for _ in range(3):
            agent = await attach(daemon)
            stream = await streams.enter_async_context(agent.api.stream("GET", "/events"))
            await daemon.api.post("/send", body="the first", to=agent.name)
            await messages_of(stream, 1)
        await asyncio.sleep(3)  # for the rosters
        costs = Costs(relay)
        await attach(daemon)
        await asyncio.sleep(3)
        assert "GET /rooms/{}/messages" not in costs.read()
