"""The files that come with messages, as commands and adapters give them. They talk to the gateway alone."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import acp_agent
from tests.integration.processes import PROCESS_S, Agent, Person, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, fresh_name

pytestmark = APPSERVICE_ALONE

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
NAME = "../what is this?.png"
SAFE = "_what_is_this_.png"


@pytest.fixture(scope="module")
def shared(system: System) -> Agent:
    return system.join()


@pytest.fixture
def agent(shared: Agent) -> Agent:
    """An agent that has read all that was said to it so far."""
    shared.take()
    return shared


def show(agent: Agent, caption: str = "look") -> str:
    """Have the operator show a picture; return the event's id."""
    return Person(agent.system, agent.joined["room_id"]).show(NAME, PICTURE, caption)


def path_in(line: str) -> Path:
    return Path(line.partition(" (file ")[2].partition("): ")[0])


def test_a_picture_of_a_person_is_a_file_for_who_reads_it(system: System, agent: Agent) -> None:
    show(agent)
    (line,) = agent.cchat("read", "--wait", "30").lines
    path = path_in(line)
    assert line.endswith(f" alice (file {path}): [image] look")
    assert (path.name, path.read_bytes()) == (SAFE, PICTURE)
    assert path.is_relative_to(system.paths.files)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(system.paths.files.stat().st_mode)) == (0o600, 0o700)


def test_who_holds_the_agents_credential_alone_has_the_file_at_home(
    system: System, agent: Agent, tmp_path: Path
) -> None:
    show(agent)
    env = {
        "AIAGENTCHAT_HOME": str(tmp_path),
        "AIAGENTCHAT_TOKEN": agent.joined["token"],
        "AIAGENTCHAT_URL": "",
    }
    tmp_path.joinpath("cchat.sock").symlink_to(system.paths.socket)
    [message] = system.cchat("read", "--wait", "30", "--json", env=env).data
    assert message["file"] == {
        "name": NAME,
        "mimetype": "image/png",
        "size": len(PICTURE),
        "path": message["file"]["path"],
        "failure": "",
    }
    path = Path(message["file"]["path"])
    assert path.is_relative_to(tmp_path)
    assert path.read_bytes() == PICTURE


def test_a_stream_gives_it_as_well_and_history_only_says_it(agent: Agent) -> None:
    event_id = show(agent)
    with agent.system.running("--as", agent.name, "read", "--follow") as reader:
        assert path_in(reader.line("[image] look")).read_bytes() == PICTURE
        reader.end()
    last = agent.system.send("later", to=agent.name)
    assert agent.cchat("read", "--before", last).lines[-1].endswith(f" alice (file {SAFE}): [image] look")
    for speaker in (agent.system.command("--as", agent.name), agent.system.command()):
        environment = agent.system.environment
        done = subprocess.run(
            [*speaker, "file", event_id], env=environment, capture_output=True, timeout=PROCESS_S, check=True
        )
        assert done.stdout == PICTURE
    assert "no file came with" in agent.cchat("file", last, code=4).err


def test_a_file_is_sent_with_a_text_or_without_and_answered_with_one(
    system: System, agent: Agent, writer: Agent, tmp_path: Path
) -> None:
    report = tmp_path / "report.txt"
    report.write_text("all is well")
    sent = agent.cchat("send", "--to", writer.name, "--file", str(report), "read this", "--json").data[0]
    agent.cchat("send", "--to", writer.name, "--file", str(report))
    bodies = [(each["body"], Path(each["file"]["path"]).read_text()) for each in writer.cchat("read", "--json").data]
    assert bodies == [("[file] read this", "all is well"), ("[file] report.txt", "all is well")]
    writer.cchat("reply", "--file", str(report), sent["event_id"])
    answer = agent.cchat("sent", "--json", "--limit", "2").data[1]["answer"]
    assert (answer["body"], answer["file"]["name"]) == ("[file] report.txt", "report.txt")
    with system.running("run", fresh_name("counting"), "--", "sh", "-c", 'wc -c <"$CCHAT_FILE"') as running:
        name = running.line(": online").partition(":")[0]
        asked = agent.cchat("ask", name, "--timeout", "30", "--file", str(report), "how long?")
        assert asked.out.strip() == "11"
        assert agent.cchat("ask", name, "--timeout", "30", "and this?").out.startswith("✗ no answer")
        running.end()


def test_an_acp_agent_gets_the_picture_and_its_path_and_its_long_answer_is_a_file(
    system: System, tmp_path: Path
) -> None:
    name = fresh_name("acp")
    program = (sys.executable, acp_agent.__file__)
    with system.running("acp", name, "--", *program, env={"ACP_AGENT_STATE": str(tmp_path)}) as running:
        running.line(": online")
        room = Person(system, system.who()[name]["room_id"])
        room.show(NAME, PICTURE)
        wait_until(lambda: room.says(f"{SAFE} image/png True True"))
        room.say("<b>" * 15_000)
        running.line("alice: <b>")
        running.line("answered")
        *_, file = [each["content"] for each in room.timeline() if each["type"] == "m.room.message"]
        assert file["body"].endswith("all of it is in this file]")
        assert (file["msgtype"], file["filename"], file["info"]["mimetype"]) == ("m.file", "answer.md", "text/markdown")
        assert file["info"]["size"] == len("<b>" * 15_000)
        assert running.end() == 0


def test_a_file_that_cannot_be_had_is_said_and_the_message_is_read(agent: Agent) -> None:
    room = Person(agent.system, agent.joined["room_id"])
    event_id = room.show("lost.png", PICTURE, url=f"mxc://{agent.system.status()['server_name']}/{'x' * 24}")
    done = agent.cchat("read", "--wait", "30")
    assert done.out.endswith(" alice (file lost.png, not fetched): [image] lost.png\n")
    assert done.err.startswith("lost.png was not fetched: the homeserver does not give the file of $")
    assert done.err.endswith(f"\n  try again with: cchat file '{event_id}' >lost.png\n")
    assert agent.unread() == []
