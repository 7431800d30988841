"""What the homeserver pays for a person to see who is online: CPU, requests and events of it, an agent at a time.

`make bench`. A daemon of its own, on a Synapse of its own; CPU is that of the homeserver's process.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import aiohttp

from aiagentchat.matrix.sync import get_tags
from aiagentchat.model import AgentName, RoomId
from aiagentchat.space.appearance import introduce, upload_picture
from aiagentchat.space.content import OFFLINE
from aiagentchat.space.identities import AppserviceIdentities
from aiagentchat.space.layout import render_picture
from aiagentchat.space.names import Naming
from tests.integration.systems import Synapse, running_daemon, start_synapse

TIMES = 50
LOW = "m.lowpriority"


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(synapse: Synapse, what: str, events: int, act: Callable[[int], Awaitable[object]]) -> None:
    """Print what it comes to, with the pushes and syncs that it causes."""
    pid = synapse.process.pid
    assert pid is not None
    walls, before = [], cpu_s(pid)
    for number in range(TIMES):
        begun = time.perf_counter()
        await act(number)
        walls.append(time.perf_counter() - begun)
    await asyncio.sleep(2)
    cpu_ms = (cpu_s(pid) - before) / TIMES * 1000
    print(f"| {what} | {events} | {median(walls) * 1000:.0f} | {cpu_ms:.0f} |", flush=True)


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        synapse = await start_synapse(Path(directory) / "synapse")
        try:
            async with (
                running_daemon(synapse, synapse.settings(home, AIAGENTCHAT_SIDEBAR="off")) as daemon,
                aiohttp.ClientSession() as http,
            ):
                operator, me = synapse.operator_client(http), synapse.operator.user_id
                for number in range(TIMES - 1):
                    await daemon.api.post("/agents", name=f"other-{number}")
                agent = AgentName("claude-dev")
                joined = await daemon.api.post("/agents", name=agent)
                room = RoomId(joined["room_id"])
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

                async def look(_: int) -> None:
                    await get_tags(operator)

                async def make(number: int, *, with_picture: bool) -> None:
                    name = AgentName(f"new-{number}-{with_picture}".lower())
                    await identities.ensure_account(name)
                    user_id = identities.names.user(name)
                    await introduce(identities.client_of(name), user_id, name, with_picture=with_picture)

                async def bare(number: int) -> None:
                    await make(number, with_picture=False)

                async def pictured(number: int) -> None:
                    await make(number, with_picture=True)

                await client.put_state(room, "m.room.avatar", "", render_picture(pictures))
                print("| | events | ms | ms of the homeserver's CPU |\n|---|---|---|---|")
                for what, events, act in (
                    ("`quiet`: an agent goes or comes, 2 requests", 0, tag),
                    ("`pictures`: besides, 2 requests", 1, picture),
                    (f"a start of the daemon with {TIMES} agents that are shown as they are, 1 request", 0, look),
                    ("a new agent's account and name", 0, bare),
                    ("the same with its picture, 3 requests more", 0, pictured),
                ):
                    await measure(synapse, what, events, act)
        finally:
            await synapse.stop()


if __name__ == "__main__":
    asyncio.run(main())
