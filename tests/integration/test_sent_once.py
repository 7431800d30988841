"""A message is sent once, whatever is killed between the homeserver's taking it and the sender's being told."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from aiagentchat.homeserver.render import REGISTRATION_FILE
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import attach
from tests.integration.processes import AccountSystem, System
from tests.integration.relay import Relay, relay_to
from tests.integration.systems import APPSERVICE_ALONE, WAIT_S, RunningDaemon, Synapse, fresh_name
from tests.integration.terminal import terminal


@pytest.fixture
async def relay(synapse: Synapse) -> AsyncIterator[Relay]:
    """Stands before the homeserver."""
    async with relay_to(synapse.config.base_url) as relay:
        yield relay


async def ids_in(client: MatrixClient, room_id: RoomId) -> list[str]:
    """Return the ids of all messages of a room, in order."""
    page = await client.get_messages(room_id, direction="b", limit=100)
    return [event["event_id"] for event in page.chunk if event["type"] == "m.room.message"][::-1]


async def taken(relay: Relay) -> str:
    """Wait until the homeserver has a message of which its sender knows nothing; return its id."""
    async with asyncio.timeout(WAIT_S):
        await relay.taken.wait()
    return str(json.loads(relay.withheld)["event_id"])


# --- the homeserver is killed


async def kill(synapse: Synapse) -> None:
    """`kill -9`, and return when it is gone."""
    pid = synapse.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await synapse.process.stop()


@pytest.mark.parametrize(
    ("mode", "cases"),
    [  # the operator's token is one and the same in both modes
        ("appservice", [("agent", "once it is back"), ("operator", "while it is away")]),
        ("accounts", [("agent", "while it is away")]),
    ],
    indirect=["mode"],
    scope="session",
)
async def test_a_homeserver_killed_before_it_answers_has_the_message_once(
    own_synapse: Synapse,
    start_daemon: StartDaemon,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    cases: list[tuple[str, str]],
) -> None:
    async with relay_to(own_synapse.config.base_url) as relay:
        behind = replace(own_synapse, config=replace(own_synapse.config, port=relay.port))
        daemon: RunningDaemon = await start_daemon(behind, behind.settings(tmp_path / "home"))
        writer, target = await attach(daemon, "writer"), await attach(daemon, "target")
        stored: list[str] = []
        for speaker, cut in cases:
            api = writer.api if speaker == "agent" else daemon.api
            stored.append((await api.post("/send", body="before", to=target.name))["event_id"])
            relay.withhold()
            sending = asyncio.create_task(api.post("/send", body="once", to=target.name))
            stored.append(await taken(relay))
            await kill(own_synapse)
            if cut == "while it is away":
                relay.drop()
            await own_synapse.start()
            relay.drop()
            assert (await sending)["event_id"] == stored[-1]
            assert await ids_in(own_synapse.operator_client(http), target.room_id) == stored
        await daemon.stop()


# --- the daemon is killed


def behind_relay(synapse: Synapse, relay: Relay, home: Path) -> System:
    """Return a home whose daemon reaches the homeserver through the relay."""
    if synapse.mode == "accounts":
        system: System = AccountSystem(home, synapse)
    else:
        synapse.settings(home)
        system = System(
            home,
            AIAGENTCHAT_REGISTRATION=str(synapse.paths.homeserver / REGISTRATION_FILE),
            SERVER_NAME=synapse.config.server_name,
        )
    system.environment["AIAGENTCHAT_HOMESERVER_URL"] = relay.url
    return system


@contextlib.asynccontextmanager
async def running(system: System) -> AsyncIterator[None]:
    """Run the daemon as a process."""
    with system.running("daemon") as daemon:
        await asyncio.to_thread(daemon.line, "the daemon is up", of="err")
        yield


@pytest.mark.parametrize(
    ("mode", "commands"),
    [("appservice", ["send", "reply", "ask"]), ("accounts", ["send"])],
    indirect=["mode"],
    scope="session",
)
async def test_a_daemon_killed_before_it_answers_and_started_again_has_sent_the_message_once(
    synapse: Synapse, relay: Relay, http: aiohttp.ClientSession, tmp_path: Path, commands: list[str]
) -> None:
    system = behind_relay(synapse, relay, tmp_path / "home")
    if synapse.mode == "accounts":
        await synapse.provide_account(system.paths, "first")
    async with contextlib.AsyncExitStack() as daemons:
        await daemons.enter_async_context(running(system))
        writer, target = await asyncio.to_thread(system.join, "writer"), await asyncio.to_thread(system.join, "target")
        await asyncio.to_thread(system.send, "a question", to=writer.name, of=target.name)
        await asyncio.to_thread(writer.cchat, "read")
        stored: list[str] = []
        for command in commands:
            words = {
                "send": ("send", "--json", "--to", target.name, "once"),
                "reply": ("reply", "--json", "once"),
                "ask": ("ask", "--json", target.name, "once"),
            }[command]
            relay.withhold()
            with system.running("--as", writer.name, *words) as sending:
                stored.append(await taken(relay))
                await asyncio.to_thread(system.kill, system.daemon_pid)
                relay.drop()
                await daemons.enter_async_context(running(system))
                if command == "ask":
                    await asyncio.to_thread(target.cchat, "read", "--wait", "30")
                    await asyncio.to_thread(target.cchat, "reply", "an answer")
                line = await asyncio.to_thread(sending.line)
                assert await asyncio.to_thread(sending.wait) == 0
                result = json.loads(line)
                told = result["in_reply_to"] if command == "ask" else result
                assert told["event_id"] == stored[-1]
            assert await ids_in(synapse.operator_client(http), RoomId(target.joined["room_id"])) == stored


@APPSERVICE_ALONE  # the command knows nothing of the mode
async def test_a_program_whose_answer_is_stored_and_that_was_killed_before_it_knew_has_answered_once(
    synapse: Synapse, relay: Relay, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    system = behind_relay(synapse, relay, tmp_path / "home")
    runner_name = fresh_name("runner")
    answering = ("run", runner_name, "--", sys.executable, "-c", "print('an answer')")
    async with running(system):
        writer = await asyncio.to_thread(system.join, "writer")
        with system.running(*answering) as runner:
            await asyncio.to_thread(runner.line, ": online")
            await asyncio.to_thread(system.send, "a question", to=runner_name, of=writer.name)
            relay.withhold()
            event_id = await taken(relay)
            runner.end(signal.SIGKILL)
        relay.drop()
        with system.running(*answering) as runner:
            await asyncio.to_thread(runner.line, "answered")
        room_id = RoomId(writer.joined["room_id"])
        assert await ids_in(synapse.operator_client(http), room_id) == [event_id]


@APPSERVICE_ALONE  # the command knows nothing of the mode
async def test_a_command_that_is_interrupted_leaves_a_key_with_which_the_message_is_sent_once(
    synapse: Synapse, relay: Relay, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    system = behind_relay(synapse, relay, tmp_path / "home")
    async with running(system):
        target = await asyncio.to_thread(system.join, "target")
        words = ("send", "--json", "--to", target.name)
        stored: list[str] = []
        for how in (signal.SIGINT, signal.SIGTERM):
            relay.withhold()
            with system.running(*words, "once") as sending:
                stored.append(await taken(relay))
                assert await asyncio.to_thread(sending.end, how) == 130
                told = sending.rest(of="err")
            relay.drop()
            key = told.partition("--key ")[2].split()[0]
            again = await asyncio.to_thread(system.cchat, *words, "--key", key, "once")
            assert again.data[0]["event_id"] == stored[-1]
            assert await ids_in(synapse.operator_client(http), RoomId(target.joined["room_id"])) == stored


async def test_a_daemon_that_does_not_come_back_leaves_a_key_with_which_the_message_is_sent_once(
    synapse: Synapse, relay: Relay, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Lesson: Made, and never sent."""
    system = behind_relay(synapse, relay, tmp_path / "home")
    system.environment["AIAGENTCHAT_DEADLINE"] = "6"
    if synapse.mode == "accounts":
        await synapse.provide_account(system.paths, "first")
    words = ("send", "--json", "--to")
    async with running(system):
        target = await asyncio.to_thread(system.join, "target")
        relay.withhold()
        with system.running(*words, target.name, "once") as sending:
            event_id = await taken(relay)
            await asyncio.to_thread(system.kill, system.daemon_pid)
            relay.drop()
            assert await asyncio.to_thread(sending.wait) == 3
            error = json.loads(sending.rest(of="err"))["error"]
    assert "not known" in error["message"]
    key = error["hint"].partition("--key ")[2].split()[0]
    assert (await asyncio.to_thread(system.cchat, *words, target.name, "x", code=3)).out == ""
    async with running(system):
        again = await asyncio.to_thread(system.cchat, *words, target.name, "--key", key, "once")
        assert again.data[0]["event_id"] == event_id
        assert await ids_in(synapse.operator_client(http), RoomId(target.joined["room_id"])) == [event_id]


@APPSERVICE_ALONE  # the command knows nothing of the mode
async def test_a_line_of_a_chat_that_may_be_stored_is_sent_again_as_the_same_message(
    synapse: Synapse, relay: Relay, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    system = behind_relay(synapse, relay, tmp_path / "home")
    with contextlib.ExitStack() as chats:
        async with running(system):
            target = await asyncio.to_thread(system.join, "target")
            screen = chats.enter_context(terminal(system, "chat", target.name, AIAGENTCHAT_DEADLINE="2"))
            await asyncio.to_thread(screen.wait_for, f"{target.name}: ")
            relay.withhold()
            screen.type("once\r")
            event_id = await taken(relay)
            await asyncio.to_thread(system.kill, system.daemon_pid)
            relay.drop()
            await asyncio.to_thread(screen.wait_for, "perhaps not sent: once")
            await asyncio.to_thread(screen.wait_for, "> once")
            assert not screen.sees("--key")
        async with running(system):
            await asyncio.to_thread(screen.wait_for, "alice: once")
            screen.type("\rtwice\r")
            await asyncio.to_thread(screen.wait_for, "alice: twice")
    first, second = await ids_in(synapse.operator_client(http), RoomId(target.joined["room_id"]))
    assert (first, first != second) == (event_id, True)
