"""One connection to a gateway: to its socket, as a stream of events, or ended by its error. Used by `client`."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiagentchat.errors import OUTCOMES, AiAgentChatError, DaemonNotRunningError

Json = Any


class GatewayError(AiAgentChatError):
    """The gateway refused; `code`, message and hint are its own."""

    def __init__(self, problem: Mapping[str, Json]) -> None:
        super().__init__(str(problem.get("detail") or "the daemon gave no reason"), hint=str(problem.get("hint", "")))
        code = str(problem.get("code", ""))
        self.code = code if code in OUTCOMES else "internal"
        self.retryable = problem.get("retryable") is True


class UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to it."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EventStream:
    """A standing connection that yields `(event, data)`. Use as a context manager: leaving it closes the connection."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[tuple[str, Json]]:
        """Yield until the gateway ends the stream.

        Raises:
            DaemonNotRunningError: the connection broke. GatewayError: the gateway ended it for this reason.
        """
        event = ""
        try:
            while line := self._response.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    event = value
                elif name == "data" and event == "error":
                    raise GatewayError(json.loads(value))
                elif name == "data":
                    yield event, json.loads(value)
        except (http.client.HTTPException, OSError) as error:
            raise DaemonNotRunningError(
                "the daemon went away", hint="'cchat status' shows whether it is back"
            ) from error
