"""`GatewayClient`: how commands and adapters talk to a daemon, over its unix socket or over TCP.

On the standard library alone and blocking, because agents call `cchat` often and its start is what they wait for.
Knows the gateway's routes and nothing behind them. Answers are the gateway's JSON as it is; `docs/gateway.md` has the
shapes.
"""

import errno
import http.client
import json
import os
import secrets
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from aiagentchat.config import Settings, read_private
from aiagentchat.connection import EventStream, GatewayError, UnixConnection
from aiagentchat.errors import (
    AiAgentChatError,
    DaemonNotRunningError,
    DeadlineExceededError,
    InvalidRequestError,
    RefusedError,
    UnauthenticatedError,
)
from aiagentchat.model import Attachment, parse_agent_name, transfer_s
from aiagentchat.multipart import RequestBody

Json = Any

LONGEST_WAIT_S = 3600.0
"""Most seconds that one request to the gateway may wait on purpose."""

_GRACE_S = 5.0
"""Beyond the gateway's own deadline: its answer says more than a timeout of ours."""
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 1.0
_FETCH_S = 600.0
"""How long at most a file may take that is fetched: the gateway says when it gives up."""
_SILENCE_S = 60.0
"""A stream is pinged every 30 s; after this long without anything its other end is gone."""


class _NobodyThereError(DaemonNotRunningError):
    """Nobody took the connection, so that nothing was sent."""


class GatewayClient:
    """One caller's access to a gateway.

    Args:
        address: the socket's path, or `http://HOST:PORT`. token: a gateway credential. acting_as: an agent's name,
            with the operator's credential; "": as whom the credential stands for. label: what others are told when
            this client reads. timeout_s: for every request that does not wait on purpose. current: returns the
            credential as it is now; None: it stays as it is.

    Every method raises `DaemonNotRunningError`, `DeadlineExceededError`, or a `GatewayError` with the gateway's code.
    """

    def __init__(
        self,
        address: Path | str,
        token: str,
        *,
        acting_as: str = "",
        label: str = "cchat",
        timeout_s: float = 30.0,
        current: Callable[[], str | None] | None = None,
    ) -> None:
        self._address = address
        self._current = current or (lambda: token)
        self._timeout_s = timeout_s
        self._headers = {
            "Authorization": f"Bearer {token}",
            "User-Agent": label,
            "AIAgentChat-Reader": secrets.token_hex(16),
        }
        if acting_as:
            self._headers["AIAgentChat-As"] = acting_as

    # --- messages

    def send(
        self,
        body: str,
        *,
        to: str | None = None,
        reply_to: str | None = None,
        key: str | None = None,
        fmt: str = "plain",
        file: Attachment | None = None,
    ) -> dict[str, Json]:
        """Send a message once; return `event_id`, `room_id` and `state`. Without `to` and `reply_to`: to all.

        `file`: comes with it; the body is its caption then. `key`: the same key is the same message; None: a new one.
        Where it is not known whether the message was stored, the same request goes out again, with the same key, until
        the client's `timeout_s`; the error after that names the key. A daemon that was not there to begin with is not
        waited for.
        """
        key = secrets.token_hex(16) if key is None else key
        about = None if file is None else {"name": file.name, "mimetype": file.mimetype}
        message = {"body": body, "to": to, "reply_to": reply_to, "key": key, "format": fmt, "file": about}
        message = {name: value for name, value in message.items() if value is not None}
        given = message if file is None else RequestBody.form(message, file.data)
        timeout_s = self._timeout_s + (0.0 if file is None else 2 * transfer_s(len(file.data)))
        deadline = time.monotonic() + timeout_s
        failure: AiAgentChatError | None = None
        attempt_s, pause_s = timeout_s + _GRACE_S, _FIRST_RETRY_S
        while True:
            try:
                return self._call("POST", "/send", given, limit_s=attempt_s)
            except AiAgentChatError as error:
                nobody_there = isinstance(error, _NobodyThereError)
                if not error.retryable or (failure is None and nobody_there):
                    raise
                if failure is None or not (nobody_there or isinstance(error, DeadlineExceededError)):
                    failure = error  # it says more than that there was no answer after it
            left_s = deadline - time.monotonic()
            if left_s <= pause_s or failure.code == "rate_limited":  # which lasts beyond the deadline
                key_hint = f"--key {key} sends the same message, never a second one"
                failure.hint = f"{failure.hint}; {key_hint}" if failure.hint else key_hint
                raise failure
            _pause(pause_s)
            attempt_s, pause_s = left_s - pause_s, min(2 * pause_s, _LONGEST_RETRY_S)

    def read(self, *, wait_s: float = 0.0, limit: int = 100, peek: bool = False) -> list[dict[str, Json]]:
        """Return unread messages, waiting up to `wait_s` seconds for one. Acknowledges nothing."""
        query = {"wait": f"{wait_s:g}", "limit": str(limit)} | ({"peek": "true"} if peek else {})
        return _messages(self._call("GET", "/read", query=query, wait_s=wait_s))

    def history(self, *, before: str, limit: int = 100) -> list[dict[str, Json]]:
        """Return messages that stand before an event, in order."""
        return _messages(self._call("GET", "/read", query={"before": before, "limit": str(limit)}))

    def fetch_file(self, event_id: str, *, within_s: float | None = None) -> bytes:
        """Return the file that came with a message; it may take as long as the gateway lets it, or `within_s` s."""
        with self._responding("GET", f"/files/{quote(event_id, safe='')}", None, within_s or _FETCH_S) as response:
            return self._read(response)

    def acknowledge(self, event_ids: list[str]) -> None:
        """Acknowledge messages: they never come again."""
        self._call("POST", "/ack", {"event_ids": event_ids})

    def ask_bell(self, moment: str, *, wait_s: float = 0.0) -> dict[str, Json]:
        """Return what the agent's doorbell rings for: `messages` (how many), `senders`, `replaced`.

        `moment`: start, prompt, tool, stop, or idle, which waits up to `wait_s` seconds.
        """
        return self._call("POST", "/bell", {"moment": moment, "wait": wait_s}, wait_s=wait_s)

    def room_messages(self, name: str, *, before: str | None = None, limit: int = 50) -> list[dict[str, Json]]:
        """Return the latest messages of an agent's room, or those before an event, in order. As the operator."""
        query = {"limit": str(limit)} | ({} if before is None else {"before": before})
        return _messages(self._call("GET", f"/rooms/{quote(name, safe='')}/messages", query=query))

    def room_events(self, name: str, *, limit: int = 20, receipts: bool = False) -> EventStream:
        """Return a stream of an agent's room: its latest messages and, after "live", what goes on. As the operator.

        `receipts`: whose read receipt follows.
        """
        query = f"limit={limit}" + ("&receipts=true" if receipts else "")
        return self._stream("GET", f"/rooms/{quote(name, safe='')}/events?{query}")

    def overview(self) -> dict[str, Json]:
        """Return all agents at a glance: `agents`, `unavailable`, `stalled`. As the operator."""
        return self._call("GET", "/overview")

    def events(self, *, stops: bool = False) -> EventStream:
        """Return a stream of what is unread and then of what comes: ("message", message), at last ("ended", …).

        It ends without that where the daemon stopped. `stops`: who reads it sees to `!stop`.
        """
        return self._stream("GET", "/events?stops=true" if stops else "/events")

    def sent(self, *, to: str | None = None, limit: int = 20) -> list[dict[str, Json]]:
        """Return own messages, newest first, each with `state`, `to`, `read_by`, `answer`. `to`: to one agent alone."""
        query = {"limit": str(limit)} | ({} if to is None else {"to": to})
        return _messages(self._call("GET", "/sent", query=query))

    def sent_message(self, event_id: str, *, to: str, wait_s: float, until: str = "answered") -> dict[str, Json]:
        """Return an own message to an agent as `sent` does, waiting up to `wait_s` seconds.

        `until`: it is `read` or `answered`.
        """
        query = {"event_id": event_id, "to": to, "wait": f"{wait_s:g}", "until": until}
        return dict(self._call("GET", "/sent", query=query, wait_s=wait_s)["messages"][0])

    # --- agents

    def who(self) -> dict[str, Json]:
        """Return the directory: `agents`, `skipped`, `unavailable`."""
        return self._call("GET", "/who")

    def attach(
        self,
        name: str | None,
        *,
        session: str = "timed",
        kind: str | None = None,
        description: str | None = None,
        take_over: bool = False,
    ) -> dict[str, Json]:
        """Have an agent be there; return its name, room and credential. `session`: `timed` or `none`.

        `take_over`: though another daemon that is running hosts the name.
        """
        return self._call("POST", "/agents", _attach_body(name, session, kind, description, take_over=take_over))

    def hold(
        self, name: str | None, *, kind: str | None = None, description: str | None = None, take_over: bool = False
    ) -> EventStream:
        """Have an agent be there for as long as the stream is open: ("attached", as `attach`), ("ended", …)."""
        return self._stream("POST", "/agents", _attach_body(name, "held", kind, description, take_over=take_over))

    def detach(self, name: str) -> None:
        """End an agent's sessions and make its credential worthless."""
        self._call("DELETE", f"/agents/{quote(name, safe='')}")

    def set_status(self, line: str | None = None, *, typing_s: float | None = None) -> None:
        """Say what the agent is doing, and show its typing."""
        status = {"line": line, "typing_s": typing_s}
        self._call("PUT", "/status", {name: value for name, value in status.items() if value is not None})

    def show_progress(self, body: str, *, about: str, shown: str | None = None) -> str:
        """Show how far the agent is with a message in its own room; return the notice, for the next to replace."""
        given = {"body": body, "about": about} | ({} if shown is None else {"shown": shown})
        return str(self._call("POST", "/progress", given)["event_id"])

    def ask_approval(
        self,
        body: str,
        options: list[dict[str, str]],
        *,
        timeout_s: float,
        key: str,
        about: str | None = None,
        elsewhere: bool = False,
    ) -> dict[str, Json]:
        """Ask people for approval and wait for it; return `option` (an id, None: refused for want of an answer).

        `options`: each `id`, `name` and `kind` (allow_once, allow_always, reject_once, reject_always). The same key is
        the same request. `elsewhere`: it is asked in another place too.
        """
        given = {"body": body, "options": options, "timeout_s": timeout_s, "key": key, "elsewhere": elsewhere}
        given |= {} if about is None else {"about": about}
        return self._call("POST", "/approvals", given, wait_s=timeout_s)

    def withdraw_approval(self, key: str) -> None:
        """Wait for an approval no more."""
        self._call("DELETE", f"/approvals/{quote(key, safe='')}")

    # --- people

    def people(self) -> list[dict[str, Json]]:
        """Return whom the rooms are for, each with `role`, `source`, `agents` (None: all) and `rooms`."""
        return list(self._call("GET", "/people")["people"])

    def invite(self, user_id: str, *, agents: list[str] | None = None, role: str | None = None) -> EventStream:
        """Invite somebody, or change what they may; return a stream: ("person", …), ("room", …) each, ("done", …).

        `agents`: into these agents' rooms alone. It goes on though the stream is left.
        """
        given = {"user_id": user_id, "agents": agents, "role": role}
        return self._stream("POST", "/people", {name: value for name, value in given.items() if value is not None})

    def uninvite(self, user_id: str) -> EventStream:
        """Take somebody out of all rooms; return a stream as `invite` does."""
        return self._stream("DELETE", f"/people/{quote(user_id, safe='')}")

    def janitor(self, *, dry_run: bool = False) -> EventStream:
        """Clear away passing sessions that have been over for long; return a stream: ("agent", …) each, ("done", {}).

        Each has `agent`, `room_id`, `since_ms`, `is_listed`, `state` and `detail`; with `dry_run` they are only found.
        """
        return self._stream("POST", "/janitor", {"dry_run": dry_run})

    def health(self) -> dict[str, Json]:
        """Return `status`, `conditions` and `system`."""
        return self._call("GET", "/health")

    # --- the wire

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Json] | RequestBody | None = None,
        *,
        query: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        limit_s: float | None = None,
    ) -> dict[str, Json]:
        limit_s = self._timeout_s + wait_s + _GRACE_S if limit_s is None else limit_s
        with self._responding(method, path + (f"?{urlencode(query)}" if query else ""), body, limit_s) as response:
            return self._answer(response)

    @contextmanager
    def _responding(
        self, method: str, path: str, body: Mapping[str, Json] | RequestBody | None, limit_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Give the response to a request that the gateway took."""
        connection, response = self._open(method, path, body, limit_s)
        try:
            yield response
        finally:
            connection.close()

    def _stream(self, method: str, path: str, body: Mapping[str, Json] | None = None) -> EventStream:
        return EventStream(*self._open(method, path, body, self._timeout_s + _SILENCE_S))

    def _open(
        self, method: str, path: str, body: Mapping[str, Json] | RequestBody | None, limit_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Return the connection and the response of a request that the gateway took."""
        connection = self._connect(limit_s)
        try:
            response = self._exchange(connection, method, path, body)
            if response.status < 400:
                return connection, response
            error = GatewayError(self._answer(response))
        except BaseException:
            connection.close()
            raise
        connection.close()
        if error.code == "unauthenticated" and self._take_up():
            return self._open(method, path, body, limit_s)
        raise error

    def _take_up(self) -> bool:
        """Whether the credential is another one by now, as after `cchat rotate`; then it is used from now on."""
        before, now = self._headers["Authorization"], f"Bearer {self._current()}"
        self._headers["Authorization"] = now
        return now != before

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if isinstance(self._address, Path):
            return UnixConnection(self._address, timeout_s)
        try:
            url = urlsplit(self._address)
            host, port = url.hostname, url.port
        except ValueError:  # no port, or no IPv6 address
            host, port = None, None
        if not host or url.scheme != "http":
            raise InvalidRequestError(
                f"{self._address!r} is no gateway", hint="AIAGENTCHAT_URL is like http://127.0.0.1:7480 or unix:/PATH"
            )
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Json] | RequestBody | None,
    ) -> http.client.HTTPResponse:
        if body is not None and not isinstance(body, RequestBody):
            body = RequestBody("application/json", json.dumps(body).encode())
        headers = self._headers | ({} if body is None else {"Content-Type": body.content_type})
        try:
            connection.connect()
        except TimeoutError:
            raise self._late() from None
        except PermissionError as error:
            if error.errno == errno.EPERM:  # EACCES is what the file system says
                raise RefusedError(
                    f"a sandbox keeps this process from the daemon's socket {self._address}",
                    hint="the tools of the MCP server cchat are outside of it",
                ) from None
            raise RefusedError(f"the daemon's socket {self._address} belongs to another user") from None
        except OSError:
            raise _NobodyThereError(f"no daemon answers at {self._address}", hint="start one with 'cchat up'") from None
        try:
            connection.request(method, path, None if body is None else body.data, headers)
            return connection.getresponse()
        except TimeoutError:
            raise self._late() from None
        except (http.client.HTTPException, OSError):
            raise self._gone() from None

    def _answer(self, response: http.client.HTTPResponse) -> dict[str, Json]:
        try:
            answer = json.loads(self._read(response))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise AiAgentChatError(f"what answers at {self._address} is no daemon of aiagentchat")
        return answer

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except TimeoutError:
            raise self._late() from None
        except (http.client.HTTPException, OSError):
            raise self._gone() from None

    def _late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"the daemon at {self._address} did not answer in time; it may still take effect")

    def _gone(self) -> DaemonNotRunningError:
        return DaemonNotRunningError(
            "the daemon went away before it answered, so whether this was done is not known",
            hint="'cchat status' shows whether it is back",
        )


def _pause(seconds: float) -> None:
    select.select([], [], [], seconds)  # loaded anyway, as `threading` is not


def connect(settings: Settings, *, acting_as: str = "", label: str = "cchat") -> GatewayClient:
    """Return a client for these settings: as `acting_as`, else as the settings' token or agent, else as the operator.

    Raises:
        DaemonNotRunningError: no daemon ever ran here. InvalidRequestError: others can read the credential, or the
            agent's name is none. UnauthenticatedError: the token cannot be one.
    """
    token = settings.token
    if not settings.url:
        _require_own(settings.paths.socket.parent)
    current = None
    if not token:
        current = partial(read_private, settings.paths.operator_credential)
        token = current() or ""
        acting_as = acting_as or (parse_agent_name(settings.agent) if settings.agent else "")
    elif not (token.isascii() and token.isprintable()):
        raise UnauthenticatedError("AIAGENTCHAT_TOKEN holds no credential", hint="'cchat join --json' shows one")
    if not token:
        raise DaemonNotRunningError(
            f"no daemon has run here: there is no credential in {settings.paths.credentials}",
            hint="start one with 'cchat up', or set AIAGENTCHAT_TOKEN",
        )
    return GatewayClient(
        settings.gateway,
        token,
        acting_as=acting_as,
        label=f"{label} (pid {os.getpid()})",
        timeout_s=settings.deadline_s,
        current=current,
    )


def _require_own(directory: Path) -> None:
    """Raise `RefusedError` where the socket's directory is another user's, who could listen there for credentials."""
    if directory.exists() and directory.stat().st_uid != os.getuid():
        raise RefusedError(f"{directory}, where the daemon's socket would be, belongs to another user")


def _attach_body(
    name: str | None, session: str, kind: str | None, description: str | None, *, take_over: bool
) -> dict[str, Json]:
    body = {"name": name, "session": session, "kind": kind, "description": description, "take_over": take_over or None}
    return {field: value for field, value in body.items() if value is not None}


def _messages(answer: Mapping[str, Json]) -> list[dict[str, Json]]:
    return list(answer["messages"])
