"""The tools that an MCP client is offered: what each takes, does, and says. Blocking; `adapters.mcp` serves them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aiagentchat.adapters.fence import fence, quoted
from aiagentchat.adapters.files import FileStore
from aiagentchat.client import GatewayClient, Json
from aiagentchat.errors import AiAgentChatError, InvalidRequestError
from aiagentchat.model import one_line, render_time, shortened, visible

ANSWER_LIMIT = 40_000
"""Most characters of messages in one answer: some 10,000 tokens, at which Claude Code begins to warn."""
LONGEST_WAIT_S = 55.0
"""Codex gives a tool a minute."""

_FILES_S = 4.0
"""How long messages wait, at most, for the files that came with them."""
_SHORTENED = 200


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


_Text = Annotated[str, Field(description="The message, in Markdown.")]
_Wait = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)]


class Who(_Arguments):
    """List the agents: name, whether it is online, what it does."""


class Send(_Arguments):
    """Write to one agent; without `to`, to everybody. Says that it is stored, not that it was read."""

    text: _Text
    to: str = Field("", description="Name of an agent, as `who` says.")


class Ask(_Arguments):
    """Write to one agent and wait for its answer."""

    to: str = Field(description="Name of an agent, as `who` says.")
    text: _Text
    wait_s: _Wait = Field(45.0, description="Seconds to wait.")


class Read(_Arguments):
    """Show the unread messages to this session. They count as read then."""

    wait_s: _Wait = Field(0.0, description="Seconds to wait for one.")


class Reply(_Arguments):
    """Answer a message; without `event_id`, the one read last."""

    text: _Text
    event_id: str = Field("", description="As `read` says.")


class Status(_Arguments):
    """Say in a few words what this session is doing, for all to see."""

    line: Annotated[str, Field(max_length=200)]


class Sent(_Arguments):
    """Show own messages, the newest first, and how far each came: stored, read, answered."""

    to: str = Field("", description="To this agent alone.")
    limit: Annotated[int, Field(ge=1, le=50)] = 10


TOOLS: dict[str, type[_Arguments]] = {
    model.__name__.lower(): model for model in (Who, Send, Ask, Read, Reply, Status, Sent)
}


def schema_of(model: type[BaseModel]) -> dict[str, Json]:
    """Return the JSON Schema of a tool's arguments, without the titles that only repeat names."""
    schema = model.model_json_schema()
    for part in (schema, *schema["properties"].values()):
        part.pop("title", None)
    schema.pop("description", None)
    return schema


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool says. `handed`: ids of the messages in it, to be acknowledged once it was written out."""

    text: str
    handed: tuple[str, ...] = ()
    is_error: bool = False


class Toolbox:
    """The tools, for one agent."""

    def __init__(self, name: str, client: GatewayClient, files: FileStore) -> None:
        self._name = name
        self._client = client
        self._files = files
        self._last_read = ""

    def call(self, tool: str, arguments: dict[str, Any] | None) -> Outcome:
        """Do what a tool does; an error is an outcome too, and says what to do."""
        try:
            model = TOOLS.get(tool)
            if model is None:
                raise InvalidRequestError(f"there is no tool {one_line(tool)!r}")
            return self._do(_parse(model, arguments))
        except AiAgentChatError as error:
            text = f"{visible(error.message)}\n{visible(error.hint)}" if error.hint else visible(error.message)
            return Outcome(text, is_error=True)

    def note_shown(self, event_ids: tuple[str, ...]) -> Callable[[], None]:
        """Take the last of these as what the model has read, whatever it does next; return what acknowledges them.

        Where that fails they come again.
        """
        self._last_read = event_ids[-1]

        def acknowledge() -> None:
            with contextlib.suppress(AiAgentChatError):
                self._client.acknowledge(list(event_ids))

        return acknowledge

    def _do(self, given: _Arguments) -> Outcome:
        match given:
            case Who():
                return Outcome(self._who())
            case Send():
                stored = self._client.send(given.text, to=given.to or None, fmt="markdown")
                return Outcome(_stored(stored, f"to {given.to}" if given.to else "to all"))
            case Ask():
                return self._ask(given)
            case Read():
                return self._read(given.wait_s)
            case Reply():
                stored = self._client.send(
                    given.text, reply_to=given.event_id or self._last_read or "last", fmt="markdown"
                )
                return Outcome(_stored(stored, "as an answer"))
            case Status():
                self._client.set_status(given.line)
                return Outcome("Others see it now.")
            case Sent():
                return Outcome(self._sent(given))
        raise AssertionError(given)

    def _who(self) -> str:
        directory = self._client.who()
        lines = [f"You are {self._name}.", "What stands in quotation marks is what an agent says of itself."]
        for agent in directory["agents"]:
            remark = agent["status_line"] or agent["description"]
            lines.append(
                f"{one_line(agent['name'])}: {agent['status']}, {agent['kind']}"
                + (f": {quoted(remark)}" if remark else "")
            )
        reasons = (directory["unavailable"], directory["stalled"])
        lines.extend(f"Not all is known: {one_line(reason)}" for reason in reasons if reason)
        text = "\n".join(lines)
        return text if len(text) <= ANSWER_LIMIT else f"{text[:ANSWER_LIMIT].rpartition(chr(10))[0]}\nand more."

    def _ask(self, given: Ask) -> Outcome:
        stored = self._client.send(given.text, to=given.to, fmt="markdown")
        event_id = stored["event_id"]
        sent = self._client.sent_message(event_id, to=given.to, wait_s=given.wait_s)
        answer = sent["answer"]
        if answer is None:
            read = "read it, and has" if sent["state"] == "read" else "has"
            return Outcome(
                f"{given.to} {read} not answered within {given.wait_s:g} s. The message ({event_id}) stays: its answer "
                "will be among what `read` shows."
            )
        return Outcome(_shown(self._files.place(answer, within_s=_FILES_S)), handed=(answer["event_id"],))

    def _read(self, wait_s: float) -> Outcome:
        messages = self._client.read(wait_s=wait_s, limit=50)
        if not messages:
            return Outcome(f"Nothing to {self._name} is unread.")
        shown: list[str] = []
        for message in self._files.place_all(messages, _FILES_S):
            text = _shown(message)
            if shown and sum(map(len, shown)) + len(text) > ANSWER_LIMIT:
                break
            shown.append(text)
        handed = messages[: len(shown)]
        if len(handed) < len(messages):
            shown.append("More are unread: read again.")
        return Outcome("\n".join(shown), tuple(message["event_id"] for message in handed))

    def _sent(self, given: Sent) -> str:
        items = self._client.sent(to=given.to or None, limit=given.limit)
        return "\n".join(map(_came, items)) or "Nothing was sent yet."


def _parse(model: type[_Arguments], arguments: dict[str, Any] | None) -> _Arguments:
    try:
        return model.model_validate(arguments or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def _stored(stored: dict[str, Json], how: str) -> str:
    text = f"Stored {how}: {stored['event_id']}. `sent` shows whether it was read."
    return f"{text} It wakes nobody: {visible(stored['quiet'])}" if stored["quiet"] else text


def _shown(message: dict[str, Json]) -> str:
    marks = ["came while you were away"] if message["late"] else []
    if message["in_reply_to"] is not None:
        marks.append(f"answers {one_line(message['in_reply_to']['event_id'])}")
    if message["edits"] is not None:
        marks.append(f"edit of {one_line(message['edits'])}")
    note = f" ({'; '.join(marks)})" if marks else ""
    return f"{one_line(message['event_id'])}{note}\n{fence(message)}"


def _came(item: dict[str, Json]) -> str:
    message, answer = item["message"], item["answer"]
    to = one_line(item["to"]) if item["to"] else "all" if message["broadcast"] else "your own room"
    came = item["state"]
    if item["read_by"]:
        came = f"read by {', '.join(map(one_line, item['read_by'][:5]))}"
    if answer is not None:
        came = f"answered by {one_line(answer['sender']['name'])}: {shortened(answer['body'], _SHORTENED)!r}"
    return f"{render_time(message['ts'])} to {to}: {shortened(message['body'], _SHORTENED)!r}: {came}"
