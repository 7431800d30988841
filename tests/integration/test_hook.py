"""`cchat hook` as coding tools run it: real processes, real messages, and a process that stands for the tool.

It talks to the gateway alone, so one mode is enough.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import Agent, Done, Running, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, OPERATOR, fresh_name

pytestmark = APPSERVICE_ALONE

Json = dict[str, Any]


class Tool:
    """A coding tool that does nothing but run its hooks."""

    def __init__(self, system: System, name: str, process: "subprocess.Popen[bytes]", **env: str) -> None:
        self.system = system
        self.name = name
        self.process = process
        self.env = {"CLAUDE_PID": str(process.pid), "CLAUDE_PROJECT_DIR": "/home/me/Web Shop"} | env

    def given(self, event: str, fields: Json) -> str:
        return json.dumps({"hook_event_name": event, "session_id": "s-1", "cwd": "/home/me/Web Shop/src"} | fields)

    def hook(self, event: str, *arguments: str, **fields: object) -> Done:
        """Run a hook in the foreground; it has nothing to say on standard error."""
        done = self.system.cchat("hook", self.name, *arguments, stdin=self.given(event, fields), env=self.env)
        assert done.err == ""
        return done

    def told(self, event: str, **fields: object) -> str:
        """Return what an event puts before the model, "" where that is nothing."""
        lines = self.hook(event, **fields).lines
        if not lines or lines == ["{}"]:
            return ""
        answer = json.loads(lines[0])
        return str(answer.get("reason") or answer["hookSpecificOutput"]["additionalContext"])

    def agent(self) -> str:
        """Return the agent that the session is, once it is online."""

        def found() -> list[str]:
            ours = [each for each in self.system.who().values() if "Web Shop" in each["description"]]
            return [each["name"] for each in ours if each["status"] == "online"]

        return str(wait_until(found)[0])

    @contextmanager
    def waiting(self, event: str) -> Iterator[Running]:
        """Run the hook that waits in the background."""
        command = self.system.command("hook", self.name, "--wait")
        with subprocess.Popen(
            command,
            env=self.system.environment | self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            assert process.stdin is not None
            process.stdin.write(self.given(event, {}))
            process.stdin.close()
            try:
                yield Running(process)
            finally:
                process.kill()


@contextmanager
def tool(system: System, name: str = "claude-code", **env: str) -> Iterator[Tool]:
    with subprocess.Popen(["sleep", "600"]) as process:
        opened = Tool(system, name, process, **env)
        try:
            yield opened
        finally:
            process.kill()
    wait_until(lambda: not any("Web Shop" in each["description"] for each in system.who().values()))


def test_a_session_is_an_agent_from_its_start_to_its_end(system: System) -> None:
    with tool(system) as claude:
        text = claude.told("SessionStart", source="startup")
        name = claude.agent()
        assert text.startswith(f"This session is the agent {name}")
        assert name.startswith("claude-web-shop-")
        entry = system.who()[name]
        assert (entry["kind"], entry["reach"]) == ("ephemeral", "hook")
        assert claude.told("UserPromptSubmit", prompt="hello") == ""
        assert claude.hook("SessionEnd", reason="clear").lines == []
        assert claude.agent() == name
        assert claude.hook("SessionEnd", reason="prompt_input_exit").lines == []
        wait_until(lambda: name not in system.who())


def test_a_tool_that_is_killed_takes_its_agent_along(system: System) -> None:
    with tool(system) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        claude.process.kill()
        claude.process.wait()
        wait_until(lambda: name not in system.who())


def test_messages_ring_once_and_are_not_shown(system: System, writer: Agent) -> None:
    with tool(system) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        writer.cchat("send", "--to", name, "a secret")
        for _ in range(2):
            system.cchat("send", "--to", name, "a secret")
        system.cchat("send", "for all")
        text = claude.told("PostToolUse", tool_name="Bash", tool_response={})
        assert text.startswith(
            f"3 messages to {name} are unread, from {OPERATOR}, a person (2); {writer.name}, an agent (1)."
        )
        assert "secret" not in text
        assert claude.told("PostToolUse", tool_name="Bash") == claude.told("Stop", stop_hook_active=False) == ""
        writer.cchat("send", f"what does {name} say?")
        assert claude.told("PostToolUse", agent_id="a-subagent") == ""
        answer = json.loads(claude.hook("Stop", stop_hook_active=False).out)
        assert (answer["decision"], answer["reason"].split(",")[0]) == ("block", f"A message to {name} is unread")
        assert len(Agent(system, name, {}).unread()) == 5


def test_a_message_wakes_a_session_that_idles_and_one_waits_at_a_time(system: System) -> None:
    with tool(system) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        with claude.waiting("SessionStart") as first:
            wait_until(lambda: system.who()[name]["reach"] == "hook")
            claude.hook("UserPromptSubmit", prompt="work")
            claude.hook("Stop", stop_hook_active=False)
            with claude.waiting("Stop") as second:
                assert first.wait() == 0
                assert first.rest(of="err") == ""
                system.cchat("send", "--to", name, "a secret")
                assert second.wait() == 2
                text = second.rest(of="err")
        assert text.startswith(f"A message to {name} is unread, from {OPERATOR}, a person (1).")
        assert "secret" not in text


def test_one_that_waits_ends_with_its_tool(system: System) -> None:
    with tool(system) as claude:
        claude.hook("SessionStart", source="startup")
        claude.agent()
        with claude.waiting("SessionStart") as waiting:
            claude.process.kill()
            claude.process.wait()
            assert waiting.wait() == 0


def test_an_agent_that_was_made_to_leave_comes_back_when_its_person_writes(system: System) -> None:
    with tool(system) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        system.cchat("leave", name)
        assert claude.told("PostToolUse", tool_name="Bash") == ""
        assert name not in system.who()
        claude.hook("UserPromptSubmit", prompt="go on")
        assert claude.agent() == name


def test_it_holds_through_a_restart_of_the_daemon(system: System) -> None:
    with tool(system) as claude:
        claude.hook("SessionStart", source="startup")
        name = claude.agent()
        system.kill(system.daemon_pid)
        assert claude.told("Stop", stop_hook_active=False) == ""
        system.up()
        assert claude.agent() == name


@pytest.mark.parametrize(("name", "silence"), [("claude-code", ""), ("codex", ""), ("gemini", "{}\n")])
def test_without_a_daemon_nothing_is_said_and_nothing_fails(name: str, silence: str, mode: str, tmp_path: Path) -> None:
    nowhere = System(tmp_path / "home")
    for event in ("SessionStart", "UserPromptSubmit", "BeforeAgent", "Stop", "SessionEnd", "Unheard"):
        done = nowhere.cchat("hook", name, stdin=json.dumps({"hook_event_name": event, "session_id": "s"}))
        assert (done.out, done.err) == (silence, "")
    assert nowhere.cchat("hook", name, stdin="nonsense").out == silence


RUNS_A_HOOK = "import subprocess, sys; subprocess.run(sys.argv[2:], input=sys.argv[1].encode(), check=True); input()"


@contextmanager
def running_a_hook(opened: Tool, given: str, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """Have a process run a hook and go on, as the tools do that say nothing of which process they are."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNS_A_HOOK, given, *command],
        env=opened.system.environment | opened.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        yield process
        if process.poll() is None:
            process.communicate("\n")


def test_gemini_gets_its_own_form(system: System) -> None:
    with tool(system, "gemini", GEMINI_PROJECT_DIR="/home/me/Web Shop") as gemini:
        by_a_shell = ["sh", "-c", '"$@"; true', "sh", *system.command("hook", "gemini")]
        with running_a_hook(gemini, gemini.given("SessionStart", {"source": "startup"}), *by_a_shell) as process:
            name = gemini.agent()
            assert name.startswith("gemini-web-shop-")
            out, _ = process.communicate("\n")
            assert json.loads(out)["hookSpecificOutput"]["hookEventName"] == "SessionStart"
        assert gemini.hook("AfterTool").lines == ["{}"]


CODEX = """#!/bin/sh
if [ "$2" = --help ]; then echo "$HELP"; else echo "$@" >> "$CODEX_LOG"; fi
"""
HELP = "Usage: codex queue [OPTIONS] --thread <THREAD> --message <TEXT>"


@pytest.mark.parametrize(("help_text", "is_woken"), [(HELP, True), ("Codex CLI", False)], ids=["0.149", "older"])
def test_codex_is_woken_by_its_queue_where_it_has_one(
    system: System, tmp_path: Path, help_text: str, is_woken: bool
) -> None:
    program, log, thread = tmp_path / "codex", tmp_path / "log", fresh_name("thread")
    program.write_text(CODEX)
    program.chmod(0o755)
    log.touch()
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CODEX_LOG": str(log), "HELP": help_text}
    with tool(system, "codex", **env) as codex:
        given = codex.given("SessionStart", {"session_id": thread})
        with running_a_hook(codex, given, *system.command("hook", "codex")):
            name = codex.agent()
            system.cchat("send", "--to", name, "a secret")
            if is_woken:
                assert f"queue --thread {thread} --message " in wait_until(log.read_text)
            assert codex.told("PostToolUse", session_id=thread).startswith("A message to") is not is_woken
        assert bool(log.read_text()) is is_woken
        assert "secret" not in log.read_text()
