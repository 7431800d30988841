"""People whom the operator invites: what each role may on a real homeserver, and how it ends, in both modes."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import nio  # type: ignore[import-untyped]  # matrix-nio comes without types
import pytest

from aiagentchat.errors import MatrixForbiddenError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId, UserId
from aiagentchat.space.content import CARD, PEOPLE
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, person, say, until
from tests.integration.federation import federation
from tests.integration.processes import System
from tests.integration.systems import (
    ACCOUNTS_ALONE,
    APPSERVICE_ALONE,
    IN_ONE_MODE,
    ON_ONE_PROCESS,
    WAIT_S,
    RunningDaemon,
    Synapse,
    fresh_name,
    start_synapse,
)
from tests.integration.test_asides import asking, react, request_in
from tests.integration.test_rooms_change import delete_room

Make = Callable[..., Awaitable["Somebody"]]


@dataclass(frozen=True)
class Somebody:
    """A person with a Matrix client of their own."""

    user_id: UserId
    client: MatrixClient

    async def membership(self, by: MatrixClient, room_id: RoomId) -> str:
        state = [each for each in await by.get_full_state(room_id) if each["type"] == "m.room.member"]
        return next((str(each["content"]["membership"]) for each in state if each["state_key"] == self.user_id), "none")

    async def may(self, attempt: Awaitable[object]) -> bool:
        try:
            await attempt
        except MatrixForbiddenError:
            return False
        return True

    async def may_write(self, room_id: RoomId) -> bool:
        return await self.may(say(self.client, room_id, "hello"))


@pytest.fixture
def make(synapse: Synapse, http: aiohttp.ClientSession, tmp_path: Path) -> Make:
    async def somebody(stem: str = "bob") -> Somebody:
        client = await person(synapse, http, tmp_path / secrets.token_hex(4), stem)
        return Somebody((await client.whoami())[0], client)

    return somebody


@pytest.fixture
def alice(synapse: Synapse, http: aiohttp.ClientSession) -> MatrixClient:
    """The operator's own Matrix client, who is in all rooms."""
    return synapse.operator_client(http)


async def follow(daemon: RunningDaemon, method: str, path: str, body: object = None) -> list[tuple[str, Json]]:
    async with daemon.api.stream(method, path, body) as stream:
        return [each async for each in stream]


async def invite(daemon: RunningDaemon, who: Somebody | str, **fields: Any) -> dict[str, str]:
    """Invite somebody; return what was done, by alias."""
    user_id = who if isinstance(who, str) else who.user_id
    events = await follow(daemon, "POST", "/people", {"user_id": user_id} | fields)
    assert [events[0][0], events[-1][0]] == ["person", "done"], events
    steps = [data for event, data in events if event == "room"]
    assert all(step["of"] == len(steps) for step in steps)
    return {step["alias"]: step["did"] for step in steps}


async def uninvite(daemon: RunningDaemon, who: Somebody) -> dict[str, str]:
    events = await follow(daemon, "DELETE", f"/people/{who.user_id}")
    assert events[-1][0] == "done", events
    return {data["alias"]: data["did"] for event, data in events if event == "room"}


async def listed(daemon: RunningDaemon, who: Somebody) -> Json | None:
    people = (await daemon.api.get("/people"))["people"]
    return next((dict(each) for each in people if each["user_id"] == who.user_id), None)


async def common_rooms(daemon: RunningDaemon) -> tuple[RoomId, RoomId]:
    system = (await daemon.api.get("/health"))["system"]
    return RoomId(system["space_id"]), RoomId(system["broadcast_id"])


def alias_of(agent: Hosted) -> str:
    return f"#aiagentchat-{agent.name}:example.org"


async def written_ms(client: MatrixClient, room_id: RoomId, kind: str) -> int:
    return int((await client.get_state_event(room_id, kind))["origin_server_ts"])


async def decided_by(agent: Hosted, who: Somebody, alice: MatrixClient) -> str:
    """Return whose reaction counts where somebody's stands first, and then the operator's."""
    async with asking(agent) as task:
        event_id = await request_in(alice, agent)
        await who.may(react(who.client, agent.room_id, event_id, "✅"))
        await react(alice, agent.room_id, event_id, "❌")
        return str((await task)["by"])


@pytest.mark.parametrize(
    ("role", "writes", "approves"), [("watch", False, False), ("talk", True, False), ("approve", True, True)]
)
async def test_each_role_may_what_it_says_and_no_more(
    daemon: RunningDaemon, make: Make, alice: MatrixClient, role: str, writes: bool, approves: bool
) -> None:
    agent, bob = await attach(daemon), await make()
    space, broadcast = await common_rooms(daemon)
    done = await invite(daemon, bob, role=role)
    assert done[alias_of(agent)] == "invited"
    assert set(done.values()) == {"invited"}
    for room in (space, broadcast, agent.room_id):
        await bob.client.join_room(room)
        await bob.client.get_messages(room, direction="b")
    assert await bob.may_write(agent.room_id) == writes
    assert await bob.may_write(broadcast) == writes
    assert await bob.may(bob.client.put_state(space, CARD, bob.user_id, {})) == writes
    assert await bob.may(bob.client.invite(agent.room_id, UserId("@x:example.org"))) is False
    assert await bob.may(bob.client.put_state(space, "m.room.power_levels", "", {})) is False
    by = await decided_by(agent, bob, alice)
    assert by == (bob.user_id if approves else daemon.synapse.operator.user_id)
    found = await listed(daemon, bob)
    assert found is not None
    assert (found["role"], found["source"], found["agents"]) == (role, "invited", None)
    assert {each["membership"] for each in found["rooms"] if each["room_id"] in (space, broadcast)} == {"join"}


async def test_agents_that_come_later_have_their_people_at_once_and_only_theirs(
    daemon: RunningDaemon, make: Make, alice: MatrixClient
) -> None:
    agent = await attach(daemon)
    watcher, talker, of_one = [await make(stem) for stem in ("watcher", "talker", "of-one")]
    await invite(daemon, watcher, role="watch")
    await invite(daemon, talker)
    assert await invite(daemon, of_one, agents=[agent.name]) == {alias_of(agent): "invited"}
    later = await attach(daemon, "later")
    assert [await each.membership(alice, later.room_id) for each in (watcher, talker, of_one)] == [
        "invite",
        "invite",
        "none",
    ]
    for each in (watcher, talker):
        await each.client.join_room(later.room_id)
    assert [await each.may_write(later.room_id) for each in (watcher, talker)] == [False, True]
    space, _ = await common_rooms(daemon)
    assert await of_one.membership(alice, space) == "none"


@IN_ONE_MODE
async def test_with_agents_somebody_is_in_their_rooms_alone_until_they_are_invited_to_all(
    daemon: RunningDaemon, make: Make, alice: MatrixClient
) -> None:
    first, second, third = [await attach(daemon) for _ in range(3)]
    bob, (space, broadcast) = await make(), await common_rooms(daemon)
    await invite(daemon, bob, agents=[first.name], role="approve")
    await bob.client.join_room(first.room_id)
    assert await decided_by(first, bob, alice) == bob.user_id
    await alice.invite(third.room_id, bob.user_id)
    await bob.client.join_room(third.room_id)
    assert await decided_by(third, bob, alice) == daemon.synapse.operator.user_id  # which is not one of those
    await invite(daemon, bob, agents=[second.name])
    found = await listed(daemon, bob)
    assert found is not None
    assert (found["role"], found["agents"]) == ("approve", sorted([first.name, second.name]))
    assert {each["room_id"]: each["membership"] for each in found["rooms"]} == {
        first.room_id: "join",
        second.room_id: "invite",
    }
    assert [await bob.membership(alice, room) for room in (space, broadcast)] == ["none", "none"]
    done = await invite(daemon, bob)
    assert (done[alias_of(first)], done[alias_of(third)]) == ("present", "present")
    assert [await bob.membership(alice, room) for room in (space, broadcast)] == ["invite", "invite"]
    await bob.client.join_room(second.room_id)
    assert await decided_by(second, bob, alice) == bob.user_id


@IN_ONE_MODE
async def test_another_role_holds_at_once_and_the_same_invite_again_changes_nothing(
    daemon: RunningDaemon, make: Make, alice: MatrixClient
) -> None:
    agent, bob = await attach(daemon), await make()
    space, broadcast = await common_rooms(daemon)
    rooms = (space, broadcast, agent.room_id)
    for role, writes in (("watch", False), ("talk", True), ("watch", False), ("approve", True)):
        await invite(daemon, bob, role=role)
        for room in rooms:
            await bob.client.join_room(room)

        async def is_as_said(writes: bool = writes) -> bool:
            return [await bob.may_write(room) for room in rooms[1:]] == [writes, writes]

        await until(is_as_said)  # of several processes, the one asked knows it a moment later
    before = [await written_ms(alice, room, "m.room.power_levels") for room in rooms]
    assert set((await invite(daemon, bob)).values()) == {"present"}
    assert [await written_ms(alice, room, "m.room.power_levels") for room in rooms] == before
    assert await decided_by(agent, bob, alice) == bob.user_id  # whom no role took his
    await bob.client.leave_room(agent.room_id)
    assert (await invite(daemon, bob))[alias_of(agent)] == "invited"


async def test_who_is_uninvited_is_nowhere_and_approves_nothing(
    daemon: RunningDaemon, make: Make, alice: MatrixClient, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    agent, pending, bob = await attach(daemon), await attach(daemon), await make()
    gone = await attach(daemon, "gone", kind="ephemeral")
    space, broadcast = await common_rooms(daemon)
    rooms = (space, broadcast, agent.room_id, gone.room_id)
    await invite(daemon, bob, role="approve")
    for room in rooms:
        await bob.client.join_room(room)
    assert (await daemon.api.call("DELETE", f"/agents/{gone.name}")).status == 200
    async with asking(agent) as task:
        event_id = await request_in(alice, agent)
        done = await uninvite(daemon, bob)
        assert [await bob.membership(alice, room) for room in (*rooms, pending.room_id)] == ["leave"] * 5
        assert not await bob.may(react(bob.client, agent.room_id, event_id, "✅"))
        assert not await bob.may(bob.client.join_room(broadcast))
        await alice.invite(agent.room_id, bob.user_id)  # as one of no role
        await bob.client.join_room(agent.room_id)
        await react(bob.client, agent.room_id, event_id, "✅")
        await react(alice, agent.room_id, event_id, "❌")
        assert (await task)["by"] == synapse.operator.user_id
    assert done[alias_of(gone)] == "removed"
    assert await listed(daemon, bob) is None
    later = await attach(daemon, "later")
    assert await bob.membership(alice, later.room_id) == "none"
    member = await alice.get_state(space, "m.room.member", bob.user_id)
    assert member["reason"] == "uninvited by the operator"
    await uninvite(daemon, bob)  # who came in by another way
    assert await bob.membership(alice, agent.room_id) == "leave"

    async def is_unknown() -> bool:
        [(event, problem)] = (await follow(daemon, "DELETE", f"/people/{bob.user_id}"))[-1:]
        return event == "error" and problem["code"] == "not_found"

    await until(is_unknown)  # likewise


@IN_ONE_MODE
async def test_who_watched_and_was_uninvited_has_no_level_left(
    daemon: RunningDaemon, make: Make, alice: MatrixClient
) -> None:
    agent, bob = await attach(daemon), await make()
    await invite(daemon, bob, role="watch")
    await uninvite(daemon, bob)
    assert bob.user_id not in (await alice.get_state(agent.room_id, "m.room.power_levels"))["users"]
    await alice.invite(agent.room_id, bob.user_id)
    await bob.client.join_room(agent.room_id)
    assert await bob.may_write(agent.room_id)


@IN_ONE_MODE
async def test_a_daemon_on_an_empty_home_still_knows_them(
    synapse: Synapse, start_daemon: StartDaemon, make: Make, alice: MatrixClient, tmp_path: Path
) -> None:
    first = await start_daemon(synapse, synapse.settings(tmp_path / "first"))
    bob, watcher = await make(), await make("watcher")
    await invite(first, bob, role="approve")
    await invite(first, watcher, role="watch")
    await first.kill()
    second = await start_daemon(synapse, synapse.settings(tmp_path / "second"))
    agent = await attach(second, "later")
    for each in (bob, watcher):
        await each.client.join_room(agent.room_id)
    assert [await each.may_write(agent.room_id) for each in (bob, watcher)] == [True, False]
    assert await decided_by(agent, bob, alice) == bob.user_id
    roles = [(await listed(second, each) or {})["role"] for each in (bob, watcher)]
    assert roles == ["approve", "watch"]


@IN_ONE_MODE
async def test_a_space_that_is_made_anew_has_the_people_of_the_old_one(
    own_synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    client = await person(own_synapse, http, tmp_path, "watcher")
    bob, alice = Somebody((await client.whoami())[0], client), own_synapse.operator_client(http)
    await invite(daemon, bob, role="watch")
    old, _ = await common_rooms(daemon)
    await delete_room(own_synapse, old)

    async def is_anew() -> bool:
        health = await daemon.api.get("/health")
        return bool(health["status"] == "ok" and health["system"]["space_id"] not in (None, old))

    await until(is_anew)
    space, broadcast = await common_rooms(daemon)
    assert (await listed(daemon, bob) or {})["role"] == "watch"
    assert await bob.membership(alice, space) == "invite"
    await bob.client.join_room(space)
    await bob.client.join_room(broadcast)
    assert not await bob.may_write(broadcast)
    await daemon.stop()
    again = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "again"))
    assert (await listed(again, bob) or {})["role"] == "watch"


@IN_ONE_MODE
async def test_a_broadcast_room_that_is_made_anew_at_a_start_is_closed_to_who_watches(
    own_synapse: Synapse, start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home"))
    client = await person(own_synapse, http, tmp_path, "watcher")
    bob = Somebody((await client.whoami())[0], client)
    await invite(daemon, bob, role="watch")
    space, old = await common_rooms(daemon)
    await bob.client.join_room(space)
    await daemon.stop()
    await delete_room(own_synapse, old)
    again = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "again"))
    _, broadcast = await common_rooms(again)
    assert broadcast != old
    await bob.client.join_room(broadcast)
    assert not await bob.may_write(broadcast)


@IN_ONE_MODE
async def test_one_room_that_fails_stops_no_other_and_who_watches_does_not_come_in_past_it(
    daemon: RunningDaemon, make: Make, alice: MatrixClient, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    good, bad, bob, carol = await attach(daemon), await attach(daemon), await make(), await make("carol")
    space, broadcast = await common_rooms(daemon)
    owner = synapse.agent_client(http, bad.name)
    ban = ("_matrix", "client", "v3", "rooms", bad.room_id, "ban")
    await owner._request("POST", ban, body={"user_id": bob.user_id})
    done = await invite(daemon, bob)
    assert (done.pop(alias_of(bad)), set(done.values())) == ("failed", {"invited"})
    levels = await owner.get_state(bad.room_id, "m.room.power_levels")
    raised = levels | {"users": levels["users"] | {carol.user_id: 100}}
    await owner.put_state(bad.room_id, "m.room.power_levels", "", raised)
    done = await invite(daemon, carol, role="watch")
    assert (done[alias_of(bad)], done[alias_of(good)]) == ("failed", "invited")
    assert [await carol.membership(alice, room) for room in (space, broadcast, bad.room_id, good.room_id)] == [
        "none",
        "none",
        "none",
        "invite",
    ]
    await owner.put_state(bad.room_id, "m.room.power_levels", "", levels)
    assert "failed" not in (await invite(daemon, carol)).values()
    assert await carol.membership(alice, space) == "invite"


@IN_ONE_MODE
async def test_who_cannot_be_invited_is_refused_with_the_reason(
    daemon: RunningDaemon, make: Make, synapse: Synapse
) -> None:
    agent, bob = await attach(daemon), await make()
    operator = synapse.operator.user_id
    for user_id, fields, status, code in (
        (operator, {"role": "watch"}, 403, "forbidden"),
        (agent.user_id, {}, 403, "forbidden"),
        (f"@{agent.name}:elsewhere.test", {}, 409, "name_taken"),
        (f"@{fresh_name('nobody')}:example.org", {}, 404, "not_found"),
        (bob.user_id, {"agents": [fresh_name("nobody")]}, 404, "agent_not_found"),
        (bob.user_id, {"role": "rule"}, 400, "bad_request"),
        ("bob", {}, 400, "bad_request"),
    ):
        answer = await daemon.api.call("POST", "/people", {"user_id": user_id} | fields)
        assert (answer.status, answer.code) == (status, code), answer
    for user_id in (operator, agent.user_id):
        answer = await daemon.api.call("DELETE", f"/people/{user_id}")
        assert (answer.status, answer.code) == (403, "forbidden")
    assert await listed(daemon, bob) is None


@IN_ONE_MODE
async def test_who_could_be_invited_nowhere_is_not_on_the_list(daemon: RunningDaemon) -> None:
    await attach(daemon)
    zed = Somebody(UserId("@zed:elsewhere.test"), MatrixClient("", "", None))  # type: ignore[arg-type]
    assert set((await invite(daemon, zed.user_id)).values()) == {"failed"}  # nobody federates here
    assert await listed(daemon, zed) is None


@IN_ONE_MODE
async def test_no_agent_and_no_person_makes_an_approver(
    daemon: RunningDaemon, make: Make, alice: MatrixClient, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    agent, bob = await attach(daemon), await make()
    space, _ = await common_rooms(daemon)
    await invite(daemon, bob)
    await bob.client.join_room(space)
    await bob.client.join_room(agent.room_id)
    body = {"user_id": bob.user_id, "role": "approve"}
    for api in (agent.api, daemon.api.as_agent(agent.name)):
        answer = await api.call("POST", "/people", body)
        assert (answer.status, answer.code) == (403, "forbidden")
    content = {"people": [body]}
    keeper, _ = await synapse.keeper_client(http).whoami()
    for client in (synapse.agent_client(http, agent.name), bob.client):
        me, _ = await client.whoami()
        await client.put_state(space, PEOPLE, me, content)
        with pytest.raises(MatrixForbiddenError):
            await client.put_state(space, PEOPLE, keeper, content)
    assert (await listed(daemon, bob) or {})["role"] == "talk"
    assert await decided_by(agent, bob, alice) == synapse.operator.user_id


@APPSERVICE_ALONE  # what the settings say is read in both modes alike
async def test_whom_the_settings_name_is_left_alone_and_who_is_invited_approves_besides(
    synapse: Synapse, start_daemon: StartDaemon, make: Make, alice: MatrixClient, tmp_path: Path
) -> None:
    bob, carol, dora = await make(), await make("carol"), await make("dora")
    settings = {"AIAGENTCHAT_PEOPLE": bob.user_id, "AIAGENTCHAT_APPROVERS": carol.user_id}
    daemon = await start_daemon(synapse, synapse.settings(tmp_path / "home", **settings))
    agent = await attach(daemon)
    await invite(daemon, dora, role="approve")
    people = {each["user_id"]: (each["role"], each["source"]) for each in (await daemon.api.get("/people"))["people"]}
    assert people.items() >= {
        (synapse.operator.user_id, ("talk", "operator")),  # in whose place those of the settings are
        (bob.user_id, ("talk", "settings")),
        (carol.user_id, ("approve", "settings")),
        (dora.user_id, ("approve", "invited")),
    }
    for method, path, body in (
        ("POST", "/people", {"user_id": bob.user_id, "role": "approve"}),
        ("DELETE", f"/people/{carol.user_id}", None),
    ):
        answer = await daemon.api.call(method, path, body)
        assert (answer.status, answer.code) == (403, "forbidden")
        assert "named in the settings" in answer.data["detail"]
    await dora.client.join_room(agent.room_id)
    await carol.client.join_room(agent.room_id)
    async with asking(agent) as task:
        event_id = await request_in(alice, agent)
        await react(alice, agent.room_id, event_id, "❌")
        await react(dora.client, agent.room_id, event_id, "✅")
        await react(carol.client, agent.room_id, event_id, "❌")
        assert (await task)["by"] == dora.user_id


@ON_ONE_PROCESS  # homeservers that federate have listeners of their own
async def test_somebody_of_another_homeserver_comes_in_and_is_taken_out(
    start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with federation(tmp_path) as servers:
        daemon = await start_daemon(servers.here, servers.here.settings(tmp_path / "daemon"))
        agent = await attach(daemon)
        client = await person(servers.there, http, tmp_path)
        bob = Somebody((await client.whoami())[0], client)
        assert set((await invite(daemon, bob)).values()) == {"invited"}
        await bob.client.join_room(agent.room_id)
        await say(bob.client, agent.room_id, "from afar")
        assert await agent.bodies(wait="20") == ["from afar"]
        await uninvite(daemon, bob)

        async def is_out() -> bool:
            return not await bob.may_write(agent.room_id)

        await until(is_out)
        events = await follow(daemon, "POST", "/people", {"user_id": f"@nobody:{servers.there.config.server_name}"})
        assert "see that it is written right" in events[0][1]["warning"]


@APPSERVICE_ALONE  # what a command says of it is the same in both modes
async def test_a_person_at_a_client_of_their_own_is_invited_by_a_command_writes_and_is_uninvited(
    system: System, tmp_path: Path
) -> None:
    status, agent = system.status(), system.join()
    name = fresh_name("bob")
    make_account(system, status["homeserver_url"], name)
    user_id = f"@{name}:localhost"
    said = system.cchat("invite", user_id, "--agent", agent.name, "--role", "watch")
    assert said.out == f"{user_id}: watch ({agent.name}; invited to 1 room)\n"
    client = nio.AsyncClient(status["homeserver_url"], user_id)
    try:
        assert isinstance(await client.login("secret"), nio.LoginResponse)
        await client.sync(timeout=2000)
        room_id = agent.joined["room_id"]
        assert list(client.invited_rooms) == [room_id]
        assert isinstance(await client.join(room_id), nio.JoinResponse)
        message = {"msgtype": "m.text", "body": "is it green?"}
        assert isinstance(await client.room_send(room_id, "m.room.message", message), nio.RoomSendError)
        again = system.cchat("invite", user_id, "--role", "talk", "--agent", agent.name)
        assert again.out == f"{user_id}: talk ({agent.name}; was there already)\n"
        assert isinstance(await client.room_send(room_id, "m.room.message", message), nio.RoomSendResponse)
        assert agent.unread() == ["is it green?"]
        assert f"{user_id}: talk ({agent.name}; joined)" in system.cchat("people").lines
        [entry] = [each for each in system.cchat("people", "--json").data if each["user_id"] == user_id]
        assert [each["membership"] for each in entry["rooms"]] == ["join"]
        assert system.cchat("uninvite", user_id).out == f"{user_id}: uninvited (removed from 1 room)\n"
        await client.sync(timeout=2000)
        assert room_id not in client.rooms
        assert user_id not in system.cchat("people").out
    finally:
        await client.close()
    for arguments, code, text in (
        (("uninvite", user_id), 4, "in none of the rooms"),
        (("invite", f"@{fresh_name('nobody')}:localhost"), 4, "has no user"),
        (("invite", status["operator"], "--role", "watch"), 5, "is the operator"),
        (("invite", "@zed:elsewhere.test"), 1, "was not brought into"),
        (("--as", agent.name, "people"), 5, "no agent's"),
    ):
        failed = system.cchat(*arguments, code=code)
        assert text in failed.err
        assert failed.out == ""


def make_account(system: System, url: str, name: str) -> None:
    """Make an account on the embedded homeserver as its administrator does, with Synapse's own command."""
    script = Path(sys.executable).with_name("register_new_matrix_user")
    config = str(system.paths.homeserver / "homeserver.yaml")
    subprocess.run(
        [sys.executable, str(script), "-c", config, "-u", name, "-p", "secret", "--no-admin", url],
        check=True,
        capture_output=True,
    )


@ACCOUNTS_ALONE  # an application service is not limited
async def test_invites_past_the_limit_of_the_homeserver_are_told_at_once_and_who_watches_watches_there_too(
    start_daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path, mode: str
) -> None:
    limits = {"per_user": {"per_second": 0.003, "burst_count": 2}}
    synapse = await start_synapse(tmp_path / "synapse", mode=mode, rc_invites=limits)
    try:
        daemon = await start_daemon(synapse, synapse.settings(tmp_path / "home"))
        agent, client = await attach(daemon), await person(synapse, http, tmp_path, "bob")
        bob = Somebody((await client.whoami())[0], client)
        async with asyncio.timeout(WAIT_S):
            events = await follow(daemon, "POST", "/people", {"user_id": bob.user_id, "role": "watch"})
        [failed] = [data for event, data in events if event == "room" and data["did"] == "failed"]
        assert "the same again later" in failed["reason"]
        space, _ = await common_rooms(daemon)
        for room in (space, agent.room_id):  # which who is in the Space may
            await bob.client.join_room(room)
        assert not await bob.may_write(agent.room_id)
    finally:
        await synapse.stop()
