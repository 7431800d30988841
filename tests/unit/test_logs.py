"""What a line of the log is, whatever is logged."""

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.daemon.logs import JsonFormatter, TextFormatter
from aiagentchat.model import visible


def entry(message: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("aiagentchat.x").makeRecord(
        "aiagentchat.x", logging.WARNING, "x.py", 1, message, (), None, extra=extra
    )


def fault() -> logging.LogRecord:
    try:
        raise ValueError("said\nso")
    except ValueError:
        record = entry("it failed", agent="a")
        record.exc_info = sys.exc_info()
        return record


def test_the_ids_that_are_known_stand_in_a_line_of_either_form() -> None:
    record = entry("stored", agent="claude-dev", room_id="!r", event_id=None, alias="#a")
    assert TextFormatter().format(record).endswith(" WARNING aiagentchat.x: stored [agent=claude-dev room_id=!r]")
    line = json.loads(JsonFormatter().format(record))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "aiagentchat.x",
        "message": "stored",
        "agent": "claude-dev",
        "room_id": "!r",
    }
    assert TextFormatter().format(entry("done")).endswith(" WARNING aiagentchat.x: done")


@given(st.text())
def test_foreign_text_begins_no_line_and_moves_no_cursor(text: str) -> None:
    record = entry("%s", agent=text)
    record.args = (text,)
    for line in (TextFormatter().format(record), JsonFormatter().format(record)):
        assert visible(line) == line
        assert len(line.splitlines()) == 1
    assert json.loads(JsonFormatter().format(record))["message"] == text


def test_a_fault_has_its_traceback() -> None:
    assert "\nTraceback" in TextFormatter().format(fault())
    line = JsonFormatter().format(fault())
    assert "\n" not in line
    assert json.loads(line)["traceback"].endswith("ValueError: said\nso")
