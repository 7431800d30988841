"""A process that stands for a coding tool: it runs hooks as its children, as it is told on standard input.

Each line is `{"id", "command", "input", "cwd", "env"}`, each answer `{"id", "code", "out", "err"}`, when it has ended.
"""

import json
import os
import subprocess
import sys
import threading
from typing import Any

_writing = threading.Lock()


def run(request: dict[str, Any]) -> None:
    done = subprocess.run(
        request["command"],
        input=request["input"],
        cwd=request["cwd"],
        env=os.environ | request["env"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    with _writing:
        print(
            json.dumps({"id": request["id"], "code": done.returncode, "out": done.stdout, "err": done.stderr}),
            flush=True,
        )


if __name__ == "__main__":
    for line in sys.stdin:
        threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()
