"""What nothing tells of by itself: pushes that do not come, and a homeserver that is an older copy of what it was."""

import asyncio
import dataclasses
import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiagentchat.agents import delivery
from aiagentchat.daemon import transports, watch
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.matrix import appservice, sync
from aiagentchat.matrix.events import EventBatch
from aiagentchat.matrix.sync import SyncSource
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import attach, messages_of, say, until
from tests.integration.systems import (
    ACCOUNTS_ALONE,
    APPSERVICE_ALONE,
    ON_ONE_PROCESS,
    RunningDaemon,
    Synapse,
    fresh_name,
)
from tests.integration.test_inbox import push
from tests.integration.test_several_daemons import until_listed


async def condition(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    """Return a condition of the daemon's health."""
    conditions = (await daemon.api.get("/health"))["conditions"]
    return dict(next(each for each in conditions if each["name"] == name))


async def wait_for(daemon: RunningDaemon, name: str, *, ok: bool) -> dict[str, Any]:
    """Return a condition once it holds, or does not."""

    async def is_so() -> bool:
        return bool((await condition(daemon, name))["ok"] is ok)

    await until(is_so)
    return await condition(daemon, name)


# --- a homeserver that was restored from an older copy


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every second or two instead of every half minute."""
    monkeypatch.setattr(watch, "_LOOK_S", 1.0)
    monkeypatch.setattr(transports, "_LOOK_S", 1.0)
    monkeypatch.setattr(transports, "_PUSH_S", 1.0)


def copy_of(synapse: Synapse) -> Path:
    return synapse.paths.data_dir / "copy.db"


async def restart_with_copy(synapse: Synapse, *, restore: bool) -> None:
    """Stop the homeserver, make or restore a copy of its database, and start it again."""
    await synapse.stop()
    database, copy = synapse.paths.homeserver / "homeserver.db", copy_of(synapse)
    shutil.copyfile(*((copy, database) if restore else (database, copy)))
    await synapse.start()


async def until_kept(daemon: RunningDaemon, sent: dict[str, Any]) -> None:
    """Return once the daemon has kept that the homeserver has this message, sent just now, or a later one."""
    file, since_ms = daemon.settings.paths.landmarks, (time.time() - 1) * 1000

    async def is_kept() -> bool:
        kept = json.loads(file.read_text()) if file.exists() else []
        return any(each["event_id"] == sent["event_id"] or each["ts"] > since_ms for each in kept)

    await until(is_kept)


@ON_ONE_PROCESS
async def test_a_restored_homeserver_is_noticed_and_all_that_is_left_and_new_is_read(
    own_synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    writer, reader = await attach(daemon, "writer"), await attach(daemon, "reader")
    await writer.send("acknowledged", to=reader.name)
    await reader.acknowledge(await reader.unread(wait="20"))
    await writer.send("left", to=reader.name)
    late_name = fresh_name("late")
    await own_synapse.provide_account(daemon.settings.paths, late_name)
    await restart_with_copy(own_synapse, restore=False)
    assert await reader.bodies(wait="20") == ["left"]
    await reader.acknowledge(await reader.unread(wait="20"))
    await writer.send("gone", to=reader.name)
    assert await reader.bodies(wait="20") == ["gone"]
    late = await attach(daemon, name=late_name)
    last = await writer.send("gone as well", to=late.name)
    assert await late.bodies(wait="20") == ["gone as well"]
    await until_kept(daemon, last)
    assert (await condition(daemon, "history"))["ok"]

    await restart_with_copy(own_synapse, restore=True)
    said = await wait_for(daemon, "history", ok=False)
    assert "restored from an older copy" in said["detail"]
    assert "sent again" in said["remedy"]
    async with reader.api.stream("GET", "/events") as stream:
        assert [each["body"] for each in await messages_of(stream, 1)] == ["left"]
        await writer.send("new", to=reader.name)
        assert [each["body"] for each in await messages_of(stream, 1)] == ["new"]
    await writer.send("to a room that is made anew", to=late.name)
    assert await late.bodies(wait="20") == ["to a room that is made anew"]
    for agent in (writer, reader, late):
        await until_listed(daemon, agent.name, status="online")


@ON_ONE_PROCESS
async def test_a_homeserver_that_was_restored_while_no_daemon_ran_is_noticed_by_the_next_one(
    own_synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    async def start_again(before: RunningDaemon, home: str) -> RunningDaemon:
        """Start one with what the one before kept."""
        settings = own_synapse.settings(tmp_path / home)
        shutil.copyfile(before.settings.paths.landmarks, settings.paths.landmarks)
        settings.paths.landmarks.chmod(0o600)
        for agent in (writer, reader):
            own_synapse.lend_account(settings.paths, agent.name)  # who can look up what stood in its room
        return await start_daemon(own_synapse, settings)

    first = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    writer, reader = await attach(first, "writer"), await attach(first, "reader")
    await restart_with_copy(own_synapse, restore=False)
    last = await writer.send("gone", to=reader.name)
    assert await reader.bodies(wait="20") == ["gone"]
    await until_kept(first, last)
    await first.stop()
    await restart_with_copy(own_synapse, restore=True)
    second = await start_again(first, "second")
    await wait_for(second, "history", ok=False)
    assert await reader.on(second).bodies() == []
    await until_kept(second, await writer.on(second).send("new", to=reader.name))
    await second.stop()
    third = await start_again(second, "third")
    await asyncio.sleep(2.5)  # it was said once, and the homeserver has all that it has had since
    assert (await condition(third, "history"))["ok"]


async def test_messages_that_the_homeserver_lets_expire_tell_of_no_restored_copy(
    own_synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_KEPT_MS", 1_000)
    expiry = {"enabled": True, "default_policy": {"min_lifetime": "1s", "max_lifetime": "3s"}, "purge_jobs": []}
    own_synapse.overrides = {**own_synapse.overrides, "retention": expiry}
    await own_synapse.stop()
    await own_synapse.start()
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    writer, reader = await attach(daemon, "writer"), await attach(daemon, "reader")
    sent = await writer.send("not for long", to=reader.name)
    assert await reader.bodies(wait="20") == ["not for long"]
    await until_kept(daemon, sent)

    async def is_expired() -> bool:
        answer = await writer.api.call("GET", "/sent", query={"event_id": sent["event_id"], "to": reader.name})
        return answer.status == 404

    await until(is_expired)
    await asyncio.sleep(2.5)  # two looks later
    assert (await condition(daemon, "history"))["ok"]


# --- pushes that do not come


def refuse(*args: object) -> EventBatch:
    """Refuse a transaction, while pings are answered."""
    raise web.HTTPServiceUnavailable


@APPSERVICE_ALONE  # nothing is pushed to accounts
@pytest.mark.parametrize("is_logged_in", [True, False])
async def test_pushes_that_stop_are_noticed_and_what_they_would_have_brought_is_read_all_the_same(
    own_synapse: Synapse,
    start_daemon: StartDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_logged_in: bool,
) -> None:
    """Lesson: Stalled, and healthy by its looks."""
    settings = own_synapse.settings(tmp_path / "home")
    if not is_logged_in:
        settings.paths.operator_device.unlink()
    daemon = await start_daemon(own_synapse, settings)
    agent, writer = await attach(daemon), await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await writer.send("pushed", to=agent.name)
        assert [each["body"] for each in await messages_of(stream, 1)] == ["pushed"]
        assert (await condition(daemon, "transport"))["ok"]
        with monkeypatch.context() as patched:
            patched.setattr(appservice.AppserviceReceiver, "_in_turn", refuse)
            await writer.send("not pushed", to=agent.name)
            assert [each["body"] for each in await messages_of(stream, 1)] == ["not pushed"]
            said = await wait_for(daemon, "transport", ok=False)
            assert "pushes nothing" in said["detail"]
            await asyncio.sleep(2.5)  # the next look finds nothing more that is missing
            assert "pushes nothing" in (await daemon.api.get("/who"))["stalled"]
        await writer.send("pushed again", to=agent.name)
        assert [each["body"] for each in await messages_of(stream, 1)] == ["pushed again"]
    await wait_for(daemon, "transport", ok=True)
    assert not (await daemon.api.get("/who"))["stalled"]


@ACCOUNTS_ALONE  # else nobody syncs
async def test_a_sync_that_never_returns_is_said_to_stall_and_begun_again_from_its_position(
    synapse: Synapse,
    start_daemon: StartDaemon,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever keeps it: that its request has a deadline is told elsewhere."""
    monkeypatch.setattr(transports, "_SILENCE_S", 2.0 - sync.POLL_S)
    monkeypatch.setattr(transports, "SyncSource", functools.partial(SyncSource, poll_s=0.5))
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_DEADLINE="4"))
    alice, agent = synapse.operator_client(http), await attach(daemon)
    ask = SyncSource._ask

    async def hang(self: SyncSource, *arguments: Any) -> dict[str, Any]:
        await asyncio.sleep(3_600)
        return await ask(self, *arguments)

    async with agent.api.stream("GET", "/events") as stream:
        await say(alice, agent.room_id, "heard")
        assert [each["body"] for each in await messages_of(stream, 1)] == ["heard"]
        with monkeypatch.context() as patched:
            patched.setattr(SyncSource, "_ask", hang)
            await asyncio.sleep(1.0)  # the sync before it is over
            await say(alice, agent.room_id, "not heard")
            said = await wait_for(daemon, "transport", ok=False)
            assert "got no answer for" in said["detail"]
            assert "got no answer for" in (await daemon.api.get("/who"))["stalled"]
        assert [each["body"] for each in await messages_of(stream, 1)] == ["not heard"]
        await say(alice, agent.room_id, "heard again")
        assert [each["body"] for each in await messages_of(stream, 1)] == ["heard again"]
    await wait_for(daemon, "transport", ok=True)


@APPSERVICE_ALONE  # nothing is pushed to accounts
async def test_a_transaction_that_is_left_out_is_noticed_at_the_next_one_whatever_room_that_tells_of(
    synapse: Synapse,
    start_daemon: StartDaemon,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Synapse leaves one out when it comes at the moment in which it finds the daemon again."""
    monkeypatch.setattr(transports, "_LOOK_S", 600.0)
    daemon, alice = await start_daemon(synapse, synapse.settings(tmp_path)), synapse.operator_client(http)
    agent, other = await attach(daemon), await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await say(alice, agent.room_id, "pushed")
        assert [each["body"] for each in await messages_of(stream, 1)] == ["pushed"]
        await asyncio.sleep(2.0)  # the first look of the daemon is over
        taken = asyncio.Event()

        def leave_out(raw: object) -> EventBatch:
            taken.set()
            return EventBatch(())

        with monkeypatch.context() as patched:
            patched.setattr(appservice, "parse_events", leave_out)
            await say(alice, agent.room_id, "left out")
            await asyncio.wait_for(taken.wait(), 30)
        last = await alice.get_event(other.room_id, await say(alice, other.room_id, "in another room"))
        await push(synapse, http, last, txn_id="1000000")
        assert [each["body"] for each in await messages_of(stream, 1)] == ["left out"]


@APPSERVICE_ALONE  # nothing is pushed to accounts
async def test_a_daemon_that_the_homeserver_never_reaches_says_so_and_reads_all_the_same(
    own_synapse: Synapse,
    start_daemon: StartDaemon,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unreachable = f"http://127.0.0.1:{any_free_port()}"
    listens = dataclasses.replace(own_synapse.registration, url=unreachable)
    settings = own_synapse.settings(tmp_path / "home", AIAGENTCHAT_DEADLINE="4")
    own_synapse.given_registration = listens
    daemon, alice = await start_daemon(own_synapse, settings), own_synapse.operator_client(http)
    agent = await attach(daemon)
    async with agent.api.stream("GET", "/events") as stream:
        await say(alice, agent.room_id, "one")
        assert [each["body"] for each in await messages_of(stream, 1)] == ["one"]
        assert "ping" in (await wait_for(daemon, "transport", ok=False))["detail"]
        await say(alice, agent.room_id, "two")
        assert [each["body"] for each in await messages_of(stream, 1)] == ["two"]


@APPSERVICE_ALONE  # nothing is pushed to accounts
async def test_an_answer_that_is_waited_for_is_found_though_it_was_not_pushed(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_LOOK_ANYWAY_S", 1.0)
    asker, asked = await attach(daemon), await attach(daemon)
    question = await asker.send("is main green?", to=asked.name)
    assert await asked.bodies(wait="20") == ["is main green?"]
    monkeypatch.setattr(appservice, "parse_events", lambda raw: EventBatch(()))
    query = {"to": asked.name, "event_id": question["event_id"], "wait": "30"}
    waiting = asyncio.create_task(asker.api.get("/sent", **query))
    await asyncio.sleep(0.5)  # it has looked once
    await asked.send("it is", reply_to=question["event_id"])
    async with asyncio.timeout(20):
        assert (await waiting)["messages"][0]["answer"]["body"] == "it is"
