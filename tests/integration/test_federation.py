"""Two homeservers that federate: what a Space, a room and an agent's card of one are to the users of the other."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from aiagentchat.errors import MatrixForbiddenError
from aiagentchat.matrix.appservice import AppserviceReceiver
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.model import EventId, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CARD
from tests.integration.correspondents import say
from tests.integration.federation import alias_on, federation, user_on
from tests.integration.spaces import events_of, require_room_version
from tests.integration.systems import ON_ONE_PROCESS, WAIT_S, Synapse, fresh_name

pytestmark = ON_ONE_PROCESS  # its listeners are its own

VERSIONS = pytest.mark.parametrize("version", ["10", "12"])
EVERYONE_S_CARDS = {"users_default": 0, "events": {CARD: 0}}


@dataclass
class Side:
    """One homeserver, its application service, and all that was pushed to that."""

    synapse: Synapse
    appservice: MatrixClient
    _pushed: dict[EventId, RoomEvent] = field(default_factory=dict)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def agent(self) -> tuple[UserId, MatrixClient]:
        """Return a fresh user of the application service and its client."""
        localpart = f"aiagentchat-{fresh_name()}"
        await self.appservice.register_appservice_user(localpart)
        user_id = user_on(self.synapse, localpart)
        return user_id, self.appservice.as_user(user_id)

    async def take(self, receiver: AppserviceReceiver) -> None:
        """Take in what is pushed until cancelled."""
        async with contextlib.aclosing(receiver.batches()) as batches:
            async for batch in batches:
                async with self._more:
                    self._pushed |= {event.event_id: event for event in batch.events}
                    self._more.notify_all()

    async def wait_pushed(self, event_id: EventId) -> RoomEvent:
        """Return an event once it was pushed."""
        async with asyncio.timeout(WAIT_S), self._more:
            await self._more.wait_for(lambda: event_id in self._pushed)
        return self._pushed[event_id]

    async def wait_member(self, room_id: RoomId, user_id: UserId, membership: str) -> None:
        """Return once a membership was pushed."""

        def is_pushed() -> bool:
            return any(
                (event.room_id, event.type, event.state_key, event.content.get("membership"))
                == (room_id, "m.room.member", user_id, membership)
                for event in self._pushed.values()
            )

        async with asyncio.timeout(WAIT_S), self._more:
            await self._more.wait_for(is_pushed)


@contextlib.asynccontextmanager
async def listening(synapse: Synapse, http: aiohttp.ClientSession) -> AsyncIterator[Side]:
    side, receiver = Side(synapse, synapse.appservice(http)), AppserviceReceiver(synapse.registration)
    await receiver.start()
    taking = asyncio.create_task(side.take(receiver))
    try:
        yield side
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await receiver.stop()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Synapse, Synapse]]:
    """Two homeservers that federate."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        both = runner.run(stack.enter_async_context(federation(tmp_path_factory.mktemp("federation"))))
        yield both.here, both.there
        runner.run(stack.aclose())


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["here", "there"])
async def sides(
    request: pytest.FixtureRequest, servers: tuple[Synapse, Synapse], http: aiohttp.ClientSession
) -> AsyncIterator[tuple[Side, Side]]:
    """The homeserver that has the rooms, and the one whose users join them."""
    host, guest = (servers[index] for index in request.param)
    async with listening(host, http) as hosting, listening(guest, http) as visiting:
        yield hosting, visiting


async def make_space(host: Side, version: str) -> tuple[RoomId, RoomAlias]:
    await require_room_version(host.appservice, version)
    localpart = f"aiagentchat-{secrets.token_hex(4)}"
    body = {"creation_content": {"type": "m.space"}, "preset": "private_chat", "room_alias_name": localpart}
    levels = {"power_level_content_override": EVERYONE_S_CARDS}
    space = await host.appservice.create_room(body | levels | {"room_version": version})
    return space, alias_on(host.synapse, localpart)


async def make_space_of_both(host: Side, version: str, *members: tuple[UserId, MatrixClient]) -> RoomId:
    space, _ = await make_space(host, version)
    for user_id, client in members:
        await host.appservice.invite(space, user_id)
        await client.join_room(space)
    return space


async def make_room_of_space(host: Side, owner: MatrixClient, space: RoomId, version: str) -> tuple[RoomId, RoomAlias]:
    localpart = f"aiagentchat-{secrets.token_hex(4)}"
    rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]}
    state = {"m.room.join_rules": rules, "m.room.history_visibility": {"history_visibility": "joined"}}
    first = [{"type": kind, "state_key": "", "content": content} for kind, content in state.items()]
    body = {"preset": "public_chat", "room_alias_name": localpart, "initial_state": first, "room_version": version}
    return await owner.create_room(body), alias_on(host.synapse, localpart)


@VERSIONS
async def test_who_is_invited_joins_a_space_of_the_other_server_and_reads_all_of_it(
    sides: tuple[Side, Side], version: str
) -> None:
    host, guest = sides
    space, alias = await make_space(host, version)
    card = await host.appservice.put_state(space, CARD, "", {"name": "claude"})
    user_id, visitor = await guest.agent()
    with pytest.raises(MatrixForbiddenError):
        await visitor.join_room(alias)
    await host.appservice.invite(space, user_id)
    await guest.wait_member(space, user_id, "invite")
    assert await visitor.join_room(space) == space
    assert card in (read := await events_of(visitor, space))
    assert read == await events_of(host.appservice, space)
    create = await visitor.get_state_event(space, "m.room.create")
    assert create["sender"] == user_on(host.synapse, "aiagentchat")


@VERSIONS
async def test_a_member_of_the_space_joins_its_rooms_by_alias_and_both_servers_get_what_is_written(
    sides: tuple[Side, Side], version: str
) -> None:
    host, guest = sides
    (owner_id, owner), (user_id, visitor) = await host.agent(), await guest.agent()
    space = await make_space_of_both(host, version, (owner_id, owner), (user_id, visitor))
    room, alias = await make_room_of_space(host, owner, space, version)
    assert await visitor.join_room(alias) == room
    asked = await host.wait_pushed(await say(visitor, room, "a question"))
    answered = await guest.wait_pushed(await say(owner, room, "an answer"))
    assert (asked.sender, asked.content["body"]) == (user_id, "a question")
    assert (answered.sender, answered.content["body"]) == (owner_id, "an answer")
    await visitor.leave_room(room)
    await host.wait_member(room, user_id, "leave")


async def test_a_card_of_the_other_server_s_agent_arrives_and_nobody_else_s_can_be_written(
    sides: tuple[Side, Side],
) -> None:
    host, guest = sides
    (owner_id, owner), (user_id, visitor) = await host.agent(), await guest.agent()
    space = await make_space_of_both(host, "10", (owner_id, owner), (user_id, visitor))
    for number in range(2):
        theirs = await host.wait_pushed(await visitor.put_state(space, CARD, user_id, {"name": f"guest-{number}"}))
        ours = await guest.wait_pushed(await owner.put_state(space, CARD, owner_id, {"name": f"owner-{number}"}))
        assert (theirs.sender, theirs.state_key, theirs.content) == (user_id, user_id, {"name": f"guest-{number}"})
        assert (ours.sender, ours.state_key, ours.content) == (owner_id, owner_id, {"name": f"owner-{number}"})
    with pytest.raises(MatrixForbiddenError):
        await visitor.put_state(space, CARD, owner_id, {"name": "not mine"})
