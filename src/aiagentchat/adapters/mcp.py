"""An MCP server on standard input and output: the session that starts it is an agent, with a tool for each command.

On the official SDK, by the handshake that every client knows: a client of the newer kind, which has none, would not be
told of the experimental capability with which Claude Code lets a message wake a session.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

import anyio
import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.server.runner import serve_loop
from mcp.server.session import ServerSession
from mcp.server.stdio import stdio_server
from pydantic import BaseModel

from aiagentchat import __version__
from aiagentchat.adapters.fence import block_of_code
from aiagentchat.adapters.files import FileStore
from aiagentchat.adapters.hooks import Session, hold, wait_for_ring
from aiagentchat.adapters.mcp_tools import TOOLS, Outcome, Toolbox, schema_of
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import one_line

_CHANNEL, _PERMISSION = "claude/channel", "claude/channel/permission"
_APPROVAL_S = 600.0
_ALLOW, _DENY = "allow", "deny"
_OPTIONS = [
    {"id": _ALLOW, "name": "Allow", "kind": "allow_once"},
    {"id": _DENY, "name": "Reject", "kind": "reject_once"},
]
_RETRY_S = 2.0

_INSTRUCTIONS = """This session is an agent of aiagentchat: people and other agents can write to it. `who` lists them, \
`read` shows what was written to this session, `reply` answers it, `send` writes to an agent, `ask` also waits for the \
answer. A message is what its sender wrote: it stands below its verified sender, between two lines with a mark."""
_LISTED = [
    types.Tool(
        name=name,
        description=model.__doc__,
        input_schema=schema_of(model),
        # without these Codex asks before each: a session that was woken would wait for somebody at its terminal
        annotations=types.ToolAnnotations(
            read_only_hint=name in ("who", "sent"), destructive_hint=False, open_world_hint=False
        ),
    )
    for name, model in TOOLS.items()
]


class PermissionRequest(BaseModel):
    """What Claude Code asks on its channel, beside the dialog in its terminal. The texts are foreign."""

    request_id: str
    tool_name: str
    description: str = ""
    input_preview: str = ""


class McpServer:
    """The server.

    Args:
        session_for: the session as an agent; it gets the id of the client's conversation, "" where none is told.
        files: the directory for what comes with messages. by_conversation: the client tells that id with each call,
        so it is waited for. has_channel: offer the channel.
    """

    def __init__(
        self, session_for: Callable[[str], Session], files: Path, *, by_conversation: bool, has_channel: bool
    ) -> None:
        self._files = files
        self._session_for = session_for
        self._by_conversation = by_conversation
        self._has_channel = has_channel
        self._joining = anyio.Lock()
        self._toolboxes: dict[str, Toolbox] = {}
        self._wire = _Wire(sys.stdout)
        self.sessions: list[Session] = []

    async def run(self) -> None:
        """Serve until standard input ends."""
        server: Server[Any] = Server(
            "aiagentchat",
            version=__version__,
            instructions=_INSTRUCTIONS,
            on_list_tools=_list_tools,
            on_call_tool=self._call_tool,
        )
        server.add_notification_handler("notifications/initialized", types.NotificationParams, self._on_initialized)
        server.add_notification_handler(f"notifications/{_PERMISSION}_request", PermissionRequest, self._on_permission)
        options = server.create_initialization_options(
            experimental_capabilities={_CHANNEL: {}, _PERMISSION: {}} if self._has_channel else {}
        )
        stdout = anyio.wrap_file(cast("TextIO", self._wire))
        async with stdio_server(stdout=stdout) as (incoming, outgoing):
            await serve_loop(server, incoming, outgoing, lifespan_state={}, init_options=options)

    async def _on_initialized(self, context: ServerRequestContext[Any, Any], _: types.NotificationParams) -> None:
        if not self._by_conversation:
            try:
                await self._join("")
            except AiAgentChatError as error:  # said again, and tried again, at the first call
                print(f"cchat: {error.message}", file=sys.stderr)
        if self._has_channel:
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._ring, args=(context.session, loop), name="channel", daemon=True).start()

    def _ring(self, client: ServerSession, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            text = wait_for_ring(self.sessions[0]) if self.sessions else None
            if text is None:
                time.sleep(_RETRY_S)
            else:
                asyncio.run_coroutine_threadsafe(_notify(client, _CHANNEL, {"content": text}), loop).result()

    async def _on_permission(self, context: ServerRequestContext[Any, Any], request: PermissionRequest) -> None:
        """Have a person decide what the session asks in its terminal; whoever answers first has decided.

        Of an answer in the terminal Claude Code tells nobody (github.com/anthropics/claude-code/issues/54597).
        """
        if self.sessions:
            loop = asyncio.get_running_loop()
            work = (context.session, loop, self.sessions[0], request)
            threading.Thread(target=_relay, args=work, name="permission", daemon=True).start()

    async def _join(self, conversation: str) -> Toolbox:
        """Have a conversation be an agent: as long as this process runs, or, where it has hooks, the tool."""
        async with self._joining:
            conversation = conversation if self._by_conversation else ""
            if conversation not in self._toolboxes:
                session = await _in_thread(self._session_for, conversation)
                await _in_thread(session.attach)
                if not session.tool.moments:
                    threading.Thread(target=hold, args=(session,), name="session", daemon=True).start()
                elif session.is_named or not await _in_thread(_is_online, session):
                    session.keep()  # as its hooks do
                self.sessions.append(session)
                self._toolboxes[conversation] = Toolbox(
                    session.name, session.client, FileStore(session.client, self._files)
                )
            return self._toolboxes[conversation]

    async def _call_tool(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        try:
            toolbox = await self._join(str((context.meta or {}).get("threadId", "")))
        except AiAgentChatError as error:
            outcome = Outcome(f"{error.message}\n{error.hint}", is_error=True)
        else:
            outcome = await _in_thread(toolbox.call, params.name, params.arguments)
            if outcome.handed:
                self._wire.note(context.request_id, partial(toolbox.note_shown, outcome.handed))
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=outcome.text)], is_error=outcome.is_error
        )


def _is_online(session: Session) -> bool:
    """Whether something else, the session's hooks mostly, holds the agent already."""
    agents = session.client.who()["agents"]
    return any(agent["name"] == session.name and agent["status"] == "online" for agent in agents)


async def _list_tools(_context: ServerRequestContext[Any, Any], _params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=_LISTED)


async def _notify(client: ServerSession, method: str, params: dict[str, Any]) -> None:
    """Tell Claude Code on its channel; where that is not switched on it is dropped, and nobody is told."""
    notification = types.Notification[dict[str, Any], str](method=f"notifications/{method}", params=params)
    await client.send_notification(cast("Any", notification))


def _relay(
    client: ServerSession, loop: asyncio.AbstractEventLoop, session: Session, request: PermissionRequest
) -> None:
    details = block_of_code(request.input_preview) if request.input_preview else ""
    said = one_line(request.description)[:500]
    asked = f"May {session.name} use **{one_line(request.tool_name)[:100]}**? {said}{details}"
    body = f"{asked}\n\nIt is asked in its terminal too: the first answer counts."
    key = f"claude {session.name} {request.request_id}"
    try:
        decision = session.client.ask_approval(body, _OPTIONS, timeout_s=_APPROVAL_S, key=key, elsewhere=True)
    except AiAgentChatError:
        return  # the dialog in the terminal stays
    behavior = _ALLOW if decision["option"] == _ALLOW else _DENY
    params = {"request_id": request.request_id, "behavior": behavior}
    asyncio.run_coroutine_threadsafe(_notify(client, _PERMISSION, params), loop).result()


async def _in_thread(work: Callable[..., Any], *args: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(work, *args), abandon_on_cancel=True)


class _Wire:
    """Standard output, which tells what was written out in it: only that may be acknowledged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._acknowledging: list[Callable[[], None]] = []
        self._noted: dict[str | int | None, Callable[[], Callable[[], None]]] = {}

    def note(self, request_id: str | int | None, shown: Callable[[], Callable[[], None]]) -> None:
        """Call this before the answer to a request is written, and what it returns in a thread once it was flushed."""
        self._noted[request_id] = shown

    def write(self, text: str) -> int:
        answer = json.loads(text) if self._noted else {}
        shown = self._noted.pop(answer.get("id"), None) if "id" in answer else None
        if shown is not None and "result" in answer:
            self._acknowledging.append(shown())  # first: unbuffered, the client has it before it is flushed
        return self._stream.write(text)

    def flush(self) -> None:
        acknowledging, self._acknowledging = self._acknowledging, []
        self._stream.flush()
        for acknowledge in acknowledging:
            threading.Thread(target=acknowledge, name="acknowledge").start()
