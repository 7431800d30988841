"""A person in a Matrix client of their own: `matrix-nio`, logged in as the operator, sees what Element would show."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import nio  # type: ignore[import-untyped]  # matrix-nio comes without types
import pytest

from tests.integration.processes import Agent, System
from tests.integration.systems import fresh_name

T = TypeVar("T")
SYNC_S = 30.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("person"))
    system.up()
    yield system
    system.down()


class Person:
    """The operator at a client that joins nothing by itself."""

    def __init__(self, client: nio.AsyncClient) -> None:
        self.client = client
        self.messages: list[tuple[str, nio.RoomMessageText]] = []
        self.receipts: list[tuple[str, str, str]] = []
        client.add_event_callback(self._note_message, (nio.RoomMessageText, nio.RoomMessageNotice))
        client.add_ephemeral_callback(self._note_receipts, nio.ReceiptEvent)

    async def _note_message(self, room: nio.MatrixRoom, event: nio.Event) -> None:
        assert isinstance(event, nio.RoomMessageText | nio.RoomMessageNotice)
        self.messages.append((room.room_id, event))

    async def _note_receipts(self, room: nio.MatrixRoom, event: nio.EphemeralEvent) -> None:
        assert isinstance(event, nio.ReceiptEvent)
        self.receipts += [(room.room_id, receipt.user_id, receipt.event_id) for receipt in event.receipts]

    async def until(self, find: Callable[[], T | None]) -> T:
        """Sync until there is what is looked for."""
        async with asyncio.timeout(SYNC_S):
            while (found := find()) is None:
                answer = await self.client.sync(timeout=2000)
                assert isinstance(answer, nio.SyncResponse), answer
        return found

    def message(self, room_id: str, body: str, *, not_from: str = "") -> nio.RoomMessageText | None:
        for room, event in self.messages:
            if room == room_id and event.body == body and event.sender != not_from:
                return event
        return None

    def notice(self, room_id: str, body: str) -> nio.RoomMessageNotice | None:
        for room, event in self.messages:
            if room == room_id and event.body == body and isinstance(event, nio.RoomMessageNotice):
                return event
        return None

    async def write(self, room_id: str, body: str, relation: dict[str, object] | None = None, **more: object) -> str:
        content = {"msgtype": "m.text", "body": body} | ({} if relation is None else {"m.relates_to": relation}) | more
        sent = await self.client.room_send(room_id, "m.room.message", content)
        assert isinstance(sent, nio.RoomSendResponse), sent
        return str(sent.event_id)


@pytest.fixture(scope="module")
def laptop(system: System) -> nio.LoginResponse:
    """The operator's device, signed in with the password from the file."""

    async def log_in() -> nio.LoginResponse:
        client = nio.AsyncClient(system.homeserver_url, system.status()["operator"])
        try:
            answer = await client.login(system.paths.operator_password.read_text().strip(), device_name="a laptop")
            assert isinstance(answer, nio.LoginResponse), answer
            return answer
        finally:
            await client.close()

    return asyncio.run(log_in())


@pytest.fixture
async def person(system: System, laptop: nio.LoginResponse) -> AsyncIterator[Person]:
    """The operator at a client that knows nothing yet but its device."""
    client = nio.AsyncClient(system.homeserver_url)
    client.restore_login(laptop.user_id, laptop.device_id, laptop.access_token)
    try:
        yield Person(client)
    finally:
        await client.close()


@pytest.fixture(scope="module")
def agent(system: System) -> Agent:
    """An agent that has read all that the tests before had for it."""
    return system.join()


async def test_the_space_and_every_room_are_there_without_accepting_anything(system: System, person: Person) -> None:
    status, agents = await asyncio.to_thread(system.status), await asyncio.to_thread(system.who)
    space, broadcast, echo = status["space_id"], status["broadcast_id"], agents["echo"]["room_id"]
    names = {entry["room_id"]: name for name, entry in agents.items()} | {broadcast: "AIChatRoom"}
    await person.until(lambda: person.client.rooms or None)
    rooms = person.client.rooms
    assert {room_id: room.display_name for room_id, room in rooms.items()} == names | {space: "AIChatSpace"}
    assert rooms[space].room_type == "m.space"
    assert rooms[space].children == set(names)
    assert rooms[echo].parents == rooms[broadcast].parents == {space}
    assert rooms[echo].canonical_alias == "#aiagentchat-echo:localhost"
    assert not any(room.encrypted for room in rooms.values())

    name = fresh_name("later")
    joined = (await asyncio.to_thread(system.cchat, "join", name, "--detach", "--json")).data[0]
    later = await person.until(lambda: person.client.rooms.get(joined["room_id"]))
    assert later.display_name == name
    await person.until(lambda: joined["room_id"] in rooms[space].children or None)
    assert person.client.invited_rooms == {}


async def test_a_person_writes_to_echo_and_reads_its_answer_and_sees_that_it_read(
    system: System, person: Person
) -> None:
    room_id = (await asyncio.to_thread(system.who))["echo"]["room_id"]
    await person.until(lambda: person.client.rooms.get(room_id))
    event_id = await person.write(room_id, "hello from a laptop")
    answer = await person.until(lambda: person.message(room_id, "hello from a laptop", not_from=person.client.user_id))
    assert answer.sender == "@aiagentchat-echo:localhost"
    assert person.client.rooms[room_id].user_name(answer.sender) == "echo"
    assert answer.source["content"]["m.relates_to"]["m.in_reply_to"]["event_id"] == event_id
    receipt = (room_id, "@aiagentchat-echo:localhost", event_id)
    await person.until(lambda: receipt in person.receipts or None)


async def test_a_person_looks_on_while_agents_write_to_each_other(system: System, person: Person) -> None:
    asker = await asyncio.to_thread(system.join, "asker")
    answerer = await asyncio.to_thread(system.join, "answerer")
    asked, answered = asker.joined["room_id"], answerer.joined["room_id"]
    await asyncio.to_thread(asker.cchat, "send", "--to", answerer.name, "is main green?")
    question = await person.until(lambda: person.message(answered, "is main green?"))
    assert question.sender == f"@aiagentchat-{asker.name}:localhost"
    assert person.client.rooms[answered].user_name(question.sender) == asker.name

    await asyncio.to_thread(answerer.cchat, "read")
    await asyncio.to_thread(answerer.cchat, "reply", "it is")
    answer = await person.until(lambda: person.message(asked, "it is"))
    assert answer.sender == f"@aiagentchat-{answerer.name}:localhost"
    assert answer.source["content"]["io.aiagentchat.in_reply_to"] == {
        "room_id": answered,
        "event_id": question.event_id,
    }
    assert "is main green?" in answer.formatted_body  # quoted for who looks on


async def test_what_a_person_writes_to_all_reaches_an_agent_and_a_reply_stays_where_they_wrote(
    system: System, agent: Agent, person: Person
) -> None:
    own, broadcast = agent.joined["room_id"], (await asyncio.to_thread(system.status))["broadcast_id"]
    await person.until(lambda: person.client.rooms.get(own))
    event_id = await person.write(own, "only you")
    to_all = await person.write(broadcast, "all of you")
    for body in ("only you", "all of you"):
        assert body in (await asyncio.to_thread(agent.cchat, "read", "--wait", "30", "--limit", "1")).out
    await asyncio.to_thread(agent.cchat, "reply", event_id, "here")
    answer = await person.until(lambda: person.message(own, "here"))
    assert answer.source["content"]["m.relates_to"]["m.in_reply_to"]["event_id"] == event_id
    await asyncio.to_thread(agent.cchat, "reply", to_all, "all right")
    answer = await person.until(lambda: person.message(broadcast, "all right"))
    assert answer.sender == f"@aiagentchat-{agent.name}:localhost"


async def test_replies_and_threads_keep_their_place_both_ways(agent: Agent, person: Person) -> None:
    own = agent.joined["room_id"]
    await person.until(lambda: person.client.rooms.get(own))
    root = await person.write(own, "a long story")
    await person.write(own, "beside it")
    fallback = {"m.in_reply_to": {"event_id": root}, "is_falling_back": True}
    in_thread = await person.write(own, "what about it?", {"rel_type": "m.thread", "event_id": root} | fallback)
    *_, read = (await asyncio.to_thread(agent.cchat, "read", "--json", "--wait", "30")).data
    assert (read["event_id"], read["body"], read["thread"]) == (in_thread, "what about it?", root)

    await asyncio.to_thread(agent.cchat, "reply", "--markdown", "| a |\n|---|\n| **b** |")
    answer = await person.until(lambda: person.message(own, "| a |\n|---|\n| **b** |"))
    assert answer.source["content"]["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": root,
        "m.in_reply_to": {"event_id": in_thread},
        "is_falling_back": False,
    }
    assert answer.formatted_body.replace("\n", "") == (
        "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td><strong>b</strong></td></tr></tbody></table>"
    )

    quoting = f"> <{answer.sender}> a\n> b\n\nthanks"
    reply = await person.write(own, quoting, {"m.in_reply_to": {"event_id": answer.event_id}})
    [read] = (await asyncio.to_thread(agent.cchat, "read", "--json", "--wait", "30")).data
    assert (read["event_id"], read["body"], read["thread"]) == (reply, "thanks", None)
    assert read["in_reply_to"] == {"room_id": own, "event_id": answer.event_id}
    await asyncio.to_thread(agent.cchat, "reply", "you are welcome")
    last = await person.until(lambda: person.message(own, "you are welcome"))
    assert last.source["content"]["m.relates_to"] == {"m.in_reply_to": {"event_id": reply}}

    edit = {"m.new_content": {"msgtype": "m.text", "body": "many thanks"}}
    await person.write(own, "* many thanks", {"rel_type": "m.replace", "event_id": reply}, **edit)
    shown = (await asyncio.to_thread(agent.cchat, "read", "--wait", "30")).out
    assert shown.endswith(f" alice (edit of {reply}): many thanks\n")


async def test_what_an_agent_is_doing_is_told_to_who_asks_in_its_room(system: System, person: Person) -> None:
    agent = await asyncio.to_thread(system.join, "asked")
    own = agent.joined["room_id"]
    await person.until(lambda: person.client.rooms.get(own))
    asked = await person.write(own, "!status")
    body = f"{agent.name} is online: it reads what you write when it looks.\nUnread: 0"
    answer = await person.until(lambda: person.notice(own, body))
    assert answer.source["content"]["m.relates_to"] == {"m.in_reply_to": {"event_id": asked}}
    assert person.client.rooms[own].unread_notifications == 0, "it rings nobody's bell"
