"""`cchat run`: real programs answer people and agents. It talks to the gateway alone, so one mode is enough."""

import json
import os
import re
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.integration.processes import Agent, Person, Running, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, fresh_name

pytestmark = APPSERVICE_ALONE

WAIT_S = 30.0
SAY = "import os, sys; "


def started(running: Running) -> Running:
    running.line(": online (room: ")
    return running


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def answers(system: System, name: str) -> list[str | None]:
    """Return what answered the operator's messages to an agent, the latest first."""
    sent = system.client().sent(to=name)
    return [item["answer"] and item["answer"]["body"] for item in sent]


def matrix(system: System, path: str) -> Any:
    """Ask the homeserver as the operator's client."""
    device = json.loads(system.paths.operator_device.read_text())
    request = urllib.request.Request(
        f"{system.status()['homeserver_url']}/_matrix/client/v3/{path}",
        headers={"Authorization": f"Bearer {device['access_token']}"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as response:
        return json.load(response)


def test_a_program_answers_people_and_agents_with_what_it_prints(system: System, writer: Agent) -> None:
    name = fresh_name("upper")
    with system.running("run", name, "--", "tr", "a-zé", "A-ZÉ") as running:
        started(running)
        assert system.ask(name, "two\nlines") == "TWO\nLINES"
        assert system.ask(name, "of an agent", of=writer.name) == "OF AN AGENT"
        assert system.who()[name]["reach"] == "push"
        assert running.line("alice: two").endswith("alice: two")
        assert re.fullmatch(r"  answered, after \d+\.\d s", running.line("answered"))
        assert running.end() == 0
    assert system.who()[name]["status"] == "offline"
    assert Agent(system, name, {}).unread() == []


def test_the_program_knows_who_asks_and_where_and_has_a_session_for_each_conversation(
    system: System, writer: Agent
) -> None:
    name = fresh_name("knows")
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1], sys.stdin.read()]))"
    found = []
    for options in ([], ["--fenced"]):  # the second time it is another process that runs it
        with system.running("run", *options, name, "--", *python(code), "{session}") as running:
            started(running)
            found += [json.loads(system.ask(name, "who am I?", of=of)) for of in ("", writer.name)]
            running.end()
    environments, sessions, texts = zip(*found, strict=True)
    assert sessions[0] == sessions[2] != sessions[1] == sessions[3]
    assert tuple(each["CCHAT_SESSION"] for each in environments) == sessions
    person, agent = environments[:2]
    user_id = f"@alice:{system.status()['server_name']}"
    assert (person["CCHAT_SENDER"], person["CCHAT_SENDER_NAME"], person["CCHAT_SENDER_KIND"]) == (
        user_id,
        "alice",
        "person",
    )
    assert (agent["CCHAT_SENDER_NAME"], agent["CCHAT_SENDER_KIND"]) == (writer.name, "agent")
    for each in environments:
        assert (each["CCHAT_AGENT"], each["CCHAT_THREAD"], each["CCHAT_BROADCAST"]) == (name, "", "")
        assert each["CCHAT_ROOM"] == system.who()[name]["room_id"]
        assert each["CCHAT_EVENT"].startswith("$")
    assert texts[:2] == ("who am I?\n", "who am I?\n")
    heading, begins, text, ends = texts[2].rstrip("\n").split("\n")
    assert heading.startswith(f"A message from alice, a person ({user_id}), of 20")
    assert (begins.removesuffix("begins"), text) == (ends.removesuffix("ends"), "who am I?")


def test_in_the_program_cchat_speaks_as_the_agent(system: System, writer: Agent) -> None:
    name = fresh_name("speaker")
    command = f"{sys.executable} -m aiagentchat send --to {writer.name} I-was-asked"
    with system.running("run", name, "--shell", "--", command) as running:
        started(running)
        assert system.ask(name, "tell the writer").startswith("stored $")
        running.end()
    [message] = writer.cchat("read", "--json").data
    assert (message["sender"]["name"], message["body"]) == (name, "I-was-asked")


FAILING = """
import os, sys, time
text = sys.stdin.read().strip()
if text == "ends":
    print("half")
    sys.stderr.write("first\\nno key\\n")
    sys.exit(3)
if text == "is killed":
    os.kill(os.getpid(), 9)
if text == "goes on":
    time.sleep(60)
print("  ")
"""


def test_why_there_is_no_answer_is_said_in_the_room_in_one_line_and_to_the_operator_in_full(
    system: System, writer: Agent
) -> None:
    name = fresh_name("fails")
    with system.running("run", name, "--timeout", "1", "--", *python(FAILING)) as running:
        started(running)
        for text, reason in (
            ("ends", "it ended with exit code 3 (no key)"),
            ("is killed", "it was ended by SIGKILL"),
            ("says nothing", "it printed nothing"),
            ("goes on", "it took longer than 1 s"),
        ):
            assert system.ask(name, text) == f"✗ no answer: {reason}"
            assert running.line("no answer: ").startswith(f"  no answer: {reason.partition(' (')[0]}, after ")
        assert running.line("half", of="err") == "half"
        assert running.line("first", of="err")
        assert running.line("no key", of="err")
        assert system.ask(name, "ends", of=writer.name) == "✗ no answer: it ended with exit code 3", (
            "what it says of it is the operator's alone"
        )
        running.end()


def test_a_program_that_is_not_there_is_said_before_anything_is_done(system: System) -> None:
    name = fresh_name("none")
    done = system.cchat("run", name, "--", "no-such-program", code=2)
    assert "there is no program 'no-such-program'" in done.err
    assert "required: CMD" in system.cchat("run", name, "--", code=2).err
    assert name not in system.who()


def test_one_runs_at_a_time_in_a_conversation_and_others_meanwhile(
    system: System, writer: Agent, tmp_path: Path
) -> None:
    name, log = fresh_name("slow"), tmp_path / "log"
    code = (
        f"import time; log = open({str(log)!r}, 'a', buffering=1); text = sys.stdin.read().strip(); "
        "log.write(f'begin {text}\\n'); time.sleep(1.0); log.write(f'end {text}\\n'); print(text)"
    )
    with system.running("run", name, "--", *python(SAY + code)) as running:
        started(running)
        for text in ("one", "two"):
            system.send(text, to=name)
        assert system.ask(name, "other", of=writer.name) == "other"
        wait_until(lambda: answers(system, name) == ["two", "one"])
        running.end()
    lines = log.read_text().split("\n")
    assert lines.index("end one") < lines.index("begin two")
    assert lines.index("begin other") < lines.index("end two")


def test_killed_in_the_middle_the_program_runs_again_and_there_is_one_answer(system: System, tmp_path: Path) -> None:
    name, log = fresh_name("killed"), tmp_path / "log"
    code = f"import time; open({str(log)!r}, 'a').write('x'); time.sleep(1.0); print('done')"
    command = ("run", name, "--", *python(code))
    with system.running(*command) as running:
        started(running)
        system.send("do it", to=name)
        wait_until(log.exists)
        running.end(signal.SIGKILL)
    assert Agent(system, name, {}).unread() == ["do it"]
    with system.running(*command) as running:
        started(running)
        wait_until(lambda: answers(system, name) == ["done"])
        running.end()
    assert log.read_text() == "xx"
    assert Agent(system, name, {}).unread() == []
    room = quote(system.who()[name]["room_id"], safe="")
    events = matrix(system, f"rooms/{room}/messages?dir=b&limit=50")["chunk"]
    assert [event["content"]["body"] for event in events if event["type"] == "m.room.message"] == ["done", "do it"]


CLAUDE = """#!/bin/sh
message=$(cat)
case $2 in
    --resume) [ -e "$STATE/$3" ] || { echo "No conversation found with session ID: $3" >&2; exit 1; } ;;
    --session-id) [ ! -e "$STATE/$3" ] || { echo "Error: Session ID $3 is already in use." >&2; exit 1; } ;;
esac
[ "$message" != fail ] || { echo "no key" >&2; exit 1; }
echo "$message" >> "$STATE/$3"
cat "$STATE/$3"
"""


def test_the_script_of_the_guide_goes_on_with_a_conversation_and_says_what_fails(
    system: System, tmp_path: Path
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "agents" / "programs.md").read_text()
    script = re.search(r"^cat > answer\.sh <<'END'\n(.*?)^END\n", guide, re.MULTILINE | re.DOTALL)
    assert script is not None
    (tmp_path / "answer.sh").write_text(script[1])
    (tmp_path / "claude").write_text(CLAUDE)
    (tmp_path / "claude").chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "STATE": str(tmp_path)}
    name = fresh_name("guide")
    with system.running("run", name, "--", "sh", str(tmp_path / "answer.sh"), "{session}", env=env) as running:
        started(running)
        assert system.ask(name, "one") == "one"
        assert system.ask(name, "two") == "one\ntwo"
        assert system.ask(name, "fail") == "✗ no answer: it ended with exit code 1 (no key)"
        running.end()


def test_interrupted_it_ends_what_runs_and_the_message_comes_again(system: System, tmp_path: Path) -> None:
    name, log = fresh_name("interrupted"), tmp_path / "log"
    code = f"import time; open({str(log)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    for number in (signal.SIGINT, signal.SIGHUP):
        log.unlink(missing_ok=True)
        with system.running("run", name, "--", *python(SAY + code)) as running:
            started(running)
            if number == signal.SIGINT:
                system.send("do it", to=name)
            wait_until(lambda: log.exists() and bool(log.read_text()))
            began = time.monotonic()
            assert running.end(number) == 0
            assert time.monotonic() - began < 10
        assert not Path(f"/proc/{log.read_text()}").exists()
        assert Agent(system, name, {}).unread() == ["do it"]
        assert answers(system, name) == [None]


def test_it_goes_on_when_the_daemon_was_restarted_and_ends_when_somebody_has_the_agent_leave(system: System) -> None:
    name = fresh_name("survivor")
    with system.running("run", name, "--", "cat") as running:
        started(running)
        system.kill(system.daemon_pid)
        running.line("the daemon", of="err")
        system.up()
        running.line(f"{name}: online again", of="err")
        assert system.ask(name, "still there?") == "still there?"
        system.client().detach(name)
        assert running.wait() == 0
        assert f"{name} was taken off: by 'cchat leave {name}'" in running.rest(of="err")


def test_an_ephemeral_one_is_off_the_list_when_it_ended(system: System) -> None:
    name = fresh_name("passing")
    with system.running("run", "--ephemeral", name, "--", "cat") as running:
        started(running)
        assert system.who()[name]["kind"] == "ephemeral"
        running.end()
    assert name not in system.who()


def test_what_is_for_all_starts_it_only_when_it_names_the_agent_and_it_knows_that_and_what_came_before_it_was_there(
    system: System,
) -> None:
    name = fresh_name("all")
    code = "import os; print(os.environ['CCHAT_BROADCAST'], os.environ['CCHAT_LATE'], sep='/')"

    def handled(running: Running) -> str:
        """Return what was handled next, which did not fail."""
        event = json.loads(running.line("event_id"))
        assert event["failure"] == ""
        return str(event["event_id"])

    def answer_to(event_id: str) -> Any:
        [answer] = [each["answer"] for each in system.client().sent() if each["message"]["event_id"] == event_id]
        assert answer["sender"]["name"] == name
        return answer

    with system.running("run", "--json", name, "--", *python(code)) as running:
        wait_until(lambda: system.who().get(name, {}).get("status") == "online")
        system.send(f"not for {name}-other")
        named = system.send(f"This is for {name}: hello")
        assert handled(running) == named
        assert (answer_to(named)["body"], answer_to(named)["broadcast"]) == ("1/", True)
        own = system.send("for you", to=name)
        assert handled(running) == own
        assert answer_to(own)["body"] == "/"
        running.end()
    late = system.send("before you came", to=name)
    time.sleep(1.5)  # the homeserver's clock, by which it is late, is known to the second
    with system.running("run", "--json", name, "--", *python(code)) as running:
        assert handled(running) == late
        assert answer_to(late)["body"] == "/1"
        running.end()


def test_an_answer_that_is_too_long_is_cut_says_so_and_is_in_a_file(system: System, writer: Agent) -> None:
    name = fresh_name("long")
    with system.running("run", "--markdown", name, "--", *python("print('<é>' * 30_000)")) as running:
        started(running)
        for of in ("", writer.name):
            answer = system.ask(name, "go on & on" * 100, of=of)
            assert answer.startswith("[file] <é><é>")
            assert re.search(r"\[the first [\d,]+ of 90,000 characters; all of it is in this file\]$", answer)
        [sent] = system.client(writer.name).sent(limit=1)
        whole = writer.cchat("file", sent["answer"]["event_id"]).out
        assert whole == "<é>" * 30_000
        assert (sent["answer"]["file"]["name"], sent["answer"]["file"]["mimetype"]) == ("answer.md", "text/markdown")
        running.end()


def test_a_person_sees_it_typing_while_the_program_runs(system: System) -> None:
    name = fresh_name("typist")

    since = matrix(system, "sync?timeout=0")["next_batch"]
    seen: list[list[str]] = []

    def typing() -> list[list[str]]:
        """Return who was typing in its room, each time that this changed."""
        nonlocal since
        news = matrix(system, f"sync?timeout=0&since={since}")
        since = news["next_batch"]
        room = news.get("rooms", {}).get("join", {}).get(agent["room_id"], {})
        events = room.get("ephemeral", {}).get("events", [])
        seen.extend(event["content"]["user_ids"] for event in events if event["type"] == "m.typing")
        return seen

    with system.running("run", name, "--", *python("import time; time.sleep(4); print('there')")) as running:
        started(running)
        agent = system.who()[name]
        system.send("hello", to=name)
        wait_until(lambda: typing() == [[agent["user_id"]]])
        wait_until(lambda: answers(system, name) == ["there"])
        wait_until(lambda: typing()[1:] == [[]])
        running.end()


SLOW = (
    SAY + "import time; print('half', flush=True); sys.stderr.write('was at it'); sys.stderr.flush(); time.sleep(300)"
)
STOPPED = "✗ no answer: it was stopped (was at it)"


def room_of(system: System, name: str) -> Person:
    return Person(system, system.who()[name]["room_id"])


def test_a_person_stops_the_program_that_answers_them_or_an_agent_and_no_other(
    system: System, writer: Agent, tmp_path: Path
) -> None:
    name, log = fresh_name("stopped"), tmp_path / "log"
    code = f"open({str(log)!r}, 'a').write(f'{{os.getpid()}}\\n'); " + SLOW.removeprefix(SAY)

    def begun() -> list[str]:
        return log.read_text().split() if log.exists() else []

    with system.running("run", name, "--", *python(SAY + code)) as running:
        started(running)
        room = room_of(system, name)
        asked = system.send("slow", to=name, of=writer.name)
        wait_until(lambda: len(begun()) == 1)
        room.say("!stop")
        answer = system.client(writer.name).sent_message(asked, to=name, wait_s=WAIT_S)["answer"]
        assert answer["body"] == "✗ no answer: it was stopped"

        first, second = room.say("one"), room.say("two")
        wait_until(lambda: len(begun()) == 2)
        thread = room.say("in a thread", thread=first)
        wait_until(lambda: len(begun()) == 3)
        began = time.monotonic()
        room.say("!stop")
        wait_until(lambda: room.answers_to(first) == [STOPPED])
        assert time.monotonic() - began < 5
        wait_until(lambda: len(begun()) == 4)  # the next one of the same conversation
        assert room.answers_to(thread) == [], "which is a conversation of its own"
        room.say("!stop", thread=first)
        wait_until(lambda: room.answers_to(thread) == [STOPPED])
        room.take_back(second)
        system.send("after it", to=name)
        wait_until(lambda: len(begun()) == 5)
        assert room.answers_to(second) == []
        assert not any(Path(f"/proc/{pid}").exists() for pid in begun()[:4])
        running.end()
    assert Agent(system, name, {}).unread() == ["after it"]


def test_that_there_is_nothing_to_stop_is_said_once_and_not_of_what_was_asked_long_ago(system: System) -> None:
    name = system.join("idle").name
    room = room_of(system, name)
    late = room.say("!stop")
    wait_until(lambda: len(room.answers_to(late)) == 1)  # the daemon says that nothing can be stopped
    system.client().detach(name)
    with system.running("run", name, "--", "cat") as running:
        started(running)
        assert system.ask(name, "hello") == "hello"
        stop = room.say("!stop")
        wait_until(lambda: bool(room.answers_to(stop)))
        assert system.ask(name, "still there?") == "still there?"
        assert room.answers_to(stop) == ["✗ nothing runs here that could be stopped"]
        assert system.ask(name, "!status").startswith(f"{name} is online: what you write reaches it at once.")
        running.end()
    assert len(room.answers_to(late)) == 1
    assert Agent(system, name, {}).unread() == []
