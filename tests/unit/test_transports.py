"""Who follows the Space where agents have ordinary accounts. That it is heard, the integration tests see."""

from unittest.mock import Mock

import pytest

from aiagentchat.daemon.transports import PollTransport
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
