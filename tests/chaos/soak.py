"""The soak: `make soak`. A mixed load for long, and the daemon's memory, open files, threads and tasks stay flat.

Prints a line each minute, then a table; writes it into `docs/reliability.md`. Ends with 1 where something grew.
"""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.chaos.command import MODES, PAGE, about, until_ended
from tests.chaos.report import SOAK_BEGIN, SOAK_END, render_soak, replace_figures
from tests.chaos.soak_run import Soaked, SoakWish, soak


def main(arguments: Sequence[str]) -> int:
    given = _parse(arguments)
    wishes = [SoakWish(mode, given.seed, given.minutes * 60, restarts=given.restarts) for mode in given.mode or MODES]
    soaked = asyncio.run(until_ended(_soak_all(wishes)))
    figures = render_soak(soaked, about())
    print(figures)
    if not given.no_write:
        PAGE.write_text(replace_figures(PAGE.read_text(), figures, SOAK_BEGIN, SOAK_END))
    return int(not all(each.is_flat for each in soaked))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make soak ARGS=…", description="Load a daemon for long, in both modes at once."
    )
    parser.add_argument("--mode", choices=MODES, action="append", help="this mode alone")
    parser.add_argument("--minutes", type=float, default=30.0, help="(30)")
    parser.add_argument("--restarts", type=int, default=5, help="of the homeserver (5)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="default: another each time")
    parser.add_argument("--no-write", action="store_true", help="leave docs/reliability.md as it is")
    return parser.parse_args(arguments)


async def _soak_all(wishes: Iterable[SoakWish]) -> list[Soaked]:
    return await asyncio.gather(*(_soak(wish) for wish in wishes))


async def _soak(wish: SoakWish) -> Soaked:
    home = Path(tempfile.mkdtemp(prefix=f"soak-{wish.mode}-"))
    soaked = await soak(wish, home, lambda line: print(line, flush=True))
    if soaked.is_flat:
        shutil.rmtree(home)
    else:
        print(f"what the processes wrote is in {home}", flush=True)
    return soaked


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
