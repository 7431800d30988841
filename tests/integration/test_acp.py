"""`cchat acp` with an agent on the SDK's own agent side, and a person who writes, watches and decides in the room."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration import acp_agent
from tests.integration.processes import Agent, Person, Running, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, OPERATOR, fresh_name

pytestmark = APPSERVICE_ALONE  # it talks to the gateway alone

Json = dict[str, Any]
WAIT_S = 30.0
PUBLISHED_AGENT = Path(__file__).parents[1] / "node/node_modules/@agentclientprotocol/sdk/dist/examples/agent.js"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where the program keeps its sessions."""
    return tmp_path


@contextmanager
def running(system: System, name: str, state: Path, *options: str, takes_up: str = "load") -> Iterator[Running]:
    program = (sys.executable, acp_agent.__file__)
    env = {"ACP_AGENT_STATE": str(state), "ACP_AGENT_TAKES_UP": takes_up}
    with system.running("acp", *options, name, "--", *program, env=env) as process:
        process.line(": online (room: ")
        yield process
        if process.is_running:
            assert process.end() == 0


def ask(system: System, name: str, text: str, *, of: Agent | None = None) -> str:
    arguments = ("ask", "--timeout", f"{WAIT_S:g}", name, text)
    done = system.cchat(*arguments) if of is None else of.cchat(*arguments)
    return done.out.removesuffix("\n")


def test_a_published_agent_on_the_other_sdk_answers_and_has_its_edit_approved(system: System) -> None:
    """The example agent of the TypeScript SDK, from npm: it needs no model."""
    assert PUBLISHED_AGENT.exists(), "'make test' installs it: npm ci --prefix tests/node"
    name = fresh_name("published")
    with system.running("acp", name, "--", "node", str(PUBLISHED_AGENT)) as process:
        process.line(": online (room: ")
        room = person(system, name)
        room.say("Please improve the project")
        request = room.request()
        assert "Modifying critical configuration file" in request["content"]["body"]
        room.react(request["event_id"], "✅")
        process.line("  answered")
        *_, answer = [each["content"]["body"] for each in room.timeline() if each["type"] == "m.room.message"]
        assert answer.startswith("I'll help you with that.")
        assert answer.endswith("The changes have been applied.")
        assert room.progress()[-1][1].startswith("✔ done (2 tool calls, ")
        assert process.end() == 0


def person(system: System, name: str) -> Person:
    return Person(system, system.who()[name]["room_id"])


def test_it_answers_people_and_agents_each_in_a_session_of_their_own(
    system: System, writer: Agent, state: Path
) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        assert system.who()[name]["reach"] == "push"
        assert ask(system, name, "remember one") == "remembered"
        assert ask(system, name, "recall", of=writer) == "nothing"
        assert ask(system, name, "recall") == "one"
        assert ask(system, name, "nothing") == "✗ no answer: it said nothing"
        system.cchat("send", f"all but {name}-2 may rest")
    assert Agent(system, name, {}).unread() == []


@pytest.mark.parametrize(("takes_up", "recalled"), [("load", "this"), ("resume", "this"), ("none", "nothing")])
def test_a_conversation_goes_on_after_a_restart_where_the_agent_takes_it_up(
    system: System, state: Path, takes_up: str, recalled: str
) -> None:
    name = fresh_name("acp")
    with running(system, name, state, takes_up=takes_up):
        assert ask(system, name, "remember this") == "remembered"
    with running(system, name, state, takes_up=takes_up):
        assert ask(system, name, "recall") == recalled
    for session in state.iterdir():
        session.unlink()
    with running(system, name, state, takes_up=takes_up):
        assert ask(system, name, "recall") == "nothing"


def test_a_person_sees_how_far_it_is_at_most_once_a_second_and_the_answer_once(system: System, state: Path) -> None:
    """Lesson: An edit for every word."""
    name = fresh_name("acp")
    with running(system, name, state):
        room = person(system, name)
        sent_at = room.timeline()[-1]["origin_server_ts"]
        event_id = room.say("stream 9")
        wait_until(
            lambda: any(
                each["content"].get("body") == "\n\n".join(f"part {n}" for n in range(9)) for each in room.timeline()
            )
        )
        wait_until(lambda: "done" in room.progress()[-1][1])
        shown = room.progress()
    asked_at = next(each["origin_server_ts"] for each in room.timeline() if each["event_id"] == event_id)
    assert sent_at <= asked_at
    assert len(shown) >= 3
    assert shown[0][0] - asked_at < 1_000
    times = [at for at, _ in shown[:-1]]  # the last one says that it is done, at once
    assert all(later - earlier > 900 for earlier, later in pairwise(times))
    first = next(each for each in room.timeline() if each["content"].get("msgtype") == "m.notice")
    assert first["content"]["m.relates_to"] == {"rel_type": "m.thread", "event_id": event_id}
    answers = [each for each in room.timeline() if each["content"].get("m.relates_to", {}).get("m.in_reply_to")]
    assert len(answers) == 1


def test_an_agent_that_asks_gets_the_answer_alone(system: System, writer: Agent, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        assert ask(system, name, "stream 2", of=writer) == "part 0\n\npart 1"
        assert person(system, name).progress() == []


@pytest.mark.parametrize(("sign", "decided"), [("✅", "go"), ("❌", "no")])
def test_a_person_approves_what_it_asks_for_by_a_reaction(system: System, state: Path, sign: str, decided: str) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        room = person(system, name)
        room.say("ask")
        request = room.request()
        assert "**Delete it**" in request["content"]["body"]
        assert "rm `it`" in request["content"]["body"]
        room.react(request["event_id"], sign)
        wait_until(lambda: room.says(f"decided: {decided}"))
        edits = [
            each["content"]["m.new_content"]["body"] for each in room.timeline() if "m.new_content" in each["content"]
        ]
        assert any(edit.startswith("May ") and f": @{OPERATOR}:localhost, 20" in edit for edit in edits)


def test_options_of_long_names_are_offered_by_the_beginning_of_them(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        room = person(system, name)
        room.say("ask at length")
        request = room.request()
        go, no = (f"{word}{acp_agent.LONGER}"[:200] for word in ("Go ahead", "Leave it"))
        assert request["content"]["body"].endswith(f"\n\n✅ {go} · ❌ {no}")
        room.react(request["event_id"], "❌")
        wait_until(lambda: room.says("decided: no"))


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_what_it_asks_for_can_be_approved_after_a_restart_of_the_daemon(
    system: System, state: Path, is_killed: bool
) -> None:
    name = fresh_name("acp")
    with running(system, name, state) as process:
        room = person(system, name)
        room.say("ask")
        request = room.request()
        if is_killed:
            system.kill(system.daemon_pid)
        else:
            system.down()
        process.line("the daemon", of="err")
        system.up()
        room = person(system, name)
        room.react(request["event_id"], "✅")
        wait_until(lambda: room.says("decided: go"))
        assert len([each for each in room.timeline() if each["content"].get("body", "").startswith("May ")]) == 1


def test_what_nobody_approves_in_time_is_rejected(system: System, writer: Agent, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state, "--approval-timeout", "3"):
        assert ask(system, name, "ask", of=writer) == "decided: no"


def test_it_stops_when_a_person_says_so_or_takes_the_message_back(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        room = person(system, name)
        room.say("slow")
        wait_until(room.progress)
        room.say("!stop")
        wait_until(lambda: room.says("begun\n\n[it was stopped]"))
        shown = len(room.progress())
        event_id = room.say("slow")
        wait_until(lambda: len(room.progress()) > shown)
        room.take_back(event_id)
        assert ask(system, name, "still there?") == "still there?"
        room.say("ask")
        room.request()
        room.say("!stop")
        assert ask(system, name, "and now?") == "and now?"
    assert Agent(system, name, {}).unread() == []


def test_that_there_is_nothing_to_stop_is_said(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        room = person(system, name)
        room.say("!stop")
        wait_until(lambda: room.says("✗ nothing runs here that could be stopped"))
        assert ask(system, name, "still there?") == "still there?"


STOPPED = "begun\n\n[it was stopped]"


@pytest.mark.parametrize("stop", ["!stop in the thread", "> <@alice> slow\n\n!stop"])
def test_it_stops_where_a_person_says_so(system: System, state: Path, stop: str) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        room = person(system, name)
        asked = room.say("slow")
        wait_until(room.progress)
        room.say(stop.removesuffix(" in the thread"), thread=asked if stop.endswith("thread") else "")
        wait_until(lambda: room.says(STOPPED))


def test_a_person_stops_what_an_agent_asked_for(system: System, writer: Agent, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state), writer.system.running("--as", writer.name, "ask", name, "slow") as asking:
        room = person(system, name)
        wait_until(lambda: room.says("slow"))
        while asking.is_running:
            room.say("!stop")  # which may come before it has begun
            time.sleep(0.5)
        assert asking.rest() == STOPPED


def test_an_edit_is_shown_before_it_is_approved(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        room = person(system, name)
        room.say("edit")
        request = room.request()
        assert "-safe = 1\n+safe = 0" in request["content"]["body"]
        room.react(request["event_id"], "❌")
        wait_until(lambda: room.says("decided: no"))


def test_an_ending_that_is_not_known_is_said_and_the_next_message_is_answered(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        assert ask(system, name, "odd").startswith("✗ no answer: it failed: ")
        assert ask(system, name, "again") == "again"


def test_a_program_that_ends_is_started_anew(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        assert ask(system, name, "die").startswith("✗ no answer: it failed: ")
        assert ask(system, name, "again") == "again"


def test_killed_in_the_middle_it_answers_once(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state) as process:
        room = person(system, name)
        room.say("slow")
        wait_until(room.progress)
        process.end(signal.SIGKILL)
    assert Agent(system, name, {}).unread() == ["slow"]
    with running(system, name, state):
        room.say("!stop")
        stopped = ("begun\n\n[it was stopped]", "✗ no answer: it was stopped")  # as far as it came in that time
        wait_until(lambda: any(each["content"].get("body") in stopped for each in room.timeline()))
    assert Agent(system, name, {}).unread() == []


def test_a_program_that_does_not_speak_the_protocol_is_said_at_once(system: System) -> None:
    began = time.monotonic()
    done = system.cchat("acp", fresh_name("acp"), "--", "true", code=2)
    assert done.err.startswith("cchat: true: ")
    assert "there is no program" in system.cchat("acp", fresh_name("acp"), "--", "no-such-program", code=2).err
    assert time.monotonic() - began < WAIT_S
