"""A call of a command as a whole process, beside the interpreter alone and beside another client's command."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from aiagentchat.matrix.client import MatrixClient
from bench.figures import Goal, Row, ratio_of
from bench.peers import make_account
from bench.sizes import Size
from bench.system import Bench, Note, running

BARE = "the interpreter, with `import argparse, json, http.client`"
ALONE = "the interpreter alone"
COMMANDER = "`matrix-commander`, sending one message"
WHO, SEND, READ, HOOK = "`cchat who`", "`cchat send`", "`cchat read`", "a hook with nothing to say"
COMMANDERS_ROOM_VERSION = "11"
"""It adds a server's name to a room id that has none, as ids from version 12 on, and then finds no such room."""
MOST = 60
PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Command:
    """A process to run. `environment`: besides this process's own. `given`: on its standard input."""

    words: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    given: str = ""

    async def run(self) -> float:
        """Return how long it took, in ms. Raises `CalledProcessError` where it failed."""
        return await asyncio.to_thread(self._run)

    def _run(self) -> float:
        begun = time.perf_counter()
        done = subprocess.run(
            self.words,
            env=os.environ | self.environment,
            input=self.given,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        took = (time.perf_counter() - begun) * 1000
        if done.returncode:
            raise RuntimeError(f"{self.words} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return took


_MODULES = "The interpreter has three modules alone; the rest loads the program's own, and asks the daemon."
_WAITS = f"{_MODULES} And it waits for the homeserver."


async def measure(size: Size, note: Note) -> Row:
    """Call each in turns, so that what else the machine does hits all alike."""
    times = min(MOST, size.times)
    row = Row(
        "commands",
        "Commands as whole processes",
        "From the start of a process to its end, in turns. `send` and `matrix-commander` wait until the homeserver has"
        " stored the message; `read` has one message to hand out, and acknowledges it; the hook is of a session whose"
        " agent has nothing to read.",
    )
    async with running() as bench, aiohttp.ClientSession() as http:
        writer, reader = await bench.attach(["writer", "reader"])
        with tempfile.TemporaryDirectory() as directory:
            place = {"AIAGENTCHAT_HOME": str(bench.settings.paths.data_dir)}
            cchat = PROGRAMS / "cchat"
            commands = {
                ALONE: Command([sys.executable, "-c", "pass"]),
                BARE: Command([sys.executable, "-c", "import argparse, json, http.client"]),
                WHO: Command([cchat, "who"], place),
                SEND: Command([cchat, "send", "--to", "reader", "hello"], place | {"AIAGENTCHAT_TOKEN": writer.token}),
                READ: Command([cchat, "read"], place | {"AIAGENTCHAT_TOKEN": reader.token}),
                HOOK: await _hook(place, Path(directory)),
                COMMANDER: await _commander(bench, http, Path(directory)),
            }
            took: dict[str, list[float]] = {what: [] for what in commands}
            for number in range(times):
                if number % 10 == 0:
                    note(f"{number} of {times}")
                for what, command in commands.items():
                    took[what].append(await command.run())
    series = {what: row.add(what, "ms", values) for what, values in took.items()}
    bare = series[BARE]
    row.goals += [
        *(
            Goal(f"{what} beside the interpreter with three modules", ratio_of(series[what], bare), 1.5, why=why)
            for what, why in ((WHO, _MODULES), (SEND, _WAITS), (READ, _WAITS))
        ),
        Goal(f"{HOOK} beside the interpreter with three modules", ratio_of(series[HOOK], bare), 1.3),
        Goal(
            "`cchat send` faster than `matrix-commander`",
            ratio_of(series[COMMANDER], series[SEND]),
            10,
            is_least=True,
            why=f"A tenth of it is {series[COMMANDER].median / 10:.1f} ms, and the interpreter with three modules takes"
            f" {bare.median:.1f} of them: the rest is less than the homeserver needs to store a message.",
        ),
    ]
    return row


async def _hook(place: Mapping[str, str], directory: Path) -> Command:
    """Return the hook of a session that this process holds, once its agent is online."""
    environment = dict(place) | {"CLAUDE_PROJECT_DIR": str(directory), "CLAUDE_PID": ""}

    def hook(event: str) -> Command:
        given = {"hook_event_name": event, "session_id": "s-1", "cwd": str(directory)}
        return Command([PROGRAMS / "cchat", "hook", "claude-code"], environment, json.dumps(given))

    await hook("SessionStart").run()
    await asyncio.sleep(5)
    return hook("PostToolUse")


async def _commander(bench: Bench, http: aiohttp.ClientSession, directory: Path) -> Command:
    """Return a call of `matrix-commander`, logged in as an ordinary account, in whose one room one message is sent."""
    account = await make_account(bench, "commander")
    client = MatrixClient(bench.synapse.config.base_url, account.access_token, http)
    room_id = await client.create_room({"room_version": COMMANDERS_ROOM_VERSION})
    credentials, store = directory / "credentials.json", directory / "store"
    store.mkdir()
    credentials.write_text(
        json.dumps(
            {
                "homeserver": bench.synapse.config.base_url,
                "device_id": account.device_id,
                "user_id": account.user_id,
                "room_id": room_id,
                "access_token": account.access_token,
            }
        )
    )
    command = Command(
        [PROGRAMS / "matrix-commander", "--credentials", credentials, "--store", store, "--message", "hello"]
    )
    await command.run()  # the first makes keys, and uploads them
    return command
