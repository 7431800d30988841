"""The full chaos run: `make chaos`.

Prints a line for each step, then lost, doubled, reordered and untrue with a sentence for each, and the time to recover;
writes the figures into `docs/reliability.md`. Ends with 1 where anything is wrong, and keeps what the processes wrote.
"""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.command import MODES, PAGE, about, until_ended
from tests.chaos.report import render_figures, replace_figures
from tests.chaos.run import Outcome, Wish, run


def main(arguments: Sequence[str]) -> int:
    given = _parse(arguments)
    outcomes = [_run(_wish(given, mode)) for mode in given.mode or MODES]
    figures = render_figures(outcomes, about())
    print(figures)
    if not given.no_write:
        PAGE.write_text(replace_figures(PAGE.read_text(), figures))
    return int(not all(outcome.verdict.is_clean for outcome in outcomes))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description="Do the full chaos run in both modes.")
    parser.add_argument("--mode", choices=MODES, action="append", help="this mode alone")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="default: another each time")
    parser.add_argument("--messages", type=int, default=10_000, help="a mode (10000)")
    parser.add_argument("--agents", type=int, default=10, help="(10)")
    parser.add_argument("--rounds", type=int, default=4, help="how often each kind of fault happens (4)")
    parser.add_argument("--kills", type=int, default=20, help="of the daemon (20)")
    parser.add_argument("--restarts", type=int, default=10, help="of the homeserver (10)")
    parser.add_argument("--longest", type=float, default=4.0, metavar="SECONDS", help="of one fault (4)")
    parser.add_argument("--no-write", action="store_true", help="leave docs/reliability.md as it is")
    return parser.parse_args(arguments)


def _wish(given: argparse.Namespace, mode: str) -> Wish:
    return Wish(
        mode,
        given.seed,
        given.messages,
        agents=given.agents,
        rounds=given.rounds,
        daemon_kills=given.kills,
        restarts=given.restarts,
        longest_s=given.longest,
        settle_s=60.0,
    )


def _run(wish: Wish) -> Outcome:
    home = Path(tempfile.mkdtemp(prefix=f"chaos-{wish.mode}-"))
    outcome = asyncio.run(until_ended(run(wish, home, lambda line: print(line, flush=True))))
    print(f"{wish.mode}, seed {wish.seed}: {outcome.verdict}", flush=True)
    for key, reason in outcome.refused.items():
        print(f"  not sent: {key}: {reason}")
    if outcome.verdict.is_clean:
        shutil.rmtree(home)
    else:
        print(f"what the processes wrote is in {home}; this stays as a regression test: {wish}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
