"""What a homeserver pushes to the daemon, counted on its way."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import yaml

from bench.between import Exchange, standing_before


class PushCounter:
    """Stands between homeserver and daemon. `bytes`: of the transactions' bodies."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextlib.asynccontextmanager
    async def beside(self, registration: Path, url: str) -> AsyncIterator[str]:
        """Stand before the daemon's receiver; give the path of a registration for the homeserver, which leads here."""
        async with standing_before(url, self._note) as here:
            yield _write_beside(registration, here)

    def _note(self, exchange: Exchange) -> None:
        if "/transactions/" in exchange.path and exchange.status == 200:
            self.bytes += len(exchange.body)


def _write_beside(registration: Path, url: str) -> str:
    """Write a registration that is the same but for its url; return its path."""
    path = registration.with_name("registration-of-homeserver.yaml")
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(yaml.safe_load(registration.read_text()) | {"url": url}))
    return str(path)
