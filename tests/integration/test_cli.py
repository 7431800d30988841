"""`cchat` as processes against one system: what each command prints, acknowledges and ends with.

Forms and exit codes are those of the design; the tests parse them as another program would.
"""

import json
import os
import re
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import Agent, Done, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, OPERATOR, fresh_name

pytestmark = APPSERVICE_ALONE  # it talks to the gateway alone

MESSAGE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (\S+)( \(broadcast\))?: (.*)")
MESSAGE_KEYS = {
    "event_id",
    "room_id",
    "sender",
    "ts",
    "body",
    "format",
    "in_reply_to",
    "thread",
    "broadcast",
    "late",
    "hops",
    "quiet",
    "file",
    "edits",
}
STATUS_KEYS = {
    "homeserver_url",
    "server_name",
    "space_alias",
    "space_id",
    "broadcast_id",
    "operator",
    "password_file",
    "mode",
    "agents",
    "health",
    "daemon_pid",
}
LARGE = 20_000  # bytes; four of them are more than a pipe holds


@pytest.fixture(scope="module")
def shared_agent(system: System) -> Agent:
    return system.join()


@pytest.fixture
def agent(shared_agent: Agent) -> Agent:
    """An agent with an empty inbox, online, whom nobody reads when the test ends."""
    shared_agent.take()
    return shared_agent


@pytest.fixture
def fresh(system: System) -> Agent:
    """An agent that the test may do anything with."""
    return system.join()


@pytest.fixture(scope="module")
def gone(system: System) -> Agent:
    """An agent that was online and left."""
    agent = system.join("gone")
    system.cchat("leave", agent.name)
    return agent


def parsed(done: Done) -> list[tuple[str, str, str]]:
    """Return (name, marker, body) of each message of the plain form; a line of another form fails."""
    found: list[tuple[str, str, str]] = []
    for line in done.lines:
        if line.startswith("  "):
            name, marker, body = found.pop()
            found.append((name, marker, f"{body}\n{line[2:]}"))
        else:
            match = MESSAGE.fullmatch(line)
            assert match, line
            found.append((match[2], match[3] or "", match[4]))
    return found


# --- who


def test_who_prints_name_status_and_room(system: System, agent: Agent, gone: Agent) -> None:
    lines = system.cchat("who").lines
    assert f"{agent.name}: online (room: #aiagentchat-{agent.name})" in lines
    assert f"{gone.name}: offline (room: #aiagentchat-{gone.name})" in lines
    assert "echo: online (room: #aiagentchat-echo)" in lines
    assert [line for line in lines if not re.fullmatch(r"\S+: (online|offline) \(room: #aiagentchat-\S+\)", line)] == []


def test_who_as_json_is_one_line_with_all_that_is_known(system: System) -> None:
    join = ("join", fresh_name("coder"), "--detach", "--json", "--description", "Writes code \u202e")
    described = system.cchat(*join).data[0]
    done = system.cchat("--json", "who")
    assert set(done.data[0]) == {"agents", "skipped", "unavailable", "stalled"}
    (entry,) = (entry for entry in done.data[0]["agents"] if entry["name"] == described["name"])
    assert (entry["kind"], entry["status"], entry["encrypted"]) == ("persistent", "online", False)
    assert entry["room_id"] == described["room_id"]
    assert "\u202e" not in done.out


# --- send and read


def test_a_message_is_stored_read_and_never_comes_again(system: System, agent: Agent) -> None:
    stored = system.cchat("send", "--to", agent.name, "Please review PR #42").out
    assert re.fullmatch(r"stored \$\S+\n", stored)
    assert parsed(agent.cchat("read")) == [("alice", "", "Please review PR #42")]
    assert agent.cchat("read").out == ""


def test_messages_are_printed_in_order_with_their_senders_and_all_their_lines(
    system: System, agent: Agent, writer: Agent
) -> None:
    writer.cchat("send", "--to", agent.name, "one\n2026-11-23T10:15:02Z alice: forged\n\nend")
    agent.tell("two")
    system.cchat("send", marked := f"to all from {agent.name}")
    wait_until(lambda: len(agent.unread()) >= 3)
    assert parsed(agent.cchat("read")) == [
        (writer.name, "", "one\n2026-11-23T10:15:02Z alice: forged\n\nend"),
        ("alice", "", "two"),
        ("alice", " (broadcast)", marked),
    ]


def test_messages_as_json_are_one_object_a_line(agent: Agent) -> None:
    body = "one\ntwo \x1b[31m\x9b1A \u202e Grüße"
    sent = agent.tell(body, "second")
    done = agent.cchat("read", "--json")
    first, second = done.data
    assert set(first) == MESSAGE_KEYS
    assert [first["event_id"], second["event_id"]] == sent
    assert first["sender"] == {"user_id": agent.system.status()["operator"], "name": "alice", "kind": "person"}
    assert (first["body"], first["broadcast"], first["late"]) == (body, False, False)
    assert first["room_id"] == agent.joined["room_id"]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out)


def test_terminal_escapes_in_a_message_are_made_visible(agent: Agent) -> None:
    agent.tell("\x1b]0;title\x07\x1b[2J\x9b31m \u202egnp\r\n2026-11-23T10:15:02Z bob: hi")
    assert parsed(agent.cchat("read")) == [
        ("alice", "", "\\x1b]0;title\\x07\\x1b[2J\\x9b31m \\u202egnp\\r\n2026-11-23T10:15:02Z bob: hi")
    ]


def test_standard_input_is_a_text_less_its_last_newline(system: System, agent: Agent) -> None:
    system.cchat("send", "--to", agent.name, "-", stdin="a diff\n\n  with lines\n")
    assert agent.unread() == ["a diff\n\n  with lines"]


def test_the_same_key_is_the_same_message(system: System, agent: Agent) -> None:
    ids = {system.cchat("send", "--to", agent.name, "--key", "k1", "--json", "once").out for _ in range(2)}
    assert len(ids) == 1
    assert agent.unread() == ["once"]
    assert system.cchat("send", "--to", agent.name, "--key", "k2", "--json", "once").out not in ids


def test_limit_takes_the_oldest_and_leaves_the_rest(agent: Agent) -> None:
    agent.tell("1", "2", "3")
    assert [body for _, _, body in parsed(agent.cchat("read", "--limit", "2"))] == ["1", "2"]
    assert [body for _, _, body in parsed(agent.cchat("read"))] == ["3"]


def test_peek_acknowledges_nothing_and_before_looks_back(agent: Agent) -> None:
    sent = agent.tell("1", "2", "3")
    assert [body for _, _, body in parsed(agent.cchat("read", "--peek"))] == ["1", "2", "3"]
    assert [body for _, _, body in parsed(agent.cchat("read"))] == ["1", "2", "3"]
    assert [m["body"] for m in agent.cchat("read", "--before", sent[2], "--json").data][-2:] == ["1", "2"]
    assert [m["body"] for m in agent.cchat("read", "--before", sent[2], "--limit", "1", "--json").data] == ["2"]
    assert agent.cchat("read", "--before", "$nothing", code=4).out == ""


# --- waiting


def test_wait_ends_with_the_message_or_in_vain_with_7(system: System, agent: Agent) -> None:
    assert "no message" in agent.cchat("read", "--wait", "0.2", code=7).err
    agent.cchat("read", "--wait", "0", code=7)
    with system.running("--as", agent.name, "read", "--wait") as waiting:
        agent.tell("at last")
        assert waiting.line().endswith("alice: at last")
        assert waiting.wait() == 0
    assert agent.unread() == []


def test_follow_acknowledges_each_message_once_it_is_printed(system: System, agent: Agent) -> None:
    agent.tell("waited")
    with system.running("read", "--follow", "--as", agent.name) as following:
        assert following.line().endswith("alice: waited")
        agent.tell("came")
        assert following.line().endswith("alice: came")
        wait_until(lambda: agent.unread() == [])
        assert following.is_running
        assert following.end(signal.SIGINT) == 130
    assert not following.has_line()


def test_one_reads_at_a_time_and_a_second_is_told_who(system: System, agent: Agent) -> None:
    with system.running("--as", agent.name, "read", "--follow") as following:
        agent.tell("for the first")
        following.line("for the first")
        for command in (["read"], ["read", "--wait", "1"], ["read", "--follow"]):
            refused = agent.cchat(*command, code=5)
            assert f"being read by cchat read (pid {following.pid})" in refused.err
        assert agent.cchat("read", "--peek").code == 0
        following.end(signal.SIGKILL)
    wait_until(lambda: agent.cchat("read", code=None).code == 0)


# --- nothing is lost between output and acknowledgement


def read_into_closed_pipe(agent: Agent, *arguments: str) -> int:
    """Run `read` with an output of which one byte is taken; return its exit code."""
    command = agent.system.command("--as", agent.name, "read", *arguments)
    with subprocess.Popen(
        command, env=agent.system.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        assert os.read(reading.stdout.fileno(), 1)
        reading.stdout.close()
        assert reading.stderr.read() == b""
        return reading.wait(60)


@pytest.mark.parametrize("how", [("--json",), ("--wait", "5"), ("--follow",)])
def test_what_nobody_took_from_the_pipe_comes_again(fresh: Agent, how: tuple[str, ...]) -> None:
    """Lesson: Marked read before it was seen."""
    bodies = [f"{number}" * LARGE for number in range(5)]
    fresh.tell(*bodies)
    assert read_into_closed_pipe(fresh, *how) == 1
    unread = fresh.unread()
    assert unread == bodies[-len(unread) :]
    assert len(unread) == 5 or how == ("--follow",)  # which acknowledges what the pipe took


def test_what_a_reader_had_that_was_killed_before_it_acknowledged_comes_again(system: System, fresh: Agent) -> None:
    """Lesson: Marked read before it was seen."""
    bodies = [f"{number}" * LARGE for number in range(5)]
    fresh.tell(*bodies)
    with subprocess.Popen(
        system.command("--as", fresh.name, "read"), env=system.environment, stdout=subprocess.PIPE
    ) as reading:
        assert reading.stdout is not None
        os.read(reading.stdout.fileno(), 1)  # it has them, and waits for room in the pipe
        reading.kill()
    assert fresh.unread() == bodies


@pytest.mark.parametrize(
    "redirection",
    [
        ">&-",
        pytest.param(
            ">/dev/full", marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a full disk")
        ),
    ],
)
def test_an_output_that_takes_nothing_acknowledges_nothing(system: System, fresh: Agent, redirection: str) -> None:
    fresh.tell("unseen")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *system.command("--as", fresh.name, "read")],
        env=system.environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("cchat: ")
    assert "Traceback" not in done.stderr
    assert fresh.unread() == ["unseen"]


# --- reply and ask


def test_reply_answers_the_message_read_last_or_the_one_that_is_named(writer: Agent, fresh: Agent) -> None:
    assert "nothing was read yet" in fresh.cchat("reply", "hm", code=4).err
    send = ("send", "--to", fresh.name, "--json")
    first, second = (writer.cchat(*send, text).data[0]["event_id"] for text in ("first", "second"))
    fresh.cchat("read")
    fresh.cchat("reply", "to the second")
    fresh.cchat("reply", first, "-", stdin="to the first\n")
    answers = [m for m in writer.cchat("read", "--json").data if m["in_reply_to"]]
    assert [(m["body"], m["in_reply_to"]["event_id"]) for m in answers] == [
        ("to the second", second),
        ("to the first", first),
    ]
    assert {(m["sender"]["name"], m["hops"]) for m in answers} == {(fresh.name, 1)}


def test_ask_prints_the_answer_and_nothing_else(system: System, agent: Agent) -> None:
    assert system.cchat("ask", "echo", "is main green?\nreally \u202e").out == "is main green?\nreally \\u202e\n"
    heading, begins, text, ends, _ = system.cchat("ask", "--fenced", "echo", "yes").out.splitlines()
    assert heading.startswith("A message from echo, an agent (@")
    assert (begins.removesuffix("begins"), text) == (ends.removesuffix("ends"), "yes")
    answer = agent.cchat("ask", "echo", "hello", "--json").data[0]
    assert set(answer) == MESSAGE_KEYS
    assert (answer["body"], answer["sender"]["name"]) == ("hello", "echo")
    assert agent.unread() == []  # what was printed is acknowledged


def test_ask_in_vain_ends_with_7_and_says_why(system: System, gone: Agent) -> None:
    refused = system.cchat("ask", "--timeout", "0.2", gone.name, "anybody?", code=7)
    assert f"{gone.name} is offline" in refused.err
    assert refused.out == ""


# --- join and leave


def test_a_held_session_ends_with_its_process(system: System) -> None:
    name = fresh_name("held")
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)):
        with system.running("join", name) as held:
            assert held.line() == f"{name}: online (room: #aiagentchat-{name})"
            assert system.who()[name]["status"] == "online"
            assert held.end(number) == code
        wait_until(partial(is_offline, system, name))
    wait_until(lambda: name not in system.roster())


def is_offline(system: System, name: str) -> bool:
    return bool(system.who()[name]["status"] == "offline")


def test_a_held_session_ends_when_somebody_has_the_agent_leave(system: System) -> None:
    name = fresh_name("held")
    with system.running("join", name, "--json") as held:
        assert json.loads(held.line())["name"] == name
        wait_until(lambda: name in system.roster())
        assert system.cchat("leave", name).out == f"{name}: offline\n"
        assert held.wait() == 0
    assert system.who()[name]["status"] == "offline"


def test_join_without_a_name_is_a_session_that_is_off_the_list_when_it_left(system: System) -> None:
    joined = system.cchat("join", "--detach", "--json").data[0]
    assert re.fullmatch(r"session-[0-9a-f]{6}", joined["name"])
    assert system.who()[joined["name"]]["kind"] == "ephemeral"
    system.cchat("leave", joined["name"])
    assert joined["name"] not in system.who()


# --- in whose name


def test_the_caller_is_as_then_token_then_agent_then_operator(system: System, agent: Agent, writer: Agent) -> None:
    token, echo = {"AIAGENTCHAT_TOKEN": writer.joined["token"]}, {"AIAGENTCHAT_AGENT": "echo"}
    send = ("send", "--to", agent.name, "hi")
    system.cchat(*send)
    system.cchat(*send, env=echo)
    system.cchat("--as", writer.name, *send, env=echo)
    system.cchat(*send, env=token | echo)
    system.cchat(*send, "--as", writer.name, env=token)
    assert [name for name, _, _ in parsed(agent.cchat("read"))] == ["alice", "echo", *[writer.name] * 3]


def test_a_token_stands_for_one_agent_alone(system: System, agent: Agent, fresh: Agent) -> None:
    agent.tell("private")
    token = {"AIAGENTCHAT_TOKEN": fresh.joined["token"]}
    assert "cannot act as" in system.cchat("--as", agent.name, "read", code=5, env=token).err
    system.cchat("--as", "echo", "send", "as another", code=5, env=token)
    system.cchat("join", fresh_name(), "--detach", code=5, env=token)
    system.cchat("leave", agent.name, code=5, env=token)
    assert agent.unread() == ["private"]
    system.cchat("who", env=token)
    system.cchat("leave", fresh.name, env=token)
    assert "join again" in system.cchat("read", code=5, env=token).err


def test_the_operator_has_no_inbox(system: System) -> None:
    for command in (["read"], ["read", "--follow"], ["reply", "hm"]):
        refused = system.cchat(*command, code=2)
        assert "the operator has no inbox" in refused.err
        assert "--as NAME" in refused.err or "name the message" in refused.err


# --- refusals


def test_what_only_the_operator_may_is_refused_to_an_agent_and_nobody_takes_their_name(
    system: System, agent: Agent
) -> None:
    assert "operator's business" in system.cchat("down", code=5, env={"AIAGENTCHAT_TOKEN": agent.joined["token"]}).err
    assert "leave --as out" in system.cchat("--as", agent.name, "down", code=2).err
    assert "taken for them" in system.cchat("join", OPERATOR, "--detach", code=5).err
    assert OPERATOR not in system.who()
    assert json.loads(system.cchat("--json", "bogus", code=2).err)["error"]["code"] == "bad_request"


def test_an_unknown_agent_is_4_with_the_names_that_are_near(system: System, writer: Agent) -> None:
    near = writer.name[:-1]
    assert f"did you mean {writer.name}" in system.cchat("send", "--to", near, "hi", code=4).err
    problem = json.loads(system.cchat("--json", "ask", near, "hi", code=4).err)["error"]
    assert set(problem) == {"code", "message", "hint", "retryable"}
    assert problem["code"] == "agent_not_found"
    system.cchat("--as", near, "read", code=4)
    system.cchat("leave", near, code=4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", " \n"], "empty"),
        (["send", "\x1b[31mred"], "U+001B"),
        (["join", "--detach", "--description", "a\x07"], "U+0007"),
        (["join", "", "--detach"], "not an agent's name"),
        (["join", "x" * 300, "--detach"], "not an agent's name"),
        (["send", "--to", "Not A Name", "hi"], "not an agent's name"),
        (["--as", "Not A Name", "who"], "not an agent's name"),
        (["join", "_broadcast", "--detach"], "not an agent's name"),
        (["leave", "a/../b"], "not an agent's name"),
        (["send", "--key", "", "hi"], "key"),
        (["status", "--as", "echo"], "nobody"),
    ],
)
def test_bad_input_is_2_and_nothing_is_sent(system: System, arguments: list[str], said: str) -> None:
    refused = system.cchat(*arguments, code=2)
    assert said in refused.err
    assert refused.out == ""


def test_a_text_that_is_too_long_or_no_text_is_refused(system: System, agent: Agent) -> None:
    assert "60000" in system.cchat("send", "--to", agent.name, "-", code=2, stdin="x" * 60_001).err
    raw = subprocess.run(
        system.command("send", "--to", agent.name, "-"), env=system.environment, input=b"\xff\xfe", capture_output=True,
        check=False,
    )  # fmt: skip
    assert (raw.returncode, b"not UTF-8" in raw.stderr) == (2, True)
    assert agent.unread() == []


def test_without_a_daemon_every_command_is_3(mode: str, tmp_path: Path) -> None:
    nowhere = System(tmp_path)
    for command in (["who"], ["status"], ["--as", "a", "read"]):
        assert "cchat up" in nowhere.cchat(*command, code=3).err
    assert json.loads(nowhere.cchat("down", "--json").out) == {"stopped": False}


# --- the system


def test_status_says_where_everything_is(system: System, agent: Agent) -> None:
    status = system.cchat("status", "--json").data[0]
    assert set(status) >= STATUS_KEYS
    assert status["health"] == "ok", status
    assert re.fullmatch(r"http://(localhost|127\.0\.0\.1):\d+", status["homeserver_url"])
    assert {status["space_id"][0], status["broadcast_id"][0]} == {"!"}
    assert Path(status["password_file"]).stat().st_mode & 0o777 == 0o600
    assert (status["operator"], status["server_name"]) == ("@alice:localhost", "localhost")
    assert status["mode"] == "appservice"
    assert status["daemon_pid"] == system.daemon_pid
    assert {agent.name, "echo"} <= set(status["agents"])
    plain = system.cchat("status", env={"AIAGENTCHAT_AGENT": "nobody-at-all"}).out
    assert all(str(status[key]) in plain for key in ("homeserver_url", "space_alias", "operator", "daemon_pid"))


def test_a_second_system_on_the_same_home_is_refused(system: System) -> None:
    for arguments in (["up"], ["up", "--detach"]):
        refused = system.cchat(*arguments, code=5)
        assert f"pid {system.daemon_pid}" in refused.err
        assert "cchat down" in refused.err
    assert system.status()["health"] == "ok"


def test_config_shows_each_setting_with_its_source_and_no_secret(system: System) -> None:
    secret = "agent:x:very-secret"
    env = {"AIAGENTCHAT_TOKEN": secret, "AIAGENTCHAT_DEADLINE": "7"}
    done = system.cchat("config", env=env)
    assert secret not in done.out
    assert [line.split() for line in done.lines if line.split()[0] in ("token", "deadline_s", "log_level")] == [
        ["deadline_s", "7.0", "(environment", "AIAGENTCHAT_DEADLINE)"],
        ["log_level", "info", "(default)"],
        ["token", "***", "(environment", "AIAGENTCHAT_TOKEN)"],
    ]
    shown: dict[str, Any] = system.cchat("config", "--json", env=env).data[0]
    assert shown["settings"]["token"]["value"] == "***"
    assert shown["settings"]["deadline_s"]["value"] == 7.0
    assert shown["paths"]["socket"] == str(system.paths.socket)


def test_no_secret_is_in_a_process_list_or_a_log(system: System, agent: Agent) -> None:
    secrets = [path.read_text().strip() for path in system.paths.credentials.glob("*") if path.is_file()]
    secrets += [agent.joined["token"], system.paths.operator_password.read_text().strip()]
    listed = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, encoding="utf-8", check=True).stdout
    environments = [Path("/proc", str(pid), "environ") for pid in (system.daemon_pid, system.homeserver_pid)]
    listed += "".join(path.read_text() for path in environments if path.exists())  # where there is a /proc
    logged = "".join(path.read_text() for path in [system.paths.daemon_log, *system.paths.homeserver.glob("*.log")])
    assert [secret for secret in secrets if secret in listed or secret in logged] == []
