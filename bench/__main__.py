"""Measures row by row, and writes `docs/benchmarks.md`, its data and its charts: `make bench`."""

import argparse
import asyncio
import compileall
import importlib
import json
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiagentchat
from bench import capacity
from bench.capacity import DATA, DOCS
from bench.figures import Row, from_json, to_json
from bench.machine import describe
from bench.page import render_charts, render_page, render_table
from bench.sizes import FULL, QUICK

ROWS = (
    "latency",
    "latency_accounts",
    "idle",
    "warm_start",
    "cold_start",
    "who",
    "bytes",
    "heartbeats",
    "throughput",
    "people",
    "commands",
    "recovery",
    "sidebar",
)
"""The modules of `bench.rows`, in the order of the page."""
PAGE, CHARTS = DOCS / "benchmarks.md", DATA.parent
TRIED = Path(__file__).with_name("tried.md")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description="Measure, and write docs/benchmarks.md.")
    parser.add_argument("row", nargs="*", choices=[*ROWS, []], help="these alone (all)")
    parser.add_argument("--quick", action="store_true", help="with little, to see that all runs: writes nothing")
    parser.add_argument("--no-write", action="store_true", help="print the tables alone")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page anew from its data")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which `nohup` and the like have switched off
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that what was started ends, too
    rows = {row.key: row for row in from_json(json.loads(DATA.read_text()))} if DATA.exists() else {}
    if not given.page:
        compileall.compile_dir(aiagentchat.__path__[0], quiet=1)  # as `pip` does when it installs
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # each agent listens by a connection of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    writes = not (given.quick or given.no_write)
    for key in () if given.page else given.row or ROWS:
        begun = time.monotonic()
        print(f"{key}", flush=True)
        rows[key] = _measure(key, quick=given.quick)
        rows[key].took_s = round(time.monotonic() - begun)
        print(render_table(rows[key]), f"({rows[key].took_s} s)\n", sep="\n", flush=True)
        if writes:
            _keep(rows)
    if writes:
        _write([rows[key] for key in ROWS if key in rows])
    return 0


def _measure(key: str, *, quick: bool) -> Row:
    module = importlib.import_module(f"bench.rows.{key}")
    row: Row = asyncio.run(module.measure(QUICK if quick else FULL, _note))
    row.day, row.machine = time.strftime("%Y-%m-%d", time.gmtime()), describe()
    return row


def _note(text: str) -> None:
    print(f"  {text}", flush=True)


def _keep(rows: dict[str, Row]) -> None:
    """Write the data after each row: one that fails does not take with it what was measured before."""
    CHARTS.mkdir(exist_ok=True)
    DATA.write_text(json.dumps(to_json([rows[key] for key in ROWS if key in rows]), indent=1) + "\n")


def _write(rows: list[Row]) -> None:
    CHARTS.mkdir(exist_ok=True)
    charts = render_charts(rows)
    for name, svg in charts.items():
        (CHARTS / name).write_text(svg)
    PAGE.write_text(render_page(rows, charts, TRIED.read_text()))
    try:
        capacity.write(rows)
    except capacity.MissingRowsError as error:
        print(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
