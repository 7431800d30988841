"""`cchat run`: any program as an agent. It is started for each message, and what it prints is the answer.

A message is acknowledged once its answer is stored, under a key made of the message's own id: after a crash the program
may run again, and there is one answer all the same.
"""

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from aiagentchat.adapters.fence import fence
from aiagentchat.adapters.files import FileStore
from aiagentchat.adapters.listening import Listener, is_answer_of_agent, is_stop
from aiagentchat.client import GatewayClient, Json
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import Attachment, is_called, visible

NOTHING_RUNS = "✗ nothing runs here that could be stopped"
SESSION = "{session}"
"""Stands in a command for the conversation's id."""

_AT_ONCE = 4
_REMEMBERED = 1_000
_TYPING_S = 30.0
_LOOK_S = 0.5
"""How soon a program is ended that was stopped."""
_GRACE_S = 2.0
"""How long a program may take to end when it is told to."""
_ANSWER_BYTES = 8_000
"""What of an answer stands in a message that is too long for one: as HTML, and quoted, it is several times as much."""
_NO_FILE = ("file_too_large", "forbidden")
"""Why a file is not taken that comes with an answer."""
_SESSIONS = uuid.UUID("5b2f3c0e-5a0c-4f0e-9d53-0d5c6a1f7c11")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True, slots=True)
class Program:
    """What is run for each message. `command`: its arguments, or with `shell` one line for `/bin/sh`.

    `fenced`: it gets the message as a language model should.
    """

    command: tuple[str, ...]
    shell: bool = False
    timeout_s: float = 600.0
    format: str = "plain"
    fenced: bool = False

    def arguments(self, session: str) -> list[str]:
        """Return what to start for one conversation."""
        filled = [part.replace(SESSION, session) for part in self.command]
        return ["/bin/sh", "-c", " ".join(filled)] if self.shell else filled


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended. `failure`: why there is no answer, in a few words; "": there is one."""

    answer: str
    failure: str
    errors: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Handled:
    """A message that is done with. `ending` None: it was none to answer."""

    message: dict[str, Json]
    ending: Ending | None


@dataclass(eq=False, slots=True)
class _Work:
    """A message that is being answered. `stopped`: nobody wants that any more."""

    message: dict[str, Json]
    stopped: threading.Event = field(default_factory=threading.Event)


class Runner:
    """Runs the program for each message: one at a time in a conversation, a few conversations at once.

    Args:
        client: acts as the agent. files: where files go that come with messages. attach: has the agent be there;
            returns the gateway's answer. tell: is told of errors of the daemon, and (None) when it is back. on_handled:
            is told of each message.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        client: GatewayClient,
        files: FileStore,
        attach: Callable[[], Mapping[str, Json]],
        *,
        tell: Callable[[AiAgentChatError | None], None],
        on_handled: Callable[[Handled], None],
    ) -> None:
        self._name = name
        self._program = program
        self._client = client
        self._files = files
        self._attach = attach
        self._on_handled = on_handled
        self._listener = Listener(client, self._attach_again, tell, self._remove, stops=True)
        self._token = ""
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        # Neither grows past what the daemon hands out ahead: see `Inbox.follow`.
        self._waiting: dict[str, deque[dict[str, Json]]] = {}
        self._in_hand: set[str] = set()
        self._done: deque[str] = deque(maxlen=_REMEMBERED)  # which may be handed out again as they are acknowledged
        self._running: set[subprocess.Popen[bytes]] = set()
        self._working: dict[str, _Work] = {}
        self._vain: set[str] = set()  # stops that there was nothing for
        self._fault: BaseException | None = None

    def _attach_again(self) -> None:
        self._token = str(self._attach()["token"])

    def run(self) -> None:
        """Answer what comes until somebody has the agent leave. Interrupted, it ends what runs: that comes again."""
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="run")
        try:
            for message in self._listener:
                self._queue(pool, message)
        except KeyboardInterrupt:
            if self._fault is None:
                raise
        finally:
            self._listener.stopping.set()
            self._end_programs()
            pool.shutdown(cancel_futures=True)
        if self._fault is not None:
            raise self._fault

    def _queue(self, pool: ThreadPoolExecutor, message: dict[str, Json]) -> None:
        conversation = conversation_of(message)
        with self._lock:
            if message["event_id"] in self._in_hand or message["event_id"] in self._done:  # on a new connection
                return
            self._in_hand.add(message["event_id"])
            if is_stop(message):
                conversation = f"stop {message['event_id']}"  # which waits for nobody
                if not self._stop(lambda each: is_meant(message, each)):
                    self._vain.add(message["event_id"])
            waiting = self._waiting.setdefault(conversation, deque())
            waiting.append(message)
            if len(waiting) == 1:
                pool.submit(self._work_off, conversation).add_done_callback(self._note_fault)

    def _remove(self, event_id: str) -> None:
        """Somebody took a message back: there is nothing to answer any more."""
        with self._lock:
            self._stop(lambda each: each["event_id"] == event_id)
            for waiting in self._waiting.values():
                for message in [each for each in list(waiting)[1:] if each["event_id"] == event_id]:
                    waiting.remove(message)  # not the first: that is being taken
                    self._in_hand.discard(event_id)

    def _stop(self, concerns: Callable[[dict[str, Json]], bool]) -> bool:
        """Stop the work at messages; return whether there was any. The caller holds the lock."""
        concerned = [work for work in self._working.values() if concerns(work.message)]
        for work in concerned:
            work.stopped.set()
        return bool(concerned)

    def _note_fault(self, work: "Future[None]") -> None:
        """Have what went wrong in a thread end the command, as it would in the main one."""
        if not work.cancelled() and (fault := work.exception()) is not None:
            self._fault = fault
            self._listener.stopping.set()
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)  # which may wait for the daemon to say something

    def _work_off(self, conversation: str) -> None:
        """Take the messages of a conversation one after the other, until there are no more."""
        while not self._listener.stopping.is_set():
            with self._lock:
                message = self._waiting[conversation][0]
            is_done = self._take(conversation, message)
            with self._lock:
                if is_done:
                    self._done.append(message["event_id"])
                self._in_hand.discard(message["event_id"])
                waiting = self._waiting[conversation]
                waiting.popleft()
                if not waiting:
                    del self._waiting[conversation]
                    return

    def _take(self, conversation: str, message: dict[str, Json]) -> bool:
        """Answer a message, if it is to be; return whether it is done with."""
        listener, ending, error = self._listener, None, None
        if is_stop(message):
            if message["event_id"] in self._vain and says_vain(message):
                error = store_answer(listener, message, NOTHING_RUNS, key=f"run {message['event_id']}", fmt="plain")
            self._vain.discard(message["event_id"])
        elif wants_run(self._name, message):
            ending = self._work_at(conversation, message)
            if listener.stopping.is_set():
                return False
            body, fmt = answer_body(ending, message), "plain" if ending.failure else self._program.format
            error = store_answer(listener, message, body, key=f"run {message['event_id']}", fmt=fmt)
            if error is not None and not listener.stopping.is_set():
                ending = replace(ending, failure=f"its answer was not stored: {error.message}")
        is_done = listener.finish(message, error)
        if not listener.stopping.is_set():
            with self._telling:
                self._on_handled(Handled(message, ending))
        return is_done

    # --- the program

    def _work_at(self, conversation: str, message: dict[str, Json]) -> Ending:
        work = _Work(message)
        with self._lock:
            self._working[message["event_id"]] = work
        try:
            return self._invoke(conversation, work)
        finally:
            with self._lock:
                del self._working[message["event_id"]]

    def _invoke(self, conversation: str, work: _Work) -> Ending:
        message = place_file(self._listener, self._files, work.message)
        if self._listener.stopping.is_set():
            return Ending("", "it was interrupted", "", 0.0)
        session = session_of(self._name, conversation)
        began = time.monotonic()
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
            given.write((fence(message) if self._program.fenced else message["body"] + "\n").encode())
            given.seek(0)
            try:
                process = subprocess.Popen(
                    self._program.arguments(session),
                    stdin=given,
                    stdout=printed,
                    stderr=errors,
                    env=environment_of(self._name, self._token, session, message),
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:  # ValueError: a thread's id that no environment can hold
                return Ending("", f"it could not be started: {error}", "", 0.0)
            with process:
                failure = self._wait(process, work.stopped)
            printed.seek(0)
            errors.seek(0)
            answer = _clean(printed.read())
            if not failure and not answer:
                failure = "it printed nothing"
            return Ending(answer, failure, _clean(errors.read()), time.monotonic() - began)

    def _wait(self, process: "subprocess.Popen[bytes]", stopped: threading.Event) -> str:
        """Wait for a program, typing meanwhile; return what went wrong, or ""."""
        with self._lock:
            self._running.add(process)
        deadline, typed_at = time.monotonic() + self._program.timeout_s, float("-inf")
        try:
            while not self._listener.stopping.is_set():
                left_s = deadline - time.monotonic()
                if stopped.is_set():
                    return "it was stopped"
                if left_s <= 0:
                    return f"it took longer than {self._program.timeout_s:g} s"
                if time.monotonic() - typed_at > _TYPING_S / 2:
                    typed_at = time.monotonic()
                    self._type(_TYPING_S)
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(min(left_s, _LOOK_S))
                    return f"it ended with exit code {code}" if code > 0 else _signal(code) if code else ""
            return "it was interrupted"
        finally:
            if process.returncode is None:
                _end([process])
            with self._lock:
                self._running.discard(process)
                is_last = not self._running
            if is_last and not self._listener.stopping.is_set():
                self._type(0.0)

    def _type(self, seconds: float) -> None:
        with suppress(AiAgentChatError):  # it is for show
            self._client.set_status(typing_s=seconds)

    def _end_programs(self) -> None:
        with self._lock:
            running = list(self._running)
        _end(running)


def _signal(code: int) -> str:
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End programs and all that they started in their process groups: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE_S
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def wants_run(name: str, message: dict[str, Json]) -> bool:
    """Whether the program runs: not for an agent's answer, and of what is for all, for what names the agent."""
    return not is_answer_of_agent(message) and (not message["broadcast"] or is_called(name, message["body"]))


def conversation_of(message: dict[str, Json]) -> str:
    """Return what tells conversations apart: a thread; else an agent, or the room where people write."""
    if message["thread"] is not None:
        return f"{message['room_id']} {message['thread']}"
    sender = message["sender"]
    return str(message["room_id"] if sender["kind"] == "person" else sender["user_id"])


def is_meant(stop: dict[str, Json], message: dict[str, Json]) -> bool:
    """Whether a person's stop is meant for a message: in its conversation or thread, or in the room of an agent's."""
    is_near = conversation_of(stop) == conversation_of(message) or stop["thread"] == message["event_id"]
    is_agents = message["sender"]["kind"] != "person" and stop["room_id"] == message["room_id"]
    return is_near or (is_agents and stop["thread"] is None)


def says_vain(stop: dict[str, Json]) -> bool:
    """Whether to say of a stop that there was nothing for it: not to all, and not long after it was written."""
    return not stop["broadcast"] and not stop["late"]


def session_of(name: str, conversation: str) -> str:
    """Return a conversation's id, the same each time: a UUID, which is what programs take that keep sessions."""
    return str(uuid.uuid5(_SESSIONS, f"{name} {conversation}"))


def environment_of(name: str, token: str, session: str, message: dict[str, Json]) -> dict[str, str]:
    """Return a program's environment: ours, what it is to answer, and a credential with which `cchat` is the agent."""
    sender: Mapping[str, str] = message["sender"]
    return os.environ | {
        "AIAGENTCHAT_TOKEN": token,
        "CCHAT_AGENT": name,
        "CCHAT_SENDER": sender["user_id"],
        "CCHAT_SENDER_NAME": sender["name"],
        "CCHAT_SENDER_KIND": sender["kind"],
        "CCHAT_ROOM": message["room_id"],
        "CCHAT_EVENT": message["event_id"],
        "CCHAT_THREAD": message["thread"] or "",
        "CCHAT_BROADCAST": "1" if message["broadcast"] else "",
        "CCHAT_LATE": "1" if message["late"] else "",
        "CCHAT_EDITS": message["edits"] or "",
        "CCHAT_FILE": (message["file"] or {}).get("path") or "",
        "CCHAT_SESSION": session,
    }


def answer_body(ending: Ending, message: dict[str, Json]) -> str:
    """Return what to send: the answer, or one line on why there is none, for a person with what it said last."""
    if not ending.failure:
        return ending.answer
    last = (ending.errors or ending.answer).rpartition("\n")[2][:200] if message["sender"]["kind"] == "person" else ""
    return f"✗ no answer: {ending.failure}" + (f" ({last})" if last else "")


def place_file(listener: Listener, files: FileStore, message: dict[str, Json]) -> dict[str, Json]:
    """Return a message with where its file is, once the daemon is there."""
    placed = [message]

    def place() -> None:
        placed[0] = files.place(message)

    listener.until_done(place)
    return placed[0]


def store_answer(
    listener: Listener, message: dict[str, Json], body: str, *, key: str, fmt: str
) -> AiAgentChatError | None:
    """Answer a message, in full in a file where it is too long for one; return why that is not stored, or None."""
    error = listener.answer(message, body, key=key, fmt=fmt)
    if error is None or error.code != "body_too_large":
        return error
    name, mimetype = ("answer.md", "text/markdown") if fmt == "markdown" else ("answer.txt", "text/plain")
    beginning, file = beginning_of(body), Attachment(name, mimetype, body.encode())
    error = listener.answer(message, f"{beginning}; all of it is in this file]", key=key, fmt=fmt, file=file)
    if error is not None and error.code in _NO_FILE:
        error = listener.answer(message, f"{beginning}]", key=key, fmt=fmt)
    return error


def beginning_of(body: str) -> str:
    """Return the beginning of an answer that is too long to send, and a bracket on that."""
    kept = body.encode()[:_ANSWER_BYTES].decode(errors="ignore")
    return f"{kept}\n\n[the first {len(kept):,} of {len(body):,} characters"


def _clean(printed: bytes) -> str:
    """Return what was printed as text, less colours and the white space around it."""
    text = _ESCAPES.sub("", printed.decode(errors="replace")).replace("\r\n", "\n")
    return visible(text.strip())
