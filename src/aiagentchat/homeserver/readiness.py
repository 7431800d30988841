"""Whether a Matrix homeserver answers at an address. Called by `homeserver.process`."""

import asyncio

import aiohttp

POLL_S = 0.1
"""How long to wait between two questions."""

_REQUEST_S = 2.0


async def answers_within(base_url: str, timeout_s: float) -> bool:
    """Whether one answers there, now or before `timeout_s` have passed."""
    try:
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as session:
            while not await answers(session, base_url):  # noqa: ASYNC110 - another process has no event of ours
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return False
    return True


async def answers(session: aiohttp.ClientSession, base_url: str) -> bool:
    """Whether a Matrix homeserver answers there."""
    limit = aiohttp.ClientTimeout(total=_REQUEST_S)
    try:
        async with session.get(f"{base_url}/_matrix/client/versions", timeout=limit) as response:
            if response.status != 200:
                return False
            body = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False
    return isinstance(body, dict) and isinstance(body.get("versions"), list)
