"""One soak: the load goes on, the homeserver is restarted now and then, and the daemon's metrics are sampled."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.chaos.actors import Person
from tests.chaos.faults import Kill
from tests.chaos.growth import Growth, Sample, growths, parse_metrics
from tests.chaos.load import Load
from tests.chaos.run import attach, ended
from tests.chaos.system import Battered, running_system
from tests.integration.systems import Api

_WARM_UP = 1 / 6
_MINUTE_S = 60.0
_DOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class SoakWish:
    """How long a soak is, in seconds, and how hard: messages in a second, restarts of the homeserver.

    `rush`: how many times as many messages come while it warms up, so that what is bounded is full after that.
    """

    mode: str
    seed: int
    seconds: float
    agents: int = 10
    rate: float = 4.0
    rush: float = 3.0
    restarts: int = 5
    sample_every_s: float = 10.0

    @property
    def warm_up_s(self) -> float:
        return self.seconds * _WARM_UP


@dataclass
class Soaked:
    """What came of a soak. `counts`: what was done, by kind."""

    wish: SoakWish
    samples: list[Sample] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def growths(self) -> list[Growth]:
        return growths(self.samples, self.wish.warm_up_s)

    @property
    def is_flat(self) -> bool:
        return all(growth.is_flat for growth in self.growths)


async def soak(wish: SoakWish, home: Path, tell: Callable[[str], None] = print) -> Soaked:
    """Do one soak in an empty directory. `tell` gets a line each minute."""
    names = [f"agent-{number}" for number in range(wish.agents)]
    # Who comes and goes is a new agent each time, but where each needs an account that somebody made.
    visitors = [f"visitor-{number}" for number in range(3)] if wish.mode == "accounts" else []
    async with running_system(home, wish.mode, names + visitors) as battered, aiohttp.ClientSession() as session:
        api = await battered.daemon.wait_up()
        agents = [await attach(api, name) for name in names]
        synapse, began = battered.synapse, time.monotonic()
        load = Load(
            api,
            agents,
            visitors,
            Person(synapse.config.base_url, synapse.operator.access_token, session),
            broadcast_id=(await api.get("/health"))["system"]["broadcast_id"],
            rate=lambda: wish.rate * (wish.rush if time.monotonic() < began + wish.warm_up_s else 1.0),
            seed=wish.seed,
        )
        tell(f"{wish.mode}, seed {wish.seed}: {len(agents)} agents are up")
        return await _Soak(wish, battered, api, load, tell).carry_out()


class _Soak:
    def __init__(self, wish: SoakWish, battered: Battered, api: Api, load: Load, tell: Callable[[str], None]) -> None:
        self._wish = wish
        self._battered = battered
        self._api = api
        self._load = load
        self._tell = tell
        self._began = time.monotonic()
        self._soaked = Soaked(wish)

    async def carry_out(self) -> Soaked:
        loading = asyncio.create_task(self._load.run())
        async with ended([loading, asyncio.create_task(self._restart()), asyncio.create_task(self._tell_on())]):
            while self._at_s < self._wish.seconds:
                if loading.done():
                    loading.result()
                await self._sample()
                await asyncio.sleep(self._wish.sample_every_s)
        self._soaked.counts = self._counts()
        return self._soaked

    @property
    def _at_s(self) -> float:
        return time.monotonic() - self._began

    def _counts(self) -> dict[str, int]:
        ledger = self._load.ledger
        stored = {"messages sent": len(ledger.stored), "times a message was handed out": len(ledger.handed)}
        return stored | dict(sorted(self._load.counts.items()))

    async def _sample(self) -> None:
        metrics = parse_metrics(await self._api.get("/metrics"))
        self._soaked.samples.append(Sample(self._at_s, metrics))

    async def _restart(self) -> None:
        """Restart the homeserver now and then, stopped and killed in turn."""
        for number in range(self._wish.restarts):
            at_s = self._wish.seconds * (number + 1) / (self._wish.restarts + 1)
            await asyncio.sleep(max(0.0, at_s - self._at_s))
            await self._battered.kill(Kill.HOMESERVER if number % 2 else Kill.RESTART, _DOWN_S)
            self._load.counts["homeserver killed or stopped"] += 1

    async def _tell_on(self) -> None:
        while True:
            await asyncio.sleep(_MINUTE_S)
            done = f"{self._at_s / 60:.0f} of {self._wish.seconds / 60:g} min"
            sent = len(self._load.ledger.stored)
            self._tell(f"{self._wish.mode}, {done}: {sent:,} messages, {self._soaked.samples[-1]}")
