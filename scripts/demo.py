"""The main job once, visibly, in a home of its own: `make demo`.

Starts a homeserver and a daemon, brings three agents online, and shows what happens between them and the operator.
Everything goes through what a user has: `cchat`, the gateway's client, and, for the operator, a plain Matrix client as
Element is one. Ends with 0, all stopped, or with what went wrong.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiagentchat.client import GatewayClient
from aiagentchat.errors import AiAgentChatError

AGENTS = {
    "planner": "Breaks work down",
    "coder": "Writes the code",
    "reviewer": "Reads what others wrote",
}
ACP_AGENT = Path(__file__).with_name("demo_agent.py")
ANSWER_S = 30.0

Json = dict[str, Any]


class DemoFailedError(Exception):
    """Something that the demo shows did not happen."""


def title(text: str) -> None:
    print(f"\n── {text} {'─' * max(0, 100 - len(text))}", flush=True)


def said(who: str, text: str) -> None:
    print(f"   {who}: {text}", flush=True)


def require(holds: bool, what: str) -> None:
    if not holds:
        raise DemoFailedError(what)


class System:
    """One system of homeserver and daemon, used through `cchat`, with settings of its own."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.socket = home / "cchat.sock"
        self.tokens: dict[str, str] = {}
        foreign = re.compile(r"(AIAGENTCHAT_|SPACE_ALIAS$|SERVER_NAME$|MATRIX_ROOM_ID$)")
        inherited = {k: v for k, v in os.environ.items() if not foreign.match(k)}
        self._env = inherited | {"AIAGENTCHAT_HOME": str(home)} | settings

    def cchat(self, *arguments: str, exit_code: int = 0, shown: bool = True) -> str:
        """Run a command, show it, and return what it printed."""
        if shown:
            print(f"   $ cchat {' '.join(repr(part) if ' ' in part else part for part in arguments)}", flush=True)
        command = [sys.executable, "-m", "aiagentchat", *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=120, check=False)
        if shown:
            for line in (done.stdout + done.stderr).rstrip().splitlines():
                print(f"     {line}", flush=True)
        require(done.returncode == exit_code, f"exit code {done.returncode}, not {exit_code}: {done.stderr}")
        return done.stdout

    def start(self) -> Json:
        """Bring everything up, with its progress on the terminal; return `cchat status`."""
        command = [sys.executable, "-m", "aiagentchat", "up", "--detach", "--port", "0", "--no-echo"]
        subprocess.run(command, env=self._env, timeout=180, check=True)
        status: Json = json.loads(self.cchat("status", "--json", shown=False))
        return status

    def stop(self) -> None:
        self.cchat("down")

    def join(self, name: str, description: str) -> GatewayClient:
        """Bring an agent online; return a client that holds its credential and nothing else."""
        answer = json.loads(self.cchat("join", name, "--detach", "--description", description, "--json", shown=False))
        said(name, f"online in {answer['alias']}")
        self.tokens[name] = answer["token"]
        return self.client(name)

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[str]:
        """Run a command that goes on, until the end of the context; gives the first line that it prints."""
        print(f"   $ cchat {' '.join(arguments)}", flush=True)
        command = [sys.executable, "-m", "aiagentchat", *arguments]
        with subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().rstrip("\n")
            finally:
                process.terminate()

    def client(self, holder: str, acting_as: str = "") -> GatewayClient:
        """Return a client with the credential of `holder`."""
        return GatewayClient(self.socket, self.tokens[holder], acting_as=acting_as, label=holder)


class Person:
    """The operator in a Matrix client, as in Element."""

    def __init__(self, url: str, user_id: str, password: str) -> None:
        self._url, self.user_id, self._token = url, user_id, ""
        identifier = {"type": "m.id.user", "user": user_id}
        login = {"type": "m.login.password", "identifier": identifier, "password": password}
        self._token = self.call("POST", "/login", login)["access_token"]

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        request = urllib.request.Request(  # noqa: S310 - of a homeserver that was started here
            f"{self._url}/_matrix/client/v3{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}"} if self._token else {},
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - likewise
            answer: Json = json.loads(response.read())
            return answer

    def joined_rooms(self) -> list[str]:
        rooms: list[str] = self.call("GET", "/joined_rooms")["joined_rooms"]
        return rooms

    def state(self, room_id: str) -> list[Json]:
        answer: Any = self.call("GET", f"/rooms/{quote(room_id)}/state")
        return list(answer)

    def write(self, room_id: str, text: str) -> str:
        path = f"/rooms/{quote(room_id)}/send/m.room.message/demo-{abs(hash(text))}"
        return str(self.call("PUT", path, {"msgtype": "m.text", "body": text})["event_id"])

    def react(self, room_id: str, event_id: str, key: str) -> None:
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        path = f"/rooms/{quote(room_id)}/send/m.reaction/demo-{abs(hash(event_id))}"
        self.call("PUT", path, {"m.relates_to": relation})

    def wait_message(self, room_id: str, wanted: Callable[[Json], bool]) -> Json:
        """Return the first message that is wanted, from a sync that waits for it."""
        since, deadline = "", time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            answer = self.call("GET", f"/sync?timeout=5000{since}")
            since = f"&since={quote(answer['next_batch'])}"
            room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
            for event in room.get("timeline", {}).get("events", ()):
                if event["type"] == "m.room.message" and wanted(event):
                    return dict(event)
        raise DemoFailedError(f"no answer within {ANSWER_S:g} s")


def sign_in(status: Json) -> Person:
    """Return the operator that a status names, with the password from the file."""
    return Person(status["homeserver_url"], status["operator"], Path(status["password_file"]).read_text().strip())


def answer_next(agent: GatewayClient, text: str, *, fmt: str = "plain") -> None:
    """Wait for a message, answer it, acknowledge it: what an agent's program does."""
    messages = agent.read(wait_s=ANSWER_S)
    require(bool(messages), "no message came")
    agent.send(text, reply_to=messages[0]["event_id"], fmt=fmt)
    agent.acknowledge([message["event_id"] for message in messages])


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def show_tree(person: Person, status: Json) -> list[str]:
    """Print the Space and its rooms; return their ids."""
    title("The Space, as the operator's client sees it")
    space = person.state(status["space_id"])
    name = next(event["content"]["name"] for event in space if event["type"] == "m.room.name")
    print(f"   {name}  {status['space_alias']}")
    children = [event for event in space if event["type"] == "m.space.child" and event["content"].get("via")]
    children.sort(key=lambda event: event["content"].get("order", ""))
    for event in children:
        state = {item["type"]: item["content"] for item in person.state(event["state_key"]) if item["state_key"] == ""}
        last = event is children[-1]
        print(f"   {'└' if last else '├'}─ {state['m.room.name']['name']}  {state['m.room.canonical_alias']['alias']}")
    rooms = {event["state_key"] for event in children}
    require(rooms <= set(person.joined_rooms()), "the operator is not in every room")
    require(len(rooms) == len(AGENTS) + 1, f"{len(rooms)} rooms in the Space")
    print(f"   (the operator, {status['operator']}, is in all of them without having accepted anything)")
    return [event["state_key"] for event in children]


def show_transcript(person: Person, rooms: list[str]) -> None:
    title("The transcript, room by room, as it stands on the homeserver")
    for room in rooms:
        names = {event["state_key"]: event["content"].get("displayname", "") for event in person.state(room)}
        title_of_room = next(event["content"]["name"] for event in person.state(room) if event["type"] == "m.room.name")
        print(f"   {title_of_room}")
        for event in reversed(person.call("GET", f"/rooms/{quote(room)}/messages?dir=b&limit=100")["chunk"]):
            if event["type"] == "m.room.message":
                said(f"  {names.get(event['sender']) or event['sender']}", event["content"]["body"])


def talk_to_agent(person: Person, agents: dict[str, GatewayClient]) -> None:
    title("A person writes to an agent in its room, and gets its answer")
    answering = in_background(lambda: answer_next(agents["planner"], "Three steps: parser, tests, docs."))
    ask_in_room(person, agents["planner"], "planner", "How do we split the work?")
    answering.join(ANSWER_S)


def talk_to_program(system: System, person: Person, agents: dict[str, GatewayClient]) -> None:
    title("Any program answers for an agent")
    with system.running("run", "--ephemeral", "upper", "--", "tr", "a-z", "A-Z") as first_line:
        print(f"     {first_line}")
        answer = ask_in_room(person, agents["planner"], "upper", "is this a real program?")
        require(answer == "IS THIS A REAL PROGRAM?", f"it answered {answer!r}")


def approve_what_an_agent_asks(system: System, person: Person, agents: dict[str, GatewayClient]) -> None:
    title("An agent that speaks ACP asks before it acts, and a person allows it with a reaction")
    with system.running("acp", "--ephemeral", "careful", "--", sys.executable, str(ACP_AGENT)) as first_line:
        print(f"     {first_line}")

        def approve(room_id: str) -> None:
            request = person.wait_message(room_id, lambda event: event["content"]["body"].startswith("May careful"))
            said("careful in the same room", request["content"]["body"])
            person.react(room_id, request["event_id"], "✅")
            said("operator", "✅")

        answer = ask_in_room(person, agents["planner"], "careful", "Push the branch", meanwhile=approve)
        require(answer == "Pushed, as you allowed.", f"it answered {answer!r}")


def ask_in_room(
    person: Person,
    agent: GatewayClient,
    name: str,
    text: str,
    meanwhile: Callable[[str], None] = lambda _: None,
) -> str:
    """Have the person write into an agent's room, and do something there before it answers; return the answer."""
    room_id = next(entry["room_id"] for entry in agent.who()["agents"] if entry["name"] == name)
    asked = person.write(room_id, text)
    said(f"operator, in the room {name}", text)
    meanwhile(room_id)

    def is_answer(event: Json) -> bool:
        related = event["content"].get("m.relates_to", {}).get("m.in_reply_to", {})
        return bool(related.get("event_id") == asked)

    answer = person.wait_message(room_id, is_answer)
    said(f"{answer['sender']} in the same room", answer["content"]["body"])
    return str(answer["content"]["body"])


def talk_among_agents(system: System, agents: dict[str, GatewayClient]) -> None:
    title("An agent finds another, writes to it, and is answered")
    system.cchat("who", "--as", "coder")
    answering = in_background(lambda: answer_next(agents["reviewer"], "Looks good, one nit in line 42."))
    answer = system.cchat("--as", "coder", "ask", "reviewer", "Please review PR #42")
    answering.join(ANSWER_S)
    require("line 42" in answer, "the reviewer's answer did not come")


def talk_to_all(system: System) -> None:
    title("A broadcast reaches all")
    text = "System maintenance in 5 minutes"
    system.cchat("send", text)
    for name in AGENTS:
        printed = system.cchat("--as", name, "read", "--wait", f"{ANSWER_S:g}")
        require(printed.endswith(f" (broadcast): {text}\n"), f"{name} read something else")


def show_isolation(system: System) -> None:
    title("An agent's credential opens that agent's inbox only")
    system.cchat("send", "--to", "reviewer", "For your eyes only")
    said("coder", "reads the inbox of reviewer")
    try:
        system.client("coder", acting_as="reviewer").read()
    except AiAgentChatError as error:
        said("the daemon", f"refused ({error.code}): {error.message}")
        require(error.code == "forbidden", f"the code is {error.code}")
    else:
        raise DemoFailedError("coder could read the inbox of reviewer")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="aiagentchat-demo-") as name:
        system = System(Path(name))
        try:
            title("A homeserver, a daemon, a Space")
            status = system.start()
            title("Three agents")
            agents = {agent: system.join(agent, description) for agent, description in AGENTS.items()}
            person = sign_in(status)
            talk_to_agent(person, agents)
            talk_to_program(system, person, agents)
            approve_what_an_agent_asks(system, person, agents)
            talk_among_agents(system, agents)
            talk_to_all(system)
            show_isolation(system)
            show_transcript(person, show_tree(person, status))
        finally:
            title("Stop")
            system.stop()
    print("\nThat was the main job. 'make up' starts a system for use.")


if __name__ == "__main__":
    try:
        main()
    except (DemoFailedError, AiAgentChatError, subprocess.SubprocessError) as error:
        sys.exit(f"demo: {error}")
