"""What each of our rooms is made of: pure functions that return a `RoomSpec`. `space.rooms` makes rooms of them.

Who may do what is a table in `docs/security.md`; the tests try what it forbids.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any

from aiagentchat.errors import RefusedError
from aiagentchat.model import AgentKind, AgentName, Role, RoomAlias, RoomId, UserId
from aiagentchat.space.content import CARD, LEASE, PEOPLE, PICTURES, ROSTER, Card
from aiagentchat.space.names import Names
from aiagentchat.space.people import WATCHING, Person

_NEVER = 150
"""Above every level that is handed out, so that encryption is not switched on, nor a room upgraded, by accident."""


@dataclass(frozen=True, slots=True)
class RoomSpec:
    """A room as it should be. `power_levels` is without the creator, who is added where the room version wants it.

    `invite`: who is invited once; who left is not invited again. `awaits_space`: who may join, and sees what, depends
    on the Space, which is not known yet; in a room that is there it stays as it is. `picture`: its `mxc://` address.
    `topic_end`: one of the creator's that ends so is ours, and written anew; "": none is.
    """

    alias: RoomAlias
    creator: UserId
    name: str
    topic: str
    power_levels: dict[str, Any]
    join_rules: dict[str, Any]
    history_visibility: str = "shared"
    parent: RoomId | None = None
    is_space: bool = False
    invite: tuple[UserId, ...] = field(default=())
    awaits_space: bool = False
    picture: str = ""
    topic_end: str = ""


def is_creator_listed(room_version: str) -> bool:
    """Return whether `power_levels` names the creator: before version 12 it must, from 12 on it may not."""
    return room_version.isascii() and room_version.isdigit() and int(room_version) < 12


@dataclass(frozen=True, slots=True)
class Layout:
    """What the person decides about the rooms.

    Args:
        operator: at 50 in all of them; None: nobody is. people: invited to theirs, those who watch at -1. policy:
            `open`, or `strict`: only daemons list rooms in the Space. daemons: further ones, at 50 in the Space.
            open_rooms: whoever is in the Space may join an agent's room, and then sees what is written from then on;
            else by invite alone.
    """

    operator: UserId | None = None
    people: tuple[Person, ...] = ()
    policy: str = "open"
    daemons: tuple[UserId, ...] = ()
    open_rooms: bool = False

    def people_in(self, agent: AgentName | None) -> tuple[Person, ...]:
        """Return whose an agent's room is; None: the Space and the broadcast room."""
        return tuple(person for person in self.people if person.is_in(agent))

    def invited(self, agent: AgentName | None) -> tuple[UserId, ...]:
        """Return the operator and those people."""
        return self.talking(agent) + self.watching(agent)

    def talking(self, agent: AgentName | None) -> tuple[UserId, ...]:
        """Return the operator and those of the people who may write."""
        talking = tuple(person.user_id for person in self.people_in(agent) if person.role != "watch")
        return ((self.operator,) if self.operator else ()) + talking

    def watching(self, agent: AgentName | None) -> tuple[UserId, ...]:
        """Return those of the people who may not."""
        return tuple(person.user_id for person in self.people_in(agent) if person.role == "watch")


@dataclass(frozen=True, slots=True)
class SpaceSettings:
    """What the person decides about the Space. `shared_room`: theirs, in place of a broadcast room of ours.

    `pictures`: new agents get one. `host`: the machine's name, for the topics of agents' rooms.
    """

    alias: RoomAlias
    layout: Layout = field(default_factory=Layout)
    shared_room: RoomAlias | RoomId | None = None
    pictures: bool = True
    host: str = "this machine"


def _power_levels(
    trusted: tuple[UserId | None, ...], watching: tuple[UserId, ...], messages: int, events: dict[str, int]
) -> dict[str, Any]:
    protected = {"m.room.power_levels": 100, "m.room.join_rules": 100, "m.room.history_visibility": 100}
    never = {"m.room.encryption": _NEVER, "m.room.encrypted": _NEVER, "m.room.tombstone": _NEVER}
    return {
        "users": dict.fromkeys(watching, WATCHING) | {user_id: 50 for user_id in trusted if user_id is not None},
        "users_default": 0,
        "events": protected | never | events,
        "events_default": messages,
        "state_default": 50,
        "invite": 50,
        "kick": 50,
        "ban": 50,
        "redact": 50,
    }


def space_spec(alias: RoomAlias, creator: UserId, layout: Layout) -> RoomSpec:
    """The Space: nobody chats in it; agents write their card and, unless the policy is "strict", their child."""
    child = 50 if layout.policy == "strict" else 0
    return RoomSpec(
        alias=alias,
        creator=creator,
        name="AIChatSpace",
        topic="AI agents, a room each",
        power_levels=_power_levels(
            (layout.operator, *layout.daemons),
            layout.watching(None),
            50,
            {"m.space.child": child, CARD: 0, ROSTER: 0, LEASE: 0, PEOPLE: 0},
        ),
        join_rules={"join_rule": "invite"},
        is_space=True,
        invite=layout.invited(None) + layout.daemons,
    )


def render_topic(agent: AgentName, kind: AgentKind, description: str, host: str) -> str:
    """Return what an agent's room says of it, and nothing that changes as it comes and goes: a new topic is news."""
    about = " ".join(description.split()).rstrip(".")
    return f"{about}. " * bool(about) + f"{kind.capitalize()} agent on {host}. " + _topic_end(agent)


def _topic_end(agent: AgentName) -> str:
    return f"Write to it here, or with 'cchat send --to {agent}'. 'cchat leave {agent}' stops it."


def agent_room_spec(
    agent: AgentName,
    names: Names,
    layout: Layout,
    space: RoomId | None,
    *,
    topic: str = "",
    renews_topic: bool = False,
    picture: str = "",
) -> RoomSpec:
    """An agent's room: the agent made it; who else is in it was invited, or came from the Space.

    `space` None: it is not to be had, and nobody can come from there. `topic`, `picture`: of a room that is made now;
    with `renews_topic` that of one that is there too.
    """
    is_open = layout.open_rooms and space is not None
    return RoomSpec(
        alias=names.alias(agent),
        creator=names.user(agent),
        name=agent,
        topic=topic,
        topic_end=_topic_end(agent) if renews_topic else "",
        power_levels=_power_levels((layout.operator,), layout.watching(agent), 0, {}),
        join_rules=_restricted_to(space) if is_open else {"join_rule": "invite"},
        history_visibility="joined" if is_open else "shared",
        parent=space,
        invite=layout.invited(agent),
        awaits_space=layout.open_rooms and space is None,
        picture=picture,
    )


@lru_cache(maxsize=8)
def digest_rooms(names: Names, layout: Layout, space: RoomId | None, host: str) -> str:
    """Return a digest of what all agents' rooms follow from and of what is made of that, the same in every process."""
    room = agent_room_spec(AgentName("agent"), names, layout, space, topic=host)
    return sha256(json.dumps([asdict(room), asdict(layout)], default=sorted).encode()).hexdigest()


def broadcast_spec(alias: RoomAlias, creator: UserId, layout: Layout, space: RoomId) -> RoomSpec:
    """The broadcast room: whoever is in the Space may join."""
    return RoomSpec(
        alias=alias,
        creator=creator,
        name="AIChatRoom",
        topic="What is written here goes to every agent",
        power_levels=_power_levels((layout.operator,), layout.watching(None), 0, {}),
        join_rules=_restricted_to(space),
        parent=space,
        invite=layout.invited(None),
    )


def _restricted_to(space: RoomId | None) -> dict[str, Any]:
    return {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]}


def render_creation(spec: RoomSpec, room_version: str, server_name: str) -> dict[str, Any]:
    """Return the body of `createRoom`: alias, power levels and first state in the one call.

    `preset: public_chat` with join rule `invite` on top, because servers that encrypt invite-only rooms by default
    go by the preset. Nobody is invited in it: one who cannot be invited would fail the whole.
    """
    state = [
        {"type": "m.room.join_rules", "state_key": "", "content": spec.join_rules},
        {
            "type": "m.room.history_visibility",
            "state_key": "",
            "content": {"history_visibility": spec.history_visibility},
        },
        {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "forbidden"}},
    ]
    if spec.parent is not None:
        state.append({"type": "m.space.parent", "state_key": spec.parent, "content": render_parent(server_name)})
    if spec.picture:
        state.append({"type": "m.room.avatar", "state_key": "", "content": render_picture({"online": spec.picture})})
    return {
        "room_alias_name": spec.alias[1:].split(":", 1)[0],
        "room_version": room_version,
        "name": spec.name,
        "topic": spec.topic,
        "preset": "public_chat",
        "visibility": "private",
        "creation_content": {"type": "m.space"} if spec.is_space else {},
        "initial_state": state,
        "power_level_content_override": wanted_power_levels(spec, room_version, {}, spec.creator),
    }


def wanted_power_levels(spec: RoomSpec, room_version: str, present: dict[str, Any], made_by: UserId) -> dict[str, Any]:
    """Return the power levels to have: the spec's, with the users that `present` names besides.

    `made_by`: the room's creator. From room version 12 on they may not be named; who is not, must be.

    Nobody can lower an equal, nor give or take a level above their own. So the operator keeps a level above theirs,
    and where our user is no creator above all levels, what is above 100 stays as it is.
    """
    others = present.get("users")
    users = dict(others) if isinstance(others, dict) else {}
    wanted = spec.power_levels["users"]
    for user_id in (*spec.invite, *wanted):
        level = level_with(wanted.get(user_id, 0), users.get(user_id))
        if level or user_id in users:
            users[user_id] = level
    users[spec.creator] = 100
    is_listed = is_creator_listed(room_version)
    if not is_listed:
        users.pop(made_by, None)
    events = spec.power_levels["events"]
    if present and (is_listed or made_by != spec.creator):
        there = present.get("events")
        there = there if isinstance(there, dict) else {}
        events = {kind: min(level, max(100, _level(there.get(kind)))) for kind, level in events.items()}
    return spec.power_levels | {"users": users, "events": events}


def render_level(levels: dict[str, Any], user_id: UserId, role: Role | None) -> dict[str, Any]:
    """Return power levels with what one person's role wants of theirs; None: they have none.

    Raises:
        RefusedError: they are to watch, and have a level that cannot be taken from them.
    """
    present = levels.get("users")
    users = dict(present) if isinstance(present, dict) else {}
    if role == "watch":
        users[user_id] = level_with(WATCHING, users.get(user_id))
        if users[user_id] != WATCHING:
            raise RefusedError(f"{user_id} has power level {users[user_id]} there, which cannot be taken")
    elif _level(users.get(user_id)) < 0:
        del users[user_id]
    return levels | {"users": users}


def level_with(wanted: int, present: object) -> int:
    """Return the level to have of somebody who has another: what is taken from who watches is what can be taken."""
    level = _level(present)
    return wanted if wanted < 0 and level < 100 else max(wanted, level)


def _level(level: object) -> int:
    return level if isinstance(level, int) else 0


def render_parent(server_name: str) -> dict[str, Any]:
    """Content of `m.space.parent`."""
    return {"via": [server_name], "canonical": True}


def render_picture(pictures: Mapping[str, str], *, shown: str = "online") -> dict[str, Any]:
    """Content of `m.room.avatar`: the picture that is shown, and all that there are, so that none is uploaded again.

    `pictures`: `mxc://` addresses of `online` and `offline`.
    """
    return {"url": pictures[shown], PICTURES: dict(pictures)}


def order_of(card: Card | None) -> str:
    """Return where a room stands in the Space: that for all (None), agents by their names, then ephemeral ones."""
    if card is None:
        return "!"
    return card.name if card.kind == "persistent" else f"~{card.name}"


def render_child(server_name: str, order: str) -> dict[str, Any]:
    """Content of `m.space.child`. `order`: at most 50 printable ASCII characters; Element sorts by it."""
    return {"via": [server_name], "order": order[:50], "suggested": True}
