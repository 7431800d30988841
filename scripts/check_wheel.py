"""Builds the sdist, the wheel from it, and uses the wheel as a stranger would: `make wheel`.

The wheel goes into a fresh environment with the locked runtime dependencies. The commands run outside the checkout, in
a home of their own, so that what works here works without this source tree. Ends with 0, or with what went wrong.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
INSTALL_S = 600.0
COMMAND_S = 30.0
START_S = 120.0
DAEMON_NOT_RUNNING = 3

PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


class CheckFailedError(Exception):
    """The built package does not do what it should."""


def step(text: str) -> None:
    print(f"wheel: {text}", flush=True)


def run(
    command: list[str | Path], *, timeout_s: float, cwd: Path, env: dict[str, str] | None = None, exit_code: int = 0
) -> str:
    """Return what the command printed.

    Raises:
        CheckFailedError: it ended with another exit code, or took longer than `timeout_s`.
    """
    shown = " ".join(map(str, command))
    try:
        done = subprocess.run(command, cwd=cwd, env=env, timeout=timeout_s, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired as error:
        # Bytes even in text mode: https://github.com/python/cpython/issues/87597
        parts = [part.decode(errors="replace") for part in (error.stdout, error.stderr) if isinstance(part, bytes)]
        raise CheckFailedError("\n".join([f"{shown}: not done after {timeout_s:g} s", *parts])) from None
    if done.returncode != exit_code:
        raise CheckFailedError(f"{shown}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build() -> Path:
    """Return the wheel, built from the sdist with the locked build backend."""
    for old in DIST.glob("aiagentchat-*"):
        old.unlink()
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT], timeout_s=INSTALL_S, cwd=ROOT)
    (wheel,) = DIST.glob("*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = {f"aiagentchat/{path.relative_to(ROOT / 'src/aiagentchat').as_posix()}" for path in source_files()}
    if missing := expected - set(names):
        raise CheckFailedError(f"not in the wheel: {', '.join(sorted(missing))}")
    metadata = re.compile(r"aiagentchat-[^/]+\.dist-info/")
    if extra := [name for name in names if name not in expected and not metadata.match(name)]:
        raise CheckFailedError(f"in the wheel, and should not be: {', '.join(extra)}")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        raise CheckFailedError("the wheel holds no LICENSE")


def source_files() -> list[Path]:
    files = (path for path in (ROOT / "src/aiagentchat").rglob("*") if path.is_file())
    return [path for path in files if not any(part == "__pycache__" or part.endswith("_cache") for part in path.parts)]


def install(wheel: Path, directory: Path) -> Path:
    """Return the directory of scripts of a fresh environment that holds the wheel."""
    venv.create(directory, symlinks=True, with_pip=True)
    python = directory / "bin" / "python"
    # As in the Makefile: only Linux has a wheel of everything.
    wheels = ["--only-binary", ":all:"] if sys.platform == "linux" else []
    lock = ROOT / "requirements/runtime.txt"
    run([python, *PIP, "--require-hashes", *wheels, "-r", lock], timeout_s=INSTALL_S, cwd=directory)
    run([python, *PIP, "--no-deps", "--no-index", wheel], timeout_s=INSTALL_S, cwd=directory)
    run([python, "-m", "pip", "check"], timeout_s=COMMAND_S, cwd=directory)
    return directory / "bin"


def clean_environment(home: Path) -> dict[str, str]:
    dropped = re.compile(r"(PYTHON|COVERAGE_|AIAGENTCHAT_|VIRTUAL_ENV$|SPACE_ALIAS$|SERVER_NAME$|MATRIX_ROOM_ID$)")
    return {k: v for k, v in os.environ.items() if not dropped.match(k)} | {"AIAGENTCHAT_HOME": str(home)}


def use(scripts: Path, directory: Path) -> None:
    """Start a system from the installed wheel, look at it, and stop it whatever happens."""
    env = clean_environment(directory / "home")

    def cchat(*arguments: str, timeout_s: float = COMMAND_S, exit_code: int = 0) -> str:
        command: list[str | Path] = [scripts / "cchat", *arguments]
        return run(command, timeout_s=timeout_s, cwd=directory, env=env, exit_code=exit_code)

    cchat("--help")
    version = wheel_version()
    for shown in (
        cchat("--version"),
        run([scripts / "python", "-m", "aiagentchat", "--version"], timeout_s=COMMAND_S, cwd=directory, env=env),
    ):
        if version not in shown.split():
            raise CheckFailedError(f"--version says {shown.strip()!r}, and the package is {version}")
    try:
        step("cchat up --detach --port 0")
        cchat("up", "--detach", "--port", "0", timeout_s=START_S)
        status = json.loads(cchat("status", "--json"))
        if not status["space_id"] or not status["daemon_pid"]:
            raise CheckFailedError(f"the system is not up: {status}")
    except BaseException:
        subprocess.run([scripts / "cchat", "down"], cwd=directory, env=env, timeout=COMMAND_S, check=False)
        raise
    step("cchat down")
    cchat("down")
    cchat("status", exit_code=DAEMON_NOT_RUNNING)


def wheel_version() -> str:
    (wheel,) = DIST.glob("*.whl")
    return wheel.name.split("-")[1]


def main() -> None:
    step("build")
    wheel = build()
    check_content(wheel)
    with tempfile.TemporaryDirectory(prefix="aiagentchat-wheel-") as name:
        directory = Path(name)
        step(f"install {wheel.name}")
        use(install(wheel, directory / "venv"), directory)
    step(f"{wheel.name} works")


if __name__ == "__main__":
    try:
        main()
    except CheckFailedError as error:
        sys.exit(f"wheel: {error}")
