"""Clients of `matrix-nio` in one process, each following an account of its own, as agents without a daemon would.

Reads a line of JSON from its standard input: `homeserver`, and `accounts` with `user_id`, `device_id` and
`access_token` each. Prints `ready` once all have synced, and goes on until it is ended.
"""

import asyncio
import json
import sys

from nio import AsyncClient, AsyncClientConfig  # type: ignore[import-untyped]  # it comes without types

FILTER = {"room": {"state": {"lazy_load_members": True}}}
"""Without it the first sync of each has all members of the Space."""


async def main() -> None:
    given = json.loads(sys.stdin.readline())
    config = AsyncClientConfig(encryption_enabled=False, store_sync_tokens=False)
    clients = [AsyncClient(given["homeserver"], account["user_id"], config=config) for account in given["accounts"]]
    for client, account in zip(clients, given["accounts"], strict=True):
        client.restore_login(account["user_id"], account["device_id"], account["access_token"])
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.sync_forever(timeout=30_000, sync_filter=FILTER))
        while not all(client.next_batch for client in clients):  # noqa: ASYNC110 - it has no event that stays set
            await asyncio.sleep(0.1)
        print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
