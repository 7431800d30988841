"""The built-in `echo` agent: answers each message with its own words, so that a new system has somebody to talk to.

`cchat up` runs it in a thread. It shows what an adapter does: attach, stream, answer, acknowledge.
"""

import logging
import threading

from aiagentchat.client import GatewayClient, Json
from aiagentchat.errors import AiAgentChatError

log = logging.getLogger(__name__)

NAME = "echo"
_RETRY_S = 2.0


class Echo:
    """The agent.

    Args:
        client: acts as `echo`.
    """

    def __init__(self, client: GatewayClient) -> None:
        self._client = client
        self._stopping = threading.Event()

    def attach(self) -> None:
        """Have the agent's room be there."""
        self._client.attach(NAME, session="none", description="Answers with your own words, to try things out")

    def start(self) -> None:
        """Answer in a thread of its own until `stop`, or the end of the process."""
        threading.Thread(target=self.run_until_stopped, name=NAME, daemon=True).start()

    def stop(self) -> None:
        """End after the message in hand."""
        self._stopping.set()

    def run_until_stopped(self) -> None:
        """Answer whatever comes, until somebody has the agent leave; a connection that breaks is made anew."""
        while not self._stopping.is_set():
            try:
                self.attach()
                with self._client.events() as events:
                    for event, message in events:
                        if event == "message":
                            self._take(message)
            except AiAgentChatError as error:
                log.warning("echo is not listening: %s", error.message)
                self._stopping.wait(_RETRY_S)
            else:
                return

    def _take(self, message: dict[str, Json]) -> None:
        while not self._stopping.is_set():
            try:
                if wants_answer(message):
                    event_id = message["event_id"]
                    self._client.send(message["body"], reply_to=event_id, key=f"echo {event_id}")
                self._client.acknowledge([message["event_id"]])
            except AiAgentChatError as error:
                log.warning("echo could not answer: %s", error.message)
                if not error.retryable:
                    self._client.acknowledge([message["event_id"]])
                    return
                self._stopping.wait(_RETRY_S)
            else:
                return


def wants_answer(message: dict[str, Json]) -> bool:
    """Whether to answer: not what is for all, and not an agent's own answer, or two of us would go on for ever."""
    is_answer_of_agent = message["sender"]["kind"] != "person" and message["in_reply_to"] is not None
    return not message["broadcast"] and not is_answer_of_agent
