"""The built-in `echo` agent: answers each message with its own words, so that a new system has somebody to talk to.

`cchat up` runs it in a thread. It shows what an adapter does: attach, stream, answer, acknowledge.
"""

import logging
import threading

from aiagentchat.adapters.listening import Listener, is_answer_of_agent, is_stop
from aiagentchat.client import GatewayClient, Json
from aiagentchat.errors import AiAgentChatError

log = logging.getLogger(__name__)

NAME = "echo"


class Echo:
    """The agent.

    Args:
        client: acts as `echo`.
    """

    def __init__(self, client: GatewayClient) -> None:
        self._client = client
        self._listener = Listener(client, self.attach, _tell)

    def attach(self) -> None:
        """Have the agent's room be there."""
        self._client.attach(NAME, session="none", description="Answers with your own words, to try things out")

    def start(self) -> None:
        """Answer in a thread of its own until `stop`, or the end of the process."""
        threading.Thread(target=self.run_until_stopped, name=NAME, daemon=True).start()

    def stop(self) -> None:
        """End after the message in hand."""
        self._listener.stopping.set()

    def run_until_stopped(self) -> None:
        """Answer whatever comes, until somebody has the agent leave."""
        for message in self._listener:
            self._take(message)

    def _take(self, message: dict[str, Json]) -> None:
        error = None
        if wants_answer(message):
            error = self._listener.answer(message, message["body"], key=f"echo {message['event_id']}")
        self._listener.finish(message, error)


def _tell(error: AiAgentChatError | None) -> None:
    if error is None:
        log.info("echo listens")
    else:
        log.warning("echo: %s", error.message)


def wants_answer(message: dict[str, Json]) -> bool:
    """Whether to answer: not what is for all, not `!stop`, and not an agent's own answer."""
    return not message["broadcast"] and not is_stop(message) and not is_answer_of_agent(message)
