"""Which endpoints a homeserver lacks, by how it answers to a method that none of them takes."""

import pytest

from aiagentchat.daemon.endpoints import NEEDED, OF_ACCOUNTS, OF_APPSERVICE, missing_endpoints
from aiagentchat.errors import HomeserverUnavailableError
from aiagentchat.matrix.probe import Probe, Reply

UNKNOWN = Reply(404, {"errcode": "M_UNRECOGNIZED"})
OTHER_METHOD = Reply(405, {"errcode": "M_UNRECOGNIZED"})


class Homeserver(Probe):
    """Has all endpoints but some."""

    def __init__(self, *missing: str, known: Reply = OTHER_METHOD) -> None:
        self.missing = missing
        self.known = known
        self.asked: list[str] = []

    async def ask(self, method: str, path: tuple[str, ...], **_: object) -> Reply:
        assert method == "PATCH", "no endpoint takes it, so that nothing is done"
        self.asked.append("/".join(path[1:]))
        return UNKNOWN if self.asked[-1] in self.missing else self.known


@pytest.mark.parametrize("of_appservice", [True, False])
async def test_what_is_missing_is_named(of_appservice: bool) -> None:
    mine, others = (OF_APPSERVICE, OF_ACCOUNTS) if of_appservice else (OF_ACCOUNTS, OF_APPSERVICE)
    lacking = (NEEDED[3], mine[-1])
    homeserver = Homeserver(*lacking, *others)
    assert await missing_endpoints(homeserver, is_appservice=of_appservice) == lacking
    assert len(set(homeserver.asked)) == len(homeserver.asked) == len(NEEDED) + len(mine)


async def test_of_a_homeserver_that_does_not_tell_nothing_is_said() -> None:
    assert await missing_endpoints(Homeserver(*NEEDED, *OF_APPSERVICE), is_appservice=True) == ()
    assert await missing_endpoints(Homeserver(known=Reply(404, {})), is_appservice=True) == ()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_one_that_cannot_answer_now_is_asked_again(status: int) -> None:
    with pytest.raises(HomeserverUnavailableError, match=str(status)):
        await missing_endpoints(Homeserver(known=Reply(status, {})), is_appservice=True)
