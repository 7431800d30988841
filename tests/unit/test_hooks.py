"""What hooks print in each tool's form, for inputs as its pages and sources have them; which agent a session is."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.adapters import quick
from aiagentchat.adapters.hooks import Session, describe, introduce, parse_input, wait_for_ring
from aiagentchat.adapters.owner import Owner, find_owner, owner_of, process
from aiagentchat.adapters.tools import TOOLS, agent_of
from aiagentchat.errors import AgentNotFoundError, AiAgentChatError, DaemonNotRunningError
from aiagentchat.model import AgentName, parse_agent_name

FIXTURES = Path(__file__).parent.parent / "fixtures" / "hooks"
HOOK_OUTPUT_LIMIT = 10_000
"""Most characters that Claude Code passes on of what a hook prints."""

Json = dict[str, Any]
NAME = AgentName("claude-webshop-3fa9c1")
OUTAGE_S = 3 * 3600.0
ALICE, CODEX = ({"name": "alice", "kind": "person", "messages": 2}, {"name": "codex-1", "kind": "agent", "messages": 1})


@dataclass
class Gateway:
    """As much of the gateway's client as hooks ask of it."""

    senders: list[Json] = field(default_factory=list)
    online: bool = True
    failures: list[AiAgentChatError] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    detached: list[str] = field(default_factory=list)

    def ask_bell(self, moment: str, *, wait_s: float = 0.0) -> Json:
        self.asked.append(moment)
        if self.failures:
            raise self.failures.pop()
        messages = sum(each["messages"] for each in self.senders)
        return {"messages": messages, "senders": self.senders, "online": self.online, "replaced": False}

    def attach(self, name: str, **_: object) -> None:
        self.attached.append(name)

    def detach(self, name: str) -> None:
        self.detached.append(name)


def session(tool: str, gateway: Gateway, kept: list[str] | None = None) -> Session:
    kept = [] if kept is None else kept
    return Session(TOOLS[tool], NAME, cast("Any", gateway), False, "/workspace", lambda: kept.append(NAME))


def recorded() -> Iterator[Any]:
    for path in sorted(FIXTURES.glob("*.json")):
        for number, each in enumerate(json.loads(path.read_text())["inputs"]):
            yield pytest.param(path.stem, each["moment"], each["input"], id=f"{path.stem}-{number}-{each['moment']}")


@pytest.mark.parametrize(("tool", "moment", "given_input"), list(recorded()))
def test_each_event_is_answered_in_the_tools_form(tool: str, moment: str, given_input: Json) -> None:
    parsed = parse_input(json.dumps(given_input).encode())
    assert parsed is not None
    gateway, silent = Gateway([ALICE, CODEX]), TOOLS[tool].silence
    printed = session(tool, gateway).answer(parsed)
    assert gateway.detached == ([NAME] if moment == "end" else [])
    if moment in ("none", "end", "goes on"):
        assert (printed, gateway.asked) == (silent, [])
        return
    assert gateway.asked == [moment]
    answer, text = json.loads(printed), describe(NAME, {"messages": 3, "senders": [ALICE, CODEX]})
    if moment == "stop":
        assert answer == {"decision": {"gemini": "deny"}.get(tool, "block"), "reason": text}
    else:
        text = f"{introduce(NAME)}\n{text}" if moment == "start" else text
        assert answer == {
            "hookSpecificOutput": {"hookEventName": given_input["hook_event_name"], "additionalContext": text}
        }
    if moment != "start":
        assert session(tool, Gateway()).answer(parsed) == silent


def test_it_says_who_wrote_and_how_many_and_how_to_read() -> None:
    text = describe(NAME, {"messages": 3, "senders": [ALICE, CODEX]})
    assert text.startswith(f"3 messages to {NAME} are unread, from alice, a person (2); codex-1, an agent (1). `")
    assert text.endswith(f"--as {NAME} read --fenced`, shows them.")
    assert describe(NAME, {"messages": 1, "senders": [CODEX]}).startswith(
        f"A message to {NAME} is unread, from codex-1"
    )


@given(
    st.lists(
        st.builds(lambda name, count: {"name": name, "kind": "person", "messages": count}, st.text(), st.integers(1)),
        max_size=100,
    )
)
def test_whoever_writes_it_stays_short_and_on_one_line(senders: list[Json]) -> None:
    text = describe(NAME, {"messages": len(senders), "senders": senders})
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < HOOK_OUTPUT_LIMIT / 4


@given(
    st.one_of(
        st.binary(),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["hook_event_name", "session_id", "cwd", "agent_id", "reason"]) | st.text(), inner
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_a_tool_writes_nothing_is_raised(raw: bytes) -> None:
    parsed = parse_input(raw)
    if parsed is not None:
        for tool in ("claude-code", "codex", "gemini"):
            session(tool, Gateway(failures=[DaemonNotRunningError("away")])).answer(parsed)


@pytest.mark.parametrize("tool", ["claude-code", "gemini"])
def test_without_a_daemon_it_says_nothing_and_the_tool_goes_on(tool: str) -> None:
    event = next(iter(TOOLS[tool].moments))
    parsed = parse_input(json.dumps({"hook_event_name": event}).encode())
    assert parsed is not None
    assert session(tool, Gateway(failures=[DaemonNotRunningError("away")])).answer(parsed) == TOOLS[tool].silence


def test_a_session_is_there_from_its_start_on_or_from_a_prompt_where_the_daemon_came_later() -> None:
    for event, comes in (("SessionStart", True), ("UserPromptSubmit", True), ("PostToolUse", False), ("Stop", False)):
        parsed = parse_input(json.dumps({"hook_event_name": event}).encode())
        assert parsed is not None
        gateway, kept = Gateway(online=False, failures=[AgentNotFoundError("no agent")]), list[str]()
        session("claude-code", gateway, kept).answer(parsed)
        assert (gateway.attached, kept) == (([NAME], [NAME]) if comes else ([], [])), event


@pytest.mark.parametrize(
    ("is_held", "has_reached", "is_woken"), [(True, True, True), (True, False, True), (False, True, False)]
)
def test_one_that_holds_the_agent_waits_through_an_outage_of_any_length(
    is_held: bool, has_reached: bool, is_woken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, pauses = [0.0], list[float]()

    class Away(Gateway):
        def ask_bell(self, moment: str, *, wait_s: float = 0.0) -> Json:
            if clock[0] < OUTAGE_S and (self.asked or not has_reached):
                raise DaemonNotRunningError("away")
            self.senders = [ALICE] if clock[0] else []
            return super().ask_bell(moment, wait_s=wait_s)

    def pause(seconds: float) -> None:
        clock[0] += seconds
        pauses.append(seconds)

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", pause)
    text = wait_for_ring(session("codex", Away()), is_held=is_held)
    assert (text is not None) is is_woken
    assert clock[0] >= OUTAGE_S if is_woken else clock[0] < OUTAGE_S
    assert max(pauses) <= 30.0
    assert len(pauses) < clock[0] / 20.0


# --- which agent a session is


def test_the_owner_is_the_closest_that_is_no_shell() -> None:
    code = (
        "import sys; from aiagentchat.adapters.owner import find_owner; owner = find_owner(); "
        "print(owner.pid, owner.is_alive())"
    )
    command = [sys.executable, "-c", code]
    direct = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    shell = ["sh", "-c", '"$@"; true', "sh", "sh", "-c", '"$@"; true', "sh", *command]
    through_shells = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split()
    assert direct == through_shells == [str(os.getpid()), "True"]


def test_an_owner_that_ended_is_not_alive_nor_is_another_of_its_id() -> None:
    with subprocess.Popen(["sleep", "60"]) as started:
        owner = process(started.pid)
        assert owner.is_alive()
        while owner.arguments() != ["sleep", "60"]:  # until it is that program
            assert started.poll() is None
        assert not Owner(started.pid, "long ago").is_alive()
        started.kill()
        deadline = time.monotonic() + 10
        while owner.is_alive():  # a zombie is none
            assert time.monotonic() < deadline
    assert not owner.is_alive()
    assert not process(started.pid).is_alive()


def test_who_is_told_to_be_the_tool_is_only_where_it_is_an_ancestor() -> None:
    grandparent = find_owner(os.getppid())
    assert grandparent.pid == os.getppid()
    with subprocess.Popen(["sleep", "60"]) as started:
        assert find_owner(started.pid) != process(started.pid)
        started.kill()


def test_the_hooks_and_the_server_of_a_session_come_to_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    claude, me = TOOLS["claude-code"], process(os.getppid())
    monkeypatch.setenv("CLAUDE_PROJECT_DIR", "/home/me/Web Shop")
    monkeypatch.setenv("CLAUDE_PID", str(os.getppid()))
    assert owner_of(claude.name) == me
    of_hook = agent_of(claude, me, conversation="abc", directory="/elsewhere")
    assert of_hook == agent_of(claude, me, directory="/home/me")
    assert of_hook.startswith("claude-web-shop-")
    assert of_hook != agent_of(claude, Owner(me.pid, "another start"), directory="")


def test_of_a_tool_with_several_conversations_in_a_process_each_is_an_agent() -> None:
    codex, owner = TOOLS["codex"], Owner(1, "")
    first, second = (agent_of(codex, owner, conversation=each, directory="/a") for each in ("thread-1", "thread-2"))
    assert first != second
    assert first == agent_of(codex, Owner(2, ""), conversation="thread-1", directory="/b")


@given(st.sampled_from(sorted(TOOLS)), st.text(), st.text())
def test_whatever_directory_it_is_in_a_session_has_a_name(tool: str, directory: str, conversation: str) -> None:
    name = agent_of(TOOLS[tool], Owner(1, "x"), conversation=conversation, directory=directory)
    assert parse_agent_name(name) == name


# --- the short way


def test_the_short_way_knows_the_same_of_each_tool() -> None:
    moments = {event: at for tool in TOOLS.values() for event, at in tool.moments.items() if at in ("tool", "stop")}
    assert moments == quick._MOMENTS
    assert {name: tool.silence for name, tool in TOOLS.items() if tool.silence} == quick._SILENCE
    assert set(quick._NAMED_HOOKS) == {name for name, tool in TOOLS.items() if tool.moments}


def test_it_loads_next_to_nothing() -> None:
    code = "import sys; from aiagentchat.adapters import quick; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "argparse",
        "asyncio",
        "dataclasses",
        "email",
        "http",
        "pathlib",
        "pydantic",
        "secrets",
        "subprocess",
        "uuid",
    }
    assert not heavy & set(done.stdout.split())


@given(st.lists(st.text(), max_size=4), st.binary())
def test_whatever_it_is_given_the_short_way_leaves_it_to_the_long_one(words: list[str], raw: bytes) -> None:
    assert quick.answer(words, raw) is None


def test_a_note_in_a_directory_that_others_can_write_to_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("CLAUDE_PID", raising=False)
    path = Path(quick.note_path("claude-code", find_owner().pid, "s", ""))
    path.parent.mkdir(mode=0o700)
    path.write_text(json.dumps({"name": "a", "token": "t", "socket": "none"}))
    monkeypatch.setattr(quick, "_ask", lambda note, moment: {"messages": 0})
    raw = json.dumps({"hook_event_name": "PostToolUse", "session_id": "s", "cwd": str(tmp_path)}).encode()
    assert quick.answer(["claude-code"], raw) == ""
    path.parent.chmod(0o777)
    assert quick.answer(["claude-code"], raw) is None
