"""A system of homeserver, daemon and agents that is used as a person uses it: through `cchat` processes.

What a test only needs to be there, or to know, is asked of the gateway from here: a process takes longer to start than
most answers take, and many a question is asked again and again.
"""

import asyncio
import contextlib
import functools
import json
import os
import queue
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote

from aiagentchat.adapters.echo import NAME as ECHO
from aiagentchat.client import GatewayClient, connect
from aiagentchat.config import Paths, load_settings
from aiagentchat.daemon.lock import running_pid
from aiagentchat.errors import InvalidNameError
from aiagentchat.homeserver.process import find_running
from aiagentchat.model import parse_agent_name
from tests.integration.leaks import SEEN
from tests.integration.systems import OPERATOR, Synapse, fresh_name

Json = Any
T = TypeVar("T")
Env = Mapping[str, str] | None

PROCESS_S = 60.0
"""Most time for one process to do what it is asked; a cold Synapse on a busy machine takes the most."""

_OURS = re.compile(r"AIAGENTCHAT_|SPACE_ALIAS$|SERVER_NAME$|MATRIX_ROOM_ID$|COV_CORE|PYTHONIOENCODING$")


def wait_until(holds: Callable[[], T], *, timeout_s: float = PROCESS_S) -> T:
    """Ask until the answer is truthy, and return it.

    Between two questions, three times what one took is left to what is waited for, as they share processors; less
    where the answer itself waited.
    """
    asked_at = time.monotonic()
    deadline = asked_at + timeout_s
    while not (answer := holds()):
        answered_at = time.monotonic()
        assert answered_at < deadline, f"not so within {timeout_s:g} s: {answer!r}"
        time.sleep(min(max(0.03, 3 * (answered_at - asked_at)), 1))
        asked_at = time.monotonic()
    return answer


@dataclass(frozen=True)
class Done:
    """What a process that ended has printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def data(self) -> list[Json]:
        """Each line of the output as JSON."""
        return [json.loads(line) for line in self.lines]


class Running:
    """A process that goes on, with its output line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: dict[str, queue.Queue[str]] = {"out": queue.Queue(), "err": queue.Queue()}
        self._reading: dict[str, threading.Thread] = {}
        for name, stream in (("out", process.stdout), ("err", process.stderr)):
            assert stream is not None
            passing_on = (stream, self._lines[name], name)
            self._reading[name] = threading.Thread(target=self._pass_on, args=passing_on, daemon=True)
            self._reading[name].start()

    @staticmethod
    def _pass_on(stream: IO[str], lines: "queue.Queue[str]", of: str) -> None:
        for line in stream:
            lines.put(line.rstrip("\n"))
            if of == "err":
                SEEN.note(line)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def line(self, text: str = "", *, of: str = "out") -> str:
        """Return the next line that has `text` in it."""
        deadline = time.monotonic() + PROCESS_S
        seen: list[str] = []
        while True:
            try:
                line = self._lines[of].get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} in std{of}, but {seen}") from None
            if text in line:
                return line
            seen.append(line)

    def rest(self, *, of: str = "out") -> str:
        """Return what else was printed by a process that has ended."""
        self._reading[of].join(PROCESS_S)
        return "\n".join(self._lines[of].queue)

    def has_line(self) -> bool:
        """Whether something was printed that nobody has taken."""
        return not self._lines["out"].empty()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self._process.wait(PROCESS_S)


class System:
    """One home.

    Args:
        environment: of every command besides this process's own, less what is meant for another home.
    """

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.paths = Paths(config_dir=home, data_dir=home)
        inherited = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        own = {"AIAGENTCHAT_HOME": str(home), "AIAGENTCHAT_OPERATOR": OPERATOR, "PYTHONUTF8": "1"}
        self.environment = inherited | own | environment

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "aiagentchat", *arguments]

    def cchat(self, *arguments: str, code: int | None = 0, stdin: str = "", env: Env = None) -> Done:
        """Run a command that must end with `code`; None: with any."""
        ended = subprocess.run(
            self.command(*arguments),
            env=self.environment | dict(env or {}),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=PROCESS_S,
            check=False,
        )
        SEEN.note(ended.stderr)
        assert code in (None, ended.returncode), (arguments, ended.returncode, ended.stdout, ended.stderr)
        return Done(ended.returncode, ended.stdout, ended.stderr)

    @contextlib.contextmanager
    def running(self, *arguments: str, env: Env = None) -> Iterator[Running]:
        """Run a command that goes on; what is still there afterwards is killed."""
        with subprocess.Popen(
            self.command(*arguments),
            env=self.environment | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        ) as process:
            try:
                yield Running(process)
            finally:
                if process.poll() is None:
                    process.kill()

    def up(self, *arguments: str) -> Done:
        """Start it in the background, on any free port."""
        return self.cchat("up", "--detach", "--port", "0", *arguments)

    def down(self) -> None:
        """Stop whatever runs in this home."""
        self.cchat("down")
        assert (self.daemon_pid, self.homeserver_pid) == (None, None)

    @property
    def homeserver(self) -> Path:
        """Where the homeserver keeps its files."""
        return self.paths.homeserver

    @property
    def daemon_pid(self) -> int | None:
        return running_pid(self.paths.daemon_lock)

    @property
    def homeserver_pid(self) -> int | None:
        return find_running(self.paths)

    def kill(self, *pids: int | None) -> None:
        """`kill -9`, and return when they are gone."""
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not {self.daemon_pid, self.homeserver_pid} & set(pids))

    def client(self, acting_as: str = "") -> GatewayClient:
        """Return what commands speak through: a question costs a hundredth of a process that asks it."""
        return connect(load_settings(self.environment), acting_as=acting_as)

    def status(self) -> Json:
        """Return what `cchat status --json` shows."""
        health = self.client().health()
        return health["system"] | {"conditions": health["conditions"]}

    def who(self) -> dict[str, Json]:
        """Return the directory by name."""
        return {agent["name"]: agent for agent in self.client().who()["agents"]}

    @functools.cached_property
    def homeserver_url(self) -> str:
        """What clients are told, which stays as long as the home does."""
        return str(self.status()["homeserver_url"])

    def join(self, stem: str = "agent", *, description: str | None = None, kind: str | None = None) -> "Agent":
        """Bring an agent of a fresh name online, for a timed session."""
        name = fresh_name(stem)
        self.provide(name)
        return Agent(self, name, self.client().attach(name, description=description, kind=kind))

    def provide(self, name: str) -> None:
        """Have all be there that an agent needs to join."""

    def send(self, body: str, *, to: str | None = None, of: str = "") -> str:
        """Send a message of the operator, or of an agent, to an agent or to all; return the event's id."""
        return str(self.client(of).send(body, to=to)["event_id"])

    def ask(self, name: str, body: str, *, of: str = "") -> str:
        """Return what an agent answers the operator, or another agent: `of`."""
        client = self.client(of)
        event_id = client.send(body, to=name)["event_id"]
        answer = client.sent_message(event_id, to=name, wait_s=PROCESS_S / 2)["answer"]
        assert answer is not None, f"{name} has not answered {body!r}"
        if of:
            client.acknowledge([answer["event_id"]])
        return str(answer["body"])

    def roster(self) -> list[str]:
        """Return who is online as the homeserver has it on its disk, whether it runs or not."""
        query = """SELECT json FROM event_json NATURAL JOIN current_state_events WHERE type = 'io.aiagentchat.roster'"""
        uri = f"file:{self.homeserver / 'homeserver.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            return [
                name for (text,) in database.execute(query) for name in json.loads(text)["content"].get("online", [])
            ]


class AccountSystem(System):
    """One home with accounts on a homeserver that it does not run: what joins has an account that was logged in."""

    def __init__(self, home: Path, synapse: Synapse) -> None:
        super().__init__(home, SPACE_ALIAS=f"#{fresh_name('space')}:{synapse.config.server_name}")
        self.synapse = synapse
        device = asdict(synapse.operator) | {"homeserver_url": synapse.config.base_url}
        self.paths.operator_device.parent.mkdir(parents=True, mode=0o700)
        self.paths.operator_device.touch(mode=0o600)
        self.paths.operator_device.write_text(json.dumps(device))

    def command(self, *arguments: str) -> list[str]:
        """Return a command, once the account is there of who is to join."""
        if "join" in arguments and (name := _joining(arguments)):
            self.provide(name)
        return super().command(*arguments)

    def provide(self, name: str) -> None:
        """Have the account of who is to join be there."""
        asyncio.run(self.synapse.provide_account(self.paths, name))

    def up(self, *arguments: str) -> Done:
        """Start the daemon, with the built-in agent as an account like any other."""
        self.provide(ECHO)
        return super().up(*arguments)

    @property
    def homeserver(self) -> Path:
        return self.synapse.paths.homeserver


def _joining(arguments: tuple[str, ...]) -> str:
    """Return who is to join, "" where that is nobody."""
    for word in arguments[arguments.index("join") + 1 :][:1]:
        with contextlib.suppress(InvalidNameError):
            return parse_agent_name(word)
    return ""


@dataclass(frozen=True)
class Agent:
    """An agent that joined, and its commands."""

    system: System
    name: str
    joined: Json

    def cchat(self, *arguments: str, code: int | None = 0, stdin: str = "", env: Env = None) -> Done:
        """Run a command as this agent."""
        return self.system.cchat("--as", self.name, *arguments, code=code, stdin=stdin, env=env)

    def tell(self, *bodies: str) -> list[str]:
        """Have the operator write to it from a Matrix client, which lets anything through; return the events' ids."""
        room = Person(self.system, self.joined["room_id"])
        return [room.say(body) for body in bodies]

    def take(self) -> list[str]:
        """Acknowledge what is unread; return the bodies."""
        client = self.system.client(self.name)
        messages = client.read()
        if messages:
            client.acknowledge([message["event_id"] for message in messages])
        return [message["body"] for message in messages]

    def unread(self) -> list[str]:
        """Return the bodies of what is unread, and acknowledge nothing."""
        return [message["body"] for message in self.system.client(self.name).read(peek=True)]


class Person:
    """The operator with a Matrix client of their own."""

    def __init__(self, system: System, room_id: str) -> None:
        device = json.loads(system.paths.operator_device.read_text())
        self._token, self._user_id = device["access_token"], device["user_id"]
        self._homeserver = system.homeserver_url
        self._room = f"{self._homeserver}/_matrix/client/v3/rooms/{quote(room_id, safe='')}"

    def _request(self, method: str, path: str, body: Json | None = None) -> Json:
        return self._ask(method, f"{self._room}/{path}", None if body is None else json.dumps(body).encode())

    def _ask(self, method: str, url: str, data: bytes | None) -> Json:
        headers = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(url, method=method, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=PROCESS_S) as response:
            return dict(json.load(response))

    def timeline(self) -> list[Json]:
        return list(self._request("GET", "messages?dir=b&limit=100")["chunk"])[::-1]

    def say(self, body: str, *, thread: str = "") -> str:
        content: Json = {"msgtype": "m.text", "body": body}
        if thread:
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": thread}
        return str(self._request("PUT", f"send/m.room.message/{secrets.token_hex(8)}", content)["event_id"])

    def change(self, event_id: str, body: str) -> None:
        """Have a message of one's own say something else."""
        content: Json = {"msgtype": "m.text", "body": f"* {body}", "m.new_content": {"msgtype": "m.text", "body": body}}
        content["m.relates_to"] = {"rel_type": "m.replace", "event_id": event_id}
        self._request("PUT", f"send/m.room.message/{secrets.token_hex(8)}", content)

    def show(self, name: str, data: bytes, caption: str = "", *, url: str = "") -> str:
        """Show a picture, as a client does: this data, or what the homeserver has at `url`."""
        uri = url or self._ask("POST", f"{self._homeserver}/_matrix/media/v3/upload", data)["content_uri"]
        info = {"mimetype": "image/png", "size": len(data)}
        content = {"msgtype": "m.image", "body": caption or name, "filename": name, "url": uri, "info": info}
        return str(self._request("PUT", f"send/m.room.message/{secrets.token_hex(8)}", content)["event_id"])

    def react(self, event_id: str, key: str) -> None:
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": key}}
        self._request("PUT", f"send/m.reaction/{secrets.token_hex(8)}", content)

    def take_back(self, event_id: str) -> None:
        self._request("PUT", f"redact/{quote(event_id, safe='')}/{secrets.token_hex(8)}", {})

    def has_read(self, event_id: str) -> bool:
        """Whether their read receipt stands at an event."""
        receipts = self._request("GET", "initialSync?limit=1")["receipts"]
        return any(self._user_id in each["content"].get(event_id, {}).get("m.read", {}) for each in receipts)

    def says(self, body: str) -> bool:
        """Whether somebody has said just this."""
        return any(each["content"].get("body") == body for each in self.timeline())

    def answers_to(self, event_id: str) -> list[str]:
        """Return what was said as an answer to a message."""
        found = [each["content"] for each in self.timeline() if each["type"] == "m.room.message"]
        return [
            each["body"]
            for each in found
            if each.get("m.relates_to", {}).get("m.in_reply_to", {}).get("event_id") == event_id
        ]

    def edits_of(self, event_id: str) -> list[str]:
        """Return what a message was changed to say, each time."""
        replaces = {"rel_type": "m.replace", "event_id": event_id}
        found = [each["content"] for each in self.timeline()]
        return [each["m.new_content"]["body"] for each in found if each.get("m.relates_to") == replaces]

    def progress(self) -> list[tuple[int, str]]:
        """Return when each notice was shown, in ms, and what it said."""
        notices = [each for each in self.timeline() if each["content"].get("msgtype") == "m.notice"]
        return [
            (each["origin_server_ts"], str((each["content"].get("m.new_content") or each["content"])["body"]))
            for each in notices
        ]

    def request(self) -> Json:
        """Return what was asked last, once there is something."""

        def asked() -> list[Json]:
            events = self.timeline()
            edits = [each["content"]["m.relates_to"] for each in events if "m.new_content" in each["content"]]
            decided = {edit["event_id"] for edit in edits}
            found = [each for each in events if each["content"].get("body", "").startswith("May ")]
            return [each for each in found if each["event_id"] not in decided]

        return wait_until(asked, timeout_s=PROCESS_S)[-1]
