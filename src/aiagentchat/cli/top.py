"""`cchat top`: all agents at a glance, drawn anew each second at a terminal, or printed once."""

import contextlib
import os
import select
import shutil
import sys
import termios
import time
import tty
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.cli.output import BOLD, DIM, GREEN, RESET, YELLOW, to_local
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import one_line, shortened

Json = Any

_EVERY_S = 1.0
_HEADER = ("AGENT", "STATUS", "REACH", "UNREAD", "/MIN", "DOING", "LAST MESSAGE")
_NUMBERS, _LINE = (3, 4), 5
_DOING = 30
_BODY = 200
_BROAD = 10_000
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the screen as it was comes back
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def top(call: Invocation) -> None:
    """Show all agents at a glance."""
    client, out = call.client(), call.out
    overview = client.overview()
    if out.as_json:
        out.data(overview)
    elif call.args.once or not (out.is_terminal and sys.stdin is not None and sys.stdin.isatty()):
        columns = shutil.get_terminal_size().columns if out.is_terminal else _BROAD
        for line in render_overview(overview, colour=out.has_colour, columns=columns):
            out.line(line)
        if overview["unavailable"]:
            out.note(f"the directory is empty: {one_line(overview['unavailable'])} ('cchat status' says what to do)")
    else:
        interrupt_on_signals()
        with contextlib.suppress(KeyboardInterrupt), _screen():
            _draw(overview, "", colour=out.has_colour)
            while not _is_left():
                failure = ""
                try:
                    overview = client.overview()
                except AiAgentChatError as error:  # it is shown, and asked again
                    if not error.retryable:
                        raise
                    failure = error.message
                _draw(overview, failure, colour=out.has_colour)


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """Have the terminal for oneself: a key is read as it is pressed, and what was on the screen comes back."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        _write(_ENTER)
        yield
    finally:
        _write(_LEAVE)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _is_left() -> bool:
    """Wait a second; whether q was pressed, or the terminal is gone."""
    deadline = time.monotonic() + _EVERY_S
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], left_s)
        if ready and os.read(sys.stdin.fileno(), 64).lower() in (b"", b"q", b"\x04"):
            return True
    return False


def _draw(overview: Json, failure: str, *, colour: bool) -> None:
    size = os.get_terminal_size(sys.stdout.fileno())  # of the terminal: $COLUMNS is not what it was made since
    columns, height = size.columns or 80, size.lines or 24  # some terminals do not know
    lines = render_screen(overview, failure, colour=colour, columns=columns)
    if len(lines) > height:
        lines = [*lines[: height - 1], f"… and {len(lines) - height + 1} more"]
    _write(_HOME + f"{_END_OF_LINE}\r\n".join(lines) + _END_OF_LINE + _END_OF_SCREEN)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def render_screen(overview: Json, failure: str, *, colour: bool, columns: int = _BROAD) -> list[str]:
    """Return what is drawn: how it stands at all, what is wrong, and the table; no line broader than `columns`."""
    agents = overview["agents"]
    online = sum(agent["status"] == "online" for agent in agents)
    rate = sum(agent["per_minute"] or 0 for agent in agents)
    who = "1 agent" if len(agents) == 1 else f"{len(agents)} agents"
    lines = [_clip(f"{who}, {online} online · {rate}/min · {time.strftime('%H:%M:%S')} · q leaves", columns)]
    wrong = [one_line(each) for each in (failure, overview["unavailable"], overview["stalled"]) if each]
    lines += [_paint(YELLOW, _clip(each, columns), colour) for each in wrong]
    return [*lines, "", *render_overview(overview, colour=colour, columns=columns)]


def render_overview(overview: Json, *, colour: bool, columns: int = _BROAD) -> list[str]:
    """Return the table: who is online first; no line broader than `columns`."""
    agents = sorted(overview["agents"], key=lambda agent: (agent["status"] != "online", agent["name"]))
    rows = [_HEADER, *(_row(agent) for agent in agents)]
    if not any(agent["status_line"] for agent in agents):
        rows = [(*row[:_LINE], *row[_LINE + 1 :]) for row in rows]
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [_pad(cell, width, n in _NUMBERS) for n, (cell, width) in enumerate(zip(row[:-1], widths, strict=True))]
        line = _clip("  ".join([*cells, row[-1]]).rstrip(), columns)
        if row is rows[0]:
            lines.append(_paint(DIM, line, colour))
            continue
        of_name, of_status = len(cells[0]), len(cells[0]) + 2 + len(cells[1])
        status = _paint(GREEN if row[1] == "online" else DIM, line[of_name:of_status], colour)
        lines.append(_paint(BOLD, line[:of_name], colour) + status + line[of_status:])
    return lines


def _row(agent: Json) -> tuple[str, ...]:
    unread = "–" if agent["unread"] is None else f"{agent['unread']}{'+' if agent['unread_more'] else ''}"
    per_minute = "–" if agent["per_minute"] is None else str(agent["per_minute"])
    last = agent["last"]
    said = "–"
    if last is not None:
        said = f"{_when(last['ts'])} {one_line(last['sender']['name'])}: {shortened(last['body'], _BODY)}"
    doing = shortened(agent["status_line"], _DOING)
    return one_line(agent["name"]), agent["status"], agent["reach"], unread, per_minute, doing, said


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )


def _pad(text: str, width: int, is_number: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if is_number else text + space


def _clip(text: str, columns: int) -> str:
    """Return as much of a text as fits into so many columns of a terminal."""
    if _width(text) <= columns:
        return text
    while _width(text) >= columns:
        text = text[:-1]
    return f"{text}…"


def _paint(code: str, text: str, colour: bool) -> str:
    return f"{code}{text}{RESET}" if colour and text else text


def _when(ts: int) -> str:
    """Return the person's time of a message of today, the day of an older one."""
    moment = to_local(ts)
    return f"{moment:%H:%M:%S}" if moment.date() == datetime.now().astimezone().date() else f"{moment:%Y-%m-%d}"
