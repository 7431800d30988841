"""A connection that is half open looks alive from both ends: it is noticed, said, and nothing is lost by it."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.model import RoomId
from tests.chaos.faults import Kind, Phase, Side
from tests.chaos.system import running_system
from tests.integration.correspondents import messages_of, say, until
from tests.integration.systems import Api


async def transport_is(api: Api, *, ok: bool) -> bool:
    conditions = (await api.get("/health"))["conditions"]
    [transport] = [each for each in conditions if each["name"] == "transport"]
    assert transport["ok"] or transport["remedy"]
    return bool(transport["ok"] is ok)


async def says_so(operator: Api) -> bool:
    """Whether `who` tells of it. It may ask the homeserver, and end at its deadline."""
    answer = await operator.call("GET", "/who")
    return answer.status == 200 and bool(answer.data["stalled"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("mode", "side"), [("appservice", "transactions"), ("accounts", "requests")])
async def test_events_that_stop_coming_are_said_to_and_come_in_the_end_each_once(
    mode: str, side: Side, tmp_path: Path
) -> None:
    """Lesson: Stalled, and healthy by its looks; A restart costs the position."""
    async with running_system(tmp_path, mode, ["agent"]) as system, aiohttp.ClientSession() as session:
        operator = await system.daemon.wait_up()
        attached = await operator.post("/agents", name="agent")
        agent, room_id = Api(operator.socket, attached["token"]), RoomId(attached["room_id"])
        alice = system.synapse.operator_client(session)
        async with agent.stream("GET", "/events") as stream:

            async def read(*bodies: str) -> None:
                assert [each["body"] for each in await messages_of(stream, len(bodies))] == list(bodies)

            await say(alice, room_id, "before")
            await read("before")
            with system.proxies[side].failing(Phase(Kind.HALF_OPEN, side, seconds=0.0, share=1.0, seed=1)):
                await say(alice, room_id, "meanwhile")
                await until(lambda: transport_is(operator, ok=False))
                await until(lambda: says_so(operator))
                if mode == "appservice":  # read from the room instead
                    await read("meanwhile")
                    listed = await asyncio.to_thread(system.daemon.system.cchat, "who")
                    assert "agents hear late" in listed.err
            if mode == "accounts":
                await read("meanwhile")
            await say(alice, room_id, "after")
            await read("after")
            await until(lambda: transport_is(operator, ok=True))
        assert [each["body"] for each in (await agent.get("/read"))["messages"]] == ["before", "meanwhile", "after"]
