"""The other end of the Agent Client Protocol: a program, what it tells of a prompt, and what it asks approval for.

On the official SDK. `adapters.acp` has it answer messages.
"""

import asyncio
import base64
import difflib
import json
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from acp import (
    PROTOCOL_VERSION,
    Client,
    RequestError,
    image_block,
    resource_link_block,
    spawn_agent_process,
    text_block,
)
from acp.core import ClientSideConnection
from acp.schema import (
    AgentMessageChunk,
    AllowedOutcome,
    AudioContentBlock,
    ClientCapabilities,
    ContentToolCallContent,
    DeniedOutcome,
    EmbeddedResourceContentBlock,
    FileEditToolCallContent,
    ImageContentBlock,
    Implementation,
    PermissionOption,
    RequestPermissionResponse,
    ResourceContentBlock,
    TextContentBlock,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
)

from aiagentchat import __version__
from aiagentchat.adapters.fence import block_of_code, fence
from aiagentchat.client import Json
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import one_line, visible

Block = TextContentBlock | ImageContentBlock | AudioContentBlock | ResourceContentBlock | EmbeddedResourceContentBlock
"""A part of a prompt."""

_SHOWN_CHARACTERS = 4_000
_MOST_SHOWN_CALLS = 20
_LINE_BYTES = 50 * 1024 * 1024
_IMAGES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
"""How images begin that models see: one that is called another would have the whole session refused."""
_MOST_IMAGE_BYTES = 3_900_000
"""In base64 that is 5.2 MB, which the strictest of them takes; a program reads a larger one itself."""
_QUIET_S, _MOST_TELLING_S = 0.5, 10.0
_MARKS = {"completed": "✔", "failed": "✘"}
_OF_A_SESSION = ("CLAUDECODE", "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_SESSION_ID", "CLAUDE_PID")
"""What Claude Code sets for what it starts: a program that finds it takes itself for a part of that session."""


@dataclass(eq=False, slots=True)
class Turn:
    """One prompt. `said`: its answer so far; `calls`: its tool calls, a title and a status each."""

    message: dict[str, Json]
    session_id: str = ""
    said: list[str] = field(default_factory=list)
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    shown: str | None = None
    asked: int = 0

    @property
    def answer(self) -> str:
        return visible("".join(self.said).strip())

    def take(self, update: object) -> None:
        """Take in what the agent tells of it."""
        if isinstance(update, AgentMessageChunk) and isinstance(update.content, TextContentBlock):
            self.said.append(update.content.text)
        elif isinstance(update, ToolCallStart | ToolCallProgress):
            title, status = self.calls.get(update.tool_call_id, ("", "pending"))
            self.calls[update.tool_call_id] = (update.title or title, update.status or status)
        else:
            return
        self.changed.set()

    def progress(self) -> str:
        """Return what to show of it, in Markdown."""
        calls = list(self.calls.values())
        lines = [f"- {_MARKS.get(status, '…')} {one_line(title)[:200]}" for title, status in calls[-_MOST_SHOWN_CALLS:]]
        if len(calls) > _MOST_SHOWN_CALLS:
            lines.insert(0, f"- {len(calls) - _MOST_SHOWN_CALLS} before")
        said = self.answer
        text = said if len(said) <= _SHOWN_CHARACTERS else f"… {said[-_SHOWN_CHARACTERS:]}"
        return "\n\n".join(part for part in ("\n".join(lines), text) if part)

    def summary(self, seconds: float, ending: str) -> str:
        """Return what stays to be seen of it."""
        number = len(self.calls)
        calls = f"{number} tool call{'s' * (number > 1)}, " if number else ""
        head = f"{ending} ({calls}{seconds:.0f} s)"
        lines = [f"- {_MARKS.get(status, '…')} {one_line(title)[:200]}" for title, status in self.calls.values()]
        return "\n\n".join(part for part in (head, "\n".join(lines[-_MOST_SHOWN_CALLS:])) if part)


@dataclass(frozen=True, slots=True)
class AcpProgram:
    """What speaks the protocol. `directory`: absolute. `timeout_s`: for one prompt; `approval_s`: for one approval."""

    command: tuple[str, ...]
    directory: Path
    timeout_s: float = 3600.0
    approval_s: float = 600.0


class Peer:
    """The program, at the other end of the protocol; started anew, when it is asked for, after it has ended.

    Args:
        turns: prompts that are being answered, by session. ask: has a person decide.
    """

    def __init__(
        self,
        name: str,
        program: AcpProgram,
        turns: Mapping[str, Turn],
        ask: Callable[[Turn, ToolCallUpdate, list[PermissionOption]], Coroutine[Any, Any, str | None]],
    ) -> None:
        self._name = name
        self._program = program
        self._turns = turns
        self._ask = ask
        self._wanted = asyncio.Event()
        self._ready: asyncio.Future[ClientSideConnection] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        self.token = ""
        self.is_new = False
        self.can_resume = self.can_load = self.sees_images = False

    async def __aenter__(self) -> Self:
        self._ready = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._serve(), name="program")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._serving is not None
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)

    async def connection(self) -> ClientSideConnection:
        """Return the connection to the program, which is started if need be.

        Raises:
            AiAgentChatError: it does not start, or speaks another protocol.
        """
        assert self._ready is not None
        self._wanted.set()
        return await asyncio.shield(self._ready)

    async def _serve(self) -> None:
        while True:
            await self._wanted.wait()
            assert self._ready is not None
            try:
                async with spawn_agent_process(
                    cast("Client", self),
                    *self._program.command,
                    env=self._environment(),
                    cwd=str(self._program.directory),
                    transport_kwargs={"stderr": None, "limit": _LINE_BYTES},
                ) as (connection, process):
                    await self._greet(connection)
                    self.is_new = True
                    self._ready.set_result(connection)
                    await process.wait()
            except (RequestError, ConnectionError, OSError, ValueError) as error:
                if not self._ready.done():
                    self._ready.set_exception(InvalidRequestError(f"{self._program.command[0]}: {reason_of(error)}"))
                    self._ready.exception()  # which nobody may ask for
            self._wanted.clear()
            self._ready = asyncio.get_running_loop().create_future()

    def _environment(self) -> dict[str, str]:
        """Return ours, less what says that it is within another session, and with the agent's credential."""
        inherited = {name: value for name, value in os.environ.items() if name not in _OF_A_SESSION}
        return inherited | {"AIAGENTCHAT_TOKEN": self.token, "CCHAT_AGENT": self._name}

    async def _greet(self, connection: ClientSideConnection) -> None:
        greeting = await connection.initialize(
            PROTOCOL_VERSION,
            client_capabilities=ClientCapabilities(),
            client_info=Implementation(name="aiagentchat", version=__version__),
        )
        if greeting.protocol_version != PROTOCOL_VERSION:
            raise ValueError(f"it speaks version {greeting.protocol_version} of the protocol, not {PROTOCOL_VERSION}")
        capabilities = greeting.agent_capabilities
        sessions = None if capabilities is None else capabilities.session_capabilities
        prompts = None if capabilities is None else capabilities.prompt_capabilities
        self.sees_images = prompts is not None and bool(prompts.image)
        self.can_load = capabilities is not None and bool(capabilities.load_session)
        self.can_resume = sessions is not None and sessions.resume is not None

    def prompt_of(self, message: dict[str, Json]) -> list[Block]:
        """Return what to say of a message: who wrote it and what, and the file that came with it."""
        prompt: list[Block] = [text_block(fence(message))]
        file = message["file"]
        if file is None or not file.get("path"):
            return prompt
        path = Path(file["path"])
        with suppress(OSError):  # it was removed meanwhile
            data = path.read_bytes()
            prompt.append(resource_link_block(path.name, path.as_uri(), mime_type=file["mimetype"], size=len(data)))
            kind = next((kind for kind, begins in _IMAGES.items() if begins.match(data)), None)
            if self.sees_images and kind is not None and len(data) <= _MOST_IMAGE_BYTES:
                prompt.append(image_block(base64.b64encode(data).decode(), kind))
        return prompt

    # --- what the program asks for

    async def session_update(self, session_id: str, update: object, **_: Any) -> None:
        """Take in what it tells. Nothing is waited for here, since each update is a task of its own."""
        turn = self._turns.get(session_id)
        if turn is not None:
            turn.take(update)
        else:
            self._told.set()

    async def wait_quiet(self) -> None:
        """Wait until nothing is told of what is no prompt: Gemini CLI answers that a session is loaded before it tells
        what was said in it."""
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + _MOST_TELLING_S
        self._told.set()
        while self._told.is_set() and loop.time() < gives_up_at:
            self._told.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), _QUIET_S)

    async def request_permission(
        self, session_id: str, tool_call: ToolCallUpdate, options: list[PermissionOption], **_: Any
    ) -> RequestPermissionResponse:
        """Have a person decide."""
        turn = self._turns.get(session_id)
        chosen = None if turn is None or turn.stopped.is_set() else await self._ask(turn, tool_call, options)
        if chosen is None:
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=chosen))

    async def read_text_file(self, *_: Any, **__: Any) -> Any:
        """Not offered: it reads files by itself."""
        raise RequestError.method_not_found("fs/read_text_file")

    async def write_text_file(self, *_: Any, **__: Any) -> Any:
        """Not offered: it writes files by itself."""
        raise RequestError.method_not_found("fs/write_text_file")


def reason_of(error: Exception) -> str:
    """Return what an error says, in one line, with the details that an agent puts beside it."""
    data = error.data if isinstance(error, RequestError) else None
    details = data.get("details") if isinstance(data, dict) else None
    return one_line(f"{error}: {details}" if isinstance(details, str) else str(error))


def details_of(call: ToolCallUpdate) -> str:
    """Return what is known of a tool call that is to be approved, in blocks of code that it cannot end."""
    parts = [f"in {one_line(each.path)}" for each in call.locations or ()]
    if call.raw_input:
        given = call.raw_input
        parts.append(given if isinstance(given, str) else json.dumps(given, indent=2, ensure_ascii=False, default=str))
    for each in call.content or ():
        if isinstance(each, FileEditToolCallContent):
            before, after = (each.old_text or "").splitlines(), each.new_text.splitlines()
            parts.append("\n".join(difflib.unified_diff(before, after, each.path, each.path, lineterm="")))
        elif isinstance(each, ContentToolCallContent) and isinstance(each.content, TextContentBlock):
            parts.append(each.content.text)
    return block_of_code("\n\n".join(parts)) if parts else ""
