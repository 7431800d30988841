"""Somebody for whom one thing is asked while another is still being done: what stands on the list holds."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.people import Enlisted, People, Step
from aiagentchat.agents.rooms import Room
from aiagentchat.model import AgentName, Role, RoomAlias, RoomId, UserId
from aiagentchat.space.people import Person
from tests.unit.test_layout import ALICE, BOB, NAMING

ROOMS = [Room(RoomId(f"!{name}"), RoomAlias(f"#{name}:x"), AgentName(name)) for name in ("a", "b", "c")]
SPACE = Room(RoomId("!space"), RoomAlias("#space:x"))


async def let_run() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


class Homeserver:
    """The rooms, which take their time: each request waits until it is let through."""

    def __init__(self) -> None:
        self.levels: dict[RoomId, Role | None] = {}
        self.inside: set[RoomId] = set()
        self.opened = asyncio.Semaphore(0)

    def common(self) -> list[Room]:
        return [SPACE]

    def of_agents(self) -> list[Room]:
        return ROOMS

    async def of_agents_ever(self) -> list[Room]:
        return ROOMS

    async def set_level(self, room: Room, _user_id: UserId, role: Role | None) -> None:
        await self.opened.acquire()
        if role == "watch":
            await let_run()
        self.levels[room.room_id] = role

    async def invite(self, room: Room, _user_id: UserId) -> bool:
        await self.opened.acquire()
        self.inside.add(room.room_id)
        return True

    async def kick(self, room: Room, _user_id: UserId, _reason: str) -> bool:
        await self.opened.acquire()
        was_there = room.room_id in self.inside
        self.inside.discard(room.room_id)
        return was_there

    def open(self) -> None:
        for _ in range(1000):
            self.opened.release()


class Listed:
    """The list, as the Space's state has it."""

    def __init__(self) -> None:
        self.people: tuple[Person, ...] = ()
        self.settings = SimpleNamespace(layout=SimpleNamespace(operator=ALICE, people=(), daemons=()))
        self.directory = SimpleNamespace(people=lambda: self.people, find=lambda _: None)
        self.client_of_daemon = self
        self.answers = asyncio.Event()
        self.answers.set()

    @property
    def layout(self) -> Any:
        return SimpleNamespace(people=self.people)

    async def require_space(self) -> None:
        pass

    def with_deadline(self, _seconds: float) -> "Listed":
        return self

    async def get_profile(self, _user_id: UserId) -> None:
        await self.answers.wait()

    async def write_own(self, _user: UserId, _kind: str, content: dict[str, Any]) -> None:
        self.people = tuple(Person(UserId(each["user_id"]), each["role"]) for each in content["people"])


class World:
    def __init__(self) -> None:
        self.listed, self.homeserver = Listed(), Homeserver()
        host = SimpleNamespace(
            manager=self.listed,
            names=NAMING,
            is_known=lambda _: False,
            sender_of=lambda _: SimpleNamespace(kind="person"),
        )
        self.people = People(cast("AgentHost", host), frozenset())
        self.people._rooms = cast("Any", self.homeserver)

    async def enlist(self, role: Role = "talk") -> Enlisted:
        return await self.people.enlist(BOB, None, role)

    def bring(self, enlisted: Enlisted) -> asyncio.Task[list[Step]]:
        return asyncio.create_task(self._all(self.people.bring(enlisted)))

    def remove(self, *, was_listed: bool = True) -> asyncio.Task[list[Step]]:
        return asyncio.create_task(self._all(self.people.remove(BOB, was_listed=was_listed)))

    async def _all(self, steps: Any) -> list[Step]:
        return [step async for step in steps]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("let_through", range(9))
async def test_who_is_uninvited_while_they_are_being_invited_is_in_no_room(world: World, let_through: int) -> None:
    inviting = world.bring(await world.enlist())
    for _ in range(let_through):
        world.homeserver.opened.release()
        await let_run()
    assert await world.people.strike(BOB)
    removing = world.remove()
    await let_run()
    world.homeserver.open()
    await asyncio.gather(inviting, removing)
    assert world.homeserver.inside == set()
    assert set(world.homeserver.levels.values()) == {None}
    assert world.listed.people == ()


async def test_who_is_invited_again_while_they_are_being_uninvited_is_in_all_rooms(world: World) -> None:
    world.homeserver.open()
    await world.bring(await world.enlist())
    world.homeserver.opened = asyncio.Semaphore(0)
    await world.people.strike(BOB)
    removing = world.remove()
    await let_run()
    world.homeserver.opened.release()
    await let_run()
    inviting = world.bring(await world.enlist())
    await let_run()
    world.homeserver.open()
    await asyncio.gather(inviting, removing)
    assert world.homeserver.inside == {room.room_id for room in (SPACE, *ROOMS)}
    assert set(world.homeserver.levels.values()) == {"talk"}


async def test_of_two_roles_at_once_the_later_holds_in_every_room(world: World) -> None:
    first = world.bring(await world.enlist("watch"))
    await let_run()
    second = world.bring(await world.enlist("talk"))
    await let_run()
    world.homeserver.open()
    await asyncio.gather(first, second)
    assert set(world.homeserver.levels.values()) == {"talk"}


async def test_an_invite_that_was_overtaken_takes_no_later_one_off_the_list(world: World) -> None:
    enlisted = await world.enlist()
    await world.people.strike(BOB)
    world.listed.answers.clear()
    enlisting = asyncio.create_task(world.enlist())
    await let_run()
    first = world.bring(enlisted)
    await let_run()
    world.listed.answers.set()
    await asyncio.gather(first, enlisting)
    assert {step.reason for step in first.result()} == {"uninvited meanwhile"}
    assert len(world.listed.people) == 1
