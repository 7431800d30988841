"""What the commands `make chaos` and `make soak` share."""

import asyncio
import datetime
import platform
import signal
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
MODES = ("appservice", "accounts")
T = TypeVar("T")


async def until_ended(running: Coroutine[Any, Any, T]) -> T:
    """Run, and stop what was started when told to stop."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await running


def about() -> str:
    """Return when and on what the figures were made."""
    on = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    synapse, python = version("matrix-synapse"), platform.python_version()
    return f"{on}, aiagentchat {version('aiagentchat')}, Synapse {synapse}, Python {python}."
