"""What somebody changed in our rooms from outside, and what of it is mended."""

from aiohttp import ClientSession

from aiagentchat.model import RoomId
from tests.integration.correspondents import Hosted, attach, until
from tests.integration.systems import RunningDaemon, Synapse


async def is_listed(daemon: RunningDaemon, agent: Hosted) -> bool:
    status = {entry["name"]: entry["status"] for entry in (await daemon.api.get("/who"))["agents"]}
    return bool(status[agent.name] == "online")


async def test_an_agent_that_another_took_off_the_list_is_listed_again_and_one_that_the_operator_took_off_stays_off(
    daemon: RunningDaemon, synapse: Synapse, http: ClientSession
) -> None:
    agent, unwanted, other = await attach(daemon), await attach(daemon, "unwanted"), await attach(daemon, "other")
    space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    hostile, operator = synapse.agent_client(http, other.name), synapse.operator_client(http)
    await operator.put_state(space, "m.space.child", unwanted.room_id, {})
    await hostile.put_state(space, "m.space.child", agent.room_id, {})

    async def is_mended() -> bool:
        return bool((await hostile.get_state(space, "m.space.child", agent.room_id)).get("via"))

    async def is_unlisted() -> bool:
        return not await is_listed(daemon, unwanted)

    await until(is_mended)
    assert await is_listed(daemon, agent)
    await until(is_unlisted)
    await attach(daemon, "later")  # whatever was pending has been done by now
    assert await operator.get_state(space, "m.space.child", unwanted.room_id) == {}
