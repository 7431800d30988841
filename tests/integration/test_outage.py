"""A homeserver that is not there, at the start or later, and a Space that cannot be had: the daemon stays and recovers.

The daemon and its commands are processes; the homeserver is stopped and started by the test.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiagentchat.homeserver.render import REGISTRATION_FILE
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomAlias, UserId
from tests.integration.processes import Agent, Running, System, wait_until
from tests.integration.systems import Synapse, fresh_name, start_synapse

DEADLINE_S = 3.0
STOP_S = 5.0
STARTING_S = 2.0  # for a command's own process, on a busy machine


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A homeserver for this file alone, which its tests stop and start."""
    synapse = asyncio.run(start_synapse(tmp_path_factory.mktemp("synapse")))
    yield synapse
    asyncio.run(synapse.stop())


def system_on(synapse: Synapse, home: Path, **environment: str) -> System:
    """Return a home whose daemon is to run on this homeserver, with the operator's device."""
    synapse.settings(home)
    return System(
        home,
        AIAGENTCHAT_HOMESERVER_URL=synapse.config.base_url,
        AIAGENTCHAT_REGISTRATION=str(synapse.paths.homeserver / REGISTRATION_FILE),
        AIAGENTCHAT_DEADLINE=f"{DEADLINE_S:g}",
        SERVER_NAME=synapse.config.server_name,
        **environment,
    )


def condition(system: System, name: str) -> Any:
    """Return one condition of the daemon's health."""
    return next(entry for entry in system.status()["conditions"] if entry["name"] == name)


def is_well(system: System) -> bool:
    return bool(system.status()["health"] == "ok")


def require_outage_is_said(system: System, agent: Agent, daemon: Running) -> None:
    """Every command that needs the homeserver ends with 6 within its deadline; `status` says what is wrong."""
    wait_until(lambda: not condition(system, "homeserver")["ok"])
    assert "cchat up" in condition(system, "homeserver")["remedy"]
    assert system.status()["health"] == "degraded"
    commands = (
        ["send", "--to", agent.name, "hi"],
        ["join", fresh_name(), "--detach"],
        ["--as", agent.name, "reply", "x"],
    )
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        running = [stack.enter_context(system.running(*command)) for command in commands]
        assert [process.wait() for process in running] == [6, 6, 6]
        assert time.monotonic() - began < DEADLINE_S + STARTING_S
        assert [(process.rest(), process.rest(of="err") != "") for process in running] == [("", True)] * 3
    assert daemon.is_running


def test_a_homeserver_that_is_down_at_the_start_and_again_later(synapse: Synapse, tmp_path: Path) -> None:
    asyncio.run(synapse.stop())
    system = system_on(synapse, tmp_path)
    agent = Agent(system, name := fresh_name(), {})
    with system.running("daemon", "--agent", name) as daemon:
        daemon.line("the Space is not to be had yet", of="err")
        require_outage_is_said(system, agent, daemon)
        assert f"{name} is not up" in condition(system, "registration")["detail"]
        assert "it is tried again" in condition(system, "space")["remedy"]
        nobody = system.cchat("who")
        assert (nobody.out, "the directory is empty: " in nobody.err) == ("", True)

        asyncio.run(synapse.start())
        daemon.line("the daemon is up", of="err")
        wait_until(lambda: is_well(system))
        entry = system.who()[name]
        assert entry["status"] == "online"
        agent = Agent(system, name, entry)
        with system.running("--as", name, "read", "--follow") as following:
            agent.tell("before the outage")
            following.line("before the outage")
            wait_until(lambda: agent.unread() == [])
            asyncio.run(synapse.stop())
            require_outage_is_said(system, agent, daemon)
            assert following.is_running

            asyncio.run(synapse.start())
            wait_until(lambda: is_well(system))
            agent.tell("after it")
            following.line("after it")
            wait_until(lambda: agent.unread() == [])
        assert system.daemon_pid == daemon.pid
        asyncio.run(synapse.stop())
        began = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - began < STOP_S
    assert "Traceback" not in daemon.rest(of="err")


def as_squatter(synapse: Synapse, act: Callable[[MatrixClient], Awaitable[object]]) -> None:
    """Do something as a user of the namespace who is no agent."""

    async def run() -> None:
        async with aiohttp.ClientSession() as http:
            client = synapse.appservice(http)
            await client.register_appservice_user("aiagentchat-squatter")
            squatter = client.as_user(UserId(f"@aiagentchat-squatter:{synapse.config.server_name}"))
            await act(squatter)

    asyncio.run(run())


def test_without_the_space_an_agents_own_room_works_and_it_is_listed_later(synapse: Synapse, tmp_path: Path) -> None:
    asyncio.run(synapse.start())
    alias = RoomAlias(f"#aiagentchat-{fresh_name('space')}:{synapse.config.server_name}")
    body = {"room_alias_name": alias[1:].split(":")[0], "preset": "private_chat"}
    as_squatter(synapse, lambda squatter: squatter.create_room(body))
    system = system_on(synapse, tmp_path, SPACE_ALIAS=alias)
    with system.running("daemon") as daemon:
        assert "403" in daemon.line("the Space is not to be had yet", of="err")
        agent = system.join()
        assert agent.joined["registered"] is False
        agent.tell("without the Space")
        assert agent.unread() == ["without the Space"]
        nobody = system.cchat("who")
        assert (nobody.out, "the directory is empty: " in nobody.err) == ("", True)
        space, listing = condition(system, "space"), condition(system, "registration")
        assert (space["ok"], listing["ok"], agent.name in listing["detail"]) == (False, False, True)
        assert "invite @aiagentchat:" in space["remedy"]
        assert "the broadcast room is not to be had" in system.cchat("send", "to all", code=6).err

        as_squatter(synapse, lambda squatter: squatter.delete_room_alias(alias))
        daemon.line("the daemon is up", of="err")
        wait_until(lambda: is_well(system))
        assert system.who()[agent.name]["status"] == "online"
        assert system.who()[agent.name]["room_id"] == agent.joined["room_id"]
        agent.cchat("send", "to all")
        assert agent.unread() == ["without the Space"]
