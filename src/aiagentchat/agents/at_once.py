"""Doing the same for many, some at a time, so that the homeserver is asked for no more than it bears."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

AT_ONCE = 8

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


async def for_each(keys: Iterable[_Key], act: Callable[[_Key], Awaitable[_Value]]) -> dict[_Key, _Value]:
    """Return what came of it for each, in their order. What one raises is raised."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def act_in_turn(key: _Key) -> _Value:
        async with slots:
            return await act(key)

    keys = list(keys)
    return dict(zip(keys, await asyncio.gather(*(act_in_turn(key) for key in keys)), strict=True))
