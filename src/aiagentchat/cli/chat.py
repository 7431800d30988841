"""`cchat chat`: the operator talks to an agent, at a terminal or through pipes.

What is shown, and what a line means, `cli.conversation` says.
"""

import asyncio
import contextlib
import queue
import signal
import sys
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aiagentchat.cli.conversation import Conversation
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.client import GatewayClient
from aiagentchat.connection import EventStream
from aiagentchat.errors import AiAgentChatError, DaemonNotRunningError, InvalidRequestError, WaitedInVainError
from aiagentchat.model import visible

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

Json = Any

_AGAIN_S = 1.0
"""After this long a daemon that is away is asked for again."""
_LAST_SENDS_S = 5.0
"""How long what was written last may take to be stored, once its writer leaves."""
_MOST_NEWS = 1_000
"""Events that wait to be shown. Beyond, the stream is not read on: the daemon leaves out, and then reads the room."""
_MOST_UNSENT = 100
"""Lines that wait to be sent."""


def chat(call: Invocation) -> None:
    """Talk to an agent."""
    client = call.client()
    if not (sys.stdin is not None and sys.stdin.isatty() and call.out.is_terminal):
        interrupt_on_signals()
        _Pipe(call, client).run()
        return
    conversation = Conversation(call.args.name, colour=call.out.has_colour)
    # which may not be there, and says so before anything is drawn
    stream = client.room_events(call.args.name, limit=call.args.limit, receipts=True)
    asyncio.run(_Talk(call, client, conversation).run(stream))


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A message to send. `text`: the line that means it. `key`: the same key is the same message."""

    text: str
    body: str
    reply_to: str | None
    key: str


class _Talk:
    """A conversation at a terminal."""

    def __init__(self, call: Invocation, client: GatewayClient, conversation: Conversation) -> None:
        self._call = call
        self._client = client
        self._conversation = conversation
        self._loop: asyncio.AbstractEventLoop  # once it runs
        self._news: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()
        self._room_for_news = threading.BoundedSemaphore(_MOST_NEWS)
        self._outgoing: queue.Queue[_Outgoing] = queue.Queue(_MOST_UNSENT)
        self._unsent: dict[tuple[str, str | None], str] = {}  # the keys of messages that may be stored or not
        self._aimed_at: str | None = None  # by the line that is being written; "": at no request
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._failure: AiAgentChatError | None = None

    async def run(self, stream: EventStream) -> None:
        """Talk until the operator leaves, or the gateway refuses."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(stream,), daemon=True).start()
        threading.Thread(target=self._send, daemon=True).start()
        from aiagentchat.cli.prompt import prompt_session  # noqa: PLC0415 - most calls of cchat do not need its library

        session = prompt_session(self._conversation.prompt, self._conversation.status, self._note_typing)
        showing = asyncio.create_task(self._show(session))
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, _leave, session, EOFError())
        try:
            await self._read_lines(session)
        finally:
            await self._finish_sending()
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _read_lines(self, session: "PromptSession[str]") -> None:
        while self._failure is None:
            self._note_typing("")
            try:
                text = await session.prompt_async()
            except (EOFError, KeyboardInterrupt):
                return
            line = self._conversation.read_line(text, self._aimed_at or None)
            for said in line.say:
                self._call.out.line(said)
            if line.leaves:
                return
            if line.body and self._outgoing.full():
                said = f"cchat: not sent: {_MOST_UNSENT} lines before it wait to be sent; ↑ brings it back"
                self._call.out.line(said)
            elif line.body:
                self._conversation.sending += 1
                self._is_idle.clear()
                key = self._unsent.pop((line.body, line.reply_to), None) or uuid.uuid4().hex
                self._outgoing.put_nowait(_Outgoing(text, line.body, line.reply_to, key))
        raise self._failure

    def _note_typing(self, text: str) -> None:
        """A line that was begun answers the request that was pending then, and none that comes meanwhile."""
        if not text:
            self._aimed_at = None
        elif self._aimed_at is None:
            self._aimed_at = self._conversation.pending or ""

    async def _show(self, session: "PromptSession[str]") -> None:
        """Print what happens above the line that is being written."""
        from prompt_toolkit.application import run_in_terminal  # noqa: PLC0415 - most calls of cchat do not need it

        while True:
            event, data = await self._news.get()
            self._room_for_news.release()
            if event == "failed":
                self._failure = data
                _leave(session, data)
                return
            if lines := self._take(event, data):
                text = "\n".join(lines)
                await run_in_terminal(partial(self._call.out.line, text))
            if event == "not_stored":
                self._offer_again(session, *data)
            session.app.invalidate()

    def _take(self, event: str, data: Json) -> list[str]:
        conversation = self._conversation
        if event in ("stored", "not_stored"):
            conversation.sending -= 1
            if not conversation.sending:
                self._is_idle.set()
        if event == "not_stored":
            return _not_stored(*data)
        if event == "away":
            conversation.away = f"{data}; trying again"
            conversation.begin_again()
            return []
        return conversation.take(event, data)

    def _offer_again(self, session: "PromptSession[str]", message: _Outgoing, error: AiAgentChatError) -> None:
        """Have a line that can be sent again stand where lines are written, unless another is begun there."""
        if not error.retryable:
            return
        self._unsent[message.body, message.reply_to] = message.key
        if session.app.is_running and not session.default_buffer.text:
            session.default_buffer.insert_text(message.text)

    # --- threads: the client blocks

    def _tell(self, event: str, data: Json) -> None:
        """Have something shown; waits while much is not shown yet."""
        self._room_for_news.acquire()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(self._news.put_nowait, (event, data))

    def _listen(self, stream: EventStream) -> None:
        while True:
            try:
                with stream:
                    for event, data in stream:
                        self._tell(event, data)
                why = "the daemon stopped"
            except AiAgentChatError as error:
                if not error.retryable:
                    self._tell("failed", error)
                    return
                why = error.message
            self._tell("away", why)
            while True:
                time.sleep(_AGAIN_S)
                try:
                    stream = self._client.room_events(self._call.args.name, limit=self._call.args.limit, receipts=True)
                    break
                except AiAgentChatError as error:
                    if not error.retryable:
                        self._tell("failed", error)
                        return

    def _send(self) -> None:
        while True:
            message = self._outgoing.get()
            to = self._call.args.name if message.reply_to is None else None
            try:
                self._client.send(message.body, to=to, reply_to=message.reply_to, key=message.key)
                self._tell("stored", None)
            except AiAgentChatError as error:
                self._tell("not_stored", (message, error))

    async def _finish_sending(self) -> None:
        try:
            async with asyncio.timeout(_LAST_SENDS_S):
                await self._is_idle.wait()
        except TimeoutError:
            self._call.out.note(f"what was written last may be stored or not: cchat history {self._call.args.name}")


def _not_stored(message: _Outgoing, error: AiAgentChatError) -> list[str]:
    """Return what to print of a message that was not stored, as far as is known."""
    hints = [each for each in error.hint.split("; ") if each and message.key not in each]  # there is no --key here
    if error.retryable:
        hints.append("sent again unchanged (↑ brings it back) it is the same message, never a second one")
    perhaps = "perhaps " if error.retryable else ""
    said = [f"cchat: {perhaps}not sent: {message.text}", error.message, *hints]
    return [visible("\n  ".join(said))]


def _leave(session: "PromptSession[str]", why: BaseException) -> None:
    if session.app.is_running:
        session.app.exit(exception=why)


class _Pipe:
    """A conversation through pipes: a line is a message, and what others write is printed, until all is answered."""

    def __init__(self, call: Invocation, client: GatewayClient) -> None:
        self._call = call
        self._client = client
        self._news: queue.Queue[tuple[str, Json]] = queue.Queue(_MOST_NEWS)
        self._waiting: set[str] = set()
        self._early: deque[str] = deque(maxlen=_MOST_NEWS)  # answered, perhaps before it was known what was asked
        self._operator: str | None = None
        self._until = float("inf")

    def run(self) -> None:
        """Talk until standard input has ended and all that was sent is answered."""
        stream = self._client.room_events(self._call.args.name, limit=0)
        threading.Thread(target=self._listen, args=(stream,), daemon=True).start()
        while self._until == float("inf") or self._waiting:
            try:
                event, data = self._news.get(timeout=min(1.0, max(0.0, self._until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() < self._until:
                    continue
                name, timeout_s = self._call.args.name, self._call.args.timeout
                raise WaitedInVainError(
                    f"{name} has not answered {' '.join(sorted(self._waiting))} within {timeout_s:g} s",
                    hint=f"it is stored in the room of {name}; an answer can still come",
                ) from None
            self._take(event, data)

    def _take(self, event: str, data: Json) -> None:
        if event == "failed":
            raise data
        if event == "live":
            self._operator = data["operator"]
            threading.Thread(target=self._send, daemon=True).start()
        elif event == "sent":
            self._waiting |= {data}.difference(self._early)
        elif event == "end":
            self._until = time.monotonic() + self._call.args.timeout
        elif event == "message" and data["sender"]["user_id"] != self._operator:
            self._call.out.messages([data])
            self._call.out.flush()
            if data["in_reply_to"] is not None:
                self._early.append(data["in_reply_to"]["event_id"])
                self._waiting.discard(data["in_reply_to"]["event_id"])

    def _listen(self, stream: EventStream) -> None:
        try:
            with stream:
                for each in stream:
                    self._news.put(each)
            raise DaemonNotRunningError(
                "the daemon stopped", hint=f"'cchat history {self._call.args.name}' shows what was written"
            )
        except AiAgentChatError as error:
            self._news.put(("failed", error))

    def _send(self) -> None:
        try:
            for raw in sys.stdin.buffer if sys.stdin is not None else ():
                body = raw.decode().removesuffix("\n")
                if body.strip():
                    self._news.put(("sent", self._client.send(body, to=self._call.args.name)["event_id"]))
            self._news.put(("end", None))
        except UnicodeDecodeError:
            self._news.put(("failed", InvalidRequestError("standard input is not UTF-8 text; that line was not sent")))
        except AiAgentChatError as error:
            self._news.put(("failed", error))
