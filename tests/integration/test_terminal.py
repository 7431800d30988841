"""`cchat chat` and `cchat top` in a terminal and through pipes, as a person has them: real processes, a real system."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import acp_agent
from tests.integration.processes import PROCESS_S, Agent, Person, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, fresh_name
from tests.integration.terminal import COLUMNS, Terminal, terminal

pytestmark = APPSERVICE_ALONE  # it talks to the gateway alone

FORGED = "\x1b]0;owned\x07\x1b[2J\x9b1A\u202egnp.exe"


@pytest.fixture(scope="module")
def shared(system: System) -> Agent:
    return system.join()


@pytest.fixture
def agent(shared: Agent) -> Agent:
    """An agent that has read all that was said to it so far."""
    shared.take()
    return shared


@pytest.fixture
def fresh(system: System) -> Agent:
    """An agent to which nobody has said anything."""
    return system.join()


@contextmanager
def chatting(agent: Agent, *flags: str, **environment: str) -> Iterator[Terminal]:
    with terminal(agent.system, "chat", agent.name, *flags, **environment) as screen:
        screen.wait_for(f"{agent.name}: ")
        yield screen


# --- a conversation


def test_a_person_sees_what_was_said_talks_and_leaves(agent: Agent) -> None:
    agent.tell("from before")
    agent.take()
    with chatting(agent) as screen:
        screen.wait_for("alice ✓: from before")
        screen.type("Is main green?\r")
        screen.wait_for("alice: Is main green?")
        wait_until(lambda: "has not read 1 message of yours" in screen.bottom)
        agent.take()
        wait_until(lambda: "✓ has read what you wrote" in screen.bottom)
        agent.cchat("reply", "Yes,\nsince 10:15.")
        screen.wait_for(f"{agent.name}: Yes,")
        screen.wait_for("  since 10:15.")
        person = Person(agent.system, agent.joined["room_id"])
        wait_until(lambda: person.has_read(person.timeline()[-1]["event_id"]))
        assert len([line for line in screen.lines if "Is main green?" in line]) == 1
        screen.type("\x04")
        assert screen.end() == 0
        assert screen.is_as_before


def test_a_line_that_is_being_written_stays_whole_below_what_comes_meanwhile(agent: Agent) -> None:
    with chatting(agent) as screen:
        screen.type("half a th")
        screen.wait_for("> half a th")
        agent.tell("first", "second", "x" * 3 * COLUMNS)
        screen.wait_for("second")
        wait_until(lambda: sum("xxxxx" in line for line in screen.lines) >= 3)
        wait_until(lambda: "> half a th" in screen.lines[-2])
        screen.type("ought")
        screen.resize(60, 20)
        screen.wait_for("> half a thought")
        screen.type("\x1b[D\x1b[D\x1b[D\x7f\x7fOU\r")  # in the middle of it
        screen.wait_for("alice: half a thOUght")
        screen.type("two\x1b\rlines 日本\r")
        screen.wait_for("alice: two")
        screen.wait_for("  lines 日本")
    assert agent.unread()[-1] == "two\nlines 日本"


def test_what_the_agent_does_is_at_the_bottom(fresh: Agent) -> None:
    with chatting(fresh) as screen:
        assert f"{fresh.name}: online" in screen.bottom
        fresh.system.client().detach(fresh.name)
        screen.wait_for(f"{fresh.name} is offline")
        with fresh.system.running("run", fresh.name, "--", "sh", "-c", "sleep 3; cat"):
            screen.wait_for(f"{fresh.name} is online")
            screen.type("work\r")
            wait_until(lambda: "typing…" in screen.bottom)
            screen.wait_for(f"{fresh.name}: work")
            wait_until(lambda: "typing…" not in screen.bottom)


def test_no_text_of_others_reaches_the_terminal_as_it_is(agent: Agent) -> None:
    person = Person(agent.system, agent.joined["room_id"])
    person.say(FORGED)
    with chatting(agent) as screen:
        screen.wait_for("\\x1b]0;owned\\x07\\x1b[2J\\x9b1A\\u202egnp.exe")
        person.show(f"{FORGED}.png", b"png", FORGED)
        screen.wait_for("its file: cchat file '$")
        agent.take()
        assert b"\x1b]0;owned" not in screen.raw
        assert "\u202e".encode() not in screen.raw


def test_a_paste_that_is_no_text_is_refused_and_does_not_reach_the_terminal_as_it_is(agent: Agent) -> None:
    with chatting(agent) as screen:
        screen.type(f"\x1b[200~red \x1b[31;45m {FORGED}\x1b[201~")  # as a terminal pastes
        screen.wait_for("red \ufffd[31;45m")  # it is drawn before it is looked at
        screen.type("\r")
        screen.wait_for("not sent: red \\x1b[31;45m")
        screen.wait_for("which is no text; nothing was sent")
        assert b"\x1b[31;45m" not in screen.raw
        assert "\u202e".encode() not in screen.raw
    assert agent.unread() == []


def test_what_a_person_changes_or_takes_back_elsewhere_is_told(agent: Agent) -> None:
    person = Person(agent.system, agent.joined["room_id"])
    with chatting(agent) as screen:
        said = person.say("Is mian green?")
        screen.wait_for("alice: Is mian green?")
        person.change(said, "main?")
        screen.wait_for("alice (edited): main?")
        person.take_back(said)
        screen.wait_for("alice took back the message of ")


def test_an_approval_is_shown_and_answered_with_a_line_but_for_one_begun_before_it_came(
    fresh: Agent, tmp_path: Path
) -> None:
    program = ("acp", fresh.name, "--", sys.executable, acp_agent.__file__)
    with fresh.system.running(*program, env={"ACP_AGENT_STATE": str(tmp_path)}) as process:
        process.line(": online (room: ")
        with chatting(fresh) as screen:
            screen.resize(COLUMNS, 80)  # on which all of it stays

            def waits_for(text: str, count: int) -> None:
                wait_until(lambda: sum(text in line for line in screen.lines) == count)

            def is_to_be_answered() -> bool:
                return "answer>" in "".join(screen.lines[-2:])

            for number, (keys, outcome, count) in enumerate(
                (("/approve\r", "Go ahead", 1), ("2\r", "Leave it", 1), ("/deny\r", "Leave it", 2)), 1
            ):
                screen.type("ask\r")
                waits_for("waits for approval: 1 ✅ Go ahead · 2 ❌ Leave it", number)
                wait_until(is_to_be_answered)
                screen.type(keys)
                waits_for(f"{outcome}: @alice:localhost", count)
                wait_until(lambda: not is_to_be_answered())

            screen.type("/appr")
            screen.wait_for("> /appr")
            fresh.tell("ask")
            waits_for("waits for approval: ", 4)
            screen.type("ove\r")
            screen.wait_for("that request came while you wrote")
            waits_for("Go ahead: @alice:localhost", 1)
            screen.type("/approve\r")
            waits_for("Go ahead: @alice:localhost", 2)
        assert process.end() == 0


def test_commands_are_not_sent_and_what_is_none_says_so(agent: Agent) -> None:
    with chatting(agent) as screen:
        for line, answer in (
            ("/help\r", "Alt-Enter begins a new line"),
            ("/aprove\r", "there is no /aprove here, and nothing was sent"),
            ("/approve\r", "nothing waits for your approval now"),
            ("   \r//compact\r", "alice: /compact"),
            ("/etc/hosts is odd\r", "alice: /etc/hosts is odd"),
            ("1\r", "alice: 1"),
        ):
            screen.type(line)
            screen.wait_for(answer)
        screen.type("/quit\r")
        assert screen.end() == 0
    assert agent.unread() == ["/compact", "/etc/hosts is odd", "1"]


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGHUP"])
def test_it_ends_as_a_person_or_the_system_wants_and_leaves_the_terminal_in_order(agent: Agent, how: str) -> None:
    with chatting(agent) as screen:
        screen.type("half")
        screen.wait_for("> half")
        if how == "Ctrl-C":
            screen.type("\x03")
        assert screen.end(None if how == "Ctrl-C" else signal.Signals[how]) == 0
        assert screen.is_as_before
    assert agent.unread() == []


def test_a_dumb_terminal_is_enough(agent: Agent) -> None:
    with terminal(agent.system, "chat", agent.name, TERM="dumb") as screen:
        screen.wait_for(">")
        screen.type("hello\r")
        wait_until(lambda: agent.unread() == ["hello"])
        agent.cchat("send", "--to", "echo", "x")
        agent.cchat("reply", agent.cchat("read", "--json").data[0]["event_id"], "Yes.")
        screen.wait_for(f"{agent.name}: Yes.")
        screen.type("\x04")
        assert screen.end() == 0


def test_a_chat_outlives_a_daemon(system: System) -> None:
    with terminal(system, "chat", "echo") as screen:
        screen.wait_for("echo: online")
        screen.type("before\r")
        screen.wait_for("echo: before")
        system.kill(system.daemon_pid)
        wait_until(lambda: "trying again" in screen.bottom)
        screen.type("lost\r")
        screen.wait_for("not sent: lost")
        system.up()
        wait_until(lambda: "echo: online" in screen.bottom)
        screen.type("\r")  # it stands there again
        screen.wait_for("alice: lost")
        screen.type("after\r")
        screen.wait_for("echo: after")
        assert len([line for line in screen.lines if line.endswith("alice: before")]) == 1


def test_of_lines_that_cannot_be_sent_a_hundred_wait_and_one_more_is_given_back(system: System, fresh: Agent) -> None:
    pid = system.daemon_pid
    assert pid is not None
    with chatting(fresh) as screen:
        os.kill(pid, signal.SIGSTOP)
        try:
            screen.type("".join(f"line {number}\r" for number in range(102)))  # one of them is being sent
            screen.wait_for("not sent: 100 lines before it wait to be sent")
        finally:
            os.kill(pid, signal.SIGCONT)
        screen.wait_for("alice: line 100")
        screen.type("\x1b[A\r")
        screen.wait_for("alice: line 101")
    assert [*fresh.take(), *fresh.take()] == [f"line {number}" for number in range(102)]


def test_nobody_and_no_agent_chats(system: System, agent: Agent) -> None:
    nobody = fresh_name("nobody")
    with terminal(system, "chat", nobody) as screen:
        screen.wait_for(f"there is no agent {nobody}")
        assert screen.end() == 4
    for command in (("chat", agent.name), ("history", agent.name), ("top",)):
        assert "for the operator alone" in agent.cchat(*command, code=5).err
        refused = system.cchat(*command, code=5, env={"AIAGENTCHAT_TOKEN": agent.joined["token"]})
        assert "for the operator alone" in refused.err


# --- through pipes


def test_piped_lines_are_messages_and_it_ends_when_they_are_answered(system: System) -> None:
    done = system.cchat("chat", "echo", stdin="one\n\n/approve\n")
    assert re.fullmatch(r"\S+Z echo: one\n\S+Z echo: /approve\n", done.out)
    done = system.cchat("chat", "echo", "--json", stdin="two")
    assert [(each["sender"]["name"], each["body"]) for each in done.data] == [("echo", "two")]
    assert system.cchat("chat", "echo").out == ""


def test_piped_it_waits_no_longer_than_it_is_told(agent: Agent) -> None:
    done = agent.system.cchat("chat", agent.name, "--timeout", "0.5", stdin="anybody?\n", code=7)
    assert f"{agent.name} has not answered $" in done.err
    assert agent.unread() == ["anybody?"]


def test_another_program_can_go_on_talking(system: System) -> None:
    with subprocess.Popen(
        system.command("chat", "echo", "--json"),
        env=system.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        for word in ("one", "two"):
            process.stdin.write(f"{word}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["body"] == word
        process.stdin.close()
        assert process.wait(PROCESS_S) == 0


# --- history


def test_history_says_who_wrote_what_and_what_that_answers(fresh: Agent) -> None:
    [asked] = fresh.tell("Is main green?")
    fresh.cchat("reply", asked, "Yes.")
    first, second = fresh.system.cchat("history", fresh.name).lines
    assert re.fullmatch(r"\S+Z alice: Is main green\?", first)
    assert re.fullmatch(rf"\S+Z {fresh.name} \(answers alice {first.split()[0]}\): Yes\.", second)
    only = fresh.system.cchat("history", fresh.name, "--limit", "1")
    assert re.fullmatch(rf"\S+Z {fresh.name} \(answers \{asked}\): Yes\.\n", only.out)
    [answer] = fresh.system.cchat("history", fresh.name, "--limit", "1", "--json").data
    before = fresh.system.cchat("history", fresh.name, "--before", answer["event_id"], "--json").data
    assert [each["event_id"] for each in before] == [asked]
    assert fresh.unread() == ["Is main green?"]


# --- top


def test_top_is_once_a_table_and_as_json_one_object_or_drawn_anew_and_leaves_the_screen_as_it_was(
    system: System, fresh: Agent
) -> None:
    header, *lines = system.cchat("top").lines
    assert header.split() == ["AGENT", "STATUS", "REACH", "UNREAD", "/MIN", "LAST", "MESSAGE"]
    assert [line.split()[:5] for line in lines if line.startswith(fresh.name)] == [
        [fresh.name, "online", "poll", "–", "0"]
    ]
    with terminal(system, "top", "--once") as screen:
        screen.wait_for(fresh.name)
        assert screen.end() == 0
    [data] = system.cchat("top", "--json").data
    assert fresh.name in {each["name"] for each in data["agents"]}

    with terminal(system, "top", COLUMNS="80", LINES="24") as screen:  # as some shells export them
        screen.wait_for("q leaves")
        fresh.tell(f"hello {FORGED}")
        line = screen.wait_for("hello")
        assert re.search(rf"{fresh.name} +online +poll +1\+ +1 .* alice: hello \\x1b", line)
        assert b"\x1b]0;owned" not in screen.raw
        fresh.take()
        wait_until(lambda: any(re.search(rf"{fresh.name} +online +poll +0 ", each) for each in screen.lines))
        system.client().detach(fresh.name)
        wait_until(lambda: any(re.search(rf"{fresh.name} +offline", each) for each in screen.lines))
        screen.resize(40, 4)
        screen.wait_for("more")
        screen.type("q")
        assert screen.end() == 0
        assert screen.is_as_before
        assert screen.raw.endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_top_ends_when_it_is_told_to(system: System, how: str) -> None:
    with terminal(system, "top") as screen:
        screen.wait_for("q leaves")
        if how == "Ctrl-C":
            screen.type("\x03")
        assert screen.end(None if how == "Ctrl-C" else signal.SIGTERM) == 0
        assert screen.is_as_before
