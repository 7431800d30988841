"""What a day of being online leaves in the homeserver's database, beside a state event per agent and beat."""

import asyncio
import time

import aiohttp

from aiagentchat.homeserver.render import DATABASE_FILE
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.model import RoomId
from bench.database import Stored, read_stored
from bench.figures import Goal, Row
from bench.sizes import Size
from bench.system import ROUND_S, Bench, Note, names_of, prepare, running, some_at_once
from bench.usage import wait_calm

DAY_S = 86_400
BEAT_S = 30
BEAT = "io.example.beat"
ROOMS = 8
LIMIT = 1 / 500


async def measure(size: Size, note: Note) -> Row:
    """Look on for some time with all online, then without a daemon, and write real beats."""
    seconds = 4 * size.idle_s
    async with running(prepared=await prepare(size.agents, note)) as bench, aiohttp.ClientSession() as http:
        await bench.attach(names_of(size.agents), note)
        await asyncio.sleep(ROUND_S)
        ours = await _grown_within(bench, seconds)
        note(f"with all online: {_shown(ours)}")
        await bench.daemon.stop()
        nobodys = await _grown_within(bench, seconds)
        note(f"without a daemon: {_shown(nobodys)}")
        beats = max(ROOMS, size.times // ROOMS * ROOMS)
        beaten = await _grown_by_beats(bench, http, beats, note)
    row = Row(
        "heartbeats",
        "A day of heartbeats",
        f"What a day with {size.agents:,} agents that are online and do nothing adds to the homeserver's database:"
        f" rows of all its tables that have grown, and bytes of its pages that are in use, within {seconds:.0f} s,"
        f" times as many as a day has. Beside it a state event per agent every {BEAT_S} s in the agent's room, from"
        f" {beats} of them that were written.",
    )
    day, number_of_beats = DAY_S / seconds, size.agents * DAY_S / BEAT_S / beats
    for what, grown, times in (
        ("with the daemon", ours, day),
        ("without a daemon", nobodys, day),
        ("with a state event per agent and beat", beaten, number_of_beats),
    ):
        row.add(f"{what}: rows", "rows a day", [grown.rows.total() * times])
        row.add(f"{what}: size", "MB a day", [grown.bytes * times / 1e6])
    row.add("a state event: rows", "rows", [beaten.rows.total() / beats])
    row.add("a state event: size", "kB", [beaten.bytes / beats / 1e3])
    for what, our, their in (
        ("rows", ours.rows.total(), beaten.rows.total()),
        ("size", ours.bytes, beaten.bytes),
    ):
        row.goals.append(
            Goal(f"{what} of a day beside that with state events", our * day / (their * number_of_beats), LIMIT)
        )
    row.notes += [
        f"With the daemon there were in that time {_shown(ours)}; without it {_shown(nobodys)}. All is counted as the"
        " daemon's.",
        "Rows that are written over, and what is done more seldom than that time, do not show.",
        f"A state event leaves rows in {', '.join(f'`{table}`' for table, _ in beaten.rows.most_common(6))} and others."
        " They were written one after the other in a room; of each room, a hundredth one has its whole state stored"
        " once more, which so few do not show.",
    ]
    return row


def _shown(grown: Stored) -> str:
    rows = ", ".join(f"{count} of `{table}`" for table, count in grown.rows.most_common())
    return f"{grown.rows.total()} rows{f' ({rows})' if rows else ''} and {grown.bytes:,} bytes more"


async def _stored(bench: Bench) -> Stored:
    return await asyncio.to_thread(read_stored, bench.synapse.paths.homeserver / DATABASE_FILE)


async def _grown_within(bench: Bench, seconds: float) -> Stored:
    await wait_calm(bench)
    before = await _stored(bench)
    await asyncio.sleep(seconds)
    return await _stored(bench) - before


async def _grown_by_beats(bench: Bench, http: aiohttp.ClientSession, beats: int, note: Note) -> Stored:
    """Write beats into rooms of an ordinary account: what is in an application service's is kept for that as well."""
    client = bench.synapse.operator_client(http)
    rooms = [await client.create_room({"preset": "private_chat", "name": f"agent {number}"}) for number in range(ROOMS)]
    await wait_calm(bench)
    before = await _stored(bench)
    await some_at_once(rooms, lambda room_id: _beat(client, room_id, bench.synapse.operator.user_id, beats // ROOMS))
    note(f"{beats} beats are written")
    await wait_calm(bench)
    return await _stored(bench) - before


async def _beat(client: MatrixClient, room_id: RoomId, user_id: str, times: int) -> None:
    for _ in range(times):
        await client.put_state(room_id, BEAT, user_id, {"ts": int(time.time() * 1000)})
