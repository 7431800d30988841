"""What a person sees of a prompt, and when. In `tests/integration/test_acp.py` real agents work and people watch."""

import asyncio
import selectors
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from acp import RequestError, start_tool_call, update_agent_message_text, update_tool_call

from aiagentchat.adapters.acp import AcpRunner
from aiagentchat.adapters.acp_peer import AcpProgram, Turn, reason_of
from aiagentchat.adapters.sessions import SessionStore

ROOM = "!room"
Json = dict[str, Any]


class InstantSelector(selectors.SelectSelector):
    """Has a loop wait for nothing: the time that it would wait has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing is waited for that would come"
        self.now += timeout
        return super().select(0)


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when nothing is to be done."""

    def __init__(self) -> None:
        self._instant = InstantSelector()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now


def a_turn(**sender: str) -> Turn:
    return Turn({"event_id": "$1", "room_id": ROOM, "sender": {"kind": "person"} | sender}, "session")


def chunk(turn: Turn, text: str) -> None:
    turn.take(update_agent_message_text(text))


def calls(turn: Turn, count: int, title: str = "step") -> None:
    for number in range(count):
        turn.take(start_tool_call(f"c{number}", f"{title} {number}"))


def test_the_first_progress_is_shown_at_once_and_further_ones_a_second_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lesson: An edit for every word. What the homeserver takes comes on top."""
    shown: list[tuple[float, str]] = []

    class Gateway:
        def set_status(self, _: str | None = None, *, typing_s: float) -> None:
            pass

        def show_progress(self, body: str, **_: object) -> str:
            shown.append((round(asyncio.get_running_loop().time(), 3), body))
            return "$notice"

    async def call(work: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return work(*args, **named)

    async def watch() -> None:
        monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
        showing = asyncio.create_task(runner._show(turn))
        await asyncio.sleep(0.4)
        for number in range(27):
            chunk(turn, f"{number} ")
            await asyncio.sleep(0.1)
        turn.over.set()
        await showing

    monkeypatch.setattr(asyncio, "to_thread", call)
    client, program = cast("Any", Gateway()), AcpProgram(("none",), tmp_path)
    nothing = cast("Any", None)
    runner = AcpRunner(
        "agent", program, client, nothing, nothing, SessionStore(tmp_path / "s"), tell=nothing, on_handled=nothing
    )
    runner._room_id, turn = ROOM, a_turn()
    with asyncio.Runner(loop_factory=Clock) as clock:
        clock.run(watch())
    assert [at for at, _ in shown] == [0.4, 1.4, 2.4]
    assert [body.split()[-1] for _, body in shown] == ["0", "10", "20"]


def test_of_many_tool_calls_the_last_are_shown_and_how_many_were_before() -> None:
    turn = a_turn()
    calls(turn, 20)
    assert turn.progress().splitlines()[0] == "- … step 0"
    calls(turn, 23)
    turn.take(update_tool_call("c22", status="completed"))
    first, *others = turn.progress().splitlines()
    assert (first, len(others), others[0], others[-1]) == ("- 3 before", 20, "- … step 3", "- ✔ step 22")
    head, _, *listed = turn.summary(61.4, "✔ done").splitlines()
    assert (head, len(listed), listed[-1]) == ("✔ done (23 tool calls, 61 s)", 20, "- ✔ step 22")


def test_of_a_long_title_and_a_long_answer_a_part_is_shown() -> None:
    turn = a_turn()
    calls(turn, 1, "x" * 300)
    chunk(turn, "begin" + "y" * 3_995)
    listed, said = turn.progress().split("\n\n")
    assert (listed, said) == (f"- … {'x' * 200}", turn.answer)
    chunk(turn, "end")
    assert turn.progress().split("\n\n")[1] == f"… in{'y' * 3_995}end"
    assert turn.summary(0, "✔ done").split("\n\n") == ["✔ done (1 tool call, 0 s)", f"- … {'x' * 200}"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"details": "Claude Code process exited with code 1"}, "it: Claude Code process exited with code 1"),
        ({"details": 1}, "it"),
        (None, "it"),
    ],
)
def test_an_error_of_an_agent_is_told_with_its_details(data: Json | None, said: str) -> None:
    """What claude-agent-acp 0.49.0 answers `session/new` with where Claude Code does not start."""
    assert reason_of(RequestError(-32603, "it", data)) == said
