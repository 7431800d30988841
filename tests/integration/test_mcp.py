"""`cchat mcp` as the official SDK's client has it: real processes, real messages. It talks to the gateway alone."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import mcp_types as types
from mcp import Client, ClientSession, StdioServerParameters, stdio_client
from mcp.client import NotificationBinding
from pydantic import BaseModel

from tests.integration.processes import Agent, Person, System, wait_until
from tests.integration.systems import APPSERVICE_ALONE, OPERATOR, fresh_name

pytestmark = APPSERVICE_ALONE

CHANNEL, PERMISSION = "claude/channel", "claude/channel/permission"


class Rung(BaseModel):
    """What comes on the channel."""

    content: str


class Decided(BaseModel):
    """What comes of a permission that was asked for."""

    request_id: str
    behavior: str


class Session:
    """A session of a tool, of which nobody is asked what to do."""

    def __init__(
        self, client: ClientSession, greeting: types.InitializeResult, rung: list[str], decided: list[tuple[str, str]]
    ) -> None:
        self.client = client
        self.greeting = greeting
        self.rung = rung
        self.decided = decided

    async def call(self, tool: str, *, is_error: bool = False, meta: Any = None, **arguments: object) -> str:
        result = await self.client.call_tool(tool, arguments, meta=meta)
        assert result.is_error is is_error, result
        (content,) = result.content
        assert isinstance(content, types.TextContent)
        return content.text

    async def name(self) -> str:
        return (await self.call("who")).splitlines()[0].removeprefix("You are ").removesuffix(".")


def parameters(
    system: System, *arguments: str, directory: Path | None = None, given: str = ""
) -> StdioServerParameters:
    """Return how the server is started; `given`: code that runs before it."""
    command = system.command("mcp", *arguments)
    if given:
        command[1:3] = ["-c", f"{given}; from aiagentchat.cli.main import main; raise SystemExit(main())"]
    return StdioServerParameters(command=command[0], args=command[1:], env=system.environment, cwd=directory)


@asynccontextmanager
async def session(
    system: System, *arguments: str, directory: Path | None = None, given: str = ""
) -> AsyncIterator[Session]:
    rung: list[str] = []

    async def ring(given: Rung) -> None:
        rung.append(given.content)

    decided: list[tuple[str, str]] = []

    async def decide(given: Decided) -> None:
        decided.append((given.request_id, given.behavior))

    bindings: list[NotificationBinding[Any]] = [
        NotificationBinding(method=f"notifications/{CHANNEL}", params_type=Rung, handler=ring),
        NotificationBinding(method=f"notifications/{PERMISSION}", params_type=Decided, handler=decide),
    ]
    async with (
        stdio_client(parameters(system, *arguments, directory=directory, given=given)) as (incoming, outgoing),
        ClientSession(incoming, outgoing, notification_bindings=bindings) as client,
    ):
        yield Session(client, await client.initialize(), rung, decided)


async def send(system: System, body: str, to: str | None = None) -> None:
    await anyio.to_thread.run_sync(lambda: system.send(body, to=to))


async def test_a_session_is_an_agent_as_long_as_its_server_runs(system: System, tmp_path: Path) -> None:
    (tmp_path / "Web Shop").mkdir()
    async with session(system, "--tool", "opencode", directory=tmp_path / "Web Shop") as opened:
        name = await opened.name()
        assert name.startswith("opencode-web-shop-")
        entry = system.who()[name]
        assert (entry["status"], entry["kind"], entry["reach"]) == ("online", "ephemeral", "poll")
        assert entry["description"] == f"opencode in {tmp_path}/Web Shop"
        assert "aiagentchat" in (opened.greeting.instructions or "")
    await anyio.to_thread.run_sync(wait_until, lambda: name not in system.who())


async def test_a_named_one_stays_when_it_ends_and_what_was_not_shown_is_read_by_the_next(system: System) -> None:
    name = fresh_name("named")
    agent = Agent(system, name, {})
    async with session(system, "--as", name) as opened:
        assert await opened.name() == name
    await anyio.to_thread.run_sync(wait_until, lambda: system.who()[name]["status"] == "offline")
    await send(system, "meanwhile", name)
    await anyio.sleep(1.5)  # the homeserver's clock, by which it is late, is known to the second
    async with session(system, "--as", name) as opened:
        text = await opened.call("read")
        assert "(came while you were away)" in text
        assert "begins\nmeanwhile\n" in text
        await send(system, "one", name)
        assert "begins\none\n" in await opened.call("read", wait_s=30)
        await anyio.to_thread.run_sync(wait_until, lambda: not agent.unread())
        await send(system, "two", name)
    assert await anyio.to_thread.run_sync(agent.unread) == ["two"]


async def test_it_writes_asks_answers_and_says_how_far_it_came(system: System, writer: Agent) -> None:
    async with session(system, "--as", fresh_name("talker")) as opened:
        name = await opened.name()
        assert "\none\n" in await opened.call("ask", to="echo", text="one", wait_s=30)
        assert (await opened.call("send", to=writer.name, text="Please look")).startswith(f"Stored to {writer.name}: $")
        await opened.call("status", line="looking at the build")
        assert system.who()[name]["status_line"] == "looking at the build"
        await anyio.to_thread.run_sync(writer.take)
        asking = anyio.to_thread.run_sync(lambda: system.ask(name, "Is it green?", of=writer.name))
        async with anyio.create_task_group() as group:

            async def answer() -> None:
                assert "begins\nIs it green?\n" in await opened.call("read", wait_s=30)
                assert (await opened.call("reply", text="It is.")).startswith("Stored as an answer")

            group.start_soon(answer)
            assert await asking == "It is."
        sent = await opened.call("sent", limit=3)
        assert f"to {writer.name}: 'Please look': read by {writer.name}" in sent
        assert "answered by echo: 'one'" in sent
        assert (await opened.call("send", is_error=True, to="nobody-here", text="x")).startswith("there is no agent")


async def test_a_message_wakes_a_session_that_has_the_channel_which_a_client_without_the_handshake_of_old_has_as_well(
    system: System,
) -> None:
    name = fresh_name("waking")
    async with (
        session(system, "--as", fresh_name("plain")) as plain,
        session(system, "--as", name, "--channel") as waking,
    ):
        assert CHANNEL not in (plain.greeting.capabilities.experimental or {})
        assert CHANNEL in (waking.greeting.capabilities.experimental or {})
        for opened in (plain, waking):
            await send(system, "a secret", await opened.name())
        await send(system, "for all, and for nobody in particular")
        await anyio.to_thread.run_sync(wait_until, lambda: waking.rung)
        (text,) = waking.rung
        assert text.startswith(f"A message to {await waking.name()} is unread, from {OPERATOR}, a person (1).")
        assert "secret" not in text
        assert system.who()[await waking.name()]["reach"] == "hook"
        assert not plain.rung
    async with Client(stdio_client(parameters(system, "--as", name, "--channel"))) as client:
        assert client.protocol_version == "2025-11-25"
        assert CHANNEL in (client.server_capabilities.experimental or {})


async def ask_permission(opened: Session, request_id: str) -> None:
    params = {"request_id": request_id, "tool_name": "Bash", "description": "List", "input_preview": "ls `x`"}
    request = types.Notification[dict[str, Any], str](method=f"notifications/{PERMISSION}_request", params=params)
    await opened.client.send_notification(cast("Any", request))


def has_decided(opened: Session, room: Person, event_id: str, count: int) -> bool:
    """Whether a session was told so many decisions, and the last one is to be seen."""
    return len(opened.decided) == count and bool(room.edits_of(event_id))


async def test_a_permission_is_asked_for_in_the_room_and_decided_there(system: System) -> None:
    async with session(system, "--as", fresh_name("asking"), "--channel") as opened:
        name = await opened.name()
        assert PERMISSION in (opened.greeting.capabilities.experimental or {})
        room = await anyio.to_thread.run_sync(Person, system, system.who()[name]["room_id"])
        decided = [("abcde", "allow"), ("fghij", "deny")]
        for count, ((request_id, _), sign) in enumerate(zip(decided, ("\u2705", "\u274c"), strict=True), 1):
            await ask_permission(opened, request_id)
            asked = await anyio.to_thread.run_sync(room.request)
            assert asked["content"]["body"].startswith(f"May {name} use **Bash**? List")
            assert "in its terminal too: the first answer counts" in asked["content"]["body"]
            await anyio.to_thread.run_sync(room.react, asked["event_id"], sign)
            await anyio.to_thread.run_sync(wait_until, partial(has_decided, opened, room, asked["event_id"], count))
        assert opened.decided == decided


async def test_of_a_permission_that_nobody_decides_in_the_room_it_is_not_said_that_it_was_refused(
    system: System,
) -> None:
    """Claude Code does not say that somebody answered in its terminal."""
    given = "from aiagentchat.adapters import mcp; mcp._APPROVAL_S = 2.0"
    async with session(system, "--as", fresh_name("asking"), "--channel", given=given) as opened:
        name = await opened.name()
        await ask_permission(opened, "abcde")
        await anyio.to_thread.run_sync(wait_until, lambda: opened.decided)
        assert opened.decided == [("abcde", "deny")]
        room = await anyio.to_thread.run_sync(Person, system, system.who()[name]["room_id"])
        *_, last = await anyio.to_thread.run_sync(room.timeline)
        *_, said = last["content"]["m.new_content"]["body"].split("\n\n")
        assert said == "Nobody decided here within 2 s: refused, unless it was answered elsewhere before."


async def test_codex_is_an_agent_for_each_conversation_from_its_first_call_on(system: System) -> None:
    before = set(system.who())
    async with session(system, "--tool", "codex") as opened:
        listed = (await opened.client.list_tools()).tools
        assert [tool.name for tool in listed] == ["who", "send", "ask", "read", "reply", "status", "sent"]
        assert all(tool.description and tool.input_schema["type"] == "object" for tool in listed)
        for tool in listed:  # of any other Codex 0.171 asks before each call, also where nobody is there
            assert tool.annotations is not None
            assert (tool.annotations.destructive_hint, tool.annotations.open_world_hint) == (False, False)
            assert tool.annotations.read_only_hint == (tool.name in ("who", "sent"))
        assert set(system.who()) == before
        text = await opened.call("who", meta={"threadId": "0199a213-81c0-7800-8aa1-bbab2a035a53"})
        assert text.startswith("You are codex-")


async def test_without_a_daemon_every_tool_says_so_and_works_once_there_is_one(system: System, tmp_path: Path) -> None:
    home = System(tmp_path / "home")
    async with session(home, "--as", fresh_name("early")) as opened:
        assert (await opened.call("read", is_error=True)).endswith(
            "start one with 'cchat up', or set AIAGENTCHAT_TOKEN"
        )
        for begun, there in (
            (home.paths.operator_credential, system.paths.operator_credential),
            (home.paths.socket, system.paths.socket),
        ):
            begun.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            begun.symlink_to(there)  # what of a daemon is to be seen from elsewhere
        assert "Nothing to" in await opened.call("read")


def test_the_extra_is_named_where_it_is_missing(system: System, tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')")
    done = system.cchat("mcp", code=2, env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *_python_path()])})
    assert "needs the package mcp" in done.err
    assert "pip install 'aiagentchat[mcp]'" in done.err


def _python_path() -> list[str]:
    return [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
