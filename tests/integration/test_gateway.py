"""The gateway against whoever may call it: credentials, isolation of agents, hosts and origins, malformed requests."""

import asyncio
import dataclasses
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiagentchat.agents.host import AgentHost
from aiagentchat.client import connect
from aiagentchat.config import load_settings
from aiagentchat.connection import GatewayError
from aiagentchat.errors import AlreadyRunningError, InvalidRequestError
from aiagentchat.gateway.credentials import rotate_agents
from aiagentchat.gateway.routes import ROUTES
from aiagentchat.matrix.client import MatrixClient
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, Json, attach, messages_of, say, until
from tests.integration.systems import (
    APPSERVICE_ALONE,
    IN_ONE_MODE,
    WAIT_S,
    Answer,
    Api,
    RunningDaemon,
    Synapse,
    running_daemon,
)


@pytest.fixture
async def pair(daemon: RunningDaemon) -> tuple[Hosted, Hosted]:
    """Two agents on one daemon."""
    return await attach(daemon, "first"), await attach(daemon, "second")


async def raw(
    where: Path | int, method: str, path: str, headers: Mapping[str, str], *, data: bytes | None = None
) -> Answer:
    """Do a request that no well-behaved client does, on a socket or a port of loopback, byte for byte."""
    if isinstance(where, int):
        reader, writer = await asyncio.open_connection("127.0.0.1", where)
    else:
        reader, writer = await asyncio.open_unix_connection(where)
    body = b"" if data is None else data
    fields = {"Host": "localhost", "Connection": "close", "Content-Length": f"{len(body)}", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    try:
        async with asyncio.timeout(WAIT_S):
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode(errors="surrogateescape") + body)
            answer = await reader.read(-1)
    finally:
        writer.close()
    received, _, text = answer.partition(b"\r\n\r\n")
    is_json = b"json" in received and text != b""
    return Answer(int(received.split()[1]), json.loads(text) if is_json else text.decode())


def is_problem(answer: Answer, status: int, code: str) -> bool:
    problem = answer.data
    fields = {"type", "title", "status", "detail", "code", "hint", "retryable"}
    return (answer.status, problem["status"], problem["code"], set(problem)) == (status, status, code, fields)


# --- credentials


INVALID = (
    None,
    "",
    "Bearer",
    "Bearer ",
    "Basic b3BlcmF0b3I6eA==",
    "Bearer operator:",
    "Bearer operator:guess",
    "Bearer {name}",
    "Bearer agent:{name}",
    "Bearer agent:{name}:",
    "Bearer agent:{name}:guess",
    "Bearer agent:nobody:guess",
    "Bearer agent:../operator:guess",
    "Bearer agent:{name}/../../operator:guess",
    "Bearer {token}x",
    "Bearer agent:{name}:\udcff\udcfe",
    "Bearer operator:\udcff",
    "Bearer {other_name}",
)


@APPSERVICE_ALONE
async def test_a_request_without_a_credential_that_is_valid_is_refused(
    pair: tuple[Hosted, Hosted], daemon: RunningDaemon
) -> None:
    first, second = pair
    swapped = first.api.token.replace(first.name, second.name)
    for authorization in INVALID:
        headers: dict[str, str] = {}
        if authorization is not None:
            text = authorization.format(name=first.name, token=first.api.token, other_name=swapped)
            headers["Authorization"] = text
        for path in ("/who", "/read", "/openapi.json"):
            answer = await raw(daemon.api.socket, "GET", path, headers)
            assert is_problem(answer, 401, "unauthenticated"), (authorization, answer)


async def test_a_credential_outlives_the_daemon_and_ends_with_the_agents_leave(
    synapse: Synapse, tmp_path: Path
) -> None:
    settings = synapse.settings(tmp_path)
    async with running_daemon(synapse, settings) as daemon:
        operators = daemon.api.token
        agent = await attach(daemon)
    assert not settings.paths.socket.exists()
    async with running_daemon(synapse, settings) as daemon:
        assert daemon.api.token == operators
        assert await agent.bodies() == []
        left = await agent.api.call("DELETE", f"/agents/{agent.name}")
        assert (left.status, left.data) == (200, {"done": True})
        for method, path in (("GET", "/who"), ("GET", "/read"), ("DELETE", f"/agents/{agent.name}")):
            assert is_problem(await agent.api.call(method, path), 401, "unauthenticated")
        anew = await attach(daemon, name=agent.name)
        assert anew.api.token != agent.api.token
        assert (anew.room_id, await anew.bodies()) == (agent.room_id, [])


@IN_ONE_MODE
async def test_who_waits_with_a_credential_gets_nothing_once_it_has_ended_and_who_has_the_new_one_does(
    pair: tuple[Hosted, Hosted], daemon: RunningDaemon
) -> None:
    first, second = pair
    other = dataclasses.replace(daemon.api.as_agent(first.name), reader="other")
    waiting = asyncio.create_task(first.api.call("GET", "/read", query={"wait": "30"}))

    async def is_being_read() -> bool:
        await asyncio.sleep(0.05)
        return (await other.call("GET", "/read")).status == 409

    await until(is_being_read)
    rotate_agents(daemon.settings.paths)
    await daemon.api.as_agent(second.name).post("/send", body="for the new one", to=first.name)
    assert is_problem(await waiting, 401, "unauthenticated")
    assert [message["body"] for message in (await other.get("/read"))["messages"]] == ["for the new one"]


@IN_ONE_MODE
async def test_credentials_are_files_of_the_user_alone_and_in_no_answer_or_log(
    pair: tuple[Hosted, Hosted], daemon: RunningDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = daemon.settings.paths.credentials
    files = [path for path in credentials.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"operator", *(f"{agent.name}.json" for agent in pair)}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(daemon.settings.paths.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o700
    secrets = [daemon.api.token, *(agent.api.token for agent in pair), daemon.synapse.registration.as_token]
    for path in ("/who", "/health", "/metrics", "/openapi.json"):
        text = json.dumps((await pair[0].api.call("GET", path)).data)
        assert not [secret for secret in secrets if secret in text]
    assert not [secret for secret in secrets if secret in caplog.text]


# --- isolation


@IN_ONE_MODE
async def test_an_agents_credential_acts_as_no_other_on_any_route(pair: tuple[Hosted, Hosted]) -> None:
    """Lesson: One agent that speaks as another."""
    first, second = pair
    for route in ROUTES:
        for name in (second.name, "nobody", "../x"):
            answer = await first.api.call(
                route.method,
                re.sub(r"\{.*\}", second.name, route.path),
                {} if route.body else None,
                headers={"AIAgentChat-As": name},
            )
            assert is_problem(answer, 403, "forbidden"), route


def what_is_anothers(own: str, other: str, event_id: str) -> list[tuple[str, str, str, Json | None, int]]:
    """Return requests for what is another agent's or the operator's: method, route, path, body and how each is refused.

    `own`: the agent that asks. `event_id`: a message with a file in the other's room.
    """
    options = [{"id": "a", "name": "a", "kind": "allow_once"}]
    mallory = "@mallory:example.org"
    sent, agents, rooms = "/sent", "/agents", "/rooms/{name}"
    return [
        ("GET", "/read", f"/read?before={event_id}", None, 404),
        *(("GET", sent, f"{sent}?event_id={event_id}{to}", None, 404) for to in ("", f"&to={other}", f"&to={own}")),
        ("POST", "/send", "/send", {"body": "?", "reply_to": event_id}, 404),
        ("GET", "/files/{event_id}", f"/files/{event_id}", None, 404),
        ("POST", agents, agents, {"name": other}, 403),
        ("POST", agents, agents, {"name": other, "session": "held"}, 403),
        ("POST", agents, agents, {}, 403),
        ("DELETE", f"{agents}/{{name}}", f"{agents}/{other}", None, 403),
        ("POST", "/progress", "/progress", {"body": "?", "about": event_id}, 404),
        ("POST", "/approvals", "/approvals", {"body": "?", "options": options, "about": event_id}, 404),
        ("DELETE", "/approvals/{key}", "/approvals/theirs", None, 404),
        ("GET", "/overview", "/overview", None, 403),
        *(("GET", f"{rooms}/messages", f"/rooms/{name}/messages", None, 403) for name in (own, other)),
        ("GET", f"{rooms}/events", f"/rooms/{other}/events", None, 403),
        ("POST", "/janitor", "/janitor", {}, 403),
        ("GET", "/people", "/people", None, 403),
        ("POST", "/people", "/people", {"user_id": mallory, "role": "approve"}, 403),
        ("DELETE", "/people/{user_id}", f"/people/{mallory}", None, 403),
    ]


async def is_asked(client: MatrixClient, agent: Hosted) -> bool:
    """Whether an approval that the agent waits for stands in its room."""
    page = await client.get_messages(agent.room_id, direction="b", limit=50)
    return any("May it?" in each["content"].get("body", "") for each in page.chunk)


@IN_ONE_MODE
async def test_no_route_gives_an_agent_what_is_anothers(
    pair: tuple[Hosted, Hosted], daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    first, second = pair
    alice = synapse.operator_client(http)
    await first.send("now my user is a member of that room", to=second.name)  # what no process of an agent may use
    uri = await alice.upload(b"private", name="private.txt", mimetype="text/plain")
    private = await say(alice, second.room_id, "private", msgtype="m.file", url=uri)
    answered = await second.send("private as well", reply_to=private)
    request = {"body": "May it?", "options": [{"id": "a", "name": "a", "kind": "allow_once"}], "key": "theirs"}
    asking = asyncio.create_task(second.api.call("POST", "/approvals", request))
    await until(lambda: is_asked(alice, second))

    tried = set()
    for event_id in (private, answered["event_id"]):
        for method, route, path, body, status in what_is_anothers(first.name, second.name, event_id):
            answer = await first.api.call(method, path, body)
            assert is_problem(answer, status, {403: "forbidden", 404: "not_found"}[status]), (method, path, answer)
            tried.add((method, route))
        assert (await first.api.post("/ack", event_ids=[event_id])) == {"acknowledged": []}
    assert (await second.api.call("GET", f"/files/{private}")).data == "private"
    assert (await second.api.call("DELETE", "/approvals/theirs")).status == 200
    assert (await asking).data["option"] is None
    listed = await first.api.get("/sent", to=second.name)
    assert [sent["message"]["body"] for sent in listed["messages"]] == ["now my user is a member of that room"]
    assert (await first.api.get("/read", peek="true")) == {"messages": []}
    assert (await first.api.post("/bell", moment="start"))["messages"] == 0
    await first.api.call("PUT", "/status", {"line": "mine"})
    lines = {agent["name"]: agent["status_line"] for agent in (await first.api.get("/who"))["agents"]}
    assert (lines[first.name], lines[second.name]) == ("mine", "")
    async with first.api.stream("GET", "/events") as stream:
        await daemon.api.post("/send", body="for the first", to=first.name)
        assert [message["body"] for message in await messages_of(stream, 1)] == ["for the first"]
    assert [message["body"] for message in await second.unread()] == [
        "now my user is a member of that room",
        "[file] private",
    ]
    of_ones_own = {("POST", "/ack"), ("POST", "/bell"), ("PUT", "/status"), ("GET", "/events")}
    public = {("GET", "/who"), ("GET", "/health"), ("GET", "/metrics"), ("GET", "/openapi.json")}
    assert tried | of_ones_own | public == {(route.method, route.path) for route in ROUTES}  # a new one has its place


@IN_ONE_MODE
async def test_an_agent_may_attach_itself_anew_and_gets_its_own_credential(pair: tuple[Hosted, Hosted]) -> None:
    first, _ = pair
    attached = await first.api.post("/agents", name=first.name, description="says so itself")
    assert (attached["token"], attached["room_id"]) == (first.api.token, first.room_id)
    [entry] = [agent for agent in (await first.api.get("/who"))["agents"] if agent["name"] == first.name]
    assert entry["description"] == "says so itself"


@IN_ONE_MODE
async def test_the_operator_acts_as_agents_that_are_there_and_has_no_inbox(
    daemon: RunningDaemon, pair: tuple[Hosted, Hosted]
) -> None:
    first, second = pair
    await daemon.api.as_agent(first.name).post("/send", body="as the first", to=second.name)
    [message] = await second.unread()
    assert message["sender"]["name"] == first.name
    for method, path, body in (
        ("GET", "/read", None),
        ("GET", "/events", None),
        ("POST", "/ack", {"event_ids": ["$x"]}),
        ("PUT", "/status", {"line": "x"}),
    ):
        assert is_problem(await daemon.api.call(method, path, body), 400, "bad_request")
    for name, status, code in (("nobody-of-that-name", 404, "agent_not_found"), ("Not A Name", 400, "bad_name")):
        assert is_problem(await daemon.api.as_agent(name).call("GET", "/read"), status, code)
        assert is_problem(await daemon.api.call("DELETE", f"/agents/{name}"), status, code)


# --- hosts and origins


FOREIGN: tuple[dict[str, str], ...] = (
    {"Host": "evil.example"},
    {"Host": "localhost:80"},
    {"Host": "localhost.evil.example"},
    {"Host": ""},
    {"Origin": "http://localhost"},
    {"Origin": "null"},
    {"Origin": ""},
)


@APPSERVICE_ALONE
async def test_a_page_in_the_persons_browser_is_no_client_of_the_socket(daemon: RunningDaemon) -> None:
    for headers in FOREIGN:
        for credential in (daemon.api.headers(), {}):
            answer = await raw(daemon.api.socket, "GET", "/who", credential | headers)
            assert is_problem(answer, 403, "forbidden"), headers


@APPSERVICE_ALONE
async def test_over_tcp_the_same_holds_and_the_host_is_loopback_with_the_port(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_LISTEN="127.0.0.1:0"))
    address, _, free_port = str((await daemon.api.get("/health"))["system"]["listening"]).partition(":")
    assert address == "127.0.0.1"
    port = int(free_port)

    async def who(**changed: str) -> Answer:
        return await raw(port, "GET", "/who", daemon.api.headers() | changed)

    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert (await who(Host=host)).status == 200
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"127.0.0.1:{port + 1}"):
        assert is_problem(await who(Host=host), 403, "forbidden")
    assert is_problem(await who(Origin=f"http://127.0.0.1:{port}"), 403, "forbidden")
    assert is_problem(await raw(port, "GET", "/who", {}), 401, "unauthenticated")


NOT_LOOPBACK = ("0.0.0.0:0", "[::]:0", "192.0.2.1:7480", "example.org:80", "7480", "127.0.0.1:x")
NO_SOCKET = ("unix:", "unix:relative.sock", "unix:/not/there/gateway.sock", "unix:/" + "h" * 120)


@APPSERVICE_ALONE
@pytest.mark.parametrize("listen", [*NOT_LOOPBACK, *NO_SOCKET])
async def test_a_daemon_that_is_told_to_listen_beyond_loopback_does_not_start(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, listen: str
) -> None:
    settings = synapse.settings(tmp_path, AIAGENTCHAT_LISTEN=listen)
    with pytest.raises(InvalidRequestError, match="listen"):
        await start_daemon(synapse, settings)
    assert not settings.paths.socket.exists()


@APPSERVICE_ALONE
async def test_a_second_socket_is_for_other_users_too_and_takes_no_more_than_the_first(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    second = shared / "gateway.sock"
    settings = synapse.settings(tmp_path / "home", AIAGENTCHAT_LISTEN=f"unix:{second}")
    daemon = await start_daemon(synapse, settings)
    assert stat.S_IMODE(second.stat().st_mode) == 0o666
    assert stat.S_IMODE(daemon.api.socket.stat().st_mode) == 0o600
    agent = (await daemon.api.post("/agents", name="box"))["token"]
    client = connect(load_settings({"AIAGENTCHAT_URL": f"unix:{second}", "AIAGENTCHAT_TOKEN": agent}))
    assert "box" in [each["name"] for each in (await asyncio.to_thread(client.who))["agents"]]
    with pytest.raises(GatewayError, match="operator"):
        await asyncio.to_thread(client.people)
    assert is_problem(await raw(second, "GET", "/who", {}), 401, "unauthenticated")
    for headers in FOREIGN:
        assert is_problem(await raw(second, "GET", "/who", daemon.api.headers() | headers), 403, "forbidden")
    await daemon.stop()
    assert list(shared.iterdir()) == []


@APPSERVICE_ALONE
async def test_a_port_that_is_taken_leaves_no_socket_behind(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    taken = synapse.config.base_url.rpartition(":")[2]
    settings = synapse.settings(tmp_path, AIAGENTCHAT_LISTEN=f"127.0.0.1:{taken}")
    with pytest.raises(AlreadyRunningError, match="in use"):
        await start_daemon(synapse, settings)
    assert [path.name for path in settings.paths.socket.parent.iterdir() if path.is_socket()] == []


@APPSERVICE_ALONE
async def test_the_longest_path_of_a_socket_that_is_allowed_works(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent = tmp_path_factory.mktemp("s")
    home = parent / ("h" * (100 - len(str(parent / "x" / "cchat.sock")) + 1))
    settings = synapse.settings(home)
    assert settings.paths.socket == home / "cchat.sock"
    assert len(str(settings.paths.socket)) == 100
    daemon = await start_daemon(synapse, settings)
    assert (await daemon.api.get("/who"))["unavailable"] == ""


# --- malformed requests


BODIES = (
    (b"", 400, "bad_request"),
    (b"not json", 400, "bad_request"),
    (b'{"body": "x"', 400, "bad_request"),
    (b'["body"]', 400, "bad_request"),
    (b"null", 400, "bad_request"),
    (b'{"body": 5}', 400, "bad_request"),
    (b'{"body": "x", "key": ""}', 400, "bad_request"),
    (b'{"body": "x", "sender": "@admin:example.org"}', 400, "bad_request"),
    (b'{"body": "x", "\\ud800": 1}', 400, "bad_request"),
    (b'{"body": "\\ud800"}', 400, "bad_request"),
    (b'{"body": "x", "reply_to": "no event"}', 400, "bad_request"),
    (b'{"body": "x", "format": "html"}', 400, "bad_request"),
    (b"\xff\xfe{}", 400, "bad_request"),
    (b'{"body": ' + b"9" * 5_000 + b"}", 400, "bad_request"),
    (b"[" * 100_000, 400, "bad_request"),
    (b'{"body": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001, 400, "bad_request"),
    (b'{"body": "' + b"x" * 1_000_000 + b'"}', 413, "body_too_large"),
)


@APPSERVICE_ALONE
async def test_a_body_that_is_not_as_published_is_a_problem_with_a_stable_code(daemon: RunningDaemon) -> None:
    headers = daemon.api.headers() | {"Content-Type": "application/json"}
    for data, status, code in BODIES:
        answer = await raw(daemon.api.socket, "POST", "/send", headers, data=data)
        assert is_problem(answer, status, code), data[:100]


PATHS = (
    ("GET", "/nothing", 404, "not_found"),
    ("GET", "/who/", 404, "not_found"),
    ("GET", "/../operator", 404, "not_found"),
    ("POST", "/who", 405, "bad_request"),
    ("HEAD", "/who", 405, ""),
    ("DELETE", "/agents/a%2Fb", 400, "bad_name"),
    ("DELETE", "/agents/%00", 400, "bad_name"),
    ("DELETE", "/agents/%ff", 400, "bad_name"),
    ("GET", "/who?x=1", 400, "bad_request"),
    ("GET", "/read?wait=-1", 400, "bad_request"),
    ("GET", "/read?wait=nan", 400, "bad_request"),
    ("GET", "/read?wait=inf", 400, "bad_request"),
    ("GET", "/read?wait=999999", 400, "bad_request"),
    ("GET", "/read?limit=0", 400, "bad_request"),
    ("GET", "/read?limit=x", 400, "bad_request"),
    ("GET", "/read?before=x", 400, "bad_request"),
    ("GET", "/read?before=%24%ff", 400, "bad_request"),
    ("GET", "/sent?limit=501", 400, "bad_request"),
    ("GET", "/events?stops=perhaps", 400, "bad_request"),
    ("GET", "/events?x=1", 400, "bad_request"),
    ("GET", "/rooms/echo/events?limit=-1", 400, "bad_request"),
    ("GET", "/rooms/echo/events?receipts=%ff", 400, "bad_request"),
    ("GET", "/rooms/%00/events", 400, "bad_name"),
)


@APPSERVICE_ALONE
async def test_a_path_or_query_that_is_not_as_published_is_a_problem_with_a_stable_code(daemon: RunningDaemon) -> None:
    for method, path, status, code in PATHS:
        answer = await raw(daemon.api.socket, method, path, daemon.api.headers())
        assert answer.status == status, path
        assert not code or is_problem(answer, status, code), path


@APPSERVICE_ALONE
async def test_headers_that_are_no_text_are_no_fault_of_the_daemon(pair: tuple[Hosted, Hosted]) -> None:
    api, odd = pair[0].api, {"User-Agent": "a\udcffb", "AIAgentChat-Reader": "\udcff"}
    async with api.stream("GET", "/events"):
        assert is_problem(await raw(api.socket, "GET", "/read", api.headers() | odd), 409, "reader_busy")
    await pair[1].send("hello", to=pair[0].name)
    assert (await raw(api.socket, "GET", "/read?wait=30", api.headers() | odd)).status == 200
    assert "is being read by a\\udcffb" in (await api.call("GET", "/read")).data["detail"]
    answer = await raw(api.socket, "GET", "/who", api.headers() | {"AIAgentChat-As": "\udcff"})
    assert is_problem(answer, 403, "forbidden")


@IN_ONE_MODE
async def test_the_published_document_is_the_one_that_is_served(daemon: RunningDaemon) -> None:
    document = await daemon.api.get("/openapi.json")
    served = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert served == {(route.method, route.path) for route in ROUTES}


async def test_health_and_metrics_tell_how_the_daemon_is(daemon: RunningDaemon, pair: tuple[Hosted, Hosted]) -> None:
    health = await daemon.api.get("/health")
    assert (health["status"], [each for each in health["conditions"] if not each["ok"]]) == ("ok", [])
    assert set(health["system"]["agents"]) >= {agent.name for agent in pair}
    lines = (await daemon.api.get("/metrics")).splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(figures["aiagentchat_agents_online"]) >= 2
    assert float(figures["aiagentchat_homeserver_requests_total"]) > 0
    assert float(figures["aiagentchat_tasks"]) > 0


@APPSERVICE_ALONE  # without the operator's account there is no Space: test_account_mode.py
async def test_a_device_of_the_operator_that_is_logged_out_is_said_and_stops_no_agent(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    settings = synapse.settings(tmp_path)
    device = json.loads(settings.paths.operator_device.read_text())
    settings.paths.operator_device.write_text(json.dumps(device | {"access_token": "ended"}))
    daemon = await start_daemon(synapse, settings)
    agent = await attach(daemon)
    refused = await daemon.api.call("POST", "/send", {"body": "hello", "to": agent.name})
    assert is_problem(refused, 403, "forbidden")
    assert "cchat up" in refused.data["hint"]
    failing = [each for each in (await daemon.api.get("/health"))["conditions"] if not each["ok"]]
    assert [each["name"] for each in failing] == ["operator"]


@APPSERVICE_ALONE
async def test_an_agent_that_is_not_up_in_time_is_refused_as_what_may_come_yet(
    synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_DEADLINE="1"))
    boot = AgentHost.boot

    async def boot_slowly(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(1.1)
        return await boot(*arguments, **named)

    monkeypatch.setattr(AgentHost, "boot", boot_slowly)
    refused = await daemon.api.call("POST", "/agents", {"name": "slow"})
    assert is_problem(refused, 504, "deadline_exceeded")
    assert refused.data["retryable"]


@APPSERVICE_ALONE
async def test_a_request_to_a_homeserver_that_is_away_fails_with_a_reason_within_the_deadline(
    own_synapse: Synapse, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(own_synapse, own_synapse.settings(tmp_path / "home", AIAGENTCHAT_DEADLINE="5"))
    agent = await attach(daemon)
    other = dataclasses.replace(agent.api, reader="other")
    await agent.bodies()
    await daemon.api.post("/agents", name="unopened")
    unopened = daemon.api.as_agent("unopened")
    await own_synapse.process.stop()
    calls: list[tuple[Api, str, str, Any]] = [
        (unopened, "GET", "/read", None),
        (agent.api, "POST", "/send", {"body": "to all"}),
        (agent.api, "GET", "/sent", None),
        (other, "PUT", "/status", {"line": "busy"}),
    ]
    async with asyncio.timeout(15):
        for answer in await asyncio.gather(*(api.call(method, path, body) for api, method, path, body in calls)):
            assert answer.code in ("homeserver_unavailable", "deadline_exceeded")
            assert answer.data["retryable"]
        async with unopened.stream("GET", "/events") as stream:
            events: list[tuple[str, Json]] = [event async for event in stream]
        assert [(event, data["code"]) for event, data in events] == [("error", "homeserver_unavailable")]
    health = await daemon.api.get("/health")
    assert "homeserver" in [each["name"] for each in health["conditions"] if not each["ok"]]
