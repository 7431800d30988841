"""What a route is, and what its handler gets."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import BaseModel

from aiagentchat.errors import InvalidRequestError, RefusedError
from aiagentchat.gateway.sse import EventStream
from aiagentchat.model import AgentName, visible

if TYPE_CHECKING:
    from aiagentchat.gateway.api import Gateway


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: in whose name (`agent` None: the operator), and with whose credential."""

    agent: AgentName | None
    is_operator: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One request after its credential, query and body were checked. `file`: what came with the body."""

    gateway: "Gateway"
    caller: Caller
    request: web.Request
    query: Any
    body: Any
    file: bytes | bytearray | None

    @property
    def agent(self) -> AgentName:
        """The agent that the call is made as.

        Raises:
            InvalidRequestError: it is made as the operator, who has no inbox.
        """
        if self.caller.agent is None:
            raise InvalidRequestError(
                "the operator has no inbox (Element is theirs)", hint="name an agent: --as NAME, or AIAGENTCHAT_AGENT"
            )
        return self.caller.agent

    def require_operator(self) -> None:
        """Raise `RefusedError` for a call that is made as an agent, by whichever credential."""
        if self.caller.agent is not None:
            raise RefusedError(
                "this is for the operator alone, and no agent's",
                hint="leave out --as, AIAGENTCHAT_AGENT and AIAGENTCHAT_TOKEN",
            )

    def stream(self) -> EventStream:
        """Return the stream that answers the call, for as long as its credential is good."""
        return EventStream(self.request, self.gateway.streams, lambda: self.gateway.authenticate(self.request))

    @property
    def reader_id(self) -> str:
        return self.request.headers.get("AIAgentChat-Reader", "http")[:100]

    @property
    def reader_label(self) -> str:
        return visible(self.request.headers.get("User-Agent", "an HTTP client")[:100])


Handler = Callable[[Call], Awaitable[BaseModel | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `waits`: it may take as long as its caller asks, so the deadline does not apply.

    `takes_file`: a file may come with its body, in `multipart/form-data`. `is_work`: the homeserver is asked each time.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[BaseModel] | None
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    waits: bool = False
    takes_file: bool = False
    is_work: bool = False
    media_type: str = "application/json"
