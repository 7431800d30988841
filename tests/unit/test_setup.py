"""What `cchat setup` makes of a tool's configuration: ours is added at the end, and taken out without a trace."""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.adapters.setup import Edit, Wish, edits
from aiagentchat.adapters.tools import TOOLS
from aiagentchat.cli import setup
from aiagentchat.cli.main import main
from aiagentchat.errors import InvalidRequestError

HOME = Path("/home/me")
WISH = Wish("/opt/bin/cchat", {}, None, None, has_channel=False)
TOOL_NAMES = ("claude-code", "codex", "gemini", "opencode")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
HANDLERS = st.fixed_dictionaries(
    {"type": st.just("command"), "command": st.text()}, optional={"args": st.lists(st.text())}
)
EVENTS = ("SessionStart", "Stop", "BeforeAgent", "AfterTool", "PreToolUse")
GROUPS = st.lists(
    st.fixed_dictionaries({"hooks": st.lists(HANDLERS, min_size=1)}, optional={"matcher": st.text()}) | VALUES,
    min_size=1,
    max_size=3,
)
CONFIGS = st.builds(
    lambda rest, hooks, servers: rest | hooks | servers,
    st.dictionaries(
        st.text().filter(lambda key: key not in ("hooks", "mcp", "mcpServers", "projects")), VALUES, max_size=3
    ),
    st.dictionaries(st.just("hooks"), st.dictionaries(st.sampled_from(EVENTS), GROUPS, min_size=1), max_size=1),
    st.dictionaries(
        st.sampled_from(["mcp", "mcpServers"]),
        st.dictionaries(st.text().filter(lambda key: key != "cchat"), VALUES, min_size=1),
        max_size=2,
    ),
).filter(bool)


def edits_of(tool: str, wish: Wish = WISH, **environment: str) -> dict[str, Edit]:
    return {str(each.path): each for each in edits(TOOLS[tool], wish, HOME, environment)}


def json_edits() -> list[Edit]:
    return [each for tool in TOOL_NAMES for each in edits_of(tool).values() if each.path.suffix == ".json"]


def test_where_each_tool_has_its_configuration() -> None:
    assert set(edits_of("claude-code")) == {"/home/me/.claude.json", "/home/me/.claude/settings.json"}
    assert set(edits_of("claude-code", CLAUDE_CONFIG_DIR="/c")) == {"/c/.claude.json", "/c/settings.json"}
    assert set(edits_of("codex")) == {"/home/me/.codex/config.toml", "/home/me/.codex/hooks.json"}
    assert set(edits_of("codex", CODEX_HOME="/c")) == {"/c/config.toml", "/c/hooks.json"}
    assert set(edits_of("gemini")) == {"/home/me/.gemini/settings.json"}
    assert set(edits_of("opencode")) == {"/home/me/.config/opencode/opencode.json"}
    here = Wish("cchat", {}, Path("/srv/shop"), "shop", has_channel=False)
    assert set(edits_of("claude-code", here)) == {"/home/me/.claude.json", "/srv/shop/.claude/settings.local.json"}
    assert set(edits_of("codex", here)) == {"/srv/shop/.codex/config.toml", "/srv/shop/.codex/hooks.json"}
    assert set(edits_of("gemini", here)) == {"/srv/shop/.gemini/settings.json"}
    assert set(edits_of("opencode", here)) == {"/srv/shop/opencode.json"}


def test_claude_code_gets_a_server_and_hooks_and_one_that_waits_in_the_background() -> None:
    wish = Wish("/opt/bin/cchat", {"AIAGENTCHAT_HOME": "/srv/chat"}, None, None, has_channel=True)
    found = edits_of("claude-code", wish)
    server = json.loads(found["/home/me/.claude.json"].apply(""))["mcpServers"]["cchat"]
    assert server == {
        "type": "stdio",
        "command": "/opt/bin/cchat",
        "args": ["mcp", "--tool", "claude-code", "--channel"],
        "env": {"AIAGENTCHAT_HOME": "/srv/chat"},
    }
    hooks = json.loads(found["/home/me/.claude/settings.json"].apply(""))["hooks"]
    assert set(hooks) == {"SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd"}
    command = "env AIAGENTCHAT_HOME=/srv/chat /opt/bin/cchat hook claude-code"
    assert hooks["PostToolUse"] == [{"hooks": [{"type": "command", "command": command, "timeout": 10}]}]
    assert "--wait" not in json.dumps(hooks)  # the channel wakes it
    old = Wish("/opt/bin/cchat", {}, None, None, has_channel=False, can_wake=False)
    assert "--wait" not in edits_of("claude-code", old)["/home/me/.claude/settings.json"].apply("")
    plain = json.loads(edits_of("claude-code")["/home/me/.claude/settings.json"].apply(""))["hooks"]
    assert [each.get("asyncRewake", False) for each in plain["Stop"][0]["hooks"]] == [False, True]
    assert plain["Stop"][0]["hooks"][1]["command"].endswith("cchat hook claude-code --wait")
    assert len(plain["SessionStart"][0]["hooks"]) == 1  # it would hold the session up


def test_gemini_counts_in_milliseconds_and_codex_in_seconds() -> None:
    gemini = json.loads(edits_of("gemini")["/home/me/.gemini/settings.json"].apply(""))
    assert gemini["hooks"]["BeforeAgent"][0]["hooks"][0]["timeout"] == 10_000
    codex = json.loads(edits_of("codex")["/home/me/.codex/hooks.json"].apply(""))
    assert codex["hooks"]["Stop"] == [
        {"hooks": [{"type": "command", "command": "/opt/bin/cchat hook codex", "timeout": 10}]}
    ]
    assert codex["hooks"]["SessionEnd"][0]["hooks"][0]["timeout"] == 3


def test_a_directory_of_its_own_has_an_agent_of_its_own() -> None:
    here = Wish("cchat", {}, Path("/srv/shop"), "shop", has_channel=False)
    found = edits_of("claude-code", here)
    config = json.loads(found["/home/me/.claude.json"].apply('{"projects": {"/srv/shop": {"history": [1]}}}'))
    assert config["projects"]["/srv/shop"]["history"] == [1]
    assert config["projects"]["/srv/shop"]["mcpServers"]["cchat"]["args"] == [
        "mcp",
        "--tool",
        "claude-code",
        "--as",
        "shop",
    ]
    hooks = json.loads(found["/srv/shop/.claude/settings.local.json"].apply(""))["hooks"]
    assert hooks["Stop"][0]["hooks"][0]["command"] == "cchat hook claude-code --as shop"


@given(CONFIGS, st.sampled_from(json_edits()), st.sampled_from([2, 4, "\t"]))
def test_what_is_there_stays_and_what_was_added_can_be_taken_out_again(config: Any, edit: Edit, indent: Any) -> None:
    before = json.dumps(config, indent=indent, ensure_ascii=False) + "\n"
    after = edit.apply(before)
    assert edit.apply(after) == after
    assert json.loads(edit.undo(after)) == config
    assert edit.undo(before) == before


@given(st.sampled_from(json_edits()), VALUES)
def test_a_configuration_of_another_form_is_refused_and_not_touched(edit: Edit, value: Any) -> None:
    for config in (value, {"hooks": value, "mcp": value, "mcpServers": value}):
        before = json.dumps(config)
        try:
            after = edit.apply(before)
        except InvalidRequestError:
            continue
        assert isinstance(json.loads(after), dict)


def test_comments_are_not_lost() -> None:
    for edit in json_edits():
        for text in ('{"a": 1, // why\n}', "[]", "nonsense"):
            with pytest.raises(InvalidRequestError, match="not touched"):
                edit.apply(text)


def test_a_hook_of_somebody_else_stays_wherever_it_stands() -> None:
    edit = edits_of("claude-code")["/home/me/.claude/settings.json"]
    theirs = {"hooks": [{"type": "command", "command": "say done"}]}
    before = json.dumps({"hooks": {"Stop": [theirs]}})
    after = json.loads(edit.apply(before))
    assert after["hooks"]["Stop"][0] == theirs
    later = {"hooks": {"Stop": [*after["hooks"]["Stop"], theirs]}}
    assert json.loads(edit.undo(json.dumps(later))) == {"hooks": {"Stop": [theirs, theirs]}}


def test_of_a_group_that_somebody_has_added_to_theirs_stays() -> None:
    edit = edits_of("codex")["/home/me/.codex/hooks.json"]
    config = json.loads(edit.apply(""))
    theirs = {"type": "command", "command": "say done"}
    config["hooks"]["Stop"][0]["hooks"].append(theirs)
    assert json.loads(edit.undo(json.dumps(config))) == {"hooks": {"Stop": [{"hooks": [theirs]}]}}
    again = json.loads(edit.apply(json.dumps(config)))["hooks"]["Stop"]
    assert [each["command"] for group in again for each in group["hooks"]] == ["say done", "/opt/bin/cchat hook codex"]


def test_hooks_keep_their_place_by_which_some_tools_know_them() -> None:
    edit = edits_of("codex")["/home/me/.codex/hooks.json"]
    config = json.loads(edit.apply(""))
    config["hooks"]["Stop"].append({"hooks": [{"type": "command", "command": "say done"}]})
    before = json.dumps(config)
    assert json.loads(edit.apply(before)) == config


def test_a_server_of_the_name_that_is_another_is_neither_replaced_nor_taken_out() -> None:
    edit = edits_of("gemini")["/home/me/.gemini/settings.json"]
    before = '{"mcpServers": {"cchat": {"command": "other"}}}'
    with pytest.raises(InvalidRequestError, match="another kind"):
        edit.apply(before)
    assert edit.undo(before) == before


def test_opencode_2_is_told_apart() -> None:
    edit = edits_of("opencode")["/home/me/.config/opencode/opencode.json"]
    with pytest.raises(InvalidRequestError, match="opencode 2"):
        edit.apply('{"mcp": {"servers": {}}}')


def test_half_a_character_is_no_obstacle() -> None:
    edit = edits_of("gemini")["/home/me/.gemini/settings.json"]
    assert json.loads(edit.apply('{"a": "\\ud83d", "b": "ü"}').encode())["a"] == "\ud83d"


def test_tables_that_the_tool_puts_behind_ours_stay() -> None:
    edit = edits_of("codex")["/home/me/.codex/config.toml"]
    added = '[projects."/srv"]\ntrust_level = "trusted"\n\n[hooks.state."x:Stop:0:0"]\ntrusted_hash = "abc"\n'
    tools = '[mcp_servers.cchat.tools.read]\napproval_mode = "approve"\n\n'
    for later in (added, tools + added):
        after = edit.apply(TOML) + "\n" + later
        assert tomllib.loads(edit.undo(after)) == tomllib.loads(TOML + added)
        assert tomllib.loads(edit.apply(after))["projects"] == {"/srv": {"trust_level": "trusted"}}


TOML = """# my own
model = "gpt-5.5-codex"  # fast

[mcp_servers.docs]
command = "npx"
"""


@pytest.mark.parametrize("before", ["", TOML, TOML.rstrip(), 'model = "x"\n'])
def test_the_comments_of_toml_stay(before: str) -> None:
    edit = edits_of("codex", Wish('/opt/"b"/cchat', {"AIAGENTCHAT_HOME": "/srv/ä b"}, None, None, has_channel=False))[
        "/home/me/.codex/config.toml"
    ]
    after = edit.apply(before)
    assert after.startswith(before.rstrip())
    assert tomllib.loads(after)["mcp_servers"]["cchat"] == {
        "command": '/opt/"b"/cchat',
        "args": ["mcp", "--tool", "codex"],
        "env": {"AIAGENTCHAT_HOME": "/srv/ä b"},
    }
    assert edit.apply(after) == after
    assert edit.undo(after).rstrip() == before.rstrip()
    later = after + "\n[profiles.x]\nmodel = 'y'\n"
    assert tomllib.loads(edit.undo(later)) == tomllib.loads(before) | {"profiles": {"x": {"model": "y"}}}


def test_toml_that_is_none_or_that_has_a_server_of_the_name_is_refused() -> None:
    edit = edits_of("codex")["/home/me/.codex/config.toml"]
    for text, reason in (("[", "no TOML"), ('[mcp_servers.cchat]\ncommand = "x"\n', "already")):
        with pytest.raises(InvalidRequestError, match=reason):
            edit.apply(text)
    with pytest.raises(InvalidRequestError):
        edit.apply("mcp_servers = 3")


# --- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["setup", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AIAGENTCHAT_HOME", "CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_it_is_shown_and_written_when_that_is_asked_for_and_undone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, hooks = home / ".codex" / "config.toml", home / ".codex" / "hooks.json"
    config.parent.mkdir()
    config.write_text("# mine\n")
    config.chmod(0o640)
    code, out, err = run(capsys, "codex")
    assert code == 0
    assert "+[mcp_servers.cchat]" in out
    assert "nothing was written; --write does so" in err
    assert config.read_text() == "# mine\n"
    code, out, err = run(capsys, "codex", "--write")
    assert f"written: {config}, {hooks}" in out
    assert "'/hooks'" in err
    assert config.stat().st_mode & 0o777 == 0o640
    assert hooks.stat().st_mode & 0o777 == 0o600
    assert run(capsys, "codex", "--write")[1] == "nothing to change\n"
    assert run(capsys, "codex", "--undo", "--write")[0] == 0
    assert config.read_text() == "# mine\n"
    assert json.loads(hooks.read_text()) == {}
    assert run(capsys, "codex", "--undo", "--json")[1] == '{"changed":[]}\n'


@pytest.mark.parametrize(("said", "writes"), [("y", True), (" YES ", True), ("", False), ("n", False), ("x", False)])
def test_it_is_written_on_confirmation_alone(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, said: str, writes: bool
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return said

    monkeypatch.setattr("builtins.input", answer)
    run(capsys, "opencode")
    assert asked == ["Write this? [y/N] "]
    assert (home / ".config" / "opencode" / "opencode.json").exists() is writes


@pytest.mark.parametrize(
    ("told", "waits"), [("2.1.138 (Claude Code)", False), ("2.1.139 (Claude Code)", True), ("?", True)]
)
def test_an_older_claude_code_gets_no_hook_that_it_would_wait_for(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, told: str, waits: bool
) -> None:
    program = home / "bin" / "claude"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{told}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    run(capsys, "claude-code", "--write")
    assert ("--wait" in (home / ".claude" / "settings.json").read_text()) is waits


def test_of_two_files_one_of_which_cannot_be_changed_none_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = home / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text("{} // mine\n")
    code, _, err = run(capsys, "claude-code", "--write")
    assert code == 2
    assert f"{settings} is no plain JSON" in err
    assert not (home / ".claude.json").exists()


def test_what_the_tool_wrote_while_it_was_asked_stays(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = home / ".claude.json"
    config.write_text('{"numStartups": 1}')

    def confirm(_: object) -> bool:
        config.write_text('{"numStartups": 2}')
        return True

    monkeypatch.setattr(setup, "_is_confirmed", confirm)
    assert run(capsys, "claude-code")[0] == 0
    assert json.loads(config.read_text())["numStartups"] == 2
    assert "cchat" in json.loads(config.read_text())["mcpServers"]


def test_a_link_stays_a_link(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, link = home / "dotfiles.json", home / ".gemini" / "settings.json"
    real.write_text("{}")
    link.parent.mkdir()
    link.symlink_to(real)
    assert run(capsys, "gemini", "--write")[0] == 0
    assert link.is_symlink()
    assert "mcpServers" in json.loads(real.read_text())
