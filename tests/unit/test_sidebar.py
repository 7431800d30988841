"""Whom the sidebar shows when: not at once, one after the other, and nobody while nothing changes.

What it shows on a homeserver is tried in `tests/integration/test_sidebar.py`; here are times that take too long there.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiagentchat.agents import sidebar
from aiagentchat.agents.sessions import Sessions
from aiagentchat.agents.sidebar import GAP_S, LOW_PRIORITY, MOST_AT_STOP, OFFLINE_AFTER_S, Sidebar
from aiagentchat.errors import HomeserverUnavailableError
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import AgentName, UserId
from aiagentchat.space.manager import SpaceManager

A, B = AgentName("a"), AgentName("b")
ALICE = UserId("@alice:example.org")


class Tags:
    """The operator's tags, as the sidebar asks for them."""

    def __init__(self) -> None:
        self.low: set[str] = set()
        self.requests: list[str] = []
        self.at_once = self.most_at_once = 0
        self.broken = False

    async def get_room_tags(self, _user_id: str, room_id: str) -> dict[str, Any]:
        self.requests.append(f"get {room_id}")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.broken:
            raise HomeserverUnavailableError("down")
        return {LOW_PRIORITY: {"io.aiagentchat.offline": True}} if room_id in self.low else {}

    async def put_room_tag(self, _user_id: str, room_id: str, _tag: str, _content: object) -> None:
        self.requests.append(f"put {room_id}")
        self.low.add(room_id)

    async def delete_room_tag(self, _user_id: str, room_id: str, _tag: str) -> None:
        self.requests.append(f"delete {room_id}")
        self.low.remove(room_id)


class World:
    """Agents, of which those named are online, and a clock that stands until it is told."""

    def __init__(self, file: Path, *agents: AgentName, before: Tags | None = None) -> None:
        self.now_s = 0.0
        self.is_stale = False
        self.tags = before or Tags()
        self.sessions = Sessions(ttl_s=1e6, server_now_ms=lambda: 0, clock=lambda: self.now_s)
        self.cards = {agent: SimpleNamespace(name=agent, room_id=f"!{agent}") for agent in agents}
        directory = SimpleNamespace(
            own_cards=lambda: list(self.cards.values()), card=self.cards.get, is_stale=lambda: self.is_stale
        )
        operator = (ALICE, cast("MatrixClient", self.tags))
        self.sidebar = Sidebar(
            cast("SpaceManager", SimpleNamespace(directory=directory, space_id="!space")),
            self.sessions,
            operator,
            with_pictures=False,
            file=file,
            clock=lambda: self.now_s,
        )

    async def after(self, seconds: float) -> list[str]:
        """Let time pass; return what was asked for."""
        self.now_s += seconds
        self.sidebar.changed.set()
        for _ in range(50):
            await asyncio.sleep(0)
        done, self.tags.requests = self.tags.requests, []
        return done


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.sidebar.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidebar, "GAP_S", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shown"


def shown(file: Path, *offline: str, online: Iterable[str] = ("!a", "!b")) -> Path:
    """Have a daemon before have shown these so."""
    lines = [f"online {room_id}" for room_id in online if room_id not in offline]
    file.write_text("\n".join([f"quiet {ALICE}", *lines, *(f"offline {room_id}" for room_id in offline)]) + "\n")
    file.chmod(0o600)
    return file


def kept(file: Path) -> str:
    return file.read_text()


@pytest.mark.usefixtures("without_gaps")
async def test_who_comes_back_soon_was_not_away(file: Path) -> None:
    world = World(shown(file), A)
    world.sessions.renew(A)
    async with running(world):
        assert await world.after(0) == []
        for _ in range(5):
            world.sessions.end(A)
            assert await world.after(OFFLINE_AFTER_S - 0.1) == []
            world.sessions.renew(A)
            assert await world.after(1) == []
        world.sessions.end(A)
        assert await world.after(1) == []
        assert await world.after(OFFLINE_AFTER_S) == ["get !a", "put !a"]
        assert await world.after(1e6) == [], "nothing changes, and nothing is asked for"
        world.sessions.renew(A)
        assert await world.after(0) == ["get !a", "delete !a"]


@pytest.mark.usefixtures("without_gaps")
async def test_after_a_start_who_is_not_back_soon_is_shown_as_offline(file: Path) -> None:
    world = World(shown(file, "!b"), A, B)
    async with running(world):
        world.tags.low.add("!b")
        assert await world.after(OFFLINE_AFTER_S - 1) == []
        world.sessions.renew(B)
        assert await world.after(0) == ["get !b", "delete !b"]
        assert await world.after(1) == []
        assert await world.after(OFFLINE_AFTER_S) == ["get !a", "put !a"]


@pytest.mark.usefixtures("without_gaps")
async def test_what_failed_is_tried_again_later_and_holds_up_no_other(file: Path) -> None:
    world = World(file, A, B)
    world.tags.broken = True
    world.sessions.renew(A)
    async with running(world):
        assert await world.after(0) == ["get !a"]
        world.tags.broken = False
        world.sessions.renew(B)
        assert await world.after(1) == ["get !b"]
        assert await world.after(60) == ["get !a"]


@pytest.mark.usefixtures("without_gaps")
async def test_a_start_costs_nothing_however_many_are_shown_as_they_are(file: Path) -> None:
    agents = [AgentName(f"agent-{number}") for number in range(100)]
    world = World(file, *agents)
    for agent in agents[50:]:
        world.sessions.renew(agent)
    async with running(world):
        for _ in range(10):
            await world.after(OFFLINE_AFTER_S)
    assert world.tags.low == {f"!{agent}" for agent in agents[:50]}
    again = World(file, *agents, before=world.tags)
    for agent in agents[50:]:
        again.sessions.renew(agent)
    async with running(again):
        assert await again.after(0) + await again.after(OFFLINE_AFTER_S) == []


@pytest.mark.usefixtures("without_gaps")
async def test_one_that_was_being_changed_when_the_daemon_was_killed_is_looked_at(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(shown(file), A, B)
    world.sessions.renew(B)
    async with running(world):
        await world.after(0)
        monkeypatch.setattr(world.tags, "put_room_tag", hang)
        assert await world.after(OFFLINE_AFTER_S) == ["get !a"]
    again = World(file, A, B, before=world.tags)
    again.tags.low = {"!a"}
    for agent in (A, B):
        again.sessions.renew(agent)
    async with running(again):
        assert await again.after(0) == ["get !a", "delete !a"]


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.usefixtures("without_gaps")
async def test_after_the_homeserver_was_restored_from_a_backup_each_is_looked_at(file: Path) -> None:
    world = World(shown(file, "!b"), A, B)
    async with running(world):
        assert await world.after(0) == []
        world.sidebar.doubt()
        for agent in (A, B):
            world.sessions.renew(agent)
        assert await world.after(0) == ["get !a", "get !b"]
    early = World(shown(file, "!b"), A, B)  # which is noticed before the directory is read
    early.sidebar.doubt()
    early.sessions.renew(A)
    async with running(early):
        assert await early.after(0) == ["get !a"]


async def test_a_hundred_that_come_at_once_are_shown_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    asleep: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        asleep.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    world = World(file, *(AgentName(f"agent-{number}") for number in range(100)))
    for number in range(100):
        world.sessions.renew(AgentName(f"agent-{number}"))
        world.tags.low.add(f"!agent-{number}")
    async with running(world):
        world.sidebar.changed.set()
        for _ in range(1_000):
            await sleep(0)
    assert len(world.tags.requests) == 200
    assert not world.tags.low
    assert world.tags.most_at_once == 1
    assert asleep.count(GAP_S) == 100


@pytest.mark.usefixtures("without_gaps")
async def test_a_stop_shows_a_few_as_offline_at_once(file: Path) -> None:
    agents = [AgentName(f"agent-{number}") for number in range(MOST_AT_STOP + 5)]
    world = World(shown(file, online=[f"!{agent}" for agent in agents]), *agents)
    async with running(world):
        for agent in agents:
            world.sessions.renew(agent)
        assert await world.after(0) == []
        world.sessions.end_all()
        await world.sidebar.end()
    assert len(world.tags.low) == MOST_AT_STOP


@pytest.mark.usefixtures("without_gaps")
@pytest.mark.parametrize("gone", [A, B])
async def test_a_stop_while_one_that_is_no_more_is_being_shown_so_shows_the_others_too(
    gone: AgentName, file: Path
) -> None:
    world = World(file, A, B)
    async with running(world):
        for agent in (A, B):
            world.sessions.renew(agent)
        await world.after(0)
        del world.cards[gone]
        world.sessions.end(gone)
        await world.after(0)
        world.sessions.end_all()
        await asyncio.gather(world.after(OFFLINE_AFTER_S), world.sidebar.end())
    assert world.tags.low == {"!a", "!b"}


@pytest.mark.usefixtures("without_gaps")
async def test_one_that_was_shown_as_offline_before_it_was_gone_for_good_is_forgotten(file: Path) -> None:
    world = World(shown(file, "!a", "!b"), A, B)
    world.tags.low = {"!a", "!b"}
    async with running(world):
        await world.after(0)
        del world.cards[A]
        await world.after(0)
    assert list(world.sidebar._rooms) == [B]
    assert kept(file) == f"quiet {ALICE}\noffline !b\n"


@pytest.mark.usefixtures("without_gaps")
async def test_one_that_was_gone_for_good_and_is_back_after_a_restart_is_looked_at(file: Path) -> None:
    world = World(shown(file), A, B)
    async with running(world):
        del world.cards[A]
        await world.after(0)
        await world.after(OFFLINE_AFTER_S)
    again = World(file, A, before=world.tags)
    again.tags.low = {"!a"}
    again.sessions.renew(A)
    async with running(again):
        assert await again.after(0) == ["get !a", "delete !a"]


@pytest.mark.usefixtures("without_gaps")
async def test_of_a_directory_that_was_not_read_yet_nothing_follows_for_those_it_lacks(file: Path) -> None:
    world = World(shown(file, "!b"), A)
    world.is_stale = True
    async with running(world):
        assert await world.after(0) == []
        world.is_stale = False
        world.cards |= World(file, B).cards
        assert await world.after(OFFLINE_AFTER_S) == ["get !a", "put !a"]
    assert kept(file) == f"quiet {ALICE}\noffline !b\noffline !a\n"
