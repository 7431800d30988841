"""What `Overview` keeps of what it hears, and how it forgets. What is drawn of it: `tests/unit/test_top.py`."""

from typing import Any
from unittest.mock import Mock

import pytest

from aiagentchat.agents import overview
from aiagentchat.agents.messages import parse_message
from aiagentchat.agents.overview import Overview
from aiagentchat.errors import HomeserverUnavailableError
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.model import AgentName, EventId, RoomId, Sender, UserId
from aiagentchat.space.directory import DirectoryView
from aiagentchat.space.names import Naming

OWN, ROOM = AgentName("own"), RoomId("!own")


class Heard:
    """An overview of one agent, and what is told to it: live, or by the word of the homeserver."""

    def __init__(self, *, is_live: bool = True) -> None:
        entry = Mock(room_id=ROOM)
        entry.name = OWN
        self.host = Mock(
            names=Naming("example.org"),
            inboxes_of=lambda _: [],
            inboxes=dict,
            sender_of=lambda user_id: Sender(user_id, "a", "person"),
        )
        self.entries: tuple[Any, ...] = (entry,)
        self.host.who = self._who
        self.is_live, self.latest = is_live, list[RoomEvent]()
        self.overview = Overview(self.host, Mock(look=self._look), lambda: 0, clock=iter(range(0, 10**6, 100)).__next__)

    async def _who(self) -> DirectoryView:
        return DirectoryView(self.entries)

    async def _look(self) -> list[RoomEvent]:
        if not self.latest:
            raise HomeserverUnavailableError("down")
        found, self.latest = self.latest, []
        return found

    async def hears(
        self, event_id: str, ts: int, sender: str = "@a:x", kind: str = "m.room.message", **content: Any
    ) -> None:
        event = RoomEvent(EventId(event_id), ROOM, UserId(sender), kind, None, content, ts)
        if self.is_live or kind != "m.room.message":
            self.overview.note(event, parse_message(event, self.host.sender_of, None), OWN)
        else:
            self.latest = [event]
            await self.overview.look()

    async def says(self, body: str, ts: int = 1, **relation: Any) -> None:
        await self.hears(f"${body}", ts, msgtype="m.text", body=body, **relation)

    async def edits(self, event_id: str, body: str, ts: int = 9, sender: str = "@a:x") -> None:
        content: dict[str, Any] = {"msgtype": "m.text", "body": body}
        relation = {"rel_type": "m.replace", "event_id": event_id}
        edit = content | {"m.new_content": content, "m.relates_to": relation}
        await self.hears(f"$edit {body}", ts, sender, **edit)

    async def last(self) -> tuple[str, int] | None:
        said = (await self.overview.look()).agents[0].last
        return None if said is None else (said.body, said.ts)


@pytest.fixture(params=[True, False], ids=["live", "asked for"])
def heard(request: pytest.FixtureRequest) -> Heard:
    return Heard(is_live=request.param)


async def test_an_edit_of_the_last_message_takes_its_place_and_one_of_an_earlier_or_by_another_does_not(
    heard: Heard,
) -> None:
    await heard.says("early")
    await heard.says("late", 2)
    await heard.edits("$early", "earlier")
    assert await heard.last() == ("late", 2)
    await heard.edits("$late", "stolen", sender="@b:x")
    assert await heard.last() == ("late", 2)
    await heard.edits("$late", "later")
    await heard.edits("$late", "latest")
    assert await heard.last() == ("latest", 2)


async def test_what_was_taken_back_is_not_the_last_message_any_more(heard: Heard) -> None:
    await heard.says("early")
    await heard.says("late", 2)
    await heard.hears("$r1", 3, kind="m.room.redaction", redacts="$early")
    assert await heard.last() == ("late", 2)
    await heard.hears("$r2", 3, kind="m.room.redaction", redacts="$late")
    assert await heard.last() is None


async def test_what_the_daemon_answers_is_no_message(heard: Heard) -> None:
    await heard.says("hello")
    await heard.says("!status", 2)
    assert await heard.last() == ("hello", 1)


async def test_of_agents_that_are_gone_nothing_is_kept_and_never_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    await heard.says("hello")
    heard.entries = ()
    await heard.overview.look()
    assert (heard.overview._last, heard.overview._waiting) == ({}, {})
    monkeypatch.setattr(overview, "_MOST_ROOMS", 3)
    for number in range(9):
        event = RoomEvent(EventId("$"), RoomId(f"!{number}"), UserId("@a:x"), "m.room.message", None, {"body": "hi"}, 1)
        heard.overview.note(event, parse_message(event, heard.host.sender_of, None), AgentName(f"agent-{number}"))
    assert list(heard.overview._last) == ["!6", "!7", "!8"]
    assert list(heard.overview._waiting) == ["agent-6", "agent-7", "agent-8"]
