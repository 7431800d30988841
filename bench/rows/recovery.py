"""From the start of a daemon that was killed to the first message: of one with many agents, and of one with one."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

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
    """Kill the daemon with all agents online, then the one with one agent, and so on, in alternating order."""
    names = names_of(size.agents)
    many, one = f"with {len(names):,} agents online at the kill", "with that agent alone"
    row = Row(
        "recovery",
        "The first message after a kill",
        "`kill -9` of the daemon; a person writes to an agent, and the homeserver stores it; the daemon is started"
        " again. From there until the agent has its message, which is attached, and waits with `GET /read`, as soon as"
        f" the gateway answers. Two systems, each with a homeserver of its own, in turns: one with {len(names):,}"
        " agents, all online at the kill, of which the others attach again at the same time, 8 at once on kept"
        " connections; and one with that agent alone.",
    )
    async with (
        _killing(names, note, prepared=await prepare(size.agents, note)) as with_many,
        _killing(names[:1], note) as with_one,
    ):
        victims = {many: with_many, one: with_one}
        took: dict[str, list[float]] = {what: [] for what in victims}
        for number in range(TIMES):
            for what, victim in list(victims.items())[:: -1 if number % 2 else 1]:
                took[what].append(await victim.recover())
            note(f"{len(names)} agents: {took[many][-1]:.2f} s; one: {took[one][-1]:.2f} s")
    series = {what: row.add(f"the first message, {what}", "s", values) for what, values in took.items()}
    answers = {
        what: row.add(f"until the gateway answers, {what}", "s", victim.answers_s) for what, victim in victims.items()
    }
    row.add(f"until all others are attached, {many}", "s", with_many.attached_s)
    row.goals.append(
        Goal(
            f"the first message after a kill, with {len(names):,} agents beside one",
            ratio_of(series[many], series[one]),
            1.5,
        )
    )
    later, of_it = (each[many].median - each[one].median for each in (series, answers))
    row.notes += [
        "Agents attach again as they come: of a daemon that was killed none is online any more. So the agent's requests"
        " are taken among those of the others.",
        f"With {len(names):,} agents the message is there {later:.2f} s later than with one, by the medians; the"
        f" gateway's first answer is {abs(of_it):.2f} s {'later' if of_it > 0 else 'sooner'}.",
    ]
    return row


@contextlib.asynccontextmanager
async def _killing(names: list[str], note: Note, *, prepared: Path | None = None) -> AsyncIterator["_Victim"]:
    """Run a system with these agents online, the first of whom somebody will write to."""
    async with running(prepared=prepared) as bench, asking(bench) as operator, aiohttp.ClientSession() as http:
        await some_at_once(names, operator.attach, note)
        yield _Victim(bench, operator, bench.synapse.operator_client(http), names)


class _Victim:
    """A daemon that is killed, and an agent to which somebody writes then.

    In seconds from the start on: `answers_s`: the gateway answers; `attached_s`: all others are attached again.
    """

    def __init__(self, bench: Bench, operator: Caller, person: MatrixClient, names: list[str]) -> None:
        self._bench = bench
        self._operator = operator
        self._person = person
        self._agent, *self._others = names
        self._written = 0
        self.answers_s: list[float] = []
        self.attached_s: list[float] = []

    async def recover(self) -> float:
        """Kill it once, with all online; return after how many seconds the agent has its message."""
        room_id = RoomId((await self._operator.attach(self._agent))["room_id"])
        await self._operator.wait_online(frozenset((self._agent, *self._others)))
        await wait_calm(self._bench)
        await self._bench.daemon.kill()
        self._written += 1
        content = {"msgtype": "m.text", "body": f"Is main green? ({self._written})"}
        event_id = await self._person.send(room_id, "m.room.message", content, f"recovery-{self._written}")
        begun = time.monotonic()
        await self._bench.daemon.start()
        await self._operator.wait_answers(with_space=False)
        self.answers_s.append(time.monotonic() - begun)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._attach_others(begun))
            agent = self._operator.with_token((await self._operator.attach(self._agent))["token"])
            got = json.loads(await agent.call("GET", "/read", params={"wait": str(_WAIT_S)}))["messages"]
            took_s = time.monotonic() - begun
        if [message["event_id"] for message in got] != [event_id]:
            raise RuntimeError(f"the agent was to have {event_id}, and has {got}")
        await agent.call("POST", "/ack", json={"event_ids": [event_id]})
        return took_s

    async def _attach_others(self, begun: float) -> None:
        await some_at_once(self._others, self._operator.attach)
        self.attached_s.append(time.monotonic() - begun)
