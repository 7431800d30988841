"""What an operator does besides: a backup while all runs, and another home restored from it."""

import contextlib
import json
import os
import signal
import socket
import stat
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiagentchat import __version__
from tests.integration.processes import Agent, System, wait_until
from tests.integration.systems import IN_ONE_MODE

pytestmark = IN_ONE_MODE
MARKED = "a body that no log and no metric is to have"


@pytest.fixture(scope="module")
def system(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("system"), AIAGENTCHAT_LISTEN="127.0.0.1:0", AIAGENTCHAT_LOG_FORMAT="json")
    system.up()
    yield system
    system.down()


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


def figures(system: System) -> dict[tuple[str, str], float]:
    """Return the metrics as Prometheus reads them: by name and the value of their label."""
    credential = system.paths.operator_credential.read_text().strip()
    path = f"http://{system.status()['listening']}/metrics"
    request = urllib.request.Request(path, headers={"Authorization": f"Bearer {credential}"})
    with urllib.request.urlopen(request) as response:
        text = response.read().decode()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_the_metrics_move_with_what_is_sent_read_and_answered(system: System, writer: Agent) -> None:
    agent = system.join()
    before = figures(system)
    system.cchat("send", "--to", agent.name, MARKED)
    event_id = system.send(MARKED, to=agent.name, of=writer.name)
    assert agent.take() == [MARKED, MARKED]
    system.client(agent.name).send("answer", reply_to=event_id)
    wait_until(lambda: system.client(writer.name).read(peek=True))
    after = figures(system)

    def grew(name: str, label: str = "") -> float:
        return after[f"aiagentchat_{name}", label] - before.get((f"aiagentchat_{name}", label), 0)

    assert grew("messages_stored_total", "person") == 1
    assert grew("messages_stored_total", "agent") == 2
    assert grew("messages_answering_total", "agent") == 1
    assert grew("messages_handed_out_total") == grew("messages_acknowledged_total") == 2
    assert grew("send_seconds_count") == grew("gateway_request_seconds_count", "POST /send") == 3
    assert 0 < grew("send_seconds_sum") <= grew("gateway_request_seconds_sum", "POST /send")
    assert grew("inbox_unread") == 1
    assert after["aiagentchat_transactions_idle_seconds", ""] < after["aiagentchat_uptime_seconds", ""]
    conditions = {label: value for (name, label), value in after.items() if name == "aiagentchat_condition"}
    assert conditions == {condition["name"]: 1.0 for condition in system.status()["conditions"]}


def test_the_metrics_tell_of_writes_that_wait_and_of_requests_that_were_repeated(system: System) -> None:
    agent = system.join()
    system.send(MARKED, to=agent.name)  # whatever else has to be asked for was asked for by now
    before, homeserver = figures(system), system.homeserver_pid
    assert homeserver is not None
    os.kill(homeserver, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as pool:
            sending = [pool.submit(system.send, MARKED, to=agent.name) for _ in range(3)]
            wait_until(lambda: figures(system)["aiagentchat_homeserver_writes_waiting", ""] == 2, timeout_s=15)
            wait_until(lambda: figures(system)["aiagentchat_condition", "homeserver"] == 0, timeout_s=15)
            system.kill(homeserver)  # 'cchat up' starts another one
            assert len({each.result() for each in sending}) == 3
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(homeserver, signal.SIGCONT)
    after = figures(system)
    for name in ("retries", "breaks"):
        assert after[f"aiagentchat_homeserver_{name}_total", ""] > before[f"aiagentchat_homeserver_{name}_total", ""]
    assert after["aiagentchat_homeserver_writes_waiting", ""] == 0


def test_the_log_tells_what_became_of_a_message_and_neither_a_body_nor_a_secret(system: System, writer: Agent) -> None:
    agent = system.join()
    event_id = system.send(MARKED, to=agent.name, of=writer.name)
    agent.cchat("read")
    system.cchat("--as", agent.name, "send", "--to", "nobody-of-this-name", MARKED, code=4)
    with socket.socket(socket.AF_UNIX) as gateway:
        gateway.connect(str(system.paths.socket))
        broken = f"GET /who HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {writer.joined['token']}\0\r\n\r\n"
        gateway.sendall(broken.encode())
        assert b" 400 " in gateway.recv(65_536)
    text = system.paths.daemon_log.read_text()
    entries = [entry for line in text.splitlines() if (entry := json.loads(line)).get("event_id") == event_id]
    stored, acknowledged = [{key: entry.get(key) for key in ("level", "agent", "room_id")} for entry in entries]
    assert stored == {"level": "info", "agent": writer.name, "room_id": agent.joined["room_id"]}
    assert acknowledged == {"level": "info", "agent": agent.name, "room_id": None}
    assert MARKED not in text
    assert [secret for secret in secrets_of(system) if secret in text] == []


def test_the_log_is_shown_and_followed(system: System, writer: Agent) -> None:
    shown = system.cchat("logs", "-n", "3")
    assert shown.lines == system.paths.daemon_log.read_text().splitlines()[-3:]
    assert "Synapse" in system.cchat("logs", "--homeserver", "-n", "100000").out
    assert (
        f"aiagentchat {__version__} has begun, on {system.homeserver_url}" in system.cchat("logs", "-n", "100000").out
    )
    with system.running("logs", "--follow", "-n", "1") as following:
        following.line()
        agent = system.join()
        following.line(f"{agent.name} is up")
        assert following.end() == 130


def secrets_of(system: System) -> list[str]:
    """Return the tokens and passwords that are in a home."""
    names = ("as_token", "hs_token", "registration_shared_secret", "macaroon_secret_key", "form_secret")
    embedded = json.loads((system.homeserver / "embedded.json").read_text())
    credentials = [json.loads(path.read_text())["token"] for path in system.paths.credentials.glob("agents/*.json")]
    device = json.loads(system.paths.operator_device.read_text())["access_token"]
    files = [path.read_text().strip() for path in (system.paths.operator_credential, system.paths.operator_password)]
    return [*(embedded[name] for name in names), *credentials, device, *files]


def test_a_backup_is_the_operators_alone(system: System, writer: Agent, tmp_path: Path) -> None:
    token = writer.joined["token"]
    refused = system.cchat("backup", str(tmp_path / "home.tar.gz"), env={"AIAGENTCHAT_TOKEN": token}, code=5)
    assert "the operator's business" in refused.err
    assert list(tmp_path.iterdir()) == []
