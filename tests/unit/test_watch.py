"""`Watch` against a homeserver that fails as no real one does on request, and a disk that is full."""

import asyncio
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import pytest

from aiagentchat.agents.intake import Landmark
from aiagentchat.daemon import watch
from aiagentchat.daemon.watch import Watch
from aiagentchat.errors import (
    AiAgentChatError,
    HomeserverUnavailableError,
    MatrixNotFoundError,
    MatrixUnauthorizedError,
)
from aiagentchat.matrix.client import MessagesPage
from aiagentchat.matrix.wire import ClientStats
from aiagentchat.model import EventId, RoomId, UserId

DAEMON, AGENT = UserId("@daemon:example.org"), UserId("@a:example.org")
GONE = MatrixNotFoundError(404, "M_NOT_FOUND", "gone")


def landmark(user_id: UserId, name: str) -> Landmark:
    return Landmark(user_id, RoomId(f"!{name}"), EventId(f"${name}"), 1_000)


class World:
    """A homeserver, by what it answers for each event (absent: it has it), and a `Watch` of it."""

    def __init__(self, file: Path, *known: Landmark) -> None:
        self.answers: dict[EventId, AiAgentChatError] = {}
        self.stats = ClientStats()
        self.breaks_always = False
        self.file = file
        self.returns: list[float] = []
        self.restored: list[str] = []
        self.landmarks: dict[str, Landmark] = {}
        if known:
            file.write_bytes(watch._LANDMARKS.dump_json(known))
            file.chmod(0o600)
        self.oldest_ts = 0
        client = Mock(
            get_event=AsyncMock(side_effect=self._event),
            get_state=AsyncMock(return_value={"membership": "join"}),
            get_messages=AsyncMock(side_effect=self._oldest),
            server_now_ms=Mock(return_value=2_000),
        )
        self.watch = Watch(
            file,
            cast("Any", Mock(client_as=Mock(return_value=client))),
            cast("Any", SimpleNamespace(landmarks=self.landmarks)),
            cast("Any", Mock(stats=self.stats, versions=AsyncMock())),
            on_return=lambda: self.returns.append(asyncio.get_running_loop().time()),
            on_restored=self.restored.append,
        )

    def break_one(self) -> None:
        self.stats.breaks += 1

    async def _event(self, _room_id: RoomId, event_id: EventId) -> dict[str, Any]:
        self.stats.breaks += self.breaks_always
        if event_id in self.answers:
            raise self.answers[event_id]
        return {}

    async def _oldest(self, room_id: RoomId, **_query: Any) -> MessagesPage:
        event = {"type": "m.room.message", "content": {}, "sender": DAEMON, "event_id": "$0", "room_id": room_id}
        return MessagesPage(({**event, "origin_server_ts": self.oldest_ts},), None)

    async def run(self, for_s: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(for_s):
                await self.watch.run()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_S", 0.02)
    monkeypatch.setattr(watch, "_NOTICE_S", 0.01)


async def test_that_the_homeserver_is_back_is_told_though_its_events_cannot_be_looked_up(tmp_path: Path) -> None:
    world = World(tmp_path / "landmarks.json", landmark(DAEMON, "space"))
    world.answers[EventId("$space")] = HomeserverUnavailableError("HTTP 502")
    asyncio.get_running_loop().call_later(0.03, world.break_one)
    await world.run(0.3)
    assert len(world.returns) == 1


async def test_where_requests_keep_ending_unanswered_not_every_look_has_all_inboxes_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_SETTLE_S", 0.1)
    world = World(tmp_path / "landmarks.json", landmark(DAEMON, "space"))
    world.breaks_always = True
    await world.run(2.0)  # on a busy machine a look may take as long as several should
    assert len(world.returns) > 1
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(world.returns))


async def test_an_account_that_is_logged_out_does_not_hide_that_another_event_is_gone(tmp_path: Path) -> None:
    world = World(tmp_path / "landmarks.json", landmark(AGENT, "agent"), landmark(DAEMON, "space"))
    world.answers = {
        EventId("$agent"): MatrixUnauthorizedError(401, "M_UNKNOWN_TOKEN", "logged out"),
        EventId("$space"): GONE,
    }
    await world.run(0.1)
    assert len(world.restored) == 1


@pytest.mark.parametrize(("oldest_ts", "is_restored"), [(999, True), (1_001, False)])
async def test_an_event_that_was_purged_with_all_before_it_tells_of_no_restored_copy(
    tmp_path: Path, oldest_ts: int, is_restored: bool
) -> None:
    world = World(tmp_path / "landmarks.json", landmark(DAEMON, "space"))
    world.answers = {EventId("$space"): GONE}
    world.oldest_ts = oldest_ts
    await world.run(0.1)
    assert len(world.restored) == is_restored


@pytest.mark.parametrize("is_restored", [True, False])
async def test_a_disk_that_takes_nothing_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_restored: bool
) -> None:
    known = [landmark(DAEMON, "space")] if is_restored else []
    world = World(tmp_path / "landmarks.json", *known)
    world.answers = {EventId("$space"): GONE}
    world.landmarks["agent"] = landmark(AGENT, "agent")
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(watch, "write_private", full)
    monkeypatch.setattr(Path, "unlink", full)
    await world.run(0.1)
    assert len(world.restored) == is_restored
    assert full.called
