"""From one agent to another, where the homeserver pushes to the daemon, beside the same without a daemon."""

from contextlib import AsyncExitStack
from dataclasses import replace

from bench.exchange import fill_row, in_turns
from bench.figures import Row, compared
from bench.gateway import OURS, ROOMS, SAME, through_gateway
from bench.peers import bare_appservice, mautrix_pair, nio_pair
from bench.sizes import Size
from bench.system import Note, running

RAW = "a bare PUT to a bare application service"
WATCHED = f"{RAW}, a person in the room"
AFTER = f"{OURS}, just after a push to another application service"
NIO, MAUTRIX = "`matrix-nio` to `matrix-nio`", "`mautrix` to `mautrix`"


_WHY = (
    "A message goes through the daemon twice: as a push, which it checks and hands on, which is most of it, and as a"
    " request that it makes for the agent. The parts are below."
)


async def measure(size: Size, note: Note) -> Row:
    """Send by each way in turns, one message at a time."""
    row = Row(
        "latency",
        "From one agent to another",
        "From the call that sends a message until the other has it, who waits for it; one at a time, in turns, with"
        " the same content. The agents' platform keeps its connections to the gateway's socket; that the message is"
        " acknowledged comes afterwards. The bare application service answers each push at once, and checks nothing."
        " The libraries' clients are ordinary accounts: one sends, the other syncs, with a stored filter for the"
        " messages of that room alone, and without presence.",
    )
    row.notes.append(
        "Synapse numbers its pushes to all application services as one series. A number that is left out may be a push"
        " that was lost, so the daemon reads the rooms on before it hands out what came: that is what a busy bridge on"
        " the same homeserver costs. Here the bare application service is such a bridge. So before each message that"
        " counts as the daemon's there is one that does not, and takes this upon itself: it has a line of its own."
    )
    async with running() as bench, AsyncExitStack() as stack:
        ours, same, content = await stack.enter_async_context(through_gateway(bench))
        ways = [
            *await stack.enter_async_context(bare_appservice(bench, RAW, WATCHED)),
            await stack.enter_async_context(nio_pair(bench, NIO)),
            await stack.enter_async_context(mautrix_pair(bench, MAUTRIX)),
            replace(ours, what=AFTER),
            ours,
            same,
        ]
        took = await in_turns(ways, content, size.times, note)
    series = fill_row(
        row, took, ours=OURS, parts=[AFTER, SAME], raw=RAW, variants=[WATCHED], others=(NIO, MAUTRIX), why=_WHY
    )
    row.notes += [
        "Two runs of this row differed by 2 % in how the medians of the daemon and of `matrix-nio` are to each other.",
        ROOMS,
        compared(series, [(WATCHED, RAW), (SAME, WATCHED), (OURS, SAME), (AFTER, RAW)]),
    ]
    return row
