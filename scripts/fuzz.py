"""Fuzzes every parser of what comes from outside: `make fuzz`. Arguments go to pytest, such as `-k markdown`.

They are the tests of `tests/unit` that Hypothesis makes cases for, each with many more of them than in `make test`. How
many there were is counted; below `WANTED`, or where one fails, it ends with 1.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WANTED = 100_000
PROCESSES = f"-n{os.cpu_count() or 1}"
PYTEST = (sys.executable, "-m", "pytest", "tests/unit", "-q", "-m", "hypothesis", "--timeout=1200", PROCESSES)
STATISTICS = ("--hypothesis-profile=fuzz", "--hypothesis-show-statistics")


def main(arguments: list[str]) -> int:
    said: list[str] = []
    command = [*PYTEST, *STATISTICS, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") as pytest:
        assert pytest.stdout is not None
        for line in pytest.stdout:
            said.append(line)
            if line.rstrip().endswith("%]"):
                print(line, end="", flush=True)
    cases = sum(int(count) for line in said for count in re.findall(r"(\d+) passing", line))
    if pytest.returncode:
        print("".join(said))
    print(f"{cases:,} cases; pytest: {said[-1].strip() if said else 'said nothing'}")
    return int(bool(pytest.returncode) or (not arguments and cases < WANTED))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
