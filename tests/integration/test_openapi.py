"""Schemathesis makes requests of all forms from the gateway's OpenAPI document: none is answered with a fault."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from aiagentchat.agents import asides
from tests.integration import schemathesis_hooks
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import attach
from tests.integration.systems import IN_ONE_MODE, WAIT_S, Synapse

ENDLESS = "/events$"
"""Streams that stand as long as they are read: the tool would wait for their end. They take queries alone, of which
`test_gateway` tries what is wrong with one."""


@IN_ONE_MODE
@pytest.mark.timeout(300)
@pytest.mark.parametrize("caller", ["agent", "operator"])
async def test_no_request_of_any_form_is_answered_with_a_fault(
    synapse: Synapse,
    start_daemon: StartDaemon,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    caller: str,
) -> None:
    monkeypatch.setattr(asides, "_LOOK_S", 0.05)  # else each approval that is refused in the end would take seconds
    home = tmp_path / "home"
    settings = synapse.settings(home, AIAGENTCHAT_LISTEN="127.0.0.1:0")
    daemon = await start_daemon(synapse, settings)
    agent = await attach(daemon)
    stored = await daemon.api.post("/send", body="something to refer to", to=agent.name)
    listening = (await daemon.api.get("/health"))["system"]["listening"]
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(await daemon.api.get("/openapi.json")))
    environment = {
        "SCHEMATHESIS_HOOKS": schemathesis_hooks.__file__,
        "CALLER_TOKEN": daemon.api.token if caller == "operator" else agent.api.token,
        "CALLER_AGENT": agent.name,
        "CALLER_EVENT": stored["event_id"],
        "CALLER_ACTS": "yes" if caller == "operator" else "",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", f"http://{listening}"),
        *("--checks", "not_a_server_error", "--exclude-path-regex", ENDLESS),
        *("--max-examples", "15", "--seed", "1", "--no-color"),
        *("--phases", "fuzzing", "--generation-database", "none", "--request-timeout", "30"),
        cwd=tmp_path,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(4 * WAIT_S):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    assert (await daemon.api.get("/health"))["status"] == "ok"
    # A stream that has begun tells of a fault as an event.
    ours = [record for record in caplog.records if record.name.startswith("aiagentchat")]
    assert [record.getMessage() for record in ours if record.levelno >= logging.ERROR] == []
