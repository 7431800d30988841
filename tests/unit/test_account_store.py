"""The files of accounts, which a daemon that renews tokens and a person who logs in write at once."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aiagentchat.config import Paths
from aiagentchat.daemon.accounts import AccountStore
from aiagentchat.matrix.accounts import Account
from aiagentchat.model import AgentName, UserId

A = AgentName("a")
FIRST = Account(UserId("@a:example.org"), "DEVICE1", "token1", "http://localhost:8008", "refresh1")
RENEWED = replace(FIRST, access_token="token2", refresh_token="refresh2")
ANEW = replace(FIRST, device_id="DEVICE2", access_token="token3", refresh_token="refresh3")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(config_dir=tmp_path, data_dir=tmp_path)


@pytest.fixture
def store(paths: Paths) -> AccountStore:
    return AccountStore(paths)


@pytest.mark.parametrize("agent", [A, None])
def test_a_token_that_is_renewed_is_kept_and_a_login_made_meanwhile_stays(
    store: AccountStore, agent: AgentName | None
) -> None:
    def kept() -> Account | None:
        return store.operator() if agent is None else store.agents().get(agent)

    assert store.save(agent, FIRST) is None
    store.save_renewed(agent, RENEWED)
    assert kept() == RENEWED
    assert store.save(agent, ANEW) == RENEWED
    store.save_renewed(agent, replace(RENEWED, access_token="token4"))
    assert kept() == ANEW
    store.file_of(agent).unlink()
    store.save_renewed(agent, ANEW)  # nor does an account come back that somebody removed
    assert kept() is None


def test_a_token_that_is_renewed_mends_a_file_that_cannot_be_read(store: AccountStore) -> None:
    store.save(A, FIRST)
    store.file_of(A).write_text("not an account")
    store.save_renewed(A, RENEWED)
    assert store.agents() == {A: RENEWED}


def test_a_login_within_one_tick_of_the_file_system_s_clock_is_seen(
    store: AccountStore, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(A, FIRST)
    tick = os.stat(paths.accounts).st_mtime_ns
    monkeypatch.setattr(time, "time_ns", lambda: tick)
    assert store.agents() == {A: FIRST}
    AccountStore(paths).save(A, ANEW)
    os.utime(paths.accounts, ns=(tick, tick))  # as it is where the clock has not gone on in between
    assert store.agents() == {A: ANEW}


def test_writers_take_turns(paths: Paths) -> None:
    """A login among many renewals: whatever the order, it is what is kept."""
    AccountStore(paths).save(A, FIRST)

    def renew() -> None:
        store = AccountStore(paths)
        for number in range(100):
            store.save_renewed(A, replace(FIRST, access_token=f"token{number}"))

    renewing = [threading.Thread(target=renew) for _ in range(3)]
    for thread in renewing:
        thread.start()
    AccountStore(paths).save(A, ANEW)
    for thread in renewing:
        thread.join()
    assert AccountStore(paths).agents() == {A: ANEW}
