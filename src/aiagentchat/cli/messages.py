"""`cchat send`, `sent`, `read`, `history`, `file`, `reply` and `ask`."""

import re
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from aiagentchat.adapters.fence import fence
from aiagentchat.adapters.files import describe_file, explain_file
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals, read_file, read_text
from aiagentchat.client import LONGEST_WAIT_S, GatewayClient
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError, InvalidRequestError, WaitedInVainError
from aiagentchat.model import Attachment, one_line, visible

Json = Any

_FILES_S = 60.0
"""How long messages wait, at most, for the files that came with them."""
_EVENT_ID = re.compile(r"\$[A-Za-z0-9_+/-]{43}")


def send(call: Invocation) -> None:
    """Send a message to an agent, or to all."""
    args = call.args
    if args.wait_read is not None and args.to is None:
        raise InvalidRequestError("--wait-read waits for one agent; nothing was sent", hint="name it: --to NAME")
    body, file = _given(call, args.text)
    client = call.client()
    answer = _send(call, client, body, to=args.to, file=file)
    if args.wait_read is None:
        _show_stored(call, answer)
    else:
        _show_read(call, client, answer)


def _show_read(call: Invocation, client: GatewayClient, answer: dict[str, Json]) -> None:
    """Wait until the agent has read it. As JSON it is one result, however that ends."""
    name, wait_s, event_id = call.args.to, call.args.wait_read, answer["event_id"]
    if not call.out.as_json:
        _show_stored(call, answer)
        call.out.flush()
    try:
        if _wait_sent(client, name, event_id, wait_s, until="read")["state"] == "stored":
            raise WaitedInVainError(
                f"{name} has not read {event_id} within {wait_s:g} s{_why_not(client, name)}",
                hint=f"it is stored; 'cchat sent --to {name}' shows whether it is read later",
            )
        answer |= {"state": "read"}
    finally:  # it is stored, whatever ended the wait
        if call.out.as_json:
            call.out.data(answer)
    if not call.out.as_json:
        call.out.line(f"read by {name}")


def reply(call: Invocation) -> None:
    """Answer the message read last, or the one named."""
    args = call.args
    *event, text = args.words or [None]
    if args.file is not None and text is not None and _EVENT_ID.fullmatch(text) and not event:
        event, text = [text], None
    if len(event) > 1:
        raise InvalidRequestError("reply takes a text, or an event and a text", hint="put the text into quotes")
    if event and not event[0].startswith("$"):
        raise InvalidRequestError(f"{event[0]!r} is no event id", hint="it starts with $; put the text into quotes")
    body, file = _given(call, text)
    _show_stored(call, _send(call, call.client(), body, reply_to=event[0] if event else "last", file=file))


def _send(call: Invocation, client: GatewayClient, body: str, **how: Any) -> dict[str, Json]:
    """Send; interrupted, say with which key it can be sent again without becoming a second message."""
    key = secrets.token_hex(16) if call.args.key is None else call.args.key
    interrupt_on_signals()
    try:
        return client.send(body, key=key, fmt="markdown" if call.args.markdown else "plain", **how)
    except KeyboardInterrupt:
        call.out.note(f"interrupted: it may be stored; with --key {key} it is the same message, and never a second one")
        raise


def _given(call: Invocation, text: str | None) -> tuple[str, Attachment | None]:
    """Return what is to be sent: a text, a file, or a file with a text below it."""
    path = call.args.file
    if path is None and text is None:
        raise InvalidRequestError("there is nothing to send", hint="give a TEXT, or --file PATH")
    file = None if path is None else read_file(Path(path), call.settings.file_limit)
    return "" if text is None else read_text(text), file


def _show_stored(call: Invocation, answer: dict[str, Json]) -> None:
    call.out.result(answer, f"stored {answer['event_id']}")
    if answer["quiet"]:
        call.out.note(f"it wakes nobody until a person writes there: {one_line(answer['quiet'])}")


def ask(call: Invocation) -> None:
    """Send a message, wait for what answers it, and print that."""
    name, timeout_s = call.args.name, call.args.timeout
    body, file = _given(call, call.args.text)
    client = call.client()
    sent = _send(call, client, body, to=name, file=file)
    if call.out.is_terminal:
        call.out.note(f"stored {sent['event_id']}; waiting for {name} to answer")
    answer = _wait_sent(client, name, sent["event_id"], timeout_s, until="answered")["answer"]
    if answer is None:
        raise WaitedInVainError(
            f"no answer within {timeout_s:g} s to {sent['event_id']}{_why_not(client, name)}",
            hint=f"it is stored in the room of {name}; an answer can still come",
        )
    answer = call.files(client).place(answer, within_s=_FILES_S)
    if call.out.as_json:
        call.out.data(answer)
    else:
        call.out.line(fence(answer) if call.args.fenced else visible(answer["body"]))
    call.out.flush()
    if answer["file"] is not None and not call.out.as_json:
        call.out.note(explain_file(answer) or f"a file came with it: {describe_file(answer)}")
    if call.acting_as or call.settings.agent or call.settings.token:  # else it is the operator, who has no inbox
        client.acknowledge([answer["event_id"]])


def _wait_sent(client: GatewayClient, name: str, event_id: str, timeout_s: float, *, until: str) -> dict[str, Json]:
    """Return how far a message came, once it is `read` or `answered`, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            sent = client.sent_message(event_id, to=name, wait_s=min(left_s, LONGEST_WAIT_S), until=until)
        except AiAgentChatError as error:  # of the wait alone
            error.hint = f"{event_id} is stored; {error.hint}".removesuffix("; ")
            raise
        if sent["state"] in ("answered", until) or left_s <= LONGEST_WAIT_S:
            return sent


def _why_not(client: GatewayClient, name: str) -> str:
    try:
        agents = client.who()["agents"]
    except AiAgentChatError:
        return ""
    offline = any(agent["name"] == name and agent["status"] == "offline" for agent in agents)
    return f": {name} is offline" if offline else ""


def sent(call: Invocation) -> None:
    """Print what was sent, the newest first, and how far it came."""
    name = call.args.to
    messages = call.client().sent(to=name, limit=call.args.limit)
    call.out.sent(messages)
    if not messages:
        call.out.note(f"nothing was sent to {name} yet" if name else "nothing was sent yet")
    elif len(messages) == call.args.limit and call.out.is_terminal:
        call.out.note(f"these are the last {call.args.limit}; --limit N shows more")


def read(call: Invocation) -> None:
    """Print what is unread, and acknowledge it once it is written."""
    args, client = call.args, call.client()
    if args.before is not None:
        call.out.messages(client.history(before=args.before, limit=args.limit), fenced=args.fenced)
    elif args.follow:
        _follow(call, client)
    else:
        _read_once(call, client)


def _read_once(call: Invocation, client: GatewayClient) -> None:
    args = call.args
    messages = (
        _wait_unread(client, args.limit, args.wait)
        if args.wait is not None
        else client.read(limit=args.limit, peek=args.peek)
    )
    call.out.messages(call.files(client).place_all(messages, _FILES_S), fenced=args.fenced)
    call.out.flush()
    if messages and not args.peek:
        client.acknowledge([message["event_id"] for message in messages])
    if len(messages) == args.limit and call.out.is_terminal:
        call.out.note(f"these are the first {args.limit}; there may be more")


def history(call: Invocation) -> None:
    """Print what was written in an agent's room."""
    args = call.args
    messages = call.client().room_messages(args.name, before=args.before, limit=args.limit)
    call.out.history(messages)
    if len(messages) == args.limit and call.out.is_terminal:
        first = one_line(messages[0]["event_id"])
        call.out.note(f"what stands before these: cchat history {args.name} --before '{first}'")
    elif not messages and args.before is None:
        call.out.note(f"nothing was written in the room of {args.name} yet")


def file(call: Invocation) -> None:
    """Write the file that came with a message to standard output."""
    if sys.stdout.isatty():
        raise InvalidRequestError("a file is not shown on a terminal", hint=f"cchat file '{call.args.event}' >FILE")
    data = call.client().fetch_file(call.args.event)
    sys.stdout.buffer.write(data)
    call.out.flush()


def _wait_unread(client: GatewayClient, limit: int, wait_s: float) -> list[dict[str, Json]]:
    deadline = time.monotonic() + wait_s
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        messages = client.read(wait_s=min(left_s, LONGEST_WAIT_S), limit=limit)
        if messages:
            return messages
        if left_s <= LONGEST_WAIT_S:
            raise WaitedInVainError(f"no message came within {wait_s:g} s")


def _follow(call: Invocation, client: GatewayClient) -> None:
    files = call.files(client)
    with client.events() as events:
        for event, data in events:
            if event == "message":
                call.out.messages([files.place(data, within_s=_FILES_S)], fenced=call.args.fenced)
                call.out.flush()
                client.acknowledge([data["event_id"]])
            elif event == "removed":
                call.out.note(f"taken back: {data['event_id']}")
            elif event == "ended":
                call.out.taken_off(data["name"])
                return
    raise DaemonNotRunningError("the daemon stopped", hint="what was not printed comes when it is back")
