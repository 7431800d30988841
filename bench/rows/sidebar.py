"""What the homeserver pays for a person to see who is online: requests of which it alone knows the price."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp

from aiagentchat.model import AgentName, RoomId
from aiagentchat.space.appearance import introduce, upload_picture
from aiagentchat.space.content import OFFLINE
from aiagentchat.space.identities import AppserviceIdentities
from aiagentchat.space.layout import render_picture
from aiagentchat.space.names import Naming
from bench.figures import Row
from bench.machine import cpu_s
from bench.sizes import Size
from bench.system import CALM_S, Note, running

LOW = "m.lowpriority"
MOST = 50


async def measure(size: Size, note: Note) -> Row:
    """Measure each request by itself, some times."""
    times = min(MOST, size.times)
    row = Row(
        "sidebar",
        "Who is online, in the list of rooms",
        f"What [a person sees](operating.md#what-people-see) of an agent that goes or comes, each {times} times: how"
        " long it takes, and the homeserver's processor with the pushes that follow, on average.",
    )
    async with running(AIAGENTCHAT_SIDEBAR="off") as bench, aiohttp.ClientSession() as http:
        synapse = bench.synapse
        operator, me = synapse.operator_client(http), synapse.operator.user_id
        await bench.attach((f"other-{number}" for number in range(times - 1)), note)
        agent = AgentName("claude-dev")
        room = RoomId((await bench.api.post("/agents", name=agent))["room_id"])
        client = synapse.agent_client(http, agent)
        pictures = {
            "online": await upload_picture(client, agent),
            "offline": await upload_picture(client, agent, grey=True),
        }
        identities = AppserviceIdentities(synapse.appservice(http), Naming(synapse.config.server_name))

        async def tag(number: int) -> None:
            await operator.get_room_tags(me, room)
            if number % 2:
                await operator.delete_room_tag(me, room, LOW)
            else:
                await operator.put_room_tag(me, room, LOW, {OFFLINE: True})

        async def picture(number: int) -> None:
            await client.get_state(room, "m.room.avatar")
            content = render_picture(pictures, shown="online" if number % 2 else "offline")
            await client.put_state(room, "m.room.avatar", "", content)

        async def make(number: int, *, with_picture: bool) -> None:
            name = AgentName(f"new-{number}-{with_picture}".lower())
            await identities.ensure_account(name)
            await introduce(identities.client_of(name), identities.names.user(name), name, with_picture=with_picture)

        async def bare(number: int) -> None:
            await make(number, with_picture=False)

        async def pictured(number: int) -> None:
            await make(number, with_picture=True)

        async def time_of(what: str, act: Callable[[int], Awaitable[object]]) -> None:
            walls, before = [], cpu_s(bench.homeserver_pid)
            for number in range(times):
                begun = time.perf_counter()
                await act(number)
                walls.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(CALM_S)
            row.add(what, "ms", walls)
            row.add(f"{what}: processor", "ms of CPU", [(cpu_s(bench.homeserver_pid) - before) / times * 1000])

        await client.put_state(room, "m.room.avatar", "", render_picture(pictures))
        await time_of("`quiet`: an agent goes or comes, 2 requests, no event", tag)
        await time_of("`pictures`: besides, 2 requests, 1 event", picture)
        await time_of("a new agent's account and name", bare)
        await time_of("the same with its picture, 3 requests more", pictured)
    return row
