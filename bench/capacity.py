"""How much one daemon, one Synapse and several carry: from what was measured, by formulas. Writes `docs/capacity.md`.

Pure, but for `main`. `python -m bench.capacity` writes the page from the data of `make bench`, which does so, too.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiagentchat.cli.system import MOST_OPEN_FILES
from aiagentchat.space.content import ROSTER_LIMIT_BYTES
from bench.figures import Row, from_json
from bench.page import amount
from bench.rows import cold_start, idle, people, throughput, warm_start, who
from bench.sizes import FULL

DOCS = Path(__file__).parents[1] / "docs"
DATA, PAGE = DOCS / "benchmarks" / "data.json", DOCS / "capacity.md"

SIZES = (1_000, 10_000, 100_000)
WORKERS = (2, 4, 8)
SHARE = 0.5
"""Of a core that is planned with: above it, what comes waits for what came before."""
NAME_BYTES = 15
"""Of a name of twelve letters in a roster."""
MEMORY_BYTES = 1e9
LEAST_PERCENT = 0.05
"""Of a core, that can be told from nothing: an idle homeserver's differs by some 0.4 from one time to the next, and a
person is an eighth of what is measured."""
WAIT_S = 1.0
START_S = 60.0
"""How long a person waits for an answer, and a daemon that was stopped may be away."""
MOST_PROCESSES = 8
"""Of one Synapse, by assumption: what all of them share, database and sender of pushes, was not measured."""
DAEMON, SPACE, SYNAPSE = "a daemon", "a Space", "a process of Synapse"


PAGE_TEXT = """# Capacity

<!-- Made by `make bench`; changes made here are lost. -->

What one daemon, one Synapse and several carry, by what [was measured](benchmarks.md) of each operation. The measured
costs are of that page's machine and of one Synapse process with SQLite: starts, `who` and memory with 1,000 agents,
messages and people with a few. **All else on this page is computed from them, and was not tried.**

- [What was measured](#what-was-measured) · [What each carries](#what-each-carries)
- [What breaks first](#what-breaks-first) · [What so many agents take](#what-so-many-agents-take)

## What was measured

{costs}

## What each carries

Assumed: {work}.

{carried}

```
agents of a daemon             at most  min({roster}, {share} / (m * d), 1 GB / b, {start:g} s / w, {files:,})
agents of a process of Synapse at most  {share} / (m * (h + s) + p / k)
agents of a Space              at most  {wait:g} s / r
```

Each column is the most of one thing, without the others; the agents send what is assumed, and have the people that are
assumed. In the formulas m is the messages of an agent a second, k the agents of a person, and the other letters are as
above. {share} of a core is what is planned with of each process: above it, what comes waits for what came before.

- Messages: {share} / d and {share} / h, with nothing else to do. People: {share} / p, of whom nobody is written to;
  less than {least_percent} % of a core a person cannot be told from nothing, and is taken for that.
- Workers ([how](operating.md#postgresql-and-several-processes)): as many times one process, which is the most that it
  can be. What all of them share was not measured: PostgreSQL, Redis, and the one process that sends all pushes.

## What breaks first

The agents that each bound has room for, and how much of it so many agents take.

{bounds}

Not measured, and so not here: rooms that tens of thousands are members of, as the broadcast room would be, and a join
to one of them.

## What so many agents take

{sizes}

The number of daemons, of Spaces and of processes is that of the agents by what one carries; that of homeservers is by
{most_processes} processes each, which is assumed. To make them takes as long as for the first ones; how much longer it
takes in a Space that is large was not measured.

- **Several daemons** share a Space: one registration and `--id` each ([how](operating.md#on-a-homeserver-of-your-own)).
- **Workers** need PostgreSQL; the daemon notices nothing of them but the address.
- **Spaces within the Space**: a Space for each daemon or team, which are children of one. A daemon of today looks
  after one Space and knows nothing of those within it: their agents do not find each other by `who`.
- **Federation**: a Space's agents may be of several homeservers ([how](operating.md#agents-of-two-homeservers)), each
  of which has the state of the rooms that its users are in. So it divides messages and people, and not the Space's
  state: that takes Spaces of their own.
"""


class MissingRowsError(Exception):
    """The data lacks what the page needs."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is assumed. `messages_an_hour`: of an agent. `agents_a_person`: so many have a person who looks on."""

    messages_an_hour: float
    agents_a_person: float

    @property
    def messages_s(self) -> float:
        """Of an agent, a second."""
        return self.messages_an_hour / 3600


WORK = Work(messages_an_hour=12, agents_a_person=20)


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured. `_ms`: of a core, but for `warm_ms`, `cold_ms` and `who_ms`, which are time; by the agent.

    A message is sent by one agent and read by another: both count, on the daemon and on the homeserver.
    """

    daemon_message_ms: float
    daemon_read_ms: float
    homeserver_message_ms: float
    homeserver_read_ms: float
    daemon_agent_bytes: float
    person_percent: float
    person_message_ms: float
    cold_ms: float
    warm_ms: float
    who_ms: float

    @property
    def daemon_ms(self) -> float:
        """Of a message that is sent and read."""
        return self.daemon_message_ms + self.daemon_read_ms

    @property
    def homeserver_ms(self) -> float:
        """Of a message that is sent and read, without people."""
        return self.homeserver_message_ms + self.homeserver_read_ms


@dataclass(frozen=True, slots=True)
class Bound:
    """What grows with the agents, and how far it may. `of`: which part of the system. `answer`: to what is more."""

    what: str
    of: str
    an_agent: float
    limit: float
    unit: str
    answer: str

    @property
    def agents(self) -> float:
        """How many there can be."""
        return self.limit / self.an_agent


def read_costs(rows: Mapping[str, Row]) -> Costs:
    """Return what the data says, by the medians.

    Raises:
        MissingRowsError: it lacks rows, each of which it names.
    """
    wanted = ("throughput", "idle", "people", "cold_start", "warm_start", "who")
    missing = [key for key in wanted if key not in rows]
    if missing:
        raise MissingRowsError(f"docs/capacity.md is made of rows that were not measured yet: {', '.join(missing)}")
    kept = throughput.KEPT
    return Costs(
        daemon_message_ms=_median(rows["throughput"], f"{kept}: daemon"),
        daemon_read_ms=_median(rows["people"], people.READ_DAEMON),
        homeserver_message_ms=_median(rows["people"], people.ALONE),
        homeserver_read_ms=_median(rows["people"], people.READ),
        daemon_agent_bytes=_slope(rows["idle"], f"{idle.OURS}: memory, ") * 1e6,
        person_percent=max(LEAST_PERCENT, _median(rows["people"], people.IDLE)),
        person_message_ms=_median(rows["people"], people.SEEN),
        cold_ms=_median(rows["cold_start"], cold_start.OURS),
        warm_ms=_slope(rows["warm_start"], f"{warm_start.ONLINE}, ") * 1000,
        who_ms=_median(rows["who"], who.COLD) / FULL.agents,
    )


def _median(row: Row, what: str) -> float:
    for series in row.series:
        if series.what == what:
            return series.median
    raise MissingRowsError(f"the row {row.key} has nothing of {what!r}: measure it again")


def _slope(row: Row, stem: str) -> float:
    """Return how much one agent more is, between the fewest and the most."""
    points = sorted((each.x, each.median) for each in row.series if each.what.startswith(stem) and each.x is not None)
    (few, least), (many, most) = points[0], points[-1]
    return (most - least) / (many - few)


def homeserver_cores(costs: Costs, work: Work) -> float:
    """Return how much of a core an agent is on the homeserver, with its part of a person who sees what it writes."""
    messages = work.messages_s * (costs.homeserver_ms + costs.person_message_ms) / 1000
    return messages + costs.person_percent / 100 / work.agents_a_person


def bounds(costs: Costs, work: Work) -> list[Bound]:
    """Return what bounds the number of agents, the tightest first."""
    daemons = "several daemons, each with its own agents, roster and gateway"
    found = [
        Bound("the roster, one event", DAEMON, NAME_BYTES, ROSTER_LIMIT_BYTES, "bytes", daemons),
        Bound("processor", DAEMON, work.messages_s * costs.daemon_ms / 1000, SHARE, "cores", daemons),
        Bound("connections of agents that wait, open files", DAEMON, 1, MOST_OPEN_FILES, "files", daemons),
        Bound("memory", DAEMON, costs.daemon_agent_bytes, MEMORY_BYTES, "bytes", daemons),
        Bound("a start, until all are online again", DAEMON, costs.warm_ms / 1000, START_S, "s", daemons),
        Bound(
            "`who`, read anew", SPACE, costs.who_ms / 1000, WAIT_S, "s", "Spaces within the Space, one for each daemon"
        ),
        Bound("processor", SYNAPSE, homeserver_cores(costs, work), SHARE, "cores", "workers, then several homeservers"),
    ]
    return sorted(found, key=lambda bound: bound.agents)


def most_agents(found: Sequence[Bound], of: str) -> float:
    """Return how many agents a part of the system carries: by what bounds it first."""
    return min(bound.agents for bound in found if bound.of == of)


def number_needed(found: Sequence[Bound], agents: int, of: str) -> int:
    """Return how many of a part so many agents take."""
    return math.ceil(agents / most_agents(found, of))


def breaks_first(found: Sequence[Bound], agents: int) -> str:
    """Say which bound so many agents meet first, and its answer."""
    first = min(found, key=lambda bound: bound.agents)
    return f"{first.of}: {first.what}" if first.agents < agents else "nothing"


def render_page(costs: Costs, work: Work) -> str:
    """Return the page in Markdown."""
    found = bounds(costs, work)
    return PAGE_TEXT.format(
        share=f"{SHARE:g}",
        most_processes=MOST_PROCESSES,
        roster=f"{ROSTER_LIMIT_BYTES:,} bytes / {NAME_BYTES} bytes",
        least_percent=LEAST_PERCENT,
        start=START_S,
        files=MOST_OPEN_FILES,
        wait=WAIT_S,
        work=f"an agent sends {work.messages_an_hour:g} messages an hour, and each {work.agents_a_person:g} agents have"
        " a person who looks on and sees all that they write",
        costs=_table(["", "", "measured"], _cost_lines(costs)),
        carried=_table(["", "agents", "messages a second", "people"], _carried_lines(costs, found)),
        bounds=_table(
            ["", "of", "agents", *(f"{agents:,}" for agents in SIZES), "the answer"],
            [
                [
                    each.what,
                    each.of,
                    _rounded(each.agents),
                    *(_part(agents / each.agents) for agents in SIZES),
                    each.answer,
                ]
                for each in found
            ],
        ),
        sizes=_table(
            [
                "agents",
                "breaks first",
                "daemons",
                "Spaces",
                "processes of Synapse",
                "homeservers",
                "to make them, once",
            ],
            [_size_line(costs, found, agents) for agents in SIZES],
        ),
    )


def _cost_lines(costs: Costs) -> list[list[str]]:
    return [
        ["", "a message that is sent, of the homeserver's processor", amount(costs.homeserver_message_ms, "ms")],
        ["", "that an agent reads and acknowledges it", amount(costs.homeserver_read_ms, "ms")],
        ["h", "both", amount(costs.homeserver_ms, "ms")],
        ["", "a message that is sent, of the daemon's processor", amount(costs.daemon_message_ms, "ms")],
        ["", "that an agent reads and acknowledges it", amount(costs.daemon_read_ms, "ms")],
        ["d", "both", amount(costs.daemon_ms, "ms")],
        ["s", "a person who sees a message, of the homeserver's processor", amount(costs.person_message_ms, "ms")],
        ["p", "a person while nothing happens, of the homeserver's processor", amount(costs.person_percent, "%")],
        ["b", "an agent, of the daemon's memory", amount(costs.daemon_agent_bytes / 1000, "kB")],
        ["w", "an agent more, in a start of the daemon", amount(costs.warm_ms, "ms")],
        ["r", "an agent more in the Space, when `who` is read anew", amount(costs.who_ms, "ms")],
        ["", "a new agent", amount(costs.cold_ms, "ms")],
    ]


def _carried_lines(costs: Costs, found: Sequence[Bound]) -> list[list[str]]:
    agents = most_agents(found, SYNAPSE)
    messages_s, people_at_most = SHARE * 1000 / costs.homeserver_ms, SHARE * 100 / costs.person_percent
    lines = [
        [
            "one daemon",
            _rounded(most_agents(found, DAEMON)),
            _rounded(SHARE * 1000 / costs.daemon_ms),
            "the homeserver's",
        ],
        ["one Synapse, one process", *map(_rounded, (agents, messages_s, people_at_most))],
    ]
    for workers in WORKERS:
        carried = (agents * workers, messages_s * workers, people_at_most * workers)
        lines.append([f"Synapse with {workers} workers, at most", *map(_rounded, carried)])
    return lines


def _size_line(costs: Costs, found: Sequence[Bound], agents: int) -> list[str]:
    processes = number_needed(found, agents, SYNAPSE)
    numbers = (number_needed(found, agents, DAEMON), number_needed(found, agents, SPACE), processes)
    homeservers = math.ceil(processes / MOST_PROCESSES)
    takes = f"{agents * costs.cold_ms / 60_000:,.0f} minutes"
    return [f"{agents:,}", breaks_first(found, agents), *(f"{each:,}" for each in (*numbers, homeservers)), takes]


def _rounded(value: float) -> str:
    """Return a number with the two digits that an extrapolation has."""
    if value < 10:
        return f"{value:.2g}"
    unit = 10 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / unit) * unit:,}"


def _part(of_limit: float) -> str:
    return f"{of_limit:.0%}" if of_limit <= 1 else f"**{of_limit:.1f} times**"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def write(rows: Sequence[Row]) -> None:
    """Write the page. Raises `MissingRowsError` where the data is not enough for it."""
    PAGE.write_text(render_page(read_costs({row.key: row for row in rows}), WORK))


def main() -> int:
    try:
        write(from_json(json.loads(DATA.read_text())) if DATA.exists() else [])
    except MissingRowsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
