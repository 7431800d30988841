"""Schemathesis makes requests of all forms from the gateway's OpenAPI document: none is answered with a fault."""

import asyncio
import json
import sys
from pathlib import Path

from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import attach
from tests.integration.systems import IN_ONE_MODE, WAIT_S, Synapse

STREAMS = "/events$|^/people|^/approvals|^/janitor|^/agents$|^/bell"
"""What is answered with a stream, or when somebody has decided: the tool would wait for its end."""


@IN_ONE_MODE
async def test_no_request_of_any_form_is_answered_with_a_fault(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    settings = synapse.settings(home, AIAGENTCHAT_LISTEN="127.0.0.1:0", AIAGENTCHAT_DEADLINE="5")
    daemon = await start_daemon(synapse, settings)
    agent = await attach(daemon)
    listening = (await daemon.api.get("/health"))["system"]["listening"]
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(await daemon.api.get("/openapi.json")))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", f"http://{listening}"),
        *("--header", f"Authorization: Bearer {agent.api.token}", "--checks", "not_a_server_error"),
        *("--exclude-path-regex", STREAMS, "--max-examples", "15", "--seed", "1", "--no-color"),
        *("--phases", "fuzzing", "--generation-database", "none", "--request-timeout", "10"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(2 * WAIT_S):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    assert (await daemon.api.get("/health"))["status"] == "ok"
