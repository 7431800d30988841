"""From the start of a daemon that was killed to the first message: of a daemon with many agents, and with one."""

import json
import time

import aiohttp

from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from bench.figures import Goal, Row, ratio_of
from bench.restarts import Caller, asking
from bench.sizes import Size
from bench.system import Bench, Note, names_of, prepare, running, some_at_once
from bench.usage import wait_calm

TIMES = 5
_WAIT_S = 60


async def measure(size: Size, note: Note) -> Row:
    """Kill the daemon with all agents online, then with the one that was attached after that, and so on."""
    names = names_of(size.agents)
    row = Row(
        "recovery",
        "The first message after a kill",
        f"`kill -9` of the daemon; a person writes to an agent, and the homeserver stores it; the daemon is started"
        " again. From there until the agent has its message, which is attached, and waits with `GET /read`, as soon as"
        f" the gateway answers. In turns with {len(names):,} agents online at the kill, and with that agent alone, in"
        " the same Space.",
    )
    async with (
        running(prepared=await prepare(size.agents, note), AIAGENTCHAT_SIDEBAR="off") as bench,
        asking(bench) as operator,
        aiohttp.ClientSession() as http,
    ):
        victim = _Victim(bench, operator, bench.synapse.operator_client(http), names[0])
        many, one = [], []
        for _ in range(TIMES):
            await some_at_once(names, operator.attach, note)
            await operator.wait_online(frozenset(names))
            many.append(await victim.recover())
            one.append(await victim.recover())
            note(f"{len(names)} agents: {many[-1]:.2f} s; one: {one[-1]:.2f} s")
    ours = row.add(f"{len(names):,} agents online at the kill", "s", many)
    row.goals.append(
        Goal(f"the first message with {len(names):,} agents: with one", ratio_of(ours, row.add("one", "s", one)), 1.5)
    )
    row.add("until the gateway answers", "s", victim.answers_s)
    row.notes += [
        "Agents attach again as they come: of a daemon that was killed none is online any more.",
        "That people are shown in their lists who is online is off: from half a minute after a kill on, it takes"
        " minutes for as many, four a second.",
    ]
    return row


class _Victim:
    """A daemon that is killed, and an agent to which somebody writes then."""

    def __init__(self, bench: Bench, operator: Caller, person: MatrixClient, agent: str) -> None:
        self._bench = bench
        self._operator = operator
        self._person = person
        self._agent = agent
        self._written = 0
        self.answers_s: list[float] = []

    async def recover(self) -> float:
        """Kill it once, with whoever is online; return after how many seconds the agent has its message."""
        room_id = RoomId((await self._operator.attach(self._agent))["room_id"])
        await wait_calm(self._bench)
        await self._bench.daemon.kill()
        self._written += 1
        content = {"msgtype": "m.text", "body": f"Is main green? ({self._written})"}
        event_id = await self._person.send(room_id, "m.room.message", content, f"recovery-{self._written}")
        begun = time.monotonic()
        await self._bench.daemon.start()
        await self._operator.wait_answers(with_space=False)
        self.answers_s.append(time.monotonic() - begun)
        agent = self._operator.with_token((await self._operator.attach(self._agent))["token"])
        got = json.loads(await agent.call("GET", "/read", params={"wait": str(_WAIT_S)}))["messages"]
        took_s = time.monotonic() - begun
        if [message["event_id"] for message in got] != [event_id]:
            raise RuntimeError(f"the agent was to have {event_id}, and has {got}")
        await agent.call("POST", "/ack", json={"event_ids": [event_id]})
        return took_s
