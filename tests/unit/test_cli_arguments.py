"""The arguments of `cchat`: what each form means, what is refused, and that the help can be followed."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.cli import invocation
from aiagentchat.cli.invocation import read_file
from aiagentchat.cli.main import build_parser, main
from aiagentchat.cli.output import Output
from aiagentchat.config import load_settings
from aiagentchat.errors import InvalidNameError, InvalidRequestError
from aiagentchat.model import BYTES, Attachment

COMMANDS = (
    "up",
    "down",
    "status",
    "daemon",
    "registration",
    "doctor",
    "who",
    "join",
    "leave",
    "send",
    "sent",
    "read",
    "reply",
    "ask",
    "chat",
    "history",
    "top",
    "config",
)
WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def parse(line: str) -> argparse.Namespace:
    return build_parser().parse_args(shlex.split(line))


def refusal(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """Return what is printed for a line that must end with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("line", ["--as coder --json who", "who --as coder --json", "--json who --as coder"])
def test_as_and_json_stand_before_or_after_the_subcommand(line: str) -> None:
    args = parse(line)
    assert (args.command, args.acting_as, args.json) == ("who", "coder", True)


def test_the_later_of_two_as_counts() -> None:
    assert parse("--as first who --as second").acting_as == "second"


def test_without_as_and_json_neither_is_set() -> None:
    args = parse("who")
    assert not hasattr(args, "acting_as")
    assert not hasattr(args, "json")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("up", {"detach": False, "port": None, "server_name": None, "no_echo": False, "report_fd": None}),
        (
            "up --detach --port 0 --server-name chat.example --no-echo",
            {"detach": True, "port": "0", "server_name": "chat.example", "no_echo": True},
        ),
        ("daemon", {"agent": []}),
        ("daemon --agent a --agent b", {"agent": ["a", "b"]}),
        ("registration", {"server_name": None, "id": None, "url": None, "output": None}),
        (
            "registration --server-name chat.example --id lab --url http://h:9 --output f.yaml",
            {"server_name": "chat.example", "id": "lab", "url": "http://h:9", "output": "f.yaml"},
        ),
        ("join", {"name": None, "ephemeral": False, "description": None, "detach": False}),
        (
            "join coder --ephemeral --description 'Writes code' --detach",
            {"name": "coder", "ephemeral": True, "description": "Writes code", "detach": True},
        ),
        ("leave coder", {"name": "coder"}),
        ("invite @bob:example.org", {"user_id": "@bob:example.org", "agent": [], "role": None}),
        ("invite @b:c --agent a --agent b --role watch", {"agent": ["a", "b"], "role": "watch"}),
        ("uninvite @bob:example.org", {"user_id": "@bob:example.org"}),
        ("send hello", {"to": None, "key": None, "text": "hello"}),
        ("send --to coder --key k1 -", {"to": "coder", "key": "k1", "text": "-", "wait_read": None}),
        ("send --to coder --wait-read 2.5 hi", {"to": "coder", "wait_read": 2.5}),
        ("sent", {"to": None, "limit": 20}),
        ("sent --to coder --limit 3", {"to": "coder", "limit": 3}),
        ("send '-5 degrees'", {"text": "-5 degrees"}),
        ("send -- -v", {"text": "-v"}),
        ("read", {"wait": None, "follow": False, "peek": False, "before": None, "limit": 100}),
        ("read --wait", {"wait": float("inf")}),
        ("read --wait 0", {"wait": 0.0}),
        ("read --wait 2.5", {"wait": 2.5}),
        ("read --wait --json", {"wait": float("inf"), "json": True}),
        ("read --before $id --limit 500", {"before": "$id", "limit": 500}),
        ("reply Done.", {"words": ["Done."], "key": None}),
        ("reply $id Done. --key k", {"words": ["$id", "Done."], "key": "k"}),
        ("reply $id -", {"words": ["$id", "-"]}),
        ("ask coder Hm?", {"name": "coder", "text": "Hm?", "timeout": 300.0}),
        ("ask --timeout 0.5 coder Hm?", {"timeout": 0.5, "key": None}),
        ("chat coder", {"name": "coder", "limit": 20, "timeout": 300.0}),
        ("chat coder --limit 0 --timeout 5", {"limit": 0, "timeout": 5.0}),
        ("history coder", {"name": "coder", "limit": 50, "before": None}),
        ("history coder --before $id --limit 500", {"before": "$id", "limit": 500}),
        ("top --once", {"once": True}),
    ],
)
def test_a_line_means(line: str, expected: dict[str, Any]) -> None:
    args = vars(parse(line))
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "COMMAND"),
        ("sed hello", "invalid choice: 'sed'"),
        ("send System maintenance", "a text of several words goes into quotes"),
        ("ask coder two words", "a text of several words goes into quotes"),
        ("read --lim 3", "unrecognized arguments: --lim"),
        ("send --to a --wait-read soon hi", "'soon' is no number of seconds"),
        ("sent --limit 0", "'0' is not a number from 1 to 500"),
        ("read --wait soon", "'soon' is no number of seconds"),
        ("read --wait -1", "-1"),
        ("read --wait nan", "'nan' is no number of seconds"),
        ("read --wait inf", "'inf' is no number of seconds"),
        ("read --limit 0", "'0' is not a number from 1 to 500"),
        ("read --limit 501", "'501' is not a number from 1 to 500"),
        ("read --limit ²", "'²' is not a number from 1 to 500"),
        ("read --follow --peek", "not allowed with argument"),
        ("read --wait 3 --before $id", "not allowed with argument"),
        ("ask coder", "TEXT"),
        ("invite", "USER"),
        ("invite @b:c --role rule", "invalid choice: 'rule'"),
        ("uninvite", "USER"),
        ("leave", "NAME"),
        ("chat", "NAME"),
        ("chat coder --limit 501", "'501' is not a number from 1 to 500"),
        ("history coder --limit 0", "'0' is not a number from 1 to 500"),
        ("join a b", "unrecognized arguments: b"),
        ("who --as", "expected one argument"),
    ],
)
def test_bad_usage_ends_with_2_and_says_where_help_is(capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    printed = refusal(capsys, line)
    assert printed.startswith("cchat: ")
    assert said in printed
    assert "--help' shows what can be given" in printed


def test_an_argument_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not UTF-8" in refusal(capsys, "leave agent\udcff")


@pytest.mark.parametrize("option", ["--as", "--json"])
def test_the_options_of_all_commands_are_in_the_help_of_each(capsys: pytest.CaptureFixture[str], option: str) -> None:
    for command in COMMANDS:
        assert option in help_of(capsys, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_that_can_be_typed(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = help_of(capsys, command)
    _, _, examples = text.partition("example")
    lines = [line for line in examples.splitlines() if f"cchat {command}" in line or "cchat --as" in line]
    assert lines
    for line in lines:
        assert parse(line.split("cchat ", 1)[1]).command == command


def test_the_help_of_all_names_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    assert [command for command in COMMANDS if not re.search(rf"\n    {command}\s", text)] == []
    assert [code for code in range(8) if f"{code} " not in text.partition("exit codes:")[2]] == []
    for line in text.partition("to begin with:")[2].partition("Who a command")[0].splitlines():
        if line.strip():
            assert parse(line.strip().partition("   ")[0].removeprefix("cchat ")).command in COMMANDS


@given(st.lists(WORD, max_size=5))
@example(["read", "--wait", "1e400"])
@example(["--as"])
def test_whatever_is_typed_is_parsed_or_ends_with_a_code(words: list[str]) -> None:
    try:
        outcome = build_parser().parse_args(words).command
    except SystemExit as ended:
        outcome = ended.code
    assert outcome in (0, 2, *COMMANDS)


def invoke(line: str) -> invocation.Invocation:
    return invocation.Invocation(parse(line), load_settings({"AIAGENTCHAT_HOME": "/nowhere"}), Output())


@pytest.mark.parametrize("name", ["''", "Coder", "'two words'", "../x"])
def test_as_takes_a_name_only(name: str) -> None:
    with pytest.raises(InvalidNameError):
        assert invoke(f"who --as {name}").acting_as


def test_without_as_nobody_is_named() -> None:
    assert invoke("who").acting_as == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("reply hello world", "no event id"),
        ("reply $id and the text", "an event and a text"),
    ],
)
def test_reply_says_what_it_takes(line: str, said: str) -> None:
    from aiagentchat.cli.messages import reply  # noqa: PLC0415 - as `main` does: only what a call needs

    with pytest.raises(InvalidRequestError, match=said) as refused:
        reply(invoke(line))
    assert "quotes" in refused.value.hint


@pytest.mark.parametrize("line", ["send", "send --to coder", "reply", "reply --key k"])
def test_nothing_to_send_is_said_before_anything_else(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert main(shlex.split(line)) == 2
    assert capsys.readouterr().err == "cchat: there is nothing to send\n  give a TEXT, or --file PATH\n"


def test_a_file_that_cannot_be_sent_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIAGENTCHAT_FILE_LIMIT", "3")
    for name, data in (("empty", b""), ("large", b"1234"), ("fits", b"123")):
        (tmp_path / name).write_bytes(data)
    for name, said in (
        ("nowhere", "cannot be read: No such file or directory; nothing was sent"),
        ("", "cannot be read: Is a directory; nothing was sent"),
        ("empty", "is empty; nothing was sent"),
        ("large", "is larger than 3 bytes; nothing was sent"),
    ):
        assert main(["send", "--file", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
    assert read_file(tmp_path / "fits", 3) == Attachment("fits", BYTES, b"123")
    (tmp_path / "fits").rename(tmp_path / "fits.PNG")
    assert read_file(tmp_path / "fits.PNG", 3).mimetype == "image/png"


@pytest.mark.parametrize(
    ("line", "variable", "value", "said"),
    [
        ("up --port high", "AIAGENTCHAT_PORT", "1", "port = 'high' (flag --port)"),
        ("who", "AIAGENTCHAT_DEADLINE", "soon", "environment AIAGENTCHAT_DEADLINE"),
        ("who", "AIAGENTCHAT_AGENT", "Not A Name", "'Not A Name' is not an agent's name"),
    ],
)
def test_a_setting_that_cannot_be_read_ends_with_2_and_says_where_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, variable: str, value: str, said: str
) -> None:
    for name in ("AIAGENTCHAT_TOKEN", "AIAGENTCHAT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIAGENTCHAT_HOME", "/nowhere")
    monkeypatch.setenv(variable, value)
    assert main(shlex.split(line)) == 2
    assert said in capsys.readouterr().err
