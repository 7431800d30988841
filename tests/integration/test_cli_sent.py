"""`cchat sent` and `send --wait-read` as processes against one system: what they print and end with."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.integration.processes import Agent, System, wait_until
from tests.integration.systems import fresh_name


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system for all tests of this file, in which nobody reads by itself; each uses agents of its own."""
    system = System(tmp_path_factory.mktemp("sent"))
    system.up("--no-echo")
    yield system
    system.down()


@pytest.fixture(scope="module")
def shared_reader(system: System) -> Agent:
    return system.join("reader")


@pytest.fixture
def reader(shared_reader: Agent) -> Agent:
    """An agent with an empty inbox, who reads when the test says so."""
    shared_reader.take()
    return shared_reader


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", "", line) for line in lines]


def test_sent_says_how_far_each_message_came(system: System) -> None:
    writer, reader = system.join("writer"), system.join("reader")
    nothing = writer.cchat("sent")
    assert (nothing.out, nothing.err) == ("", "nothing was sent yet\n")
    assert reader.name in writer.cchat("sent", "--to", reader.name).err
    writer.cchat("send", "--to", reader.name, "first\nline")
    reader.cchat("read")
    reader.cchat("reply", "an answer")
    writer.cchat("send", "to all")
    writer.cchat("send", "--to", reader.name, "unread")
    lines = [
        f"to {reader.name}: unread",
        "  stored, not read yet",
        "(broadcast): to all",
        "  stored",
        f"to {reader.name}: first\\nline",
        f'  read by {reader.name} · answered by {reader.name}: "an answer"',
    ]
    assert without_times(writer.cchat("sent").lines) == lines
    assert without_times(writer.cchat("sent", "--limit", "1").lines) == lines[:2]
    assert without_times(writer.cchat("sent", "--to", reader.name).lines) == lines[:2] + lines[4:]
    reader.cchat("read")
    assert [line for line in writer.cchat("sent").lines if line.startswith("  ")][:2] == [
        f"  read by {reader.name}"
    ] * 2
    assert without_times(reader.cchat("sent").lines)[0] == f"to {writer.name}: an answer"


def test_sent_as_json_is_one_object_a_line(system: System, reader: Agent) -> None:
    stored = system.cchat("send", "--json", "--to", reader.name, "of the operator").data[0]
    reader.cchat("read")
    item = system.cchat("sent", "--json", "--limit", "1").data[0]
    assert set(item) == {"message", "state", "to", "read_by", "answer"}
    assert item["message"]["event_id"] == stored["event_id"]
    assert (item["state"], item["to"], item["read_by"]) == ("read", reader.name, [reader.name])
    assert system.cchat("sent", "--json", "--to", fresh_name(), code=4).out == ""


def test_what_an_agent_that_left_was_sent_is_told_by_its_name(system: System, writer: Agent) -> None:
    passing = system.join("passing", kind="ephemeral")
    writer.cchat("send", "--to", passing.name, "before it left")
    passing.cchat("read")
    system.cchat("leave", passing.name)
    lines = without_times(writer.cchat("sent", "--to", passing.name).lines)
    assert lines == [f"to {passing.name}: before it left", f"  read by {passing.name}"]


@pytest.mark.parametrize("is_json", [False, True])
def test_wait_read_ends_when_the_agent_has_read(writer: Agent, reader: Agent, is_json: bool) -> None:
    form = ["--json"] if is_json else []
    with writer.system.running(
        "--as", writer.name, "send", *form, "--to", reader.name, "--wait-read", "60", "please"
    ) as sending:
        if not is_json:
            assert sending.line().startswith("stored $")
        reader.cchat("read", "--wait", "60")
        line = sending.line()
        assert sending.wait() == 0
    if is_json:
        assert json.loads(line) | {"event_id": "", "room_id": ""} == {
            "event_id": "",
            "room_id": "",
            "state": "read",
            "quiet": "",
        }
    else:
        assert line == f"read by {reader.name}"


def test_wait_read_in_vain_is_7_and_the_message_is_stored(system: System) -> None:
    reader = system.join("reader")
    system.cchat("leave", reader.name)
    send = ("send", "--to", reader.name, "--wait-read", "0.2")
    refused = system.cchat(*send, "plain", code=7)
    event_id = refused.out.removeprefix("stored ").strip()
    assert f"{reader.name} has not read {event_id} within 0.2 s: {reader.name} is offline" in refused.err
    assert "it is stored" in refused.err
    refused = system.cchat(*send, "--json", "as JSON", code=7)
    assert refused.data[0]["state"] == "stored"
    assert json.loads(refused.err)["error"]["code"] == "waited_in_vain"
    assert reader.unread() == ["plain", "as JSON"]


def test_a_daemon_killed_while_one_waits_leaves_no_doubt_that_the_message_is_stored(
    system: System, writer: Agent, reader: Agent
) -> None:
    asker = ("--as", writer.name)
    with (
        system.running(*asker, "send", "--json", "--to", reader.name, "--wait-read", "60", "sent") as sending,
        system.running(*asker, "ask", "--json", reader.name, "asked") as asking,
    ):
        wait_until(lambda: sorted(reader.unread()) == ["asked", "sent"])
        system.kill(system.daemon_pid)
        assert [sending.wait(), asking.wait()] == [3, 3]
    system.up("--no-echo")
    latest = [item["message"] for item in writer.cchat("sent", "--limit", "2", "--json").data]
    ids = {message["body"]: message["event_id"] for message in latest}
    for waiting, body in ((sending, "sent"), (asking, "asked")):
        assert f"{ids[body]} is stored" in json.loads(waiting.rest(of="err"))["error"]["hint"]
        assert [json.loads(line)["event_id"] for line in waiting.rest().splitlines()] == [ids[body]] * (body == "sent")


def test_wait_read_needs_an_agent_and_sends_nothing_without(system: System, reader: Agent) -> None:
    refused = system.cchat("send", "--wait-read", "1", "to all", code=2)
    assert "--to NAME" in refused.err
    assert reader.unread() == []


def test_ask_with_the_same_key_asks_once(system: System, writer: Agent, reader: Agent) -> None:
    ask = ("ask", "--key", "k", "--timeout", "0.2", reader.name, "are you there?")
    writer.cchat(*ask, code=7)
    writer.cchat(*ask, code=7)
    assert reader.unread() == ["are you there?"]
    reader.cchat("read")
    reader.cchat("reply", "yes")
    assert writer.cchat(*ask).out == "yes\n"
