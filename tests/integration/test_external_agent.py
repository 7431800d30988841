"""An agent of somebody else's: a bot on `matrix-nio`, an ordinary account, written after docs/protocol.md alone.

What it uses of this project are the names in that page. In both modes of the daemon.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import nio  # type: ignore[import-untyped]  # matrix-nio comes without types
import pytest

from aiagentchat.config import Paths, read_private
from aiagentchat.homeserver.operator import ensure_operator
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomAlias, RoomId, UserId
from tests.integration.correspondents import attach, say, until
from tests.integration.systems import IN_ONE_MODE, RunningDaemon, Synapse, fresh_name
from tests.integration.test_several_daemons import who

Json = dict[str, Any]


class Bot:
    """Answers everything that it is told with the same words, loudly."""

    def __init__(self, client: nio.AsyncClient, name: str, space: str) -> None:
        self.client = client
        self.name = name
        self.space = space
        self.room = ""
        self.heard: list[tuple[str, nio.RoomMessageText]] = []
        client.add_event_callback(self._answer, nio.RoomMessageText)
        client.add_event_callback(self._accept, nio.InviteMemberEvent)

    async def come(self) -> None:
        """Join the Space, make a room, and write card, child and roster."""
        client, me, server = self.client, self.client.user_id, self.client.user_id.split(":", 1)[1]
        assert isinstance(await client.join(self.space), nio.JoinResponse)
        restricted = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": self.space}]}
        made = await client.room_create(
            alias=f"bot-{self.name}",
            name=self.name,
            initial_state=[
                {"type": "m.room.join_rules", "state_key": "", "content": restricted},
                {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}},
            ],
        )
        assert isinstance(made, nio.RoomCreateResponse), made
        self.room = made.room_id
        card = {"name": self.name, "room_id": self.room, "alias": f"#bot-{self.name}:{server}", "daemon": me}
        await self.put("io.aiagentchat.agent", me, card | {"description": "SAYS IT LOUDLY", "reach": "push"})
        await self.put("m.space.child", self.room, {"via": [server]})
        await self.put("io.aiagentchat.roster", me, {"online": [self.name]})

    async def put(self, kind: str, key: str, content: Json) -> None:
        answer = await self.client.room_put_state(self.space, kind, content, key)
        assert isinstance(answer, nio.RoomPutStateResponse), answer

    async def run(self) -> None:
        """Sync for ever, which keeps the presence up as well."""
        await self.client.sync(timeout=0, full_state=True)
        await self.client.sync_forever(timeout=2000, set_presence="online")

    async def _accept(self, room: nio.MatrixInvitedRoom, event: nio.Event) -> None:
        assert isinstance(event, nio.InviteMemberEvent)
        if event.state_key == self.client.user_id and event.membership == "invite":
            await self.client.join(room.room_id)

    async def _answer(self, room: nio.MatrixRoom, event: nio.Event) -> None:
        assert isinstance(event, nio.RoomMessageText)
        if room.room_id != self.room or event.sender == self.client.user_id:
            return
        self.heard.append((room.room_id, event))
        where, content = await self._place(event), {"msgtype": "m.text", "body": event.body.upper()}
        if where == self.room:
            content |= {"m.relates_to": {"m.in_reply_to": {"event_id": event.event_id}}}
        else:
            content |= {"io.aiagentchat.in_reply_to": {"room_id": self.room, "event_id": event.event_id}}
        content["io.aiagentchat.hops"] = event.source["content"].get("io.aiagentchat.hops", 0) + 1
        await self.client.room_send(where, "m.room.message", content)
        await self.client.room_read_markers(self.room, event.event_id, event.event_id)

    async def _place(self, event: nio.RoomMessageText) -> str:
        """Answer an agent in its own room, where it lets in the bot; a person where they wrote."""
        state = await self.client.room_get_state_event(self.space, "io.aiagentchat.agent", event.sender)
        if not isinstance(state, nio.RoomGetStateEventResponse) or not state.content.get("room_id"):
            return self.room
        joined = await self.client.join(state.content["room_id"])
        return joined.room_id if isinstance(joined, nio.JoinResponse) else self.room


@pytest.fixture
async def bot(
    daemon: RunningDaemon, synapse: Synapse, http: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Bot]:
    """The bot at work: the operator has invited it to the Space."""
    name, home = fresh_name("loud"), Paths(config_dir=tmp_path / "bot", data_dir=tmp_path / "bot")
    account = await ensure_operator(synapse.config.base_url, home, synapse.config, fresh_name("ext"))
    space = RoomId((await daemon.api.get("/health"))["system"]["space_id"])
    await synapse.operator_client(http).invite(space, account.user_id)
    client = nio.AsyncClient(synapse.config.base_url, account.user_id)
    await client.login(str(read_private(home.operator_password)), device_name="bot")
    bot = Bot(client, name, space)
    await bot.come()
    running = asyncio.create_task(bot.run())
    yield bot
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()


async def is_online(daemon: RunningDaemon, bot: Bot) -> bool:
    entry = (await who(daemon)).get(bot.name)
    return entry is not None and bool(entry["status"] == "online")


async def test_an_external_agent_is_listed_and_answers_agents_and_the_operator(daemon: RunningDaemon, bot: Bot) -> None:
    await until(lambda: is_online(daemon, bot))
    entry = (await who(daemon))[bot.name]
    assert (entry["user_id"], entry["room_id"]) == (bot.client.user_id, bot.room)
    assert (entry["description"], entry["reach"], entry["kind"]) == ("SAYS IT LOUDLY", "push", "persistent")

    agent = await attach(daemon)
    asked = await agent.send("is main green?", to=bot.name)
    assert asked["room_id"] == bot.room
    [answer] = await agent.unread(wait="60")  # what is not pushed is found after half a minute
    assert (answer["body"], answer["hops"]) == ("IS MAIN GREEN?", 1)
    assert answer["sender"] == {"user_id": bot.client.user_id, "name": bot.name, "kind": "agent"}
    assert answer["in_reply_to"] == {"room_id": bot.room, "event_id": asked["event_id"]}
    [sent] = (await agent.api.get("/sent", to=bot.name))["messages"]
    assert (sent["state"], sent["answer"]["event_id"]) == ("answered", answer["event_id"])
    back = await agent.send("thank you", reply_to=answer["event_id"])
    assert back["room_id"] == bot.room

    of_person = await daemon.api.post("/send", body="and for me?", to=bot.name)
    [sent] = (await daemon.api.get("/sent", to=bot.name, event_id=of_person["event_id"], wait="60"))["messages"]
    assert (sent["state"], sent["answer"]["body"]) == ("answered", "AND FOR ME?")


async def test_an_external_agent_that_goes_is_offline_and_one_that_takes_its_card_back_is_off_the_list(
    daemon: RunningDaemon, bot: Bot
) -> None:
    await until(lambda: is_online(daemon, bot))
    await bot.put("io.aiagentchat.roster", bot.client.user_id, {"online": []})

    async def is_offline() -> bool:
        return bool((await who(daemon))[bot.name]["status"] == "offline")

    await until(is_offline)
    await bot.put("io.aiagentchat.agent", bot.client.user_id, {})

    async def is_gone() -> bool:
        return bot.name not in await who(daemon)

    await until(is_gone)
    refused = await daemon.api.call("POST", "/send", {"body": "hello", "to": bot.name})
    assert (refused.status, refused.code) == (404, "agent_not_found")


@IN_ONE_MODE
async def test_a_card_that_names_a_room_of_somebody_else_gets_no_message(
    daemon: RunningDaemon, bot: Bot, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    """The room is the operator's, open to all of the Space; so only who made it tells that it is not the bot's."""
    operator = synapse.operator_client(http)
    localpart = fresh_name("theirs")
    theirs = await operator.create_room({"room_alias_name": localpart, "preset": "public_chat"})
    card = {"name": bot.name, "room_id": theirs, "alias": f"#{localpart}:example.org", "daemon": bot.client.user_id}
    await bot.put("io.aiagentchat.agent", bot.client.user_id, card)
    await bot.put("m.space.child", theirs, {"via": ["example.org"]})

    async def is_claimed() -> bool:
        return (await who(daemon)).get(bot.name, {}).get("room_id") == theirs

    await until(is_claimed)
    agent = await attach(daemon)
    refused = await agent.api.call("POST", "/send", {"body": "a secret", "to": bot.name})
    assert (refused.status, refused.code) == (403, "forbidden")
    assert "was made by @alice:example.org" in refused.data["detail"]
    assert bot.name not in await who(daemon), "the card does not count any more"
    assert await bodies_of(operator, theirs) == []
    assert (await operator.get_state(theirs, "m.room.member", agent.user_id))["membership"] == "leave"


@IN_ONE_MODE
async def test_a_card_that_names_a_room_where_one_is_already_gets_no_message_either_and_one_stays_there(
    daemon: RunningDaemon, bot: Bot, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    operator, localpart = synapse.operator_client(http), fresh_name("evil")
    broadcast = RoomId((await daemon.api.get("/health"))["system"]["broadcast_id"])
    await bot.client.join(broadcast)
    as_bot = MatrixClient(synapse.config.base_url, bot.client.access_token, http)
    await as_bot.put_room_alias(RoomAlias(f"#{localpart}:example.org"), broadcast)
    card = {"name": bot.name, "room_id": broadcast, "alias": f"#{localpart}:example.org"}
    await bot.put("io.aiagentchat.agent", bot.client.user_id, card | {"daemon": bot.client.user_id})

    async def is_claimed() -> bool:
        return bool((await who(daemon)).get(bot.name, {}).get("room_id") == broadcast)

    agent = await attach(daemon)
    await until(is_claimed)
    for api in (agent.api, daemon.api):
        refused = await api.call("POST", "/send", {"body": "a secret", "to": bot.name})
        assert refused.code in ("forbidden", "agent_not_found")
    assert "a secret" not in await bodies_of(operator, broadcast)
    for user_id in (agent.user_id, synapse.operator.user_id):
        assert (await operator.get_state(broadcast, "m.room.member", user_id))["membership"] == "join"


@IN_ONE_MODE
async def test_a_card_whose_alias_leads_elsewhere_does_not_count(
    daemon: RunningDaemon, bot: Bot, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    victim = await attach(daemon, "victim")
    card = {"name": bot.name, "room_id": victim.room_id, "alias": f"#bot-{bot.name}:example.org"}
    await bot.put("io.aiagentchat.agent", bot.client.user_id, card | {"daemon": bot.client.user_id})

    async def is_skipped() -> bool:
        answer = await daemon.api.get("/who")
        names = [entry["name"] for entry in answer["agents"]]
        return bot.name not in names and answer["skipped"] >= 1

    await until(is_skipped)
    assert (await who(daemon))[victim.name]["room_id"] == victim.room_id
    # as a person it may write where the operator lets it in, and is none that is called an agent
    await synapse.operator_client(http).invite(victim.room_id, UserId(bot.client.user_id))
    await bot.client.join(victim.room_id)
    await bot.client.room_send(victim.room_id, "m.room.message", {"msgtype": "m.text", "body": "trust me"})
    [message] = await victim.unread(wait="60")
    assert message["sender"]["kind"] == "person"


async def test_a_hosted_agents_name_cannot_be_had_by_a_card(daemon: RunningDaemon, bot: Bot) -> None:
    agent = await attach(daemon)
    card = {"name": agent.name, "room_id": bot.room, "alias": f"#bot-{bot.name}:example.org"}
    await bot.put("io.aiagentchat.agent", bot.client.user_id, card | {"daemon": bot.client.user_id})

    async def is_skipped() -> bool:
        return bot.name not in await who(daemon)

    await until(is_skipped)
    assert (await who(daemon))[agent.name]["room_id"] == agent.room_id
    stored = await daemon.api.post("/send", body="for the real one", to=agent.name)
    assert stored["room_id"] == agent.room_id


async def bodies_of(client: MatrixClient, room_id: RoomId) -> list[str]:
    page = await client.get_messages(room_id, direction="b", limit=100)
    return [event["content"].get("body", "") for event in page.chunk if event["type"] == "m.room.message"]


async def test_an_agent_of_ours_leaves_the_room_that_it_was_in_for_a_message(
    daemon: RunningDaemon, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiagentchat.agents.visits.IDLE_S", 0.5)
    await until(lambda: is_online(daemon, bot))
    agent = await attach(daemon)
    await agent.send("hello", to=bot.name)

    async def has_left() -> bool:
        member = await bot.client.room_get_state_event(bot.room, "m.room.member", agent.user_id)
        return bool(member.content["membership"] == "leave")

    await until(has_left)
    await agent.send("and again", to=bot.name, key="again")
    await until(has_left)
    sent = (await agent.api.get("/sent", to=bot.name))["messages"]
    assert [each["message"]["body"] for each in sent] == ["and again", "hello"]


async def test_what_a_person_says_in_an_external_agents_room_is_no_message_to_ours(
    daemon: RunningDaemon, bot: Bot, synapse: Synapse, http: aiohttp.ClientSession
) -> None:
    await until(lambda: is_online(daemon, bot))
    agent = await attach(daemon)
    await agent.send("hello", to=bot.name)
    await agent.acknowledge(await agent.unread(wait="60"))
    operator = synapse.operator_client(http)
    await operator.join_room(RoomId(bot.room))
    await say(operator, RoomId(bot.room), "between the two of us")
    await daemon.api.post("/send", body="to the agent", to=agent.name)
    assert await agent.bodies(wait="60") == ["to the agent"]
