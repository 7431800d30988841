"""One request of a client that has nothing between it and the wire."""

from typing import Any

import aiohttp
from yarl import URL


async def ask(session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], **how: Any) -> bytes:
    """Return the body of an answer that is 200, as it came. `url`: quoted already. `how`: as aiohttp has it."""
    async with session.request(method, URL(url, encoded=True), headers=headers, **how) as response:
        body = await response.read()
        assert response.status == 200, body
        return body
