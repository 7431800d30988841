"""One reader at a time: a second is told, a first that is gone or comes back blocks nobody."""

import pytest

from aiagentchat.agents.readers import UNCONFIRMED_S, Readers
from aiagentchat.errors import ReaderBusyError
from aiagentchat.model import AgentName

A, B = AgentName("a"), AgentName("b")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_second_reader_is_told_who_reads_and_another_agents_is_not_concerned() -> None:
    readers = Readers()
    claim = readers.claim(A, "one", "pid 7")
    with pytest.raises(ReaderBusyError, match="a is being read by pid 7"):
        readers.claim(A, "two", "pid 8")
    readers.claim(B, "two", "pid 8")
    readers.release(A, claim)
    readers.claim(A, "two", "pid 8")


def test_who_was_handed_messages_has_the_inbox_until_it_confirms_or_is_too_slow() -> None:
    readers = Readers(clock := Clock())
    readers.hand_out(A, readers.claim(A, "one", "pid 7"))
    readers.confirm(A, "two")  # not its to confirm
    with pytest.raises(ReaderBusyError):
        readers.claim(A, "two", "pid 8")
    readers.confirm(A, "one")
    readers.hand_out(A, readers.claim(A, "two", "pid 8"))
    clock.now_s = UNCONFIRMED_S
    readers.claim(A, "one", "pid 7")


def test_who_fetches_the_file_of_what_was_handed_out_has_the_time_to_confirm_afterwards() -> None:
    readers = Readers(clock := Clock())
    readers.hand_out(A, readers.claim(A, "one", "pid 7"))
    with readers.busy(A, "two"), readers.busy(B, "one"), readers.busy(A, "one"):
        clock.now_s = 10 * UNCONFIRMED_S
        with pytest.raises(ReaderBusyError):
            readers.claim(A, "two", "pid 8")
    clock.now_s += 0.9 * UNCONFIRMED_S
    with pytest.raises(ReaderBusyError):
        readers.claim(A, "two", "pid 8")
    clock.now_s += 0.2 * UNCONFIRMED_S
    readers.claim(A, "two", "pid 8")


def test_a_reader_with_a_stream_reads_beside_it_and_a_new_stream_ends_the_old_one() -> None:
    readers = Readers()
    lost: list[str] = []
    stream = readers.claim(A, "one", "pid 7", on_lost=lambda: lost.append("first"))
    beside = readers.claim(A, "one", "pid 7")
    readers.hand_out(A, beside)
    readers.confirm(A, "one")
    readers.release(A, beside)
    with pytest.raises(ReaderBusyError):
        readers.claim(A, "two", "pid 8")
    assert not lost
    readers.claim(A, "one", "pid 7", on_lost=lambda: lost.append("second"))
    assert lost == ["first"]
    readers.release(A, stream)  # the old connection's end frees nothing of the new one
    with pytest.raises(ReaderBusyError):
        readers.claim(A, "two", "pid 8")
