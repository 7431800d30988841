"""What changed while no daemon ran is found though a start trusts the directory, and mended as before."""

from pathlib import Path

import aiohttp
import pytest

from aiagentchat.agents import room_check
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, attach, person, until
from tests.integration.systems import APPSERVICE_ALONE, Synapse, running_daemon
from tests.integration.test_rooms_change import delete_room, until_moved

pytestmark = APPSERVICE_ALONE  # an account's rooms are looked at at each start


async def left_by_a_daemon(synapse: Synapse, home: Path, agents: int = 1, **environment: str) -> list[Hosted]:
    """Return agents whose daemon is gone; what their rooms were made for is written down."""
    settings = synapse.settings(home, **environment)
    async with running_daemon(synapse, settings) as daemon:
        found = [await attach(daemon, session="none") for _ in range(agents)]

        async def is_noted() -> bool:
            return settings.paths.rooms_checked.exists()

        await until(is_noted)
        await daemon.kill()
    return found


async def membership(client: MatrixClient, room_id: RoomId, user_id: str) -> str:
    state = await client.get_full_state(room_id)
    found = [each["content"] for each in state if (each["type"], each["state_key"]) == ("m.room.member", user_id)]
    return str(found[0]["membership"]) if found else ""


async def test_who_is_named_in_the_settings_since_is_invited_to_the_rooms_of_agents_that_do_not_come_too(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    agents = await left_by_a_daemon(synapse, tmp_path, 2)
    bob = await person(synapse, http, tmp_path / "people", "bob")
    user_id = (await bob.whoami())[0]
    settings = synapse.settings(tmp_path, AIAGENTCHAT_PEOPLE=user_id)
    noted = settings.paths.rooms_checked.read_text()
    await start_daemon(synapse, settings)
    for agent in agents:

        async def is_invited(agent: Hosted = agent) -> bool:
            return await membership(synapse.operator_client(http), agent.room_id, user_id) == "invite"

        await until(is_invited)

    async def is_noted() -> bool:
        return settings.paths.rooms_checked.read_text() != noted

    await until(is_noted)


async def test_an_agent_that_was_removed_meanwhile_is_not_said_to_be_there(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    [agent] = await left_by_a_daemon(synapse, tmp_path)
    as_agent = synapse.agent_client(http, agent.name)
    await as_agent.leave_room(agent.room_id)  # what is done to it is told in the same way
    daemon = await start_daemon(synapse, synapse.settings(tmp_path))

    async def is_refused() -> bool:
        answer = await daemon.api.call("POST", "/agents", {"name": agent.name})
        return answer.status != 200 or answer.data["room_id"] != agent.room_id

    await until(is_refused)


async def test_a_room_that_was_purged_meanwhile_is_made_anew_though_nobody_uses_it(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_check, "_LOOK_S", 0.5)
    [agent] = await left_by_a_daemon(synapse, tmp_path)
    await delete_room(synapse, agent.room_id)
    daemon = await start_daemon(synapse, synapse.settings(tmp_path))
    await daemon.api.post("/agents", name=agent.name)
    new = await until_moved(daemon, agent)
    await daemon.api.post("/send", body="in the new room", to=agent.name)
    assert await agent.on(daemon).bodies() == ["in the new room"]
    assert new != agent.room_id


async def test_without_what_was_written_down_every_room_is_looked_at(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    [agent] = await left_by_a_daemon(synapse, tmp_path)
    as_agent = synapse.agent_client(http, agent.name)
    await as_agent.put_state(agent.room_id, "m.room.join_rules", "", {"join_rule": "public"})
    settings = synapse.settings(tmp_path)
    settings.paths.rooms_checked.write_text("of another time\n")
    await start_daemon(synapse, settings)

    async def is_closed() -> bool:
        return await as_agent.get_state(agent.room_id, "m.room.join_rules") == {"join_rule": "invite"}

    await until(is_closed)
