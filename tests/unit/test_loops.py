"""When agents that go on without a person are to wait."""

from dataclasses import dataclass

import pytest

from aiagentchat.agents import loops
from aiagentchat.agents.loops import HOUR_S, LoopLimits, Loops
from aiagentchat.model import AgentName, EventId, Message, RoomId, Sender, UserId

A, B, C = AgentName("a"), AgentName("b"), AgentName("c")
ROOM_A, ROOM_B, ALL = RoomId("!a"), RoomId("!b"), RoomId("!all")


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def counted(limits: LoopLimits, clock: Clock | None = None) -> Loops:
    return Loops(limits, clock or Clock())


def test_answers_past_the_limit_wait_and_say_why() -> None:
    guard = counted(LoopLimits(hops=3))
    assert [bool(guard.judge(A, ROOM_B, hops)) for hops in (0, 3, 4)] == [False, False, True]
    assert guard.judge(A, ROOM_B, 4) == "agents have answered each other 4 times without a person"


def test_without_limits_nothing_waits() -> None:
    guard = counted(LoopLimits())
    assert not any(guard.judge(A, ROOM_B, 1000) for _ in range(1000))


def test_messages_are_counted_by_writer_and_room_within_an_hour() -> None:
    clock = Clock()
    guard = counted(LoopLimits(hourly=2), clock)
    assert not guard.judge(A, ROOM_B, 0)
    clock.now_s = 10.0
    assert not guard.judge(A, ROOM_B, 0)
    assert "a has written 2 messages there within an hour" in guard.judge(A, ROOM_B, 0)
    assert not guard.judge(A, ALL, 0)
    assert not guard.judge(C, ROOM_B, 0)
    clock.now_s = HOUR_S + 1.0  # the first of them is older than an hour
    assert not guard.judge(A, ROOM_B, 0)
    assert guard.judge(A, ROOM_B, 0)


@pytest.mark.parametrize(
    ("room", "owner", "pairs"),
    [(ROOM_B, B, [(A, ROOM_B), (B, ROOM_A)]), (ALL, None, [(A, ROOM_B), (B, ROOM_A), (C, ROOM_A)])],
)
def test_a_person_starts_the_count_anew_of_who_writes_there_and_of_the_rooms_own_agent(
    room: RoomId, owner: AgentName | None, pairs: list[tuple[AgentName, RoomId]]
) -> None:
    guard = counted(LoopLimits(hourly=1))
    everybody = [(A, ROOM_B), (B, ROOM_A), (C, ROOM_A)]
    for pair in everybody:
        guard.judge(*pair, 0)
        assert guard.judge(*pair, 0)
        assert guard.is_news(*pair)
        assert not guard.is_news(*pair)
    guard.note_person(room, owner, 1)
    assert [pair for pair in everybody if guard.is_news(*pair)] == pairs
    assert [pair for pair in everybody if not guard.judge(*pair, 0)] == pairs


def message(ts: int, room_id: RoomId = ROOM_B) -> Message:
    sender = Sender(UserId("@a:x"), "a", "agent")
    return Message(EventId("$1"), room_id, sender, ts, "hello", hops=7)


def test_what_a_person_wrote_after_counts_as_no_answer_of_agents() -> None:
    guard = counted(LoopLimits(hops=3))
    assert guard.hops_of(message(10)) == 7
    guard.note_person(ROOM_B, B, 11)
    assert (guard.hops_of(message(10)), guard.hops_of(message(12)), guard.hops_of(message(10, ROOM_A))) == (0, 7, 7)
    guard.note_person(ALL, None, 20)
    guard.note_person(ROOM_B, B, 5)  # which comes late
    assert [guard.hops_of(message(ts, ROOM_A)) for ts in (19, 20)] == [0, 7]
    assert guard.hops_of(message(10)) == 0


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_MOST_PAIRS", 10)
    guard = counted(LoopLimits(hourly=1))
    for number in range(100):
        guard.judge(A, RoomId(f"!{number}"), 0)
        guard.is_news(A, RoomId(f"!{number}"))
    assert (len(guard._sent), len(guard._told)) == (10, 10)
    for number in range(100):
        guard.note_person(RoomId(f"!{number}"), A, number)
    assert len(guard._person_ms) == 10
