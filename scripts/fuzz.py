"""Fuzzes every parser of what comes from outside: `make fuzz`. Arguments go to pytest, such as `-k markdown`.

They are the tests of `tests/unit` that Hypothesis makes cases for, each with many more of them than in `make test`. How
many there were is counted; below `WANTED`, or where one fails, it ends with 1.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WANTED = 100_000
PYTEST = (sys.executable, "-m", "pytest", "tests/unit", "-q", "-m", "hypothesis", "--timeout=1200")
STATISTICS = ("--hypothesis-profile=fuzz", "--hypothesis-show-statistics")


def main(arguments: list[str]) -> int:
    done = subprocess.run(
        [*PYTEST, *STATISTICS, *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    cases = sum(int(count) for count in re.findall(r"(\d+) passing", done.stdout))
    summary = done.stdout.rstrip().splitlines()[-1:]
    if done.returncode:
        print(done.stdout, done.stderr)
    print(f"{cases:,} cases; pytest: {' '.join(summary)}")
    return int(bool(done.returncode) or (not arguments and cases < WANTED))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
