"""Any agent that speaks the Agent Client Protocol, as a room: a message is a prompt, what it says is the answer.

Its program runs as long as the command; a conversation is one of its sessions. People see how far it is in the thread
of their message, and approve what it asks for.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from acp import RequestError
from acp.core import ClientSideConnection
from acp.schema import PermissionOption, ToolCallUpdate

from aiagentchat.adapters.acp_peer import AcpProgram, Peer, Turn, details_of, reason_of
from aiagentchat.adapters.files import FileStore
from aiagentchat.adapters.listening import RETRY_S, Listener, is_stop
from aiagentchat.adapters.run import (
    NOTHING_RUNS,
    Ending,
    Handled,
    answer_body,
    conversation_of,
    is_meant,
    place_file,
    says_vain,
    store_answer,
    wants_run,
)
from aiagentchat.adapters.sessions import SessionStore
from aiagentchat.client import GatewayClient, Json
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import one_line

_SHOWN_S = 1.0
"""Progress is shown at most so often; the homeserver would take more, the person's client would not."""
_TYPING_S = 30.0
_GRACE_S = 10.0
"""How long the program may take to stop when it is told to."""
_REMEMBERED = 1_000
_STOPPED = "it was stopped"
_ENDINGS = {
    "refusal": "it refused",
    "max_tokens": "it reached its limit of tokens",
    "max_turn_requests": "it took too many steps",
}


class AcpRunner:
    """Has the program answer: one prompt at a time in a conversation, several conversations at once.

    Args:
        client: acts as the agent. files: where files go that come with messages. attach: has the agent be there;
        returns the gateway's answer. sessions: the program's. tell: is told of errors of the daemon, and (None) when
        it hears the agent. on_handled: is told of each message.
    """

    def __init__(
        self,
        name: str,
        program: AcpProgram,
        client: GatewayClient,
        files: FileStore,
        attach: Callable[[], Mapping[str, Json]],
        sessions: SessionStore,
        *,
        tell: Callable[[AiAgentChatError | None], None],
        on_handled: Callable[[Handled], None],
    ) -> None:
        self._name = name
        self._program = program
        self._client = client
        self._files = files
        self._attach = attach
        self._sessions = sessions
        self._tell = tell
        self._on_handled = on_handled
        self._listener = Listener(client, self._attach_again, tell, on_removed=self._hear_removal, stops=True)
        self._room_id = ""
        self._loop: asyncio.AbstractEventLoop  # once it runs
        self._listening: asyncio.Future[None]
        self._working: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, deque[dict[str, Json]]] = {}  # it grows no more than the daemon hands out ahead
        self._known: dict[str, None] = {}  # events in hand, or done with: they may come again on a new stream
        self._begun: list[Turn] = []
        self._turns: dict[str, Turn] = {}  # those of them that have a session
        self._vain: set[str] = set()  # stops that there was nothing for
        self._open: dict[str, str] = {}  # sessions of the program that runs
        self._peer = Peer(name, program, self._turns, self._ask)

    def _attach_again(self) -> None:
        attached = self._attach()
        self._room_id, self._peer.token = str(attached["room_id"]), str(attached["token"])

    async def run(self) -> None:
        """Answer what comes until somebody has the agent leave. Cancelled, it ends what runs: that comes again.

        Raises:
            AiAgentChatError: the agent cannot be there, or the program does not start.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._attach_again)
        async with self._peer:
            await self._peer.connection()
            self._listening = self._loop.create_future()
            threading.Thread(target=self._listen, name="listener", daemon=True).start()
            try:
                await self._listening
            finally:
                self._listener.stopping.set()
                for task in self._working.values():
                    task.cancel()
                await asyncio.gather(*self._working.values(), return_exceptions=True)

    def _listen(self) -> None:
        """Pass on what comes, in a thread."""
        for message in self._listener:
            self._loop.call_soon_threadsafe(self._arrive, message)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_settle, self._listening)

    def _hear_removal(self, event_id: str) -> None:
        self._loop.call_soon_threadsafe(self._remove, event_id)

    # --- what comes

    def _arrive(self, message: dict[str, Json]) -> None:
        if message["event_id"] in self._known:
            return
        self._known[message["event_id"]] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        conversation = conversation_of(message)
        if is_stop(message):
            if not self._stop(lambda each: is_meant(message, each)):
                self._vain.add(message["event_id"])
            conversation = f"stop {message['event_id']}"  # which waits for nobody
        self._waiting.setdefault(conversation, deque()).append(message)
        if conversation not in self._working:
            task = self._loop.create_task(self._work_off(conversation))
            task.add_done_callback(self._note_fault)
            self._working[conversation] = task

    def _note_fault(self, task: "asyncio.Task[None]") -> None:
        """Have what went wrong with a conversation end the command: it would be silent from then on."""
        if not task.cancelled() and (fault := task.exception()) is not None and not self._listening.done():
            self._listening.set_exception(fault)

    def _remove(self, event_id: str) -> None:
        """Somebody took a message back: there is nothing to answer any more."""
        self._stop(lambda each: each["event_id"] == event_id)
        for waiting in self._waiting.values():
            for message in [each for each in waiting if each["event_id"] == event_id]:
                waiting.remove(message)
        self._vain.discard(event_id)

    def _stop(self, concerns: Callable[[dict[str, Json]], bool]) -> bool:
        """Stop the work at messages; return whether there was any."""
        concerned = [turn for turn in self._begun if concerns(turn.message)]
        for turn in concerned:
            turn.stopped.set()
        return bool(concerned)

    async def _work_off(self, conversation: str) -> None:
        """Take the messages of a conversation one after the other, until there are no more."""
        waiting = self._waiting[conversation]
        try:
            while waiting:
                await self._take(conversation, waiting.popleft())
        finally:
            del self._waiting[conversation], self._working[conversation]

    async def _take(self, conversation: str, message: dict[str, Json]) -> None:
        ending, error, key = None, None, f"acp {message['event_id']}"
        if is_stop(message):
            if message["event_id"] in self._vain and says_vain(message):
                error = await asyncio.to_thread(
                    store_answer, self._listener, message, NOTHING_RUNS, key=key, fmt="plain"
                )
            self._vain.discard(message["event_id"])
        elif wants_run(self._name, message):
            ending = await self._prompt(conversation, message)
            body = answer_body(ending, message)
            fmt = "plain" if ending.failure else "markdown"
            error = await asyncio.to_thread(store_answer, self._listener, message, body, key=key, fmt=fmt)
        await asyncio.to_thread(self._listener.finish, message, error)
        self._on_handled(Handled(message, ending))

    # --- a prompt

    async def _prompt(self, conversation: str, message: dict[str, Json]) -> Ending:
        turn = Turn(message, "")
        self._begun.append(turn)
        try:
            return await self._answer(conversation, turn)
        finally:
            self._begun.remove(turn)

    async def _answer(self, conversation: str, turn: Turn) -> Ending:
        began = time.monotonic()
        try:
            connection = await self._peer.connection()
            turn.session_id = await self._session(connection, conversation)
        except (RequestError, ConnectionError, AiAgentChatError, OSError, ValueError) as error:
            return Ending("", f"the program is not there: {reason_of(error)}", "", time.monotonic() - began)
        self._turns[turn.session_id] = turn
        showing = asyncio.create_task(self._show(turn))
        try:
            failure = await self._await_answer(connection, turn)
        finally:
            del self._turns[turn.session_id]
            turn.over.set()
            await showing
        seconds = time.monotonic() - began
        answer = turn.answer
        if turn.shown is not None:
            await self._show_now(turn, turn.summary(seconds, f"✘ {failure}" if failure else "✔ done"))
        if failure == _STOPPED and answer:
            answer, failure = f"{answer}\n\n[{failure}]", ""
        elif not failure and not answer:
            failure = "it said nothing"
        return Ending("" if failure else answer, failure, answer, seconds)

    async def _await_answer(self, connection: ClientSideConnection, turn: Turn) -> str:
        """Have a prompt answered; return why it was not, or ""."""
        turn.message = await asyncio.to_thread(place_file, self._listener, self._files, turn.message)
        prompt = await asyncio.to_thread(self._peer.prompt_of, turn.message)
        if turn.stopped.is_set():
            return _STOPPED
        prompting = asyncio.create_task(connection.prompt(turn.session_id, prompt))
        stopping = asyncio.create_task(turn.stopped.wait())
        try:
            await asyncio.wait(
                (prompting, stopping), timeout=self._program.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            is_late = not (prompting.done() or stopping.done())
            if not prompting.done():
                turn.stopped.set()
                await connection.cancel(turn.session_id)
                await asyncio.wait((prompting,), timeout=_GRACE_S)
            if is_late:
                return f"it took longer than {self._program.timeout_s:g} s"
            if not prompting.done():
                return "it was stopped, and does not say that it has"
            reason = prompting.result().stop_reason
        except (RequestError, ConnectionError, ValueError) as error:  # ValueError: an answer that the SDK does not know
            self._open.clear()
            return f"it failed: {reason_of(error)}"
        finally:
            for task in (prompting, stopping):
                task.cancel()
            await asyncio.gather(prompting, stopping, return_exceptions=True)
        if reason == "cancelled" or turn.stopped.is_set():
            return _STOPPED
        return "" if turn.answer else _ENDINGS.get(reason, "")

    async def _session(self, connection: ClientSideConnection, conversation: str) -> str:
        """Return the session of a conversation: the one that is open, an earlier one taken up again, or a new one."""
        if self._peer.is_new:
            self._peer.is_new = False
            self._open.clear()
        if conversation in self._open:
            return self._open[conversation]
        session_id, directory = self._sessions.get(conversation), str(self._program.directory)
        if session_id is not None:
            try:
                if self._peer.can_resume:
                    await connection.resume_session(session_id=session_id, cwd=directory, mcp_servers=[])
                elif self._peer.can_load:  # it tells again what was said, which nobody is shown
                    await connection.load_session(session_id=session_id, cwd=directory, mcp_servers=[])
                    await self._peer.wait_quiet()
                else:
                    session_id = None
            except RequestError:  # it has it no more
                session_id = None
        if session_id is None:
            session_id = (await connection.new_session(cwd=directory, mcp_servers=[])).session_id
            self._sessions.put(conversation, session_id)
        self._open[conversation] = session_id
        return session_id

    # --- what its people see

    async def _show(self, turn: Turn) -> None:
        """Show that it works, and to a person in the agent's own room how far it is."""
        is_shown = turn.message["sender"]["kind"] == "person" and turn.message["room_id"] == self._room_id
        typed_at = float("-inf")
        while not turn.over.is_set():
            if time.monotonic() - typed_at > _TYPING_S / 2:
                typed_at = time.monotonic()
                await self._type(_TYPING_S)
            await _first_of(turn.changed, turn.over, wait_s=_TYPING_S / 2)
            if turn.changed.is_set() and not turn.over.is_set():
                turn.changed.clear()
                if is_shown and (progress := turn.progress()):
                    await self._show_now(turn, progress)
                    await _first_of(turn.over, wait_s=_SHOWN_S)
        if not self._turns:
            await self._type(0.0)

    async def _type(self, seconds: float) -> None:
        with suppress(AiAgentChatError):  # it is for show
            await asyncio.to_thread(self._client.set_status, None, typing_s=seconds)

    async def _show_now(self, turn: Turn, body: str) -> None:
        show = partial(self._client.show_progress, body, about=turn.message["event_id"], shown=turn.shown)
        with suppress(AiAgentChatError):  # it is for show
            notice = await asyncio.to_thread(show)
            turn.shown = turn.shown or notice

    async def _ask(self, turn: Turn, call: ToolCallUpdate, options: list[PermissionOption]) -> str | None:
        """Ask a person; return the option that was chosen, or None: it was stopped meanwhile."""
        turn.asked += 1
        title = one_line(call.title or turn.calls.get(call.tool_call_id, ("", ""))[0] or "something")[:500]
        key = f"acp {turn.message['event_id']} {turn.session_id} {turn.asked}"
        given = [{"id": each.option_id, "name": one_line(each.name)[:200], "kind": each.kind} for each in options]
        about = turn.message["event_id"] if turn.message["room_id"] == self._room_id else None
        body = f"May {self._name} do this? **{title}**{details_of(call)}"
        ask = partial(self._client.ask_approval, body, given, timeout_s=self._program.approval_s, key=key, about=about)
        asking = asyncio.create_task(self._until_decided(ask, turn))
        stopping = asyncio.create_task(turn.stopped.wait())
        try:
            await asyncio.wait((asking, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not asking.done():  # else it would be waited for in a thread
                with suppress(AiAgentChatError):
                    await asyncio.to_thread(self._client.withdraw_approval, key)
        decision = await asking
        if decision is None or turn.stopped.is_set():
            return None
        if decision["option"] is not None:
            return str(decision["option"])
        return next((each.option_id for each in options if each.kind == "reject_once"), None)

    async def _until_decided(self, ask: Callable[[], dict[str, Json]], turn: Turn) -> dict[str, Json] | None:
        """Return what was decided, asked again where the daemon went away meanwhile; None: it cannot be asked."""
        while True:
            try:
                return await asyncio.to_thread(ask)
            except AiAgentChatError as error:
                self._tell(error)
                if not error.retryable or turn.stopped.is_set():
                    return None
            await _first_of(turn.stopped, wait_s=RETRY_S)


async def _first_of(*events: asyncio.Event, wait_s: float) -> None:
    """Wait for any of them, at most so many seconds."""
    tasks = [asyncio.ensure_future(each.wait()) for each in events]
    await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _settle(listening: "asyncio.Future[None]") -> None:
    if not listening.done():
        listening.set_result(None)
