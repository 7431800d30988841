"""What systemd is told, by a socket that the test holds in its place."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from aiagentchat.daemon.main import _take_events
from aiagentchat.daemon.service_manager import STUCK_S, ServiceManager
from aiagentchat.matrix.events import EventBatch


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}/notify"


@pytest.fixture
def told(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        listening.setblocking(False)
        yield listening


def heard(told: socket.socket) -> list[str]:
    states = []
    while True:
        try:
            states.append(told.recv(4096).decode())
        except BlockingIOError:
            return states


def test_states_are_told_to_who_listens(told: socket.socket, address: str) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": address})
    service.tell("READY=1")
    service.tell("STATUS=one\ttwo")
    assert heard(told) == ["READY=1", "STATUS=one\ttwo"]


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_nobody_who_listens_is_no_fault(env: dict[str, str]) -> None:
    ServiceManager(env).tell("READY=1")


async def test_it_is_told_three_times_in_its_time_that_the_daemon_goes_on(told: socket.socket, address: str) -> None:
    watching = asyncio.create_task(ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}).watch())
    await asyncio.sleep(0.55)
    watching.cancel()
    assert 4 <= heard(told).count("WATCHDOG=1") <= 6


async def test_a_daemon_that_is_stuck_says_no_more_that_it_goes_on(told: socket.socket, address: str) -> None:
    now_s = 0.0
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000"}
    service = ServiceManager(env, clock=lambda: now_s)
    watching = asyncio.create_task(service.watch())
    with service.progress():
        now_s = STUCK_S
        await asyncio.sleep(0.05)
        assert heard(told)
        now_s = STUCK_S + 1
        await asyncio.sleep(0.05)
        heard(told)
        await asyncio.sleep(0.1)
        assert heard(told) == []
    await asyncio.sleep(0.05)
    assert heard(told), "it went on after all"
    watching.cancel()


async def test_events_that_are_never_taken_in_are_what_a_daemon_is_stuck_in() -> None:
    now_s, is_taking = 0.0, asyncio.Event()
    service = ServiceManager({}, clock=lambda: now_s)

    class Source:
        async def batches(self) -> AsyncGenerator[EventBatch, None]:
            yield EventBatch(())

    class Endless:
        async def take(self, batch: EventBatch) -> None:
            is_taking.set()
            await asyncio.Event().wait()

    taking = asyncio.create_task(_take_events(Source(), cast(Any, Endless()), service))
    await asyncio.wait_for(is_taking.wait(), 10)
    before = service.is_stuck
    now_s = STUCK_S + 1
    assert (before, service.is_stuck) == (False, True)
    taking.cancel()


@pytest.mark.parametrize("every", ["", "soon", "-1", "0"])
async def test_without_a_watchdog_there_is_nothing_to_tell(address: str, every: str) -> None:
    await asyncio.wait_for(ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": every}).watch(), 1)
