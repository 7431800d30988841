"""A daemon that does the least, as a process: what a start of ours is measured beside.

It answers `POST /agents` on a socket with nothing, and reads the Space's state beside that. When as many as there are
have come, it writes one roster and one presence at the same time, says on standard output when the roster is written,
and ends.
"""

import asyncio
import json
import os
import sys
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL


async def main(socket: str, state: str, roster: str, presence: str, agents: int, token: str) -> None:
    """Start, wait for as many agents, write, and end. `state`, `roster`, `presence`: what to request, quoted."""
    names: list[str] = []
    are_all_here = asyncio.Event()

    async def attach(request: web.Request) -> web.Response:
        names.append(json.loads(await request.read())["name"])
        if len(names) == agents:
            are_all_here.set()
        return web.json_response({})

    async def call(method: str, url: str, body: Any = None) -> Any:
        async with session.request(method, URL(url, encoded=True), headers=headers, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return json.loads(await answer.read())

    headers = {"Authorization": f"Bearer {token}"}
    app = web.Application()
    app.router.add_post("/agents", attach)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        reading = group.create_task(call("GET", state))
        await are_all_here.wait()
        assert await reading
        group.create_task(call("PUT", presence, {"presence": "online"}))
        await call("PUT", roster, {"online": names})
        sys.stdout.write("online\n")
        sys.stdout.flush()
    await runner.cleanup()


if __name__ == "__main__":
    socket, state, roster, presence, agents = sys.argv[1:]
    asyncio.run(main(socket, state, roster, presence, int(agents), os.environ["TOKEN"]))
