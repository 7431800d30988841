"""Agents of two homeservers in one Space, each with a daemon there: found, written to, answered."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import attach, messages_of, restart, until
from tests.integration.federation import Federation, alias_on, federation, user_on
from tests.integration.systems import RunningDaemon
from tests.integration.test_several_daemons import who


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Federation]:
    """Two homeservers that reach each other."""
    retries = {"destination_min_retry_interval": "1s", "destination_max_retry_interval": "2s"}
    async with federation(tmp_path, federation=retries) as running:
        yield running


@dataclass(frozen=True)
class Daemons:
    """One on each, in the Space of the first."""

    here: RunningDaemon
    there: RunningDaemon


@pytest.fixture
async def daemons(servers: Federation, start_daemon: StartDaemon, tmp_path: Path) -> Daemons:
    further = {"AIAGENTCHAT_DAEMONS": user_on(servers.there, "aiagentchat")}
    here = await start_daemon(servers.here, servers.here.settings(tmp_path / "daemon-here", **further))
    space = {"SPACE_ALIAS": alias_on(servers.here, "aiagentchat")}
    return Daemons(here, await start_daemon(servers.there, servers.there.settings(tmp_path / "daemon-there", **space)))


async def test_agents_of_two_homeservers_find_each_other_and_talk(daemons: Daemons, servers: Federation) -> None:
    ours, theirs = await attach(daemons.here, "ours"), await attach(daemons.there, "theirs")
    near, far = (server.config.server_name for server in (servers.here, servers.there))
    their_name, our_name = f"{theirs.name}:{far}", f"{ours.name}:{near}"

    async def are_online() -> bool:
        seen = [(await who(daemons.here)).get(their_name), (await who(daemons.there)).get(our_name)]
        return all(entry is not None and entry["status"] == "online" for entry in seen)

    await until(are_online)
    for one, other, called, calls in ((ours, theirs, our_name, their_name), (theirs, ours, their_name, our_name)):
        async with other.api.stream("GET", "/events") as stream:
            asked = await one.send("is main green?", to=calls)
            [question] = await messages_of(stream, 1)
        assert (question["sender"]["name"], question["sender"]["kind"]) == (called, "agent")
        await other.acknowledge([question])
        async with one.api.stream("GET", "/events") as stream:
            await other.send("it is", reply_to=asked["event_id"])
            [answer] = await messages_of(stream, 1)
        assert (answer["body"], answer["sender"]["name"]) == ("it is", calls)
        await one.acknowledge([answer])
        [sent] = (await one.api.get("/sent", to=calls, event_id=asked["event_id"]))["messages"]
        assert sent["state"] == "answered"
    await theirs.send("to all of both")
    assert "to all of both" in await ours.bodies(wait="20")
    await daemons.there.stop()

    async def is_offline() -> bool:
        return bool((await who(daemons.here))[their_name]["status"] == "offline")

    await until(is_offline)


async def test_with_the_other_homeserver_gone_everything_here_goes_on(daemons: Daemons, servers: Federation) -> None:
    ours, other, theirs = [
        await attach(daemon, stem)
        for daemon, stem in ((daemons.here, "ours"), (daemons.here, "other"), (daemons.there, "theirs"))
    ]
    their_name = f"{theirs.name}:{servers.there.config.server_name}"

    async def is_listed() -> bool:
        return their_name in await who(daemons.here)

    await until(is_listed)
    await daemons.there.kill()
    await servers.there.stop()
    await ours.send("still here", to=other.name)
    assert await other.bodies() == ["still here"]
    assert their_name in await who(daemons.here)
    refused = await ours.api.call(
        "POST", "/send", {"body": "hello", "to": f"nobody:{servers.there.config.server_name}"}
    )
    assert (refused.status, refused.code) == (404, "agent_not_found")


@pytest.mark.parametrize("reads", ["all the time", "afterwards"])
async def test_of_what_was_written_there_while_this_homeserver_was_down_nothing_is_left_out(
    daemons: Daemons, servers: Federation, reads: str
) -> None:
    """The other one was restarted too, and so remembers the latest alone to send here."""
    ours, theirs = await attach(daemons.here, "ours"), await attach(daemons.there, "theirs")
    our_name = f"{ours.name}:{servers.here.config.server_name}"

    async def is_listed() -> bool:
        return our_name in await who(daemons.there)

    async def write(*bodies: str) -> None:
        for body in bodies:
            await theirs.send(body, to=our_name)

    await until(is_listed)
    async with ours.api.stream("GET", "/events") as stream:
        await write("0")
        await ours.acknowledge(await messages_of(stream, 1))
        await servers.here.stop()
        missed = [str(number) for number in range(1, 30)]
        await write(*missed)
        await restart(servers.there)
        await write("30")
        await servers.here.start()
        if reads == "all the time":
            await write("31")
            assert [each["body"] for each in await messages_of(stream, 31)] == [*missed, "30", "31"]
    if reads == "afterwards":
        await write("31")

        async def is_here() -> bool:
            return "31" in await ours.bodies()

        await until(is_here)
        assert await ours.bodies() == [*missed, "30", "31"]
