"""Waits between the attempts of what has to hold in the end. The daemon's loops use it."""

import asyncio
import random
from collections.abc import AsyncIterator

_LONGEST_RETRY_S = 15.0


async def retries() -> AsyncIterator[None]:
    """Yield at once, and then after growing waits, for as long as the caller goes on."""
    wait_s = 0.5
    while True:
        yield
        await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
        wait_s = min(_LONGEST_RETRY_S, wait_s * 2)
