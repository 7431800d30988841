"""Files that come with messages: from people to agents and back, on a real homeserver.

In both modes where it matters who has a file: with an account, each agent has it with a token of its own.
"""

import asyncio
import json
import secrets
import time
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import nio  # type: ignore[import-untyped]  # matrix-nio comes without types
import pytest

from aiagentchat.agents import files as agent_files
from aiagentchat.client import GatewayClient
from aiagentchat.connection import GatewayError
from aiagentchat.matrix import client as matrix_client
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import BYTES, Attachment, RoomId
from tests.integration.conftest import StartDaemon
from tests.integration.correspondents import Hosted, attach, matrix, say
from tests.integration.systems import APPSERVICE_ALONE, WAIT_S, RunningDaemon, Synapse
from tests.integration.test_gateway import is_problem, raw

Json = dict[str, Any]
FORM = "multipart/form-data"
PART = b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


def client(agent: Hosted) -> GatewayClient:
    return GatewayClient(agent.api.socket, agent.api.token, acting_as=agent.api.agent)


async def fetch(agent: Hosted, event_id: str) -> bytes:
    return await asyncio.to_thread(client(agent).fetch_file, event_id)


async def refusal(agent: Hosted, event_id: str) -> str:
    with pytest.raises(GatewayError) as refused:
        await fetch(agent, event_id)
    return refused.value.code


async def send_file(agent: Hosted, file: Attachment, body: str = "", **how: str) -> Json:
    return await asyncio.to_thread(partial(client(agent).send, body, file=file, **how))


async def show(somebody: MatrixClient, room_id: RoomId, data: bytes = PICTURE, **content: object) -> str:
    """Show a picture in a room as a Matrix client does."""
    uri = await somebody.upload(data, name="cat.png", mimetype="image/png")
    told = {"msgtype": "m.image", "body": "cat.png", "url": uri, "info": {"mimetype": "image/png", "size": len(data)}}
    return await somebody.send(room_id, "m.room.message", told | content, secrets.token_hex(8))


async def test_what_a_person_shows_is_for_the_agent_alone_and_for_the_operator(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    agent, other = await attach(daemon), await attach(daemon)
    alice = synapse.operator_client(http)
    shown = await show(alice, agent.room_id)
    [message] = await agent.unread(wait=f"{WAIT_S:g}")
    assert message["body"] == "[image] cat.png"
    assert message["file"] == {"name": "cat.png", "mimetype": "image/png", "size": len(PICTURE)}
    assert await fetch(agent, shown) == PICTURE
    operator = Hosted(agent.name, agent.user_id, agent.room_id, daemon.api)
    assert await fetch(operator, shown) == PICTURE
    await other.send("now my user is a member of that room", to=agent.name)
    assert await refusal(other, shown) == "not_found"
    for event_id in (await say(alice, agent.room_id, "no file"), "$nothing", "$no/such/../thing"):
        assert await refusal(agent, event_id) == "not_found"


async def test_an_agent_sends_a_file_to_another_as_an_answer_and_to_all_and_a_person_sees_it_in_their_client(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    agent, other = await attach(daemon), await attach(daemon)
    report = Attachment("Bericht für dich.txt", "text/plain", b"\r\n--x\r\n\0")
    await send_file(agent, report, "read *this*", to=other.name, fmt="markdown")
    [message] = await other.unread(wait=f"{WAIT_S:g}")
    assert (message["body"], message["format"]) == ("[file] read *this*", "html")
    assert message["file"] == {"name": report.name, "mimetype": "text/plain", "size": len(report.data)}
    assert await fetch(other, message["event_id"]) == report.data
    await send_file(other, Attachment("a.ogg", "audio/ogg", b"OggS"), reply_to=message["event_id"])
    [answer] = await agent.unread(wait=f"{WAIT_S:g}")
    assert (answer["body"], answer["in_reply_to"]["event_id"]) == ("[audio] a.ogg", message["event_id"])
    assert await fetch(agent, answer["event_id"]) == b"OggS"
    stored = await send_file(agent, Attachment("all.bin", BYTES, PICTURE))
    assert await fetch(other, stored["event_id"]) == PICTURE
    event = await synapse.operator_client(http).get_event(stored["room_id"], stored["event_id"])
    assert (event["content"]["msgtype"], event["content"]["filename"]) == ("m.file", "all.bin")

    stored = await send_file(agent, Attachment("cat.png", "image/png", PICTURE), "look")
    watching = nio.AsyncClient(synapse.config.base_url)
    watching.access_token = synapse.operator.access_token
    try:
        content = (await synapse.operator_client(http).get_event(stored["room_id"], stored["event_id"]))["content"]
        assert (content["body"], content["msgtype"]) == ("look", "m.image")
        fetched = await watching.download(mxc=content["url"])
        assert isinstance(fetched, nio.DownloadResponse), fetched
        assert (fetched.body, fetched.filename, fetched.content_type) == (PICTURE, "cat.png", "image/png")
    finally:
        await watching.close()


@APPSERVICE_ALONE
async def test_the_same_key_is_the_same_message_with_its_file_which_is_uploaded_once(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, other = await attach(daemon), await attach(daemon)
    uploaded: list[bytes] = []
    upload = MatrixClient.upload

    async def note_upload(self: MatrixClient, data: bytes, **about: str) -> str:
        uploaded.append(data)
        return await upload(self, data, **about)

    monkeypatch.setattr(MatrixClient, "upload", note_upload)
    monkeypatch.setattr(agent_files, "_REMEMBERED", 2)

    async def send(key: str, *, of: Hosted = agent, to: Hosted = other) -> Json:
        return await send_file(of, Attachment(f"{key}.txt", "text/plain", key.encode()), to=to.name, key=key)

    first = await send("a")
    assert await send("a") == first
    await send("b")
    assert await send("a") == first
    assert uploaded == [b"a", b"b"]
    for key in ("c", "c", "b"):  # of the two that are remembered, the first made room
        await send(key)
    assert await send("a") == first
    assert uploaded == [b"a", b"b", b"c", b"a"]
    assert [message["file"]["name"] for message in await other.unread()] == ["a.txt", "b.txt", "c.txt"]
    await send("a", of=other, to=agent)
    assert uploaded[4:] == [b"a"]


@APPSERVICE_ALONE
async def test_a_file_that_is_too_large_goes_nowhere_whatever_is_said_of_its_size(
    synapse: Synapse, tmp_path: Path, start_daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_FILE_LIMIT="1000"))
    agent, other = await attach(daemon), await attach(daemon)
    for size in (1_001, 600_000):
        with pytest.raises(GatewayError) as refused:
            await send_file(agent, Attachment("a.bin", BYTES, b"x" * size), to=other.name)
        assert refused.value.code == "file_too_large"
        assert "1,000" in refused.value.message
    await send_file(agent, Attachment("a.bin", BYTES, b"x" * 1_000), to=other.name)
    assert [message["file"]["size"] for message in await other.unread(wait=f"{WAIT_S:g}")] == [1_000]
    shown = await show(synapse.operator_client(http), agent.room_id, b"x" * 1_001, info={"size": 7})
    [message] = await agent.unread(wait=f"{WAIT_S:g}")
    assert message["file"]["size"] == 7
    assert await refusal(agent, shown) == "file_too_large"


@APPSERVICE_ALONE
async def test_a_large_file_keeps_nobody_waiting_and_more_than_the_homeserver_takes_is_said_with_its_setting(
    synapse: Synapse, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(synapse, synapse.settings(tmp_path, AIAGENTCHAT_FILE_LIMIT="60000000"))
    agent, other = await attach(daemon), await attach(daemon)
    data = secrets.token_bytes(15_000_000)
    sending = asyncio.create_task(send_file(agent, Attachment("a.bin", BYTES, data), to=other.name))
    waits: list[float] = []
    while not sending.done():
        began = asyncio.get_running_loop().time()
        await other.api.get("/read")
        waits.append(asyncio.get_running_loop().time() - began)
    assert max(waits) < 2.0, waits
    assert await fetch(other, (await sending)["event_id"]) == data
    with pytest.raises(GatewayError) as refused:
        await send_file(agent, Attachment("a.bin", BYTES, bytes(51 * 1024 * 1024)))
    assert (refused.value.code, refused.value.hint) == ("file_too_large", "its max_upload_size sets the limit")


@APPSERVICE_ALONE
async def test_a_file_that_is_still_to_come_keeps_nobody_else_waiting_and_one_that_was_lost_is_said(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_client, "_MEDIA_QUERY", {"timeout_ms": "500"})
    agent = await attach(daemon)
    alice = synapse.operator_client(http)
    created = await matrix(synapse, synapse.operator.access_token, "POST", "_matrix", "media", "v1", "create")
    pending = [await show(alice, agent.room_id, url=created["content_uri"]) for _ in range(6)]
    shown = await show(alice, agent.room_id)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        refusals = [group.create_task(refusal(agent, event_id)) for event_id in pending]
        fetching = group.create_task(fetch(agent, shown))
    assert [each.result() for each in refusals] == ["not_found"] * 6
    assert fetching.result() == PICTURE
    assert time.monotonic() - began < WAIT_S / 2
    lost = await show(alice, agent.room_id, url=f"mxc://{synapse.config.server_name}/{'x' * 24}")
    assert await refusal(agent, lost) == "not_found"


@APPSERVICE_ALONE
async def test_a_file_that_the_homeserver_refuses_is_no_fault_of_the_room(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synapse refuses with 403 what is beyond a user's quota, and has no media with 404 where they are off."""
    agent, other = await attach(daemon), await attach(daemon)
    monkeypatch.setattr(matrix_client, "_MEDIA", ("_matrix", "media", "none"))
    with pytest.raises(GatewayError) as refused:
        await send_file(agent, Attachment("a.txt", "text/plain", b"x"), to=other.name)
    assert refused.value.code == "forbidden"
    assert refused.value.message.startswith("the homeserver does not take the file, and nothing was sent: ")


NO_FORMS = (
    (FORM, b"no boundary"),
    (f"{FORM}; boundary={'x' * 100}", b"--x"),
    (f"{FORM}; boundary=x", b"no parts"),
    (f"{FORM}; boundary=x", PART % b'name="message"' + b"{}\r\n--x--"),
    (f"{FORM}; boundary=x", PART % b'name="message"' + b"{}\r\n" + PART % b'name="message"' + b"{}\r\n--x--\r\n"),
    (f"{FORM}; boundary=x", PART % b'name="message"' + b"{\r\n" + PART % b'name="file"' + b"{}\r\n--x--\r\n"),
    (f"{FORM}; boundary=x", PART % b'name="other"' + b"{}\r\n--x--\r\n"),
    (f"{FORM}; boundary=x", PART % b"x=y" + b"{}\r\n--x--\r\n"),
    (f"{FORM}; boundary=x", PART % b'name="file"' + b"that does not end"),
    (f"{FORM}; boundary=x", b"--x\r\nno header\r\n\r\n{}\r\n--x--\r\n"),
    (f"{FORM}; boundary=x", b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n--y--\r\n--x--"),
    ("application/json", b'{"body": "?", "file": {"name": "a"}}'),
    ("text/plain", b"hello"),
)


@APPSERVICE_ALONE
async def test_a_form_that_is_none_or_without_a_file_and_what_it_is_is_refused_as_such(daemon: RunningDaemon) -> None:
    for content_type, data in NO_FORMS:
        headers = {"Authorization": f"Bearer {daemon.api.token}", "Content-Type": content_type}
        answer = await raw(daemon.api.socket, "POST", "/send", headers, data=data)
        assert is_problem(answer, 400, "bad_request"), (content_type, data, answer)
    for message in ({"body": "?"}, {"body": "?", "file": {"name": ""}}, {"body": "?", "file": {"name": "a", "x": 1}}):
        form = aiohttp.FormData()
        form.add_field("message", json.dumps(message))
        form.add_field("file", b"data", filename="f")
        connector = aiohttp.UnixConnector(str(daemon.api.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://localhost/send", data=form, headers=daemon.api.headers()) as response,
        ):
            assert (response.status, (await response.json())["code"]) == (400, "bad_request")
