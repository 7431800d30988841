"""How a detached start tells the command that waits for it: `FdReport` at one end of a pipe, the other at its end."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.cli.output import Output
from aiagentchat.cli.report import FdReport, TerminalReport, follow_report
from aiagentchat.errors import AiAgentChatError, AlreadyRunningError, HomeserverStartError

TEXT = st.text(st.characters(codec="utf-8"), max_size=200)


@dataclass
class Told:
    """A report that remembers what it was told."""

    said: list[tuple[str, str]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def progress(self, text: str) -> None:
        self.said.append(("progress", text))

    def ready(self, text: str, **more: Any) -> None:
        self.said.append(("ready", text))
        self.more = more

    def failed(self, error: AiAgentChatError) -> None:
        self.said.append(("failed", error.message))


@pytest.fixture
def pipe() -> tuple[int, int]:
    """Both ends, each closed by whoever takes it over."""
    return os.pipe()


def through_pipe(tell: Callable[[FdReport], None], ends: tuple[int, int] | None = None) -> Told:
    """Return what arrives of what `tell` reports before it ends."""
    reading, writing = ends or os.pipe()
    report = FdReport(writing)
    tell(report)
    report._close()
    told = Told()
    follow_report(reading, told)
    return told


@given(st.lists(TEXT, max_size=5), TEXT)
def test_progress_and_readiness_arrive_as_they_were_said(steps: list[str], summary: str) -> None:
    def tell(report: FdReport) -> None:
        for step in steps:
            report.progress(step)
        report.ready(summary, element=summary)

    told = through_pipe(tell)
    assert told.more == {"element": summary}
    assert told.said == [*(("progress", step) for step in steps), ("ready", summary)]


def test_nothing_arrives_after_readiness() -> None:
    def tell(report: FdReport) -> None:
        report.ready("up")
        report.progress("stopping the homeserver")
        report.failed(AiAgentChatError("no more"))

    assert through_pipe(tell).said == [("ready", "up")]


@pytest.mark.parametrize(
    "error",
    [
        AlreadyRunningError("a daemon runs here already (pid 7)", hint="'cchat down' stops it"),
        HomeserverStartError("it ended; it said last:\nAddress already in use", hint="use '--port 0'"),
    ],
)
def test_a_failure_is_raised_with_its_code_and_hint(error: AiAgentChatError) -> None:
    def tell(report: FdReport) -> None:
        report.progress("starting")
        report.failed(error)

    with pytest.raises(AiAgentChatError) as raised:
        through_pipe(tell)
    assert (raised.value.message, raised.value.hint) == (error.message, error.hint)
    assert raised.value.outcome == error.outcome


def test_an_end_without_a_word_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(AiAgentChatError, match="ended before it was up") as raised:
        through_pipe(lambda report: report.progress("starting"))
    assert "daemon.log" in raised.value.hint


def test_who_reports_goes_on_when_nobody_waits_any_more(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    report = FdReport(writing)
    report.progress("starting")
    report.ready("up")
    report.failed(AiAgentChatError("and down"))


def test_both_ends_are_closed_when_all_is_said(pipe: tuple[int, int]) -> None:
    through_pipe(lambda report: report.ready("up"), pipe)
    for descriptor in pipe:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_terminal_is_told_progress_beside_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    report = TerminalReport(Output(), hint="'cchat down' stops it")
    report.progress("starting the daemon")
    report.ready("all is up")
    report.failed(AiAgentChatError("whoever raised it says so"))
    printed = capsys.readouterr()
    assert printed.err == "… starting the daemon\n"
    assert printed.out == "all is up\n'cchat down' stops it.\n"


def test_it_is_up_although_nobody_reads_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise BrokenPipeError

    out = Output()
    monkeypatch.setattr(out, "flush", gone)
    TerminalReport(out).ready("all is up")
