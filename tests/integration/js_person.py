"""A person at a client on `matrix-js-sdk`, the engine inside Element Web: `tests/node/person.mjs` as a process."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.integration.systems import WAIT_S, Synapse

Json = dict[str, Any]
T = TypeVar("T")
SCRIPT = Path(__file__).parents[1] / "node" / "person.mjs"
_LINE_BYTES = 64 * 2**20


class JsPerson:
    """What the person does, and what they see."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._last = 0

    async def do(self, deed: str, **given: object) -> Any:
        """Have something be done, and return what came of it."""
        assert self._process.stdin is not None
        self._last += 1
        self._process.stdin.write(json.dumps({"id": self._last, "do": deed, **given}).encode() + b"\n")
        await self._process.stdin.drain()
        return await self.answer(self._last)

    async def answer(self, number: int) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            line = await self._process.stdout.readline()
        answer = json.loads(line)
        assert answer["id"] == number
        assert "failed" not in answer, answer
        return answer["done"]

    async def rooms(self) -> dict[str, Json]:
        """Return the rooms that the client knows of, by id."""
        return {room["room_id"]: room for room in await self.do("rooms")}

    async def until_rooms(self, hold: Callable[[dict[str, Json]], bool]) -> dict[str, Json]:
        """Wait until the rooms are as they should be."""
        async with asyncio.timeout(WAIT_S):
            while True:
                rooms = await self.rooms()
                if hold(rooms):
                    return rooms
                await asyncio.sleep(0.1)

    async def until_event(self, room_id: str, is_it: Callable[[Json], bool]) -> Json:
        """Wait until there is an event of which it is so, and return it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in await self.do("events", room=room_id):
                    if is_it(event):
                        return dict(event)
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def js_person(synapse: Synapse) -> AsyncIterator[JsPerson]:
    """The operator of a homeserver, just signed in with their password."""
    assert (SCRIPT.parent / "node_modules" / "matrix-js-sdk").exists(), (
        "'make test' installs it: npm ci --prefix tests/node"
    )
    password = synapse.paths.operator_password.read_text().strip()
    process = await asyncio.create_subprocess_exec(
        "node",
        str(SCRIPT),
        synapse.config.base_url,
        synapse.operator.user_id,
        env=os.environ | {"PASSWORD": password},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    try:
        person = JsPerson(process)
        assert await person.answer(0) == synapse.operator.user_id
        yield person
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
