"""`cchat hook` as coding tools run it: real processes, real messages, and a process that stands for the tool.

It talks to the gateway alone, so one mode is enough.
"""

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration import tool_process
from tests.integration.processes import PROCESS_S, Agent, Done, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, OPERATOR, fresh_name

pytestmark = APPSERVICE_ALONE

Json = dict[str, Any]
SOON_S = 2.5  # longer than a message takes to be heard of


class Tool:
    """A coding tool that does nothing but run its hooks."""

    def __init__(self, system: System, name: str, *options: str, directory: Path, **env: str) -> None:
        self.system = system
        self.name = name
        self.options = options
        self.directory = directory
        self.env = {"CLAUDE_PROJECT_DIR": str(directory), "GEMINI_PROJECT_DIR": str(directory)} | env
        self._ids = itertools.count()
        self._ended: dict[int, queue.Queue[Json]] = {}
        self.process = subprocess.Popen(
            [sys.executable, tool_process.__file__],
            env=system.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._reading = threading.Thread(target=self._take_answers, daemon=True)
        self._reading.start()

    def _take_answers(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as answers:
            for line in answers:
                answer = json.loads(line)
                self._ended[answer["id"]].put(answer)

    def start(self, event: str, *arguments: str, **fields: object) -> "queue.Queue[Json]":
        """Run a hook in the background; its end is put into what is returned."""
        given = {"hook_event_name": event, "session_id": "s-1", "cwd": str(self.directory)} | fields
        number = next(self._ids)
        self._ended[number] = queue.Queue()
        command = [sys.executable, "-P", "-m", "aiagentchat", "hook", self.name, *self.options, *arguments]
        request = {
            "id": number,
            "command": command,
            "input": json.dumps(given),
            "cwd": str(self.directory),
            "env": self.env,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._ended[number]

    def hook(self, event: str, *arguments: str, **fields: object) -> Done:
        """Run a hook in the foreground. Whatever happens it fails not, and says nothing on standard error."""
        ended = self.start(event, *arguments, **fields).get(timeout=PROCESS_S)
        assert (ended["code"], ended["err"]) == (0, "")
        return Done(ended["code"], ended["out"], ended["err"])

    def told(self, event: str, **fields: object) -> str:
        """Return what an event puts before the model, "" where that is nothing."""
        lines = self.hook(event, **fields).lines
        if not lines or lines == ["{}"]:
            return ""
        answer = json.loads(lines[0])
        return str(answer.get("reason") or answer["hookSpecificOutput"]["additionalContext"])

    def waits(self, event: str = "Stop") -> "queue.Queue[Json]":
        """Run the hook that waits in the background, and return once it does."""
        ended = self.start(event, "--wait")
        wait_until(lambda: self.system.who()[self.agent()]["reach"] == "hook")
        time.sleep(1.0)  # it asked once before it waits
        return ended

    def agent(self) -> str:
        """Return the agent that the session is, once it is online."""

        def found() -> list[str]:
            ours = [each for each in self.system.who().values() if str(self.directory) in each["description"]]
            return [each["name"] for each in ours if each["status"] == "online"]

        return str(wait_until(found)[0])

    def is_listed(self) -> bool:
        return any(str(self.directory) in each["description"] for each in self.system.who().values())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._reading.join(PROCESS_S)  # until whoever still waits in the background has ended as well


def woken(ended: "queue.Queue[Json]") -> str:
    """Return what a hook says that wakes the session."""
    end = ended.get(timeout=PROCESS_S)
    assert (end["code"], end["out"]) == (2, "")
    return str(end["err"]).removesuffix("\n")


@contextmanager
def tool(system: System, directory: Path, name: str = "claude-code", *options: str, **env: str) -> Iterator[Tool]:
    opened = Tool(system, name, *options, directory=directory, **env)
    try:
        yield opened
    finally:
        opened.kill()
        opened.close()
    if not options:
        wait_until(lambda: not opened.is_listed())


def starting_with(directory: Path, code: str) -> dict[str, str]:
    """Return an environment in which each start of Python runs this first."""
    site = directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    directory = tmp_path / "Web Shop"
    directory.mkdir()
    return directory


def test_a_session_is_an_agent_from_its_start_to_its_end_whatever_lies_in_its_directory(
    system: System, shop: Path
) -> None:
    for module in ("argparse", "json", "queue", "aiagentchat"):
        (shop / f"{module}.py").write_text(f"open({str(shop / 'ran')!r}, 'w')")
    with tool(system, shop) as claude:
        text = claude.told("SessionStart", source="startup")
        name = claude.agent()
        assert text.startswith(f"This session is the agent {name}")
        assert name.startswith("claude-web-shop-")
        assert claude.told("UserPromptSubmit", prompt="hello") == ""
        entry = system.who()[name]
        assert (entry["kind"], entry["reach"]) == ("ephemeral", "hook")
        assert claude.hook("SessionEnd", reason="clear").lines == []
        assert claude.agent() == name
        assert claude.hook("SessionEnd", reason="prompt_input_exit").lines == []
        wait_until(lambda: name not in system.who())
    assert not (shop / "ran").exists()


def test_messages_ring_once_and_are_not_shown(system: System, writer: Agent, shop: Path) -> None:
    with tool(system, shop) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        system.send("a secret", to=name, of=writer.name)
        for _ in range(2):
            system.send("a secret", to=name)
        system.send("for all")
        text = claude.told("PostToolUse", tool_name="Bash", tool_response={})
        assert text.startswith(
            f"3 messages to {name} are unread, from {OPERATOR}, a person (2); {writer.name}, an agent (1)."
        )
        assert "secret" not in text
        assert claude.told("PostToolUse", tool_name="Bash") == claude.told("Stop", stop_hook_active=False) == ""
        system.send(f"what does {name} say?", of=writer.name)
        assert claude.told("PostToolUse", agent_id="a-subagent") == ""
        answer = json.loads(claude.hook("Stop", stop_hook_active=False).out)
        assert (answer["decision"], answer["reason"].split(",")[0]) == ("block", f"A message to {name} is unread")
        assert len(Agent(system, name, {}).unread()) == 5


def test_a_message_wakes_a_session_that_idles_one_waits_at_a_time_and_none_that_works_is_woken(
    system: System, shop: Path
) -> None:
    with tool(system, shop) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        first = claude.waits()
        claude.hook("UserPromptSubmit", prompt="work")
        claude.hook("Stop", stop_hook_active=False)
        assert first.empty()
        second = claude.waits()
        assert first.get(timeout=PROCESS_S) == {"id": 1, "code": 0, "out": "", "err": ""}
        system.send("a secret", to=name)
        text = woken(second)
        assert text.startswith(f"A message to {name} is unread, from {OPERATOR}, a person (1).")
        assert "secret" not in text
        assert claude.agent() == name  # while it works
        Agent(system, name, {}).cchat("read")

        third = claude.waits()
        claude.hook("UserPromptSubmit", prompt="work")
        assert claude.told("SessionStart", source="compact").startswith("This session is the agent")
        system.send("now?", to=name)
        time.sleep(SOON_S)
        assert third.empty()
        assert claude.told("Stop", stop_hook_active=False).startswith("A message to")


def test_where_nobody_can_be_woken_nothing_waits_and_a_tool_that_is_killed_takes_its_agent_along(
    system: System, shop: Path
) -> None:
    with tool(system, shop, CLAUDE_CODE_ENTRYPOINT="sdk-cli") as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        assert claude.start("Stop", "--wait").get(timeout=PROCESS_S)["code"] == 0
        assert claude.agent() == name
        claude.kill()
        wait_until(lambda: name not in system.who())


def test_a_named_agent_outlives_its_sessions_of_which_one_that_waits_ends_with_its_tool(
    system: System, shop: Path
) -> None:
    agent = system.join("named")
    with tool(system, shop, "claude-code", "--as", agent.name) as first:
        first.hook("SessionStart", source="startup")
        with tool(system, shop, "claude-code", "--as", agent.name) as second:
            second.hook("SessionStart", source="startup")
            second.hook("SessionEnd", reason="other")
        first.start("Stop", "--wait")
        running = ["pgrep", "-f", f"hook claude-code --as {agent.name} --wait"]
        wait_until(lambda: subprocess.run(running, capture_output=True, check=False).stdout)
        time.sleep(SOON_S)  # in which it has found out whose it is, and the other's keeper would take the agent off
        assert system.who()[agent.name]["status"] == "online"
        assert agent.cchat("read", "--peek", env={"AIAGENTCHAT_TOKEN": agent.joined["token"]}).code == 0
        first.kill()
        wait_until(lambda: not subprocess.run(running, capture_output=True, check=False).stdout)
    assert system.who()[agent.name]["status"] == "online"


def test_an_agent_that_was_made_to_leave_comes_back_when_its_person_writes(system: System, shop: Path) -> None:
    with tool(system, shop) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        waiting = claude.waits()
        system.client().detach(name)
        assert waiting.get(timeout=PROCESS_S)["code"] == 0
        assert claude.told("PostToolUse", tool_name="Bash") == ""
        later = claude.start("Stop", "--wait")
        time.sleep(SOON_S)
        assert name not in system.who()
        assert later.empty()
        claude.hook("UserPromptSubmit", prompt="go on")
        assert claude.agent() == name


@contextmanager
def without_the_long_way(directory: Path) -> Iterator[tuple[dict[str, str], Path, Path]]:
    """Give an environment, where its sessions are noted, and a flag; while that is there, only the short way works."""
    flag, notes = directory / "flag", directory / f"aiagentchat-{os.getuid()}"
    code = f"import os, sys\nif os.path.exists({str(flag)!r}): sys.modules['aiagentchat.cli.hook'] = None"
    yield starting_with(directory, code) | {"XDG_RUNTIME_DIR": str(directory)}, notes, flag
    wait_until(lambda: not list(notes.glob("*.json")))


@pytest.mark.parametrize(
    ("name", "event", "silence"), [("claude-code", "PostToolUse", []), ("gemini", "AfterTool", ["{}"])]
)
def test_a_hook_in_the_middle_of_work_loads_none_of_what_the_others_need_and_each_has_its_form(
    system: System, shop: Path, tmp_path: Path, name: str, event: str, silence: list[str]
) -> None:
    with without_the_long_way(tmp_path) as (env, notes, flag), tool(system, shop, name, **env) as opened:
        answer = json.loads(opened.hook("SessionStart", source="startup").out)
        assert answer["hookSpecificOutput"]["hookEventName"] == "SessionStart"
        agent = opened.agent()
        assert agent.startswith(f"{name.removesuffix('-code')}-web-shop-")
        (note,) = wait_until(lambda: list(notes.glob("*.json")))
        assert wait_until(lambda: note.read_text() and json.loads(note.read_text())["name"]) == agent
        flag.touch()
        assert opened.start("SessionStart", source="startup").get(timeout=PROCESS_S)["code"] != 0
        assert opened.hook(event).lines == silence
        system.send("a secret", to=agent)
        assert opened.told(event).startswith(f"A message to {agent} is unread")


EVENTS = ("SessionStart", "UserPromptSubmit", "BeforeAgent", "Stop", "SessionEnd", "Unheard")


@pytest.mark.parametrize(("name", "silence"), [("claude-code", ""), ("codex", ""), ("gemini", "{}\n")])
def test_without_a_daemon_nothing_is_said_and_nothing_fails(name: str, silence: str, mode: str, tmp_path: Path) -> None:
    nowhere = System(tmp_path)
    for event in EVENTS if name != "codex" else EVENTS[:1]:  # from where it is known that there is none, all go one way
        done = nowhere.cchat("hook", name, stdin=json.dumps({"hook_event_name": event, "session_id": "s"}))
        assert (done.out, done.err) == (silence, "")
    assert nowhere.cchat("hook", name, stdin="nonsense").out == silence
    assert nowhere.cchat("hook", name, "--wait", stdin='{"hook_event_name": "Stop"}').out == silence


@pytest.mark.parametrize("wrong", ["settings", "option"])
def test_with_what_is_wrong_before_an_event_is_looked_at_nothing_is_said_and_nothing_fails(
    wrong: str, mode: str, tmp_path: Path
) -> None:
    nowhere, options = System(tmp_path), ["--new-option"] if wrong == "option" else []
    if wrong == "settings":
        nowhere.paths.config_file.write_text("port = 'x'")
    for name, silence in (("claude-code", ""), ("codex", ""), ("gemini", "{}\n")):
        for event in ("SessionStart", "Stop"):  # of which one has a short way, if all is well
            done = nowhere.cchat("hook", name, *options, stdin=json.dumps({"hook_event_name": event}))
            assert (done.out, done.err) == (silence, "")


def test_within_cchat_run_and_where_a_named_agent_speaks_a_nameless_hook_is_silent(system: System, shop: Path) -> None:
    with tool(system, shop, CCHAT_AGENT="runner") as claude:
        assert claude.told("SessionStart", source="startup") == ""
    settings = shop / ".claude" / "settings.local.json"
    settings.parent.mkdir()
    settings.write_text(
        '{"hooks": {"Stop": [{"hooks": [{"command": "cchat", "args": ["hook", "claude-code", "--as", "x"]}]}]}}'
    )
    with tool(system, shop) as claude:
        assert claude.told("SessionStart", source="startup") == ""
        assert not claude.is_listed()


CODEX = """#!/bin/sh
if [ "$2" = --help ]; then echo "$HELP"; else echo "$@" >> "$CODEX_LOG"; fi
"""
HELP = "Usage: codex queue [OPTIONS] --thread <THREAD> --message <TEXT>"


def codex_in(directory: Path, help_text: str = HELP) -> dict[str, str]:
    """Return the environment of a tool that finds a `codex` there, and where that logs: `CODEX_LOG`."""
    program, log = directory / "codex", directory / "log"
    program.write_text(CODEX)
    program.chmod(0o755)
    log.touch()
    return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}", "CODEX_LOG": str(log), "HELP": help_text}


def test_it_holds_through_every_outage_of_the_daemon_and_codex_is_woken_after_one_that_others_do_not_wait_for(
    system: System, shop: Path, tmp_path: Path
) -> None:
    before = starting_with(tmp_path, "from aiagentchat.adapters import hooks; hooks._OFFLINE_S = 0.5")
    env, thread = codex_in(tmp_path) | before, fresh_name("thread")
    log, elsewhere = Path(env["CODEX_LOG"]), tmp_path / "elsewhere"
    elsewhere.mkdir()
    with tool(system, shop) as claude, tool(system, elsewhere, "codex", **env) as codex:
        claude.hook("SessionStart", source="startup")
        codex.hook("SessionStart", session_id=thread)
        name, waiting, named = claude.agent(), claude.waits(), codex.agent()
        wait_until(lambda: system.who()[named]["reach"] == "hook")

        pid = system.daemon_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            assert claude.told("PostToolUse", tool_name="Bash") == ""
        finally:
            os.kill(pid, signal.SIGCONT)
        assert time.monotonic() - began < 5

        system.kill(pid)
        assert claude.told("Stop", stop_hook_active=False) == ""
        time.sleep(SOON_S)
        system.up()
        assert (claude.agent(), codex.agent()) == (name, named)
        for each in (name, named):
            system.send("hello", to=each)
        assert woken(waiting).startswith(f"A message to {name}")
        assert f"queue --thread {thread} --message " in wait_until(log.read_text)

        Agent(system, named, {}).cchat("read")
        log.write_text("")
        system.down()
        time.sleep(SOON_S)
        system.up()
        assert codex.agent() == named
        system.send("hello", to=named)
        assert f"queue --thread {thread} --message " in wait_until(log.read_text)


@pytest.mark.parametrize(("help_text", "is_woken"), [(HELP, True), ("Codex CLI", False)], ids=["0.149", "older"])
def test_codex_is_woken_by_its_queue_where_it_has_one_and_told_the_short_way_where_not(
    system: System, shop: Path, tmp_path: Path, help_text: str, is_woken: bool
) -> None:
    given, thread = codex_in(tmp_path, help_text), fresh_name("thread")
    log = Path(given["CODEX_LOG"])
    with (
        without_the_long_way(tmp_path) as (env, notes, flag),
        tool(system, shop, "codex", **given, **env) as codex,
    ):
        codex.hook("SessionStart", session_id=thread)
        name = codex.agent()
        wait_until(lambda: list(notes.glob("*.json")))
        flag.touch()
        if is_woken:
            wait_until(lambda: system.who()[name]["reach"] == "hook")
        system.send("a secret", to=name)
        if is_woken:
            assert f"queue --thread {thread} --message " in wait_until(log.read_text)
        told = codex.told("PostToolUse", session_id=thread)
        assert told.startswith("A message to") is not is_woken
        assert bool(log.read_text()) is is_woken
        assert "secret" not in log.read_text()
