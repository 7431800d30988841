"""Who follows the Space where agents have ordinary accounts. That it is heard, the integration tests see."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import cast
from unittest.mock import Mock

import pytest

from aiagentchat.daemon import transports
from aiagentchat.daemon.transports import PollTransport
from aiagentchat.errors import (
    AiAgentChatError,
    HomeserverUnavailableError,
    MatrixError,
    MatrixUnauthorizedError,
    RateLimitedError,
)
from aiagentchat.matrix.events import EventBatch
from aiagentchat.matrix.sync import SyncSource
from aiagentchat.model import AgentName, RoomId, UserId

OPERATOR = UserId("@alice:example.org"), Mock()
AGENT = AgentName("a")
SPACE = RoomId("!space")


def transport(operator: tuple[UserId, Mock] | None = OPERATOR) -> PollTransport:
    host = Mock(manager=Mock(space_id=SPACE, broadcast_id=RoomId("!broadcast")), in_use={AGENT: RoomId("!a")})
    return PollTransport(host, operator, patience_s=0.0)


def test_the_operator_follows_the_space_and_where_nobody_is_logged_in_each_agent_does() -> None:
    assert transport()._rooms(None).space == SPACE
    assert transport()._rooms(AGENT).space is None
    assert transport(None)._rooms(AGENT).space == SPACE
    assert transport()._rooms(AGENT).broadcast == "!broadcast", "an agent hears those whom the operator ignores"


@pytest.mark.parametrize(("silent", "space"), [(None, SPACE), (AGENT, None)])
def test_where_the_operators_sync_stalls_each_agent_follows_it_until_that_is_heard_again(
    silent: AgentName | None, space: RoomId | None
) -> None:
    polling = transport()
    polling._answered_at[silent] = float("-inf")
    assert polling._is_stalled(silent)
    assert polling._rooms(AGENT).space == space
    polling._note_heard(silent, True)
    assert polling._rooms(AGENT).space is None


class Failing:
    """A sync that fails again and again. `has_failed`: three times."""

    def __init__(self, error: AiAgentChatError | None) -> None:
        self._error = error
        self._failures = 0
        self.has_failed = asyncio.Event()

    async def batches(self) -> AsyncGenerator[EventBatch, None]:
        self._failures += 1
        if self._failures == 3:
            self.has_failed.set()
        if self._error is not None:
            raise self._error
        yield EventBatch(())


@pytest.mark.parametrize(
    ("error", "space"),
    [
        (MatrixUnauthorizedError(401, "M_UNKNOWN_TOKEN", "no"), SPACE),
        (MatrixError(500, "M_UNKNOWN", "Internal server error"), SPACE),
        (HomeserverUnavailableError("nobody there"), None),
        (RateLimitedError("wait"), None),
    ],
)
async def test_agents_follow_the_space_where_the_operators_sync_is_refused_and_in_an_outage_all_wait(
    error: AiAgentChatError, space: RoomId | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for each in ("_RETRY_S", "_LONGEST_RETRY_S", "_REFUSED_S"):
        monkeypatch.setattr(transports, each, 0.0)
    polling, failing = transport(), Failing(error)
    polling._sources[None] = cast("SyncSource", failing)
    loop = asyncio.create_task(polling._run_loop(None))
    await asyncio.wait_for(failing.has_failed.wait(), 10)
    loop.cancel()
    with suppress(asyncio.CancelledError):
        await loop
    assert polling._rooms(AGENT).space == space
    assert [record.message for record in caplog.records] == [polling.failure()[0]], "said once"
