"""An agent on the ACP SDK's agent side that needs no model, for `make demo`: it asks before it does what it is told."""

import asyncio
from typing import Any, cast

from acp import Agent, PromptResponse, run_agent, start_tool_call, update_agent_message_text, update_tool_call
from acp.schema import InitializeResponse, NewSessionResponse, PermissionOption, ToolCallUpdate


class Careful:
    """Asks for approval of one tool call, and says what became of it."""

    def on_connect(self, connection: Any) -> None:
        """Remember the other end."""
        self._connection = connection

    async def initialize(self, **_: Any) -> InitializeResponse:
        """Say which version of the protocol it speaks."""
        return InitializeResponse(protocol_version=1)

    async def new_session(self, **_: Any) -> NewSessionResponse:
        """Open the only session."""
        return NewSessionResponse(session_id="demo")

    async def cancel(self, **_: Any) -> None:
        """Nothing takes long here."""

    async def prompt(self, session_id: str, **_: Any) -> PromptResponse:
        """Ask, and do it or leave it."""
        command = {"command": "git push --force"}
        call = start_tool_call("call", "Push the branch", kind="execute", status="pending", raw_input=command)
        await self._connection.session_update(session_id, call)
        answer = await self._connection.request_permission(
            session_id=session_id,
            tool_call=ToolCallUpdate(tool_call_id="call", title="Push the branch", raw_input=command),
            options=[
                PermissionOption(option_id="allow", name="Push it", kind="allow_once"),
                PermissionOption(option_id="reject", name="Leave it", kind="reject_once"),
            ],
        )
        is_allowed = getattr(answer.outcome, "option_id", "") == "allow"
        done = update_tool_call("call", status="completed" if is_allowed else "failed")
        await self._connection.session_update(session_id, done)
        text = "Pushed, as you allowed." if is_allowed else "I left it."
        await self._connection.session_update(session_id, update_agent_message_text(text))
        return PromptResponse(stop_reason="end_turn")


if __name__ == "__main__":
    asyncio.run(run_agent(cast("Agent", Careful())))
