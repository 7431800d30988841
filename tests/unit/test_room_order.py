"""`RoomOrder`: what is known of agents' rooms, and what a file that is none of ours makes of it: nothing."""

import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.agents.room_order import RoomOrder
from aiagentchat.config import write_private
from aiagentchat.model import AgentName

ONE, OTHER = AgentName("one"), AgentName("other")


def test_nothing_is_known_at_first_and_then_all_rooms_that_were_not_heard_of(tmp_path: Path) -> None:
    order = RoomOrder(tmp_path / "rooms")
    assert not order.has(ONE, lambda: "a")
    assert not order.has(ONE, lambda: "")
    order.settle("a")
    order.note(OTHER, in_order=False)
    for each in (order, RoomOrder(tmp_path / "rooms")):
        assert each.has(ONE, lambda: "a")
        assert not each.has(OTHER, lambda: "a")
        assert not each.has(ONE, lambda: "b"), "something else is wanted by now"
    order.note(OTHER, in_order=True)
    assert RoomOrder(tmp_path / "rooms").has(OTHER, lambda: "a")
    order.forget()
    for each in (order, RoomOrder(tmp_path / "rooms")):
        assert not each.has(ONE, lambda: "a")


def test_what_was_heard_before_all_were_looked_through_is_known_after_it(tmp_path: Path) -> None:
    order = RoomOrder(tmp_path / "rooms")
    order.note(ONE, in_order=False)
    order.settle("a")
    assert not RoomOrder(tmp_path / "rooms").has(ONE, lambda: "a")


def test_without_a_file_nothing_is_kept() -> None:
    order = RoomOrder()
    assert not order.is_kept
    order.note(ONE, in_order=False)
    order.note(ONE, in_order=True)


def test_a_file_that_cannot_be_written_or_read_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    order = RoomOrder(tmp_path / "rooms")
    order.settle("a")
    assert order.has(ONE, lambda: "a")


@given(st.text(), st.text())
def test_whatever_stands_in_the_file_is_no_digest_of_ours(text: str, wanted: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "rooms"
        write_private(file, text)
        assert RoomOrder(file).has(ONE, lambda: wanted) <= (bool(wanted) and wanted == text.split("\n")[0])


def test_the_digest_is_the_same_in_every_process_and_another_for_other_people() -> None:
    code = """
from aiagentchat.model import AgentName, RoomId, UserId
from aiagentchat.space.layout import Layout, digest_rooms
from aiagentchat.space.names import Naming
from aiagentchat.space.people import Person
agents = frozenset(map(AgentName, ("a", "b", "c", "d", "e")))
for people in ((), (Person(UserId("@p:x.org"), "talk", agents),), (Person(UserId("@p:x.org"), "watch", agents),)):
    print(digest_rooms(Naming("x.org"), Layout(people=people), RoomId("!space"), "host"))
"""
    said = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(3)
    ]
    assert len(set(said)) == 1
    assert len(set(said[0].split())) == 3
