"""Every method of `MatrixClient` against the real Synapse; what the fake homeserver knows too is asked of both."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import pytest

from aiagentchat.errors import (
    HomeserverUnavailableError,
    MatrixConflictError,
    MatrixError,
    MatrixForbiddenError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
)
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import EventId, RoomAlias, RoomId, UserId
from tests.integration.fake_homeserver import FakeHomeserver
from tests.integration.matrix_calls import DEVICE
from tests.integration.spaces import NAMING
from tests.integration.systems import Synapse, fresh_name


@pytest.fixture(scope="session")
def mode() -> str:
    """Application service alone: its methods for application services are among those tested."""
    return "appservice"


ODD = ("a/b", "a%2Fb", "%", "/", "ü?#&=+;", "x:@y/z", "..", "日本", "\\\"'", "a b", "🦀")
NOBODY = UserId("@nobody:example.org")
NO_EVENT = EventId("$does-not-exist")


@dataclass(frozen=True)
class Member:
    """A user of the application service, and the client that acts as it."""

    user_id: UserId
    client: MatrixClient

    async def say(self, room: RoomId, body: str, txn_id: str = "") -> EventId:
        content = {"msgtype": "m.text", "body": body}
        return await self.client.send(room, "m.room.message", content, txn_id or f"{self.user_id} {body[:20]}")


NewMember = Callable[[], Awaitable[Member]]


def fresh_alias() -> RoomAlias:
    return RoomAlias(f"#aiagentchat-{fresh_name()}:example.org")


def creation(alias: RoomAlias) -> dict[str, str]:
    return {"room_alias_name": alias[1:].partition(":")[0]}


async def make_member(synapse: Synapse, session: aiohttp.ClientSession) -> Member:
    """Return an agent's user with its device, made as the product does on whichever Synapse this is."""
    name = fresh_name()
    await synapse.make_user(session, name)
    return Member(NAMING.user(name), synapse.appservice(session).as_user(NAMING.user(name), DEVICE))


@pytest.fixture
def new_member(synapse: Synapse, http: aiohttp.ClientSession) -> NewMember:
    return lambda: make_member(synapse, http)


@pytest.fixture
async def member(new_member: NewMember) -> Member:
    return await new_member()


@pytest.fixture
def own_client(member: Member) -> MatrixClient:
    return member.client


@pytest.fixture
def fake_client(fake: FakeHomeserver, http: aiohttp.ClientSession) -> MatrixClient:
    return fake.client(http)


@pytest.fixture(params=["own_client", "fake_client"])
def client(request: pytest.FixtureRequest) -> MatrixClient:
    """A client of Synapse, and then one of the fake homeserver."""
    client: MatrixClient = request.getfixturevalue(request.param)
    return client


# --- the contract that both homeservers keep


async def test_a_message_sent_again_with_its_transaction_id_is_the_same_message(client: MatrixClient) -> None:
    room = await client.create_room({})
    first, again, other = [
        await client.send(room, "m.room.message", {"msgtype": "m.text", "body": "hello"}, txn_id)
        for txn_id in ("t1", "t1", "t2")
    ]
    assert first == again != other


async def test_types_keys_and_ids_arrive_as_they_are_whatever_characters_they_hold(client: MatrixClient) -> None:
    room = await client.create_room({})
    for odd in ODD:
        await client.put_state(room, f"io.x.{odd}", odd, {"key": odd})
        assert await client.get_state(room, f"io.x.{odd}", odd) == {"key": odd}
    sent = [await client.send(room, f"io.x.{odd}", {}, odd) for odd in ODD]
    assert len(set(sent)) == len(ODD)


async def test_state_without_a_key_is_told_apart_from_state_with_one(client: MatrixClient) -> None:
    room = await client.create_room({})
    await client.put_state(room, "io.x", "", {"key": "none"})
    await client.put_state(room, "io.x", "a", {"key": "a"})
    assert await client.get_state(room, "io.x") == {"key": "none"}


async def test_an_alias_belongs_to_whoever_was_first(client: MatrixClient) -> None:
    alias = fresh_alias()
    room = await client.create_room(creation(alias))
    with pytest.raises(MatrixConflictError) as caught:
        await client.create_room(creation(alias))
    assert caught.value.errcode == "M_ROOM_IN_USE"
    assert await client.resolve_room_alias(alias) == room


async def test_what_is_not_there_is_not_found(client: MatrixClient) -> None:
    room = await client.create_room({})
    for missing in (client.resolve_room_alias(fresh_alias()), client.get_state(room, "io.x", "a")):
        with pytest.raises(MatrixNotFoundError) as caught:
            await missing
        assert (caught.value.status, caught.value.errcode) == (404, "M_NOT_FOUND")


async def test_a_token_that_is_not_known_is_a_401_and_is_not_quoted(client: MatrixClient) -> None:
    with pytest.raises(MatrixUnauthorizedError) as caught:
        await client.with_token("secret-of-nobody").create_room({})
    assert caught.value.errcode == "M_UNKNOWN_TOKEN"
    assert "secret-of-nobody" not in caught.value.message


async def test_a_room_of_others_is_forbidden(client: MatrixClient, new_member: NewMember) -> None:
    room = await client.create_room({})
    stranger = client.as_user((await new_member()).user_id)
    for write in (stranger.send(room, "m.room.message", {}, "t1"), stranger.put_state(room, "io.x", "", {})):
        with pytest.raises(MatrixForbiddenError):
            await write


# --- accounts


async def test_each_view_is_who_it_says_and_the_root_is_the_application_service(
    appservice: MatrixClient, member: Member, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    assert (await appservice.whoami())[0] == "@aiagentchat:example.org"
    assert (await member.client.whoami())[0] == member.user_id
    operator = synapse.operator
    assert await synapse.operator_client(http).whoami() == (operator.user_id, operator.device_id)


async def test_an_account_that_is_there_already_is_success(appservice: MatrixClient, member: Member) -> None:
    await appservice.register_appservice_user(member.user_id[1:].partition(":")[0])
    await member.client.put_device(DEVICE, "the same again")


async def test_an_account_outside_of_the_namespace_is_refused(appservice: MatrixClient) -> None:
    with pytest.raises(MatrixError) as caught:
        await appservice.register_appservice_user(fresh_name("stranger"))
    assert caught.value.errcode == "M_EXCLUSIVE"


async def test_the_server_says_what_it_is_and_its_clock_without_a_token(appservice: MatrixClient) -> None:
    assert "versions" in await appservice.with_token("").versions()
    assert appservice.stats.clock.offset_s is not None, "views share it"
    assert abs(appservice.stats.clock.offset_s) < 1


async def test_a_room_is_made_with_the_version_that_the_server_names_as_its_default(member: Member) -> None:
    room = await member.client.create_room({})
    created = await member.client.get_state(room, "m.room.create")
    assert created["room_version"] == await member.client.default_room_version()


async def test_a_ping_is_answered_within_the_deadline_and_says_that_nobody_listens(
    synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    with pytest.raises(HomeserverUnavailableError, match="M_CONNECTION_FAILED"):
        await synapse.appservice(http, timeout_s=1.0).ping_appservice(synapse.registration.id)


async def test_presence_and_name_are_seen_by_those_who_share_a_room_and_by_nobody_else(
    member: Member, new_member: NewMember
) -> None:
    friend, stranger = await new_member(), await new_member()
    await member.client.set_displayname(member.user_id, "Ä/b")
    room = await member.client.create_room({"invite": [friend.user_id]})
    await friend.client.join_room(room)
    await member.client.set_presence(member.user_id, "online", "reviewing #42")
    seen = await friend.client.get_presence(member.user_id)
    assert (seen["presence"], seen["status_msg"]) == ("online", "reviewing #42")
    assert (await friend.client.get_state(room, "m.room.member", member.user_id))["displayname"] == "Ä/b"
    with pytest.raises(MatrixForbiddenError):
        await stranger.client.get_presence(member.user_id)


# --- rooms


async def test_an_alias_is_put_resolved_and_freed_whatever_characters_it_holds(member: Member) -> None:
    room = await member.client.create_room({})
    for odd in ("", "/x", "%41", "?x=1", "#x", "ü"):
        alias = RoomAlias(fresh_alias().replace(":", f"{odd}:", 1))
        await member.client.put_room_alias(alias, room)
        assert await member.client.resolve_room_alias(alias) == room
        await member.client.delete_room_alias(alias)
        with pytest.raises(MatrixNotFoundError):
            await member.client.resolve_room_alias(alias)
        await member.client.delete_room_alias(alias)  # is free already


async def test_of_many_who_create_one_alias_at_once_one_succeeds_and_all_others_conflict(member: Member) -> None:
    alias = fresh_alias()
    done = await asyncio.gather(*(member.client.create_room(creation(alias)) for _ in range(8)), return_exceptions=True)
    (room,) = [result for result in done if isinstance(result, str)]
    assert {type(result) for result in done if not isinstance(result, str)} == {MatrixConflictError}
    assert await member.client.resolve_room_alias(alias) == room


async def test_a_member_is_invited_joins_and_leaves_and_each_step_may_come_twice(
    member: Member, new_member: NewMember
) -> None:
    guest, alias = await new_member(), fresh_alias()
    room = await member.client.create_room(creation(alias))
    with pytest.raises(MatrixForbiddenError):
        await guest.client.join_room(room)
    for _ in range(2):
        await member.client.invite(room, guest.user_id)
    for place in (alias, room):
        assert await guest.client.join_room(place) == room
    assert await guest.client.joined_rooms() == (room,)
    with pytest.raises(MatrixForbiddenError):
        await member.client.invite(room, guest.user_id)
    for _ in range(2):
        await guest.client.leave_room(room)
    assert await guest.client.joined_rooms() == ()
    await member.client.leave_room(room)
    with pytest.raises(MatrixNotFoundError):
        await guest.client.join_room(room)


async def test_state_is_read_one_by_one_as_events_and_whole(member: Member) -> None:
    room = await member.client.create_room({"name": "a room"})
    event_id = await member.client.put_state(room, "io.x", member.user_id, {"a": 1})
    assert await member.client.put_state(room, "io.x", member.user_id, {"a": 1}) == event_id, "no new event"
    event = await member.client.get_state_event(room, "io.x", member.user_id)
    assert (event["sender"], event["content"]) == (member.user_id, {"a": 1})
    assert event.get("event_id", event_id) == event_id  # which an older Synapse leaves out here
    whole = {(each["type"], each["state_key"]): each for each in await member.client.get_full_state(room)}
    assert whole["io.x", member.user_id]["event_id"] == event_id
    assert whole["m.room.name", ""]["content"] == {"name": "a room"}


async def test_state_under_the_id_of_another_user_is_refused_and_too_large_an_event_too(member: Member) -> None:
    room = await member.client.create_room({})
    with pytest.raises(MatrixForbiddenError):
        await member.client.put_state(room, "io.x", NOBODY, {})
    with pytest.raises(MatrixError) as caught:
        await member.say(room, "x" * 66_000)
    assert (caught.value.status, caught.value.errcode) == (413, "M_TOO_LARGE")


# --- events


async def test_two_users_of_the_application_service_share_their_transaction_ids_and_ordinary_accounts_do_not(
    member: Member, new_member: NewMember, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    """Why the sender is part of every transaction id of ours."""
    second, operator = await new_member(), synapse.operator_client(http)
    room = await member.client.create_room({"invite": [second.user_id, synapse.operator.user_id]})
    await second.client.join_room(room)
    await operator.join_room(room)
    first = await member.say(room, "from the first", "t1")
    assert await second.say(room, "lost", "t1") == first
    assert await second.say(room, "from the second") != first
    assert await operator.send(room, "m.room.message", {"msgtype": "m.text", "body": "mine"}, "t1") != first


async def test_a_message_sent_again_after_the_homeserver_was_restarted_is_the_same_message(
    own_synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    client = (await make_member(own_synapse, http)).client
    room = await client.create_room({})
    event_id = await client.send(room, "m.room.message", {"msgtype": "m.text", "body": "once"}, "t1")
    await own_synapse.process.stop()
    await own_synapse.start()
    assert await client.send(room, "m.room.message", {"msgtype": "m.text", "body": "once"}, "t1") == event_id


async def test_an_event_is_read_by_its_id_and_the_clock_that_stamped_it_is_ours_too(member: Member) -> None:
    room = await member.client.create_room({})
    event = await member.client.get_event(room, await member.say(room, "hello"))
    assert event["content"]["body"] == "hello"
    assert abs(member.client.server_now_ms() - event["origin_server_ts"]) < 5_000
    with pytest.raises(MatrixNotFoundError):
        await member.client.get_event(room, NO_EVENT)


async def bodies_from(member: Member, room: RoomId, direction: str, start: str | None, limit: int = 3) -> list[str]:
    """Return the messages of all pages, until there is no more."""
    found: list[str] = []
    only_messages = '{"types":["m.room.message"]}'
    for _ in range(50):
        page = await member.client.get_messages(
            room, direction=direction, start=start, limit=limit, filter_json=only_messages
        )
        assert len(page.chunk) <= limit
        found += [event["content"]["body"] for event in page.chunk]
        if page.end is None:
            return found
        start = page.end
    raise AssertionError("the pages have no end")


async def test_pages_follow_each_other_to_the_end_of_the_room_in_both_directions(member: Member) -> None:
    room = await member.client.create_room({})
    bodies = [str(number) for number in range(10)]
    events = [await member.say(room, body) for body in bodies]
    assert await bodies_from(member, room, "f", None) == bodies
    assert await bodies_from(member, room, "b", None) == bodies[::-1]
    before, after = await member.client.get_tokens_around(room, events[4])
    assert await bodies_from(member, room, "f", after) == bodies[5:], "the event itself is not after it"
    assert await bodies_from(member, room, "b", before) == bodies[:4][::-1], "nor before it"
    with pytest.raises(MatrixNotFoundError):
        await member.client.get_tokens_around(room, NO_EVENT)


async def test_the_last_page_names_no_end_and_its_start_is_good_for_what_comes_later(member: Member) -> None:
    room = await member.client.create_room({})
    _, at_end = await member.client.get_tokens_around(room, await member.say(room, "old"))
    assert (await member.client.get_messages(room, direction="f", start=at_end)).end is None
    await member.say(room, "new")
    assert await bodies_from(member, room, "f", at_end) == ["new"]


async def test_account_data_of_a_room_is_its_users_alone(member: Member, new_member: NewMember) -> None:
    other, user = await new_member(), member.user_id
    room = await member.client.create_room({})
    for kind in ("io.x", "io.x/ü %2F?"):
        with pytest.raises(MatrixNotFoundError):
            await member.client.get_room_account_data(user, room, kind)
        await member.client.put_room_account_data(user, room, kind, {"anchor": "$a", "acked": []})
        assert await member.client.get_room_account_data(user, room, kind) == {"anchor": "$a", "acked": []}
    with pytest.raises(MatrixForbiddenError):
        await other.client.get_room_account_data(user, room, "io.x")


async def test_a_sync_shows_messages_receipts_and_typing_and_waits_for_what_comes(
    member: Member, new_member: NewMember
) -> None:
    friend = await new_member()
    room = await member.client.create_room({"invite": [friend.user_id]})
    await friend.client.join_room(room)
    event_id = await friend.say(room, "hello")
    await member.client.send_receipt(room, event_id)
    await member.client.set_typing(room, member.user_id, 20.0)
    synced = await friend.client.sync(filter_json="{}", timeout_s=0.0)
    joined = synced["rooms"]["join"][room]
    assert joined["timeline"]["events"][-1]["event_id"] == event_id
    ephemeral = {event["type"]: event["content"] for event in joined["ephemeral"]["events"]}
    assert ephemeral["m.typing"] == {"user_ids": [member.user_id]}
    assert member.user_id in ephemeral["m.receipt"][event_id]["m.read"]
    await member.client.set_typing(room, member.user_id, 0.0)
    only_messages = '{"room":{"ephemeral":{"types":[]}},"presence":{"types":[]}}'
    polling = asyncio.create_task(
        friend.client.sync(filter_json=only_messages, since=synced["next_batch"], timeout_s=20.0)
    )
    answer = await member.say(room, "and hello to you")
    timeline = (await polling)["rooms"]["join"][room]["timeline"]["events"]
    assert answer in [event["event_id"] for event in timeline]


async def test_the_own_user_of_the_application_service_cannot_sync(appservice: MatrixClient) -> None:
    with pytest.raises(MatrixError) as caught:
        await appservice.sync(filter_json="{}", timeout_s=0.0)
    assert caught.value.status == 500
