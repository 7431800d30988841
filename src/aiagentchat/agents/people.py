"""The people of a daemon's rooms: the operator brings them in, gives them a role, and takes them out again.

Who they are stands in the Space's state (`space.people`), written before anything is done in the rooms: what fails
there can be done again. In the rooms one thing at a time is done to somebody, by what the list says then: whatever was
asked for before is overtaken. Rooms of agents that come later are made for them by `space.layout`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakValueDictionary

from aiagentchat.agents.at_once import for_each
from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.messages import check_size
from aiagentchat.agents.rooms import Room, Rooms
from aiagentchat.errors import (
    AiAgentChatError,
    MatrixError,
    MatrixNotFoundError,
    NameTakenError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
)
from aiagentchat.model import AgentName, Role, UserId, localpart_of, server_of
from aiagentchat.space.content import PEOPLE, to_content
from aiagentchat.space.people import Person, render_people

log = logging.getLogger(__name__)

_PROFILE_S = 10.0
_REASON = "uninvited by the operator"

Did = Literal["invited", "present", "removed", "absent", "failed"]
Source = Literal["operator", "settings", "invited"]


@dataclass(frozen=True, slots=True)
class Step:
    """What was done in one room, and why not. `present`: they were in it, or invited; `absent`: they were not.

    `of`: how many steps there are.
    """

    room: Room
    did: Did
    reason: str = ""
    of: int = 0


@dataclass(frozen=True, slots=True)
class Enlisted:
    """Somebody who is on the list now. `is_new`: was not before. `warning`: what is doubtful about them, or ""."""

    person: Person
    is_new: bool
    warning: str


@dataclass(frozen=True, slots=True)
class Access:
    """Who a person is here, and in which rooms; a membership is Matrix's word, `none`, or `unknown`."""

    person: Person
    source: Source
    memberships: tuple[tuple[Room, str], ...]


class _Told:
    """What has been done so far; None ends it."""

    def __init__(self) -> None:
        self.steps = asyncio.Queue[Step | None]()
        self.failed: set[Room] = set()
        self.is_overtaken = False

    def tell(self, step: Step) -> None:
        if step.did == "failed":
            self.failed.add(step.room)
        self.steps.put_nowait(step)


class People:
    """Who they are, and what they may.

    Args:
        deciding: who may approve whatever the list says: those of the settings, or the operator.
    """

    def __init__(self, host: AgentHost, deciding: frozenset[UserId]) -> None:
        self._host = host
        self._manager = host.manager
        self._names = host.names
        self._deciding = deciding
        self._rooms = Rooms(host)
        self._writing = asyncio.Lock()
        self._turns: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    def approvers(self, agent: AgentName) -> frozenset[UserId]:
        """Return who may decide what an agent asks for, as it is now."""
        people = self._manager.layout.people_in(agent)
        return self._deciding | {person.user_id for person in people if person.role == "approve"}

    # --- in

    async def enlist(self, user_id: UserId, agents: frozenset[AgentName] | None, role: Role | None) -> Enlisted:
        """Put somebody on the list, or change what stands there of them: rooms are added, a role is replaced.

        Args:
            agents: the agents whose rooms alone they come into; None: all rooms. role: None: as it is, else `talk`.

        Raises:
            RefusedError: it is the operator, an agent, or named in the settings. AgentNotFoundError: there is no such
                agent. NotFoundError: the own homeserver has no such user. AiAgentChatError: the Space is not to be had.
        """
        await self._manager.require_space()
        self._require_person(user_id)
        self._require_name(user_id)
        for agent in agents or ():
            if not self._host.is_known(agent) and await self._manager.find_agent(agent) is not None:
                raise RefusedError(f"{agent} is another daemon's agent", hint="who runs that daemon invites there")
        async with self._writing:
            listed = {person.user_id: person for person in self._listed()}
            present = listed.get(user_id)
            warning = "" if present is not None else await self._look_up(user_id)
            person = (present or Person(user_id, "talk", agents)).invited_to(agents, role)
            if person != present:
                await self._write(({**listed, user_id: person}).values())
            return Enlisted(person, present is None, warning)

    def _require_person(self, user_id: UserId, *, is_listed: bool = False) -> None:
        """Raise `RefusedError` where somebody's place here is no matter of the list."""
        fixed = self._manager.settings.layout
        if self._names.keeper is None:
            raise RefusedError("the operator's account is not logged in here", hint="cchat login --operator")
        if user_id == fixed.operator:
            raise RefusedError(f"{user_id} is the operator, and in all rooms")
        if user_id in {person.user_id for person in fixed.people}:
            raise RefusedError(
                f"{user_id} is named in the settings",
                hint="AIAGENTCHAT_PEOPLE and AIAGENTCHAT_APPROVERS are changed where they are set; restart the daemon",
            )
        if user_id in fixed.daemons or (self._host.sender_of(user_id).kind != "person" and not is_listed):
            raise RefusedError(f"{user_id} is an agent's or a daemon's, and no person")

    def _require_name(self, user_id: UserId) -> None:
        """Raise `NameTakenError` for a person who is called as an agent is."""
        name = AgentName(localpart_of(user_id))
        if self._host.is_known(name) or self._manager.directory.find(name) is not None:
            raise NameTakenError(
                f"an agent is called {name}, and {user_id} would be taken for it where only the name is shown"
            )

    async def _look_up(self, user_id: UserId) -> str:
        """Return what is doubtful about a user, or ""; a homeserver need not say whether it has one.

        Raises:
            NotFoundError: the own homeserver says that there is none.
        """
        try:
            await self._manager.client_of_daemon.with_deadline(_PROFILE_S).get_profile(user_id)
        except MatrixNotFoundError:
            if server_of(user_id) == self._names.server_name:
                raise NotFoundError(
                    f"{self._names.server_name} has no user {user_id}; nobody was invited",
                    hint="see that it is written right; one who has no profile sets a display name first",
                ) from None
            return f"{server_of(user_id)} shows no profile of {user_id}: see that it is written right"
        except AiAgentChatError as error:
            return f"it cannot be seen whether there is {user_id}: {_words(error)}"
        return ""

    def _listed(self) -> tuple[Person, ...]:
        return self._manager.directory.people() or ()

    async def _write(self, people: Iterable[Person]) -> None:
        assert self._names.keeper is not None
        content = to_content(render_people(people))
        check_size(content)
        await self._manager.write_own(self._names.keeper, PEOPLE, content)

    async def bring(self, enlisted: Enlisted) -> AsyncGenerator[Step, None]:
        """Invite somebody who is on the list to their rooms, and give them their level; it goes on by itself.

        Who was new, and could be invited nowhere, is taken off the list again.
        """
        person, told = enlisted.person, _Told()
        common = [] if person.agents is not None else self._rooms.common()
        rooms = [*common, *(room for room in self._rooms.of_agents() if person.is_in(room.agent))]

        async def work() -> None:
            await self._bring(person, rooms, frozenset(common), told)
            if enlisted.is_new and rooms and len(told.failed) == len(rooms) and not told.is_overtaken:
                await self._strike(person.user_id)

        async for step in self._following(person.user_id, work, told, len(rooms)):
            yield step

    def _as_listed(self, user_id: UserId) -> Person | None:
        """Return somebody as they stand on the list now, also while the Space is not to be had."""
        return next((person for person in self._manager.layout.people if person.user_id == user_id), None)

    async def _bring(self, person: Person, rooms: list[Room], common: frozenset[Room], told: _Told) -> None:
        user_id = person.user_id

        def role() -> Role:
            now = self._as_listed(user_id)
            if now is None:
                told.is_overtaken = True
                raise RefusedError("uninvited meanwhile")
            return now.role

        async def level(room: Room) -> Step | None:
            await self._rooms.set_level(room, user_id, role())
            return None

        async def invite(room: Room) -> Step:
            role()
            return Step(room, "invited" if await self._rooms.invite(room, user_id) else "present")

        await self._each(rooms, level, told)
        now = self._as_listed(user_id) or person
        if told.failed and now.role == "watch":  # who is in the Space could join a room in which they may write
            for room in common - told.failed:
                told.tell(Step(room, "failed", "not invited, since there is a room in which they may write"))
        rooms = [room for room in rooms if room not in told.failed]
        await self._each(rooms[:1], invite, told)  # the Space: it lets into others
        await self._each(rooms[1:], invite, told)

    async def _each(self, rooms: list[Room], do: Callable[[Room], Awaitable[Step | None]], told: _Told) -> None:
        """Do something in each room, some at a time. What fails in one is told, and stops no other."""

        async def one(room: Room) -> None:
            try:
                step = await do(room)
            except AiAgentChatError as error:
                log.warning("%s: %s", room.alias, error.message)
                step = Step(room, "failed", _words(error))
            if step is not None:
                told.tell(step)

        await for_each(rooms, one)

    async def _following(
        self, user_id: UserId, work: Callable[[], Awaitable[None]], told: _Told, of: int
    ) -> AsyncGenerator[Step, None]:
        """Yield the steps of some work on somebody, which is brought to its end though nobody follows it any more."""
        turn = self._turns.setdefault(user_id, asyncio.Lock())

        async def run() -> None:
            try:
                async with turn:
                    await work()
            finally:
                told.steps.put_nowait(None)

        task = asyncio.create_task(run(), name="people")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        while (step := await told.steps.get()) is not None:
            yield replace(step, of=of)
        await task

    # --- out

    async def strike(self, user_id: UserId) -> bool:
        """Take somebody off the list, and with that their role; return whether they were on it.

        Raises:
            RefusedError: it is the operator, an agent, or named in the settings. AiAgentChatError: the Space is not to
                be had.
        """
        await self._manager.require_space()
        self._require_person(user_id, is_listed=user_id in {person.user_id for person in self._listed()})
        return await self._strike(user_id)

    async def _strike(self, user_id: UserId) -> bool:
        async with self._writing:
            listed = self._listed()
            left = tuple(person for person in listed if person.user_id != user_id)
            if left != listed:
                await self._write(left)
            return left != listed

    async def remove(self, user_id: UserId, *, was_listed: bool) -> AsyncGenerator[Step, None]:
        """Take somebody out of all our rooms, invites too; it goes on by itself.

        Raises:
            NotFoundError: they were in none of them, nor on the list.
        """
        told, rooms = _Told(), [*self._rooms.common(), *await self._rooms.of_agents_ever()]

        async def kick(room: Room) -> Step:
            if self._as_listed(user_id) is not None:
                raise RefusedError("invited again meanwhile")
            is_there = await self._rooms.kick(room, user_id, _REASON)
            await self._rooms.set_level(room, user_id, None)
            return Step(room, "removed" if is_there else "absent")

        async def work() -> None:
            await self._each(rooms[:1], kick, told)  # the Space: it lets into others
            await self._each(rooms[1:], kick, told)

        was_there = was_listed
        async for step in self._following(user_id, work, told, len(rooms)):
            was_there = was_there or step.did != "absent"
            yield step
        if not was_there:
            raise NotFoundError(f"{user_id} is in none of the rooms, and was not invited")

    # --- who is there

    async def view(self) -> list[Access]:
        """Return the operator, those of the settings, and those who were invited, each with their rooms.

        Raises:
            AiAgentChatError: the Space is not to be had.
        """
        await self._manager.require_space()
        layout, fixed = self._manager.layout, self._manager.settings.layout
        people: list[tuple[Person, Source]] = []
        if layout.operator is not None:
            role: Role = "approve" if layout.operator in self._deciding else "talk"
            people.append((Person(layout.operator, role), "operator"))
        people += [(person, "settings" if person in fixed.people else "invited") for person in layout.people]
        rooms = [*self._rooms.common(), *self._rooms.of_agents()]
        members = await for_each(rooms, self._rooms.members)

        def membership(room: Room, person: Person) -> str:
            known = members[room]
            return "unknown" if known is None else known.get(person.user_id, "none")

        return [
            Access(
                person,
                source,
                tuple((room, membership(room, person)) for room in rooms if person.is_in(room.agent)),
            )
            for person, source in people
        ]


def _words(error: AiAgentChatError) -> str:
    """Return what an error says, the same for every room."""
    if isinstance(error, RateLimitedError):
        return "the homeserver limits how often this may be done: the same again later"
    return error.error if isinstance(error, MatrixError) else error.message
