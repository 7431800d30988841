"""The directory cache: hostile state is skipped and counted; who is online; age; use from many threads and tasks."""

import asyncio
import dataclasses
import itertools
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.matrix.events import RoomEvent
from aiagentchat.model import AgentName, EventId, RoomId, UserId
from aiagentchat.space import directory as module
from aiagentchat.space.content import CARD, ROSTER, Card, Roster, SpaceChild, parse_content
from aiagentchat.space.directory import STATE_TYPES, Directory, DirectoryView
from aiagentchat.space.names import AccountNames, Naming
from tests.unit.test_content import JSON, TEXT

NAMING = Naming("example.org")
SPACE = RoomId("!space:example.org")
OTHER_DAEMON = UserId("@aiagentchat.second:example.org")
BOTH = frozenset({NAMING.daemon, OTHER_DAEMON})
NUMBERS = itertools.count()
NOBODY: frozenset[AgentName] = frozenset()
A, B, C = AgentName("a"), AgentName("b"), AgentName("c")


def event(kind: str, key: str | None, content: dict[str, Any], sender: str | None = None) -> RoomEvent:
    return RoomEvent(
        EventId(f"${next(NUMBERS)}"), SPACE, UserId(sender if sender is not None else key or ""), kind, key, content, 1
    )


def room_of(agent: str) -> RoomId:
    return RoomId(f"!{agent}:example.org")


def card(agent: AgentName, daemon: UserId = OTHER_DAEMON, **changed: Any) -> RoomEvent:
    """A good card, but for what `changed` says."""
    content = {"name": agent, "room_id": room_of(agent), "alias": NAMING.alias(agent), "daemon": daemon}
    return event(CARD, NAMING.user(agent), content | changed)


def child(agent: str) -> RoomEvent:
    return event("m.space.child", room_of(agent), {"via": ["example.org"]}, NAMING.daemon)


def roster(daemon: UserId, *online: str) -> RoomEvent:
    return event(ROSTER, daemon, {"online": list(online)})


def directory_of(*events: RoomEvent, malformed: int = 0) -> Directory:
    directory = Directory(NAMING, ttl_s=300)
    directory.load(events, malformed=malformed)
    return directory


def seen(directory: Directory, alive: frozenset[UserId] = BOTH) -> dict[str, str]:
    return {entry.name: entry.status for entry in directory.view(alive, NOBODY).entries}


# --- hostile state

GOOD = [card(A), child(A), roster(OTHER_DAEMON, A)]
AGENTS = st.sampled_from([A, B, C])
USERS = st.sampled_from([NAMING.user(A), NAMING.user(B), NAMING.daemon, OTHER_DAEMON, "@mallory:example.org", "", "@"])
PLAUSIBLE = st.one_of(
    st.builds(card, AGENTS, st.sampled_from(sorted(BOTH))),
    st.builds(child, AGENTS),
    st.builds(lambda daemon, online: roster(daemon, *online), st.sampled_from(sorted(BOTH)), st.lists(AGENTS)),
    st.builds(lambda one, two: card(one, room_id=room_of(two)), AGENTS, AGENTS),  # claims another's room
    st.builds(lambda one, two: card(one, name=two), AGENTS, AGENTS),
    st.builds(lambda one, two: card(one, alias=NAMING.alias(two)), AGENTS, AGENTS),
    st.builds(
        lambda one, field, value: card(one, **{field: value}), AGENTS, st.sampled_from(list(Card.model_fields)), JSON
    ),
)
HOSTILE = st.one_of(
    PLAUSIBLE,
    st.builds(lambda good, sender: dataclasses.replace(good, sender=sender), PLAUSIBLE, USERS),  # forged
    st.builds(lambda good, key: dataclasses.replace(good, state_key=key), PLAUSIBLE, USERS | st.none()),
    st.builds(lambda good: dataclasses.replace(good, content={}), PLAUSIBLE),
    st.builds(
        event, st.sampled_from(STATE_TYPES) | TEXT, TEXT | st.none(), st.dictionaries(TEXT, JSON, max_size=3), USERS
    ),
)


def latest(events: list[RoomEvent]) -> dict[tuple[str, str], RoomEvent]:
    return {
        (each.type, each.state_key): each for each in events if each.type in STATE_TYPES and each.state_key is not None
    }


def counts(each: RoomEvent) -> bool:
    """Whether an event is one to go by, said independently of the code under test."""
    if each.type == "m.space.child":
        return parse_content(SpaceChild, each.content) is not None
    if each.type == ROSTER:
        return each.sender == each.state_key and parse_content(Roster, each.content) is not None
    good = parse_content(Card, each.content)
    return (
        good is not None
        and each.sender == each.state_key == f"@aiagentchat-{good.name}:example.org"
        and good.alias == f"#aiagentchat-{good.name}:example.org"
    )


@given(st.lists(HOSTILE, max_size=25))
@example([*GOOD, card(B, room_id=room_of(A))])
@example([*GOOD, dataclasses.replace(roster(OTHER_DAEMON), sender=UserId("@mallory:example.org"))])
def test_hostile_state_is_skipped_and_counted_and_all_the_rest_is_right(events: list[RoomEvent]) -> None:
    state = latest(events)
    good = {key: each for key, each in state.items() if counts(each)}
    cards = [Card.model_validate(each.content) for (kind, _), each in good.items() if kind == CARD]
    view = directory_of(*events).view(BOTH, frozenset({A}))
    assert [entry.name for entry in view.entries] == sorted(
        {each.name for each in cards} & {e.name for e in view.entries}
    )
    rooms = Counter(entry.room_id for entry in view.entries)
    assert set(rooms) == {each.room_id for each in cards}
    assert set(rooms.values()) <= {1}
    for entry in view.entries:
        (own,) = (each for each in cards if each.name == entry.name)
        listed = (ROSTER, own.daemon) in good and own.name in good[ROSTER, own.daemon].content["online"]
        listed = own.name == A if own.daemon == NAMING.daemon else listed
        online = listed and own.daemon in BOTH and ("m.space.child", own.room_id) in good
        assert (entry.status == "online") == online
        assert (entry.user_id, entry.alias) == (NAMING.user(own.name), NAMING.alias(own.name))
    bad = [each for key, each in state.items() if key not in good and each.content]
    assert view.skipped == len(bad) + len(cards) - len(view.entries)


@given(st.lists(HOSTILE, max_size=12), st.lists(HOSTILE, max_size=12))
def test_events_one_by_one_come_to_the_same_as_the_whole_state(first: list[RoomEvent], then: list[RoomEvent]) -> None:
    live = directory_of(*first)
    for each in then:
        live.apply(each)
    whole = directory_of(*first, *then)
    for alive in (BOTH, frozenset({OTHER_DAEMON}), frozenset()):
        assert live.view(alive, NOBODY) == whole.view(alive, NOBODY)
    assert live.daemons() == whole.daemons()


def test_a_view_is_not_spoilt_by_one_bad_entry_of_each_kind() -> None:
    bad = [
        card(B, name="B"),
        dataclasses.replace(card(C), sender=UserId("@mallory:example.org")),
        event(CARD, "@mallory:example.org", card(A).content),
        event(CARD, "", card(A).content, NAMING.user(A)),
        roster(UserId("@mallory:example.org"), "Not a name"),
        event("m.space.child", room_of("x"), {"via": []}, NAMING.user(A)),
    ]
    directory = directory_of(*GOOD, *bad, malformed=2)
    assert directory.view(BOTH, NOBODY).skipped == len(bad) + 2
    assert seen(directory) == {A: "online"}


def test_emptied_state_takes_an_agent_off_the_list_and_is_no_fault() -> None:
    directory = directory_of(*GOOD, event("m.space.child", room_of("x"), {}, NAMING.daemon))
    directory.apply(dataclasses.replace(child(A), content={}))
    assert seen(directory) == {A: "offline"}
    directory.apply(dataclasses.replace(card(A), content={}))
    assert directory.view(BOTH, NOBODY) == DirectoryView(())
    assert directory.card(A) is None
    assert directory.agent_of_room(room_of(A)) is None


def test_whoever_fills_the_space_with_state_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ENTRIES", 50)
    many = [AgentName(f"x{number}") for number in range(200)]
    directory = directory_of(*(make(name) for name in many for make in (card, child)))
    directory.begin_read()
    for number, name in enumerate(many):
        directory.apply(roster(UserId(f"@{name}:example.org"), name))
        directory.apply(event("m.space.child", f"!bad{number}", {"via": []}, "@mallory:example.org"))
    parsed = directory._parsed
    assert {len(table) for table in (parsed.own, parsed.rosters, parsed.children, parsed.rejected)} == {50}
    assert len(directory._newer or {}) == 50
    assert len(seen(directory)) == 50
    directory.apply(card(many[0], description="known ones still change"))
    known = directory.card(many[0])
    assert known is not None
    assert known.description


def test_a_roster_longer_than_any_event_is_refused() -> None:
    directory = directory_of(card(A), child(A), roster(OTHER_DAEMON, A, *(f"x{number}" for number in range(50_000))))
    assert seen(directory) == {A: "offline"}
    assert directory.view(BOTH, NOBODY).skipped == 1


# --- online


@pytest.mark.parametrize("missing", [None, "child", "roster", "in the roster", "lease", "daemon"])
def test_an_agent_is_online_only_as_a_child_on_the_roster_of_its_live_daemon(missing: str | None) -> None:
    names = [B] if missing == "in the roster" else [A]
    events = [
        card(A, UserId("@other:example.org") if missing == "daemon" else OTHER_DAEMON, reach="push"),
        *([] if missing == "child" else [child(A)]),
        *([] if missing == "roster" else [roster(OTHER_DAEMON, *names)]),
    ]
    alive = frozenset({NAMING.daemon}) if missing == "lease" else BOTH
    (entry,) = directory_of(*events).view(alive, NOBODY).entries
    assert (entry.status, entry.reach) == (("online", "push") if missing is None else ("offline", "none"))


def test_for_its_own_agents_the_daemons_sessions_stand_for_its_roster() -> None:
    directory = directory_of(
        card(A, NAMING.daemon), child(A), card(B, NAMING.daemon), child(B), roster(NAMING.daemon, A)
    )
    view = directory.view(frozenset({NAMING.daemon}), frozenset({B}))
    assert {entry.name: entry.status for entry in view.entries} == {A: "offline", B: "online"}


def test_an_upgraded_card_moves_its_room() -> None:
    directory = directory_of(*GOOD)
    directory.apply(card(A, room_id="!upgraded"))
    assert directory.agent_of_room(RoomId("!upgraded")) == A
    assert directory.agent_of_room(room_of(A)) is None
    assert directory.has_child(room_of(A))
    assert not directory.has_child(RoomId("!upgraded"))


# --- age


def test_it_is_stale_before_the_first_read_after_its_time_and_when_told() -> None:
    now = 1000.0
    directory = Directory(NAMING, ttl_s=60, clock=lambda: now)
    assert directory.is_stale()
    directory.load([])
    assert not directory.is_stale()
    now += 60
    directory.apply(card(A))  # an event is no read
    assert not directory.is_stale()
    now += 0.5
    assert directory.is_stale()
    directory.load([])
    assert not directory.is_stale()
    directory.expire()
    assert directory.is_stale()


def test_what_happens_while_the_state_is_read_is_not_lost_by_the_reading() -> None:
    directory = directory_of(*GOOD)
    directory.begin_read()
    directory.apply(card(B))
    directory.apply(child(B))
    directory.apply(dataclasses.replace(card(A), content={}))
    directory.load(GOOD)  # as it was before those events
    assert seen(directory) == {B: "offline"}
    directory.load(GOOD)
    assert seen(directory) == {A: "online"}


# --- threads and tasks

GENERATIONS = [[AgentName(f"g{generation}-{number:02}") for number in range(40)] for generation in range(2)]


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Have threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def check_consistent(view: DirectoryView) -> None:
    """Every view is of one generation, whole, and sorted; beside it stand only the agents that come and go."""
    names = [entry.name for entry in view.entries]
    assert names == sorted(set(names))
    assert len({entry.room_id for entry in view.entries}) == len(names)
    assert [name for name in names if name.startswith("g")] in GENERATIONS
    assert view.skipped == 0


def work(directory: Directory, seed: int) -> Iterator[None]:
    """One thread's or task's use of the directory; it yields between its calls."""
    rng = random.Random(seed)
    own = [AgentName(f"w{seed}-{number}") for number in range(30)]
    states = [[make(name) for name in names for make in (card, child)] for names in GENERATIONS]
    for turn in range(120):
        if turn % 10 == seed % 10:
            directory.load(rng.choice(states))
        name = rng.choice(own)
        directory.apply(card(name))
        yield
        check_consistent(directory.view(BOTH if turn % 2 else frozenset(), NOBODY))
        yield
        directory.apply(dataclasses.replace(card(name), content={}))
        assert directory.card(name) is None
        assert directory.agent_of_room(room_of(name)) is None
        yield
        assert directory.daemons() == {OTHER_DAEMON}
        assert directory.encrypted_agents() == []


async def run_tasks(directory: Directory, seeds: range) -> None:
    async def run(seed: int) -> None:
        for _ in work(directory, seed):
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(run(seed))


def exhaust(directory: Directory, seeds: range) -> None:
    for _ in itertools.chain.from_iterable(zip(*(work(directory, seed) for seed in seeds), strict=True)):
        pass


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("run", [exhaust, lambda directory, seeds: asyncio.run(run_tasks(directory, seeds))])
def test_eight_threads_and_their_tasks_see_consistent_views_and_no_error(
    run: Callable[[Directory, range], None],
) -> None:
    directory = directory_of(*(make(name) for name in GENERATIONS[0] for make in (card, child)))
    barrier, errors = threading.Barrier(8), []

    def thread(number: int) -> None:
        barrier.wait(30)
        try:
            run(directory, range(number * 10, number * 10 + 2))
        except BaseException as error:  # noqa: BLE001 - whatever a thread meets is the test's to tell
            errors.append(error)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not any(each.is_alive() for each in threads)
    assert errors == []


def test_what_was_written_earlier_and_comes_later_changes_nothing() -> None:
    older, newer = card(A, description="older"), dataclasses.replace(card(A, description="newer"), ts=2)
    for events in ([older, newer], [newer, older]):
        directory = directory_of()
        for each in events:
            directory.apply(each)
        known = directory.card(A)
        assert known is not None
        assert known.description == "newer"
    directory.load([older])  # the Space's state as it is now, whatever was thought
    assert directory.card(A) != known


# --- the cards of others


def claim(localpart: str, name: str, room: str, alias: str = "") -> RoomEvent:
    user = f"@{localpart}:example.org"
    content = {"name": name, "room_id": room_of(room), "alias": alias or f"#{localpart}:example.org", "daemon": user}
    return event(CARD, user, content)


def confirmed(*events: RoomEvent) -> Directory:
    directory = directory_of(*events)
    directory.confirm(directory.claims())
    return directory


def test_a_card_of_somebody_elses_agent_counts_once_it_is_confirmed() -> None:
    bot = claim("bot", "helper", "x")
    directory = directory_of(bot)
    assert (directory.find(AgentName("helper")), directory.view(BOTH, NOBODY).skipped) == (None, 1)
    assert directory.sender_of(bot.sender).kind == "person"
    directory.confirm(directory.claims())
    found = directory.find(AgentName("helper"))
    assert found is not None
    assert (found.user_id, found.is_hosted) == (bot.sender, False)
    assert (directory.sender_of(bot.sender).name, directory.sender_of(bot.sender).kind) == ("helper", "agent")
    directory.apply(claim("bot", "helper", "y"))  # it claims another room now
    assert directory.find(AgentName("helper")) is None


def test_a_second_card_for_a_room_hides_nobody() -> None:
    directory = confirmed(claim("zoe", "victim", "x"), claim("aaa", "nobody", "x"))
    assert set(seen(directory)) == {"victim", "nobody"}
    assert directory.sender_of(UserId("@zoe:example.org")).name == "victim"
    of_ours = confirmed(card(A), claim("aaa", "nobody", A))
    assert set(seen(of_ours)) == {A}
    assert of_ours.agent_of_room(room_of(A)) == A


def test_of_one_name_the_agent_whose_room_is_listed_has_it_then_the_plain_alias_then_the_first() -> None:
    plain = claim("zoe", "worker", "z", "#aiagentchat-worker:example.org")
    other, third = claim("bob", "worker", "b"), claim("carl", "worker", "c")
    for listed, winner in (("b", "@bob"), ("c", "@carl"), ("", "@zoe")):
        events = [plain, other, third, *([child(listed)] if listed else [])]
        for order in itertools.permutations(events):
            found = confirmed(*order).find(AgentName("worker"))
            assert found is not None
            assert found.user_id == f"{winner}:example.org"
    found = confirmed(third, other).find(AgentName("worker"))
    assert found is not None
    assert found.user_id == other.sender


def test_an_agent_of_another_server_is_called_after_it_and_its_alias_is_of_its_server() -> None:
    far = dataclasses.replace(claim("bot", "helper", "x", "#bot:far.org:8448"), sender=UserId("@bot:far.org:8448"))
    far = dataclasses.replace(far, state_key=far.sender)
    assert set(seen(confirmed(far))) == {"helper:far.org:8448"}
    elsewhere = dataclasses.replace(far, content=far.content | {"alias": "#bot:example.org"})
    assert confirmed(elsewhere).claims() == frozenset()


def test_an_agent_is_this_daemons_as_long_as_its_account_is_logged_in() -> None:
    users: dict[AgentName, UserId] = {}
    directory, worker = Directory(AccountNames("example.org", None, lambda: users), ttl_s=300), UserId("@w:example.org")
    content = {"name": A, "room_id": room_of(A), "alias": NAMING.alias(A), "daemon": worker}
    directory.load([event(CARD, worker, content), child(A)])
    for _ in range(2):
        assert directory.card(A) is None
        assert [each.user_id for each in directory.claims()] == [worker]
        users[A] = worker
        listed = directory.find(A)
        assert listed is not None
        assert listed.is_hosted
        assert directory.claims() == frozenset()
        assert seen(directory, frozenset({worker})) == {"a": "offline"}
        del users[A]
