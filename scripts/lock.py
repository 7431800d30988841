"""Locks the dependencies with hashes: `make lock`. Arguments go to pip-compile, such as `--upgrade`.

`requirements/runtime.txt` holds what a user of the embedded homeserver installs, `requirements/dev.txt` that and the
tools. `daemon.txt`, `synapse.txt` and `build.txt` are for the images of `deploy/Dockerfile`. Pins stay unless
pyproject.toml or an argument asks for another. No file may say where it was made or from where it was downloaded: it is
to work with whatever package index the reader has configured.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
OPTIONS = (
    "--quiet",
    "--generate-hashes",
    "--allow-unsafe",
    "--no-strip-extras",  # else pip looks for another version of what is asked for with an extra, once there is one
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-emit-trusted-host",
    "--no-emit-options",
)
PROJECT = "pyproject.toml"
CONSTRAINT = "--constraint=requirements/runtime.txt"
LEFT_OUT = ("argparse", "asyncio", "notify2", "uuid")
NOT_PACKAGES = ("--no-allow-unsafe", *(f"--unsafe-package={name}" for name in LEFT_OUT))
"""What a peer asks for that Python has itself, or that has no wheel: left out, and so installed with `--no-deps`."""
LOCKS = {
    "requirements/runtime.txt": ("--extra=server", PROJECT),
    "requirements/daemon.txt": (CONSTRAINT, PROJECT),
    "requirements/synapse.txt": (CONSTRAINT, "requirements/synapse.in"),
    "requirements/dev.txt": (
        "--extra=acp",
        "--extra=mcp",
        "--extra=server",
        "--extra=dev",
        CONSTRAINT,
        "--constraint=requirements/synapse.txt",
        PROJECT,
        "requirements/synapse.in",
    ),
    "requirements/bench.txt": (
        "--extra=acp",
        "--extra=mcp",
        "--extra=server",
        "--extra=dev",
        "--extra=bench",
        *NOT_PACKAGES,
        "--constraint=requirements/dev.txt",
        PROJECT,
        "requirements/synapse.in",
    ),
    "requirements/build.txt": (
        "--only-build-deps",
        "--build-deps-for=wheel",
        "--constraint=requirements/dev.txt",
        PROJECT,
    ),
}
ADDRESS = re.compile(r"://|^-|(?<![\w.])/\w", re.MULTILINE)


def compile_lock(target: str, selection: tuple[str, ...], arguments: list[str]) -> None:
    command = [sys.executable, "-m", "piptools", "compile", *OPTIONS, *selection, f"--output-file={target}", *arguments]
    environment = os.environ | {"CUSTOM_COMPILE_COMMAND": "make lock"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def check_lock(target: str) -> None:
    found = ADDRESS.search((ROOT / target).read_text())
    if found:
        sys.exit(f"{target} holds an address, a path or an option: {found.group()!r}")


def main(arguments: list[str]) -> None:
    if sys.version_info[:2] != OLDEST_PYTHON:
        # A newer interpreter would leave out what only an older one needs.
        sys.exit(f"lock with Python {'.'.join(map(str, OLDEST_PYTHON))}, the oldest supported")
    for target, selection in LOCKS.items():
        print(f"locking {target}", flush=True)
        compile_lock(target, selection, arguments)
        check_lock(target)


if __name__ == "__main__":
    main(sys.argv[1:])
