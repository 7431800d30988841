"""What an operator does besides: a backup while all runs, and another home restored from it."""

import stat
from pathlib import Path

from tests.integration.processes import Agent, System
from tests.integration.systems import IN_ONE_MODE

pytestmark = IN_ONE_MODE


def test_a_home_is_restored_as_it_was_when_it_was_backed_up_while_it_ran(
    system: System, writer: Agent, tmp_path: Path
) -> None:
    agent, archive = system.join(description="Reads"), tmp_path / "home.tar.gz"
    read = system.send("read", to=agent.name, of=writer.name)
    assert agent.take() == ["read"]
    unread = system.send("unread", to=agent.name)
    (made,) = system.cchat("backup", str(archive), "--json").data
    assert (made["file"], made["homeserver"]) == (str(archive), "running")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    system.send("later", to=agent.name)

    restored = System(tmp_path / "restored")
    (put_back,) = restored.cchat("restore", str(archive), "--json").data
    assert put_back == {key: made[key] for key in ("files", "made_at")} | {"home": str(restored.home), "aside": None}
    restored.up("--no-echo")
    try:
        assert restored.who()[agent.name]["description"] == "Reads"
        (message,) = restored.cchat("read", "--json", env={"AIAGENTCHAT_TOKEN": agent.joined["token"]}).data
        assert (message["event_id"], message["body"]) == (unread, "unread")
        history = restored.client().room_messages(agent.name)
        assert [each["event_id"] for each in history] == [read, unread]
        restored.send("and it goes on", to=writer.name, of=agent.name)
        assert Agent(restored, writer.name, {}).unread() == ["and it goes on"]
        refused = restored.cchat("restore", str(archive), "--move-aside", code=5)
        assert "a daemon runs here already" in refused.err
    finally:
        restored.down()
    assert "is not empty" in restored.cchat("restore", str(archive), code=5).err
    assert agent.unread() == ["unread", "later"]


def test_a_backup_is_the_operators_alone(system: System, writer: Agent, tmp_path: Path) -> None:
    token = writer.joined["token"]
    refused = system.cchat("backup", str(tmp_path / "home.tar.gz"), env={"AIAGENTCHAT_TOKEN": token}, code=5)
    assert "the operator's business" in refused.err
    assert list(tmp_path.iterdir()) == []
