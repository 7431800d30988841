"""How an adapter hears its agent, on a stream that is made anew when it breaks; and what an agent is to answer."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from aiagentchat.client import GatewayClient, Json
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError
from aiagentchat.model import parse_command

RETRY_S = 2.0
"""How long to wait after something failed that may work later."""


_HELD_UP = "ack_window_full"
"""So much is acknowledged beyond a message still in hand that no more can be, until that one is."""


class Listener:
    """Yields an agent's messages: those that are unread, then those that come.

    What was not acknowledged comes again after a connection broke.

    Args:
        client: acts as the agent. attach: has the agent be there. tell: is told what fails, once for each reason, and
            (None) whenever it begins to hear the agent. on_removed: gets the id of a message that was taken back.
        stops: whoever takes the messages ends what works at them when a person writes `!stop`.
    """

    def __init__(
        self,
        client: GatewayClient,
        attach: Callable[[], object],
        tell: Callable[[AiAgentChatError | None], None],
        on_removed: Callable[[str], None] = lambda _: None,
        *,
        stops: bool = False,
    ) -> None:
        self.stopping = threading.Event()
        self._client = client
        self._attach = attach
        self._tell = tell
        self._on_removed = on_removed
        self._stops = stops
        self._told: str | None = ""  # why it does not hear the agent, as told; None: it does

    def __iter__(self) -> Iterator[dict[str, Json]]:
        """Yield until somebody has the agent leave, or `stopping` is set."""
        while not self.stopping.is_set():
            try:
                self._attach()
                with self._client.events(stops=self._stops) as events:
                    self._tell(None)
                    self._told = None
                    for event, data in events:
                        if event == "ended" or self.stopping.is_set():
                            return
                        if event == "message":
                            yield data
                        elif event == "removed":
                            self._on_removed(data["event_id"])
                raise DaemonNotRunningError("the daemon stopped")
            except AiAgentChatError as error:
                if error.message != self._told:
                    self._tell(error)
                self._told = error.message
                self.stopping.wait(RETRY_S)

    def answer(self, message: dict[str, Json], body: str, **send: Any) -> AiAgentChatError | None:
        """Answer a message, once, whatever fails meanwhile; return why it is not stored, or None."""
        event_id = message["event_id"]
        return self.until_done(lambda: self._client.send(body, reply_to=event_id, **send))

    def finish(self, message: dict[str, Json], error: AiAgentChatError | None) -> bool:
        """Acknowledge a message that was answered, or whose answer is refused for good; return whether that is done.

        One that stayed unread would hold up all after it in the end. Where it is interrupted, it comes again.
        """
        if self.stopping.is_set() or (error is not None and error.retryable):
            return False
        return self.until_done(lambda: self._client.acknowledge([message["event_id"]])) is None

    def until_done(self, work: Callable[[], object]) -> AiAgentChatError | None:
        """Do it until it succeeds (None), is refused for good (why), or `stopping` is set (why not yet)."""
        told = ""
        while True:
            try:
                work()
            except AiAgentChatError as error:
                if error.message != told:
                    self._tell(error)
                told = error.message
                if self.stopping.is_set() or not (error.retryable or error.code == _HELD_UP):
                    return error
                self.stopping.wait(RETRY_S)
            else:
                return None


def is_answer_of_agent(message: dict[str, Json]) -> bool:
    """Whether an agent answers with it: who answers answers goes on for ever with another that does."""
    return message["sender"]["kind"] != "person" and message["in_reply_to"] is not None


def is_stop(message: dict[str, Json]) -> bool:
    """Whether a person has the agent stop."""
    return message["sender"]["kind"] == "person" and parse_command(message["body"]) == "stop"
