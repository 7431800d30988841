"""From one agent to another, where each is an account that the daemon syncs for, beside the same without a daemon."""

from contextlib import AsyncExitStack
from dataclasses import replace

from bench.exchange import fill_row, in_turns
from bench.figures import Row, compared
from bench.gateway import OURS as THROUGH_DAEMON
from bench.gateway import SAME, through_gateway
from bench.peers import bare_accounts, mautrix_pair, nio_pair
from bench.rows.latency import MAUTRIX, NIO
from bench.sizes import Size
from bench.system import Note, running

OURS = f"{THROUGH_DAEMON}, with accounts"
RAW = "a bare PUT to a bare `/sync`"
ALL_SYNC = f"{RAW}, a person in the room and all three syncing"
_WHY = "Three accounts sync in the room of an agent, and one in the rooms that it is compared with."


async def measure(size: Size, note: Note) -> Row:
    """Send by each way in turns, one message at a time."""
    row = Row(
        "latency_accounts",
        "From one agent to another, with accounts",
        "As before, but the agents have ordinary accounts (`cchat login`), and so have all others: each receiver syncs,"
        " with a stored filter for the messages of one room alone, and without presence.",
    )
    async with running("accounts") as bench, AsyncExitStack() as stack:
        ours, same, content = await stack.enter_async_context(through_gateway(bench))
        ways = [
            replace(ours, what=OURS),
            same,
            await stack.enter_async_context(bare_accounts(bench, RAW)),
            await stack.enter_async_context(bare_accounts(bench, ALL_SYNC, all_sync=True)),
            await stack.enter_async_context(nio_pair(bench, NIO)),
            await stack.enter_async_context(mautrix_pair(bench, MAUTRIX)),
        ]
        took = await in_turns(ways, content, size.times, note)
    series = fill_row(row, took, ours=OURS, parts=[SAME], raw=RAW, variants=[ALL_SYNC], others=(NIO, MAUTRIX), why=_WHY)
    row.notes += [
        "The three are the agent's, the operator's and the writer's. The homeserver"
        " wakes each with every event of a room that it is in, whatever its filter says; in the rooms of the others one"
        " account syncs. A bare way has three as well.",
        compared(series, [(ALL_SYNC, RAW), (SAME, ALL_SYNC), (OURS, SAME)]),
    ]
    return row
