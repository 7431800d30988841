"""`cchat acp` with an agent on the SDK's own agent side, and a person who writes, watches and decides in the room."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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


def is_answered(room: Person, event_id: str, body: str) -> None:
    """Wait for what answers a message, which is this alone."""
    answers = wait_until(lambda: room.answers_to(event_id))
    assert answers == [body]


def test_it_answers_people_and_agents_each_in_a_session_of_their_own_whatever_becomes_of_one(
    system: System, writer: Agent, state: Path
) -> None:
    name = fresh_name("acp")
    with running(system, name, state, "--approval-timeout", "3"):
        assert system.who()[name]["reach"] == "push"
        room = person(system, name)
        assert system.ask(name, "stream 2", of=writer.name) == "part 0\n\npart 1"
        assert room.progress() == []  # an agent gets the answer alone

        assert system.ask(name, "remember one") == "remembered"
        assert system.ask(name, "recall", of=writer.name) == "nothing"
        assert system.ask(name, "recall") == "one"
        system.send(f"all but {name}-2 may rest")

        assert system.ask(name, "nothing") == "✗ no answer: it said nothing"
        for ending in ("odd", "die"):  # an ending that is not known, and the program's own
            assert system.ask(name, ending).startswith("✗ no answer: it failed: ")
            assert system.ask(name, "again") == "again"
        assert system.ask(name, "ask", of=writer.name) == "decided: no"  # which nobody approved in time
    assert Agent(system, name, {}).unread() == []


def test_a_conversation_goes_on_after_a_restart_where_the_agent_takes_it_up(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state):
        assert system.ask(name, "remember this") == "remembered"
    for takes_up, recalled in (("load", "this"), ("resume", "this"), ("none", "nothing")):
        with running(system, name, state, takes_up=takes_up):
            assert system.ask(name, "recall") == recalled
    for takes_up in ("load", "resume"):
        for session in state.iterdir():
            session.unlink()
        with running(system, name, state, takes_up=takes_up):
            assert system.ask(name, "recall") == "nothing"


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


def test_a_person_approves_what_it_asks_for_by_a_reaction(system: System, state: Path) -> None:
    name = fresh_name("acp")
    go, no = (f"{word}{acp_agent.LONGER}"[:200] for word in ("Go ahead", "Leave it"))
    with running(system, name, state):
        room = person(system, name)
        for said, shown, end, sign, decided in (
            ("ask", ("**Delete it**", "rm `it`"), "", "✅", "go"),
            ("ask", ("**Delete it**", "rm `it`"), "", "❌", "no"),
            ("ask at length", (), f"\n\n✅ {go} · ❌ {no}", "❌", "no"),  # by the beginning of long names
            ("edit", ("-safe = 1\n+safe = 0",), "", "❌", "no"),
        ):
            asked = room.say(said)
            request = room.request()
            assert all(text in request["content"]["body"] for text in shown)
            assert request["content"]["body"].endswith(end)
            room.react(request["event_id"], sign)
            is_answered(room, asked, f"decided: {decided}")
            edits = wait_until(partial(room.edits_of, request["event_id"]))
            assert any(edit.startswith("May ") and f": @{OPERATOR}:localhost, 20" in edit for edit in edits)


def test_what_it_asks_for_can_be_approved_after_a_restart_of_the_daemon(system: System, state: Path) -> None:
    name = fresh_name("acp")
    with running(system, name, state) as process:
        for is_killed in (True, False):
            room = person(system, name)
            asked = room.say("ask")
            request = room.request()
            if is_killed:
                system.kill(system.daemon_pid)
            else:
                system.down()
            process.line("the daemon", of="err")
            system.up()
            room = person(system, name)
            room.react(request["event_id"], "✅")
            is_answered(room, asked, "decided: go")
        assert len([each for each in room.timeline() if each["content"].get("body", "").startswith("May ")]) == 2


STOPPED = "begun\n\n[it was stopped]"


def test_it_stops_when_a_person_says_so_or_takes_the_message_back(system: System, writer: Agent, state: Path) -> None:
    name = fresh_name("acp")

    def say_slow() -> str:
        """Ask for what goes on until it is stopped; return once it goes on."""
        event_id = room.say("slow")
        relation = {"rel_type": "m.thread", "event_id": event_id}
        wait_until(lambda: any(each["content"].get("m.relates_to") == relation for each in room.timeline()))
        return event_id

    with running(system, name, state):
        room = person(system, name)
        room.say("!stop")
        wait_until(lambda: room.says("✗ nothing runs here that could be stopped"))
        assert system.ask(name, "still there?") == "still there?"

        for stop, is_in_thread in (("!stop", False), ("!stop", True), ("> <@alice> slow\n\n!stop", False)):
            asked = say_slow()
            room.say(stop, thread=asked if is_in_thread else "")
            is_answered(room, asked, STOPPED)
        room.take_back(say_slow())
        assert system.ask(name, "still there?") == "still there?"
        room.say("ask")
        room.request()
        room.say("!stop")
        assert system.ask(name, "and now?") == "and now?"

        asked = system.send("slow", to=name, of=writer.name)
        client = system.client(writer.name)
        while not (answer := client.sent_message(asked, to=name, wait_s=0.5)["answer"]):
            room.say("!stop")  # which may come before it has begun
        assert answer["body"] == STOPPED
        assert system.ask(name, "all read?") == "all read?"  # the last of those, too
    assert Agent(system, name, {}).unread() == []


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
