"""An agent on the SDK's own agent side, which needs no model: the prompt says what it does. Started as a program.

`stream N`: says N parts, 0.3 s apart. `ask`, `edit`: asks for approval of a tool call, or of a change to a file, and
says what was decided; `ask at length`: with options of long names. `odd`: ends for a reason that there is not.
`slow`: works until it is cancelled. `remember WORD`, `recall`: a session's memory, kept in the directory of
`ACP_AGENT_STATE`; it is taken up again as `ACP_AGENT_TAKES_UP` says: `load`, the default, `resume` alone, though both
are offered then, or `none`. `[image]`: says what came with the prompt. `die`: ends in the middle. `nothing`: says
nothing. Anything else is said again.
"""

import asyncio
import base64
import os
import re
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from acp import (
    Agent,
    PromptResponse,
    RequestError,
    run_agent,
    start_tool_call,
    update_agent_message_text,
    update_tool_call,
)
from acp.core import AgentSideConnection
from acp.schema import (
    AgentCapabilities,
    FileEditToolCallContent,
    InitializeResponse,
    LoadSessionResponse,
    NewSessionResponse,
    PermissionOption,
    PromptCapabilities,
    ResumeSessionResponse,
    SessionCapabilities,
    SessionResumeCapabilities,
    ToolCallUpdate,
)

LONGER = ", and say so" * 100


class Scripted:
    def __init__(self, state: Path, takes_up: str) -> None:
        self._state = state
        self._takes_up = takes_up
        self._cancelled: dict[str, asyncio.Event] = {}
        self._telling: list[asyncio.Task[None]] = []

    def on_connect(self, conn: Any) -> None:
        self._connection: AgentSideConnection = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        resume = SessionResumeCapabilities() if self._takes_up == "resume" else None
        capabilities = AgentCapabilities(
            load_session=self._takes_up != "none",
            session_capabilities=SessionCapabilities(resume=resume),
            prompt_capabilities=PromptCapabilities(image=True),
        )
        return InitializeResponse(protocol_version=1, agent_capabilities=capabilities)

    async def new_session(self, cwd: str, **_: Any) -> NewSessionResponse:
        session_id = uuid4().hex
        (self._state / session_id).write_text("")
        return NewSessionResponse(session_id=session_id)

    async def load_session(self, cwd: str, session_id: str, **_: Any) -> LoadSessionResponse:
        self._take_up("load", session_id)
        await self._say(session_id, "what was said before, which nobody is to be shown")
        self._telling.append(asyncio.create_task(self._tell_on(session_id)))
        return LoadSessionResponse()

    async def _tell_on(self, session_id: str) -> None:
        """As Gemini CLI does once it has answered."""
        await asyncio.sleep(0.1)
        await self._say(session_id, "and the rest of it")

    async def resume_session(self, cwd: str, session_id: str, **_: Any) -> ResumeSessionResponse:
        self._take_up("resume", session_id)
        return ResumeSessionResponse()

    def _take_up(self, method: str, session_id: str) -> None:
        if method != self._takes_up or not (self._state / session_id).exists():
            raise RequestError.resource_not_found(session_id)

    async def cancel(self, session_id: str, **_: Any) -> None:
        self._cancelled[session_id].set()

    async def _say(self, session_id: str, text: str) -> None:
        await self._connection.session_update(session_id, update_agent_message_text(text))

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> PromptResponse:
        cancelled = self._cancelled[session_id] = asyncio.Event()
        await asyncio.gather(*self._telling)
        asked = re.search(r"begins\n(.*)\n-----", prompt[0].text, re.DOTALL)
        assert asked is not None
        word, _space, rest = asked.group(1).partition(" ")
        if word == "stream":
            for number in range(int(rest)):
                await self._say(session_id, f"part {number}\n\n")
                await asyncio.sleep(0.3)
        elif word in ("ask", "edit"):
            longer = LONGER if rest == "at length" else ""
            await self._say(session_id, await self._ask(session_id, with_edit=word == "edit", longer=longer))
        elif word == "slow":
            await self._say(session_id, "begun")
            await cancelled.wait()
            return PromptResponse(stop_reason="cancelled")
        elif word == "remember":
            (self._state / session_id).write_text(rest)
            await self._say(session_id, "remembered")
        elif word == "recall":
            await self._say(session_id, (self._state / session_id).read_text() or "nothing")
        elif word == "[image]":
            await self._say(session_id, _describe(prompt))
        elif word == "die":
            os._exit(3)
        elif word not in ("nothing", "odd"):
            await self._say(session_id, asked.group(1))
        return PromptResponse.model_construct(stop_reason="end_turn" if word != "odd" else "no such reason")

    async def _ask(self, session_id: str, *, with_edit: bool, longer: str) -> str:
        call = start_tool_call("c1", "Delete it", kind="execute", status="pending", raw_input={"command": "rm `it`"})
        await self._connection.session_update(session_id, call)
        options = [
            PermissionOption(option_id="go", name=f"Go ahead{longer}", kind="allow_once"),
            PermissionOption(option_id="no", name=f"Leave it{longer}", kind="reject_once"),
        ]
        asked = ToolCallUpdate(tool_call_id="c1", title="Delete it", raw_input={"command": "rm `it`"})
        if with_edit:
            edit = FileEditToolCallContent(type="diff", path="/srv/a.py", old_text="safe = 1\n", new_text="safe = 0\n")
            asked = ToolCallUpdate(tool_call_id="c1", title="Change a.py", content=[edit])
        answer = await self._connection.request_permission(session_id=session_id, tool_call=asked, options=options)
        chosen = getattr(answer.outcome, "option_id", "cancelled")
        done = update_tool_call("c1", status="completed" if chosen == "go" else "failed")
        await self._connection.session_update(session_id, done)
        return f"decided: {chosen}"


def _describe(prompt: list[Any]) -> str:
    text, link, image = prompt
    (path,) = re.findall(r"A file came with it: (.*)\n", text.text)
    is_image = base64.b64decode(image.data) == Path(path).read_bytes()
    return f"{link.name} {link.mime_type} {link.uri == Path(path).as_uri()} {is_image}"


if __name__ == "__main__":
    scripted = Scripted(Path(os.environ["ACP_AGENT_STATE"]), os.environ.get("ACP_AGENT_TAKES_UP", "load"))
    asyncio.run(run_agent(cast("Agent", scripted), use_unstable_protocol=True))
