"""The people of a daemon's rooms: who may what, and in which of them. Pure.

Those whom somebody invited with `cchat invite` stand in the Space's state, those of the settings do not. Who may decide
what agents ask for follows from both; `space.layout` makes rooms for them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from aiagentchat.model import AgentName, Role, UserId
from aiagentchat.space.content import ListedPerson, PeopleList

WATCHING = -1
"""The power level of who may only watch: whatever takes 0 takes more than that."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whom rooms are for. `agents`: the agents whose rooms alone; None: all, of agents to come too."""

    user_id: UserId
    role: Role = "talk"
    agents: frozenset[AgentName] | None = None

    def is_in(self, agent: AgentName | None) -> bool:
        """Whether an agent's room is theirs; None: whether Space and broadcast room are."""
        return self.agents is None or agent in self.agents

    def invited_to(self, agents: frozenset[AgentName] | None, role: Role | None) -> "Person":
        """Return them after another invite: rooms are added, and a role that is named takes the place of theirs."""
        both = None if self.agents is None or agents is None else self.agents | agents
        return Person(self.user_id, role or self.role, both)


def parse_people(listed: PeopleList) -> tuple[Person, ...]:
    """Return the people of a list; of two entries on one of them the last."""
    people = {
        UserId(each.user_id): Person(
            UserId(each.user_id), each.role, None if each.agents is None else frozenset(each.agents)
        )
        for each in listed.people
    }
    return tuple(people.values())


def render_people(people: Iterable[Person]) -> PeopleList:
    """Return the list of these people."""
    return PeopleList(
        people=[
            ListedPerson(
                user_id=person.user_id,
                role=person.role,
                agents=None if person.agents is None else sorted(person.agents),
            )
            for person in people
        ]
    )


def merge_people(fixed: tuple[Person, ...], listed: tuple[Person, ...]) -> tuple[Person, ...]:
    """Return those of the settings, and those of the list of whom the settings say nothing."""
    named = {person.user_id for person in fixed}
    return fixed + tuple(person for person in listed if person.user_id not in named)
