"""Secrets of homes where none may stand, looked for once a whole run of tests is over.

That is in the logs of each home, in what daemons in this process logged, in errors of commands and of the gateway, in
metrics, and in the arguments of all processes that ran meanwhile.
"""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

_WORTHLESS = 16
"""Shorter than this is no secret, but a word that a test has put in the place of one."""
_LOOK_S = 0.1
_LOOKS = 20
"""At a process; by then it has become the program that it was started to be."""
_MOST_BYTES = 65_536


class Seen:
    """What was said where no secret may stand, and the arguments of processes: each text once.

    There is one for a process of tests, `SEEN`; whoever runs something notes there what it said.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.arguments: set[str] = set()
        self._looked: dict[str, int] = {}

    def note(self, text: str) -> None:
        """Note what somebody said."""
        self.said.update(text.splitlines())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note what daemons of this process log, and with which arguments processes run."""
        over, handler, log = threading.Event(), _Noting(self), logging.getLogger("aiagentchat")
        looking = threading.Thread(target=self._look_until, args=(over,), daemon=True)
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()
            log.setLevel(level)
            log.removeHandler(handler)

    def _look_until(self, over: threading.Event) -> None:
        while Path("/proc/self/cmdline").exists() and not over.wait(_LOOK_S):
            processes = [name for name in os.listdir("/proc") if name.isdigit()]
            self._looked = {pid: self._looked.get(pid, 0) + 1 for pid in processes}
            for pid in processes:
                if self._looked[pid] <= _LOOKS:
                    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                        self.arguments.add(file.read(_MOST_BYTES).decode(errors="replace"))

    def leaks(self, homes: Iterable[Path]) -> list[str]:
        """Return what could be seen of the secrets of these homes: where it stood, and which file has it."""
        secrets = {secret: home / file for home in homes for secret, file in secrets_of(home)}
        places = {"an error, an entry of a log or a metric": self.said, "arguments of a process": self.arguments}
        return [
            f"{place} held what is in {file}: {line[:500]}"
            for place, lines in places.items()
            for secret, file in secrets.items()
            if secret in "\n".join(lines)
            for line in [next(line for line in lines if secret in line)]
        ]


SEEN = Seen()


class _Noting(logging.Handler):
    """Notes each entry."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.note(self.format(record))


def homes_below(directory: Path) -> list[Path]:
    """Return the homes below a directory that have a secret."""
    marks = ("**/credentials", "**/homeserver/embedded.json", "**/registration.yaml")
    found = {path.parent for mark in marks for path in directory.glob(mark) if not path.is_symlink()}
    return sorted({path.parent if path.name == "homeserver" else path for path in found})


def leaks_of(home: Path) -> Iterator[str]:
    """Yield each log that holds a secret of its home, with the name of the file that the secret is from."""
    secrets = dict(secrets_of(home))
    for log in home.rglob("*.log*"):
        if log.is_file():
            text = log.read_text(errors="replace")
            yield from (f"{log} holds what is in {source}" for secret, source in secrets.items() if secret in text)


def secrets_of(home: Path) -> Iterator[tuple[str, str]]:
    """Yield each secret of a home, with the name of its file."""
    homeserver = [home / "homeserver" / name for name in ("embedded.json", "registration.yaml", "signing.key")]
    files = [*homeserver, *home.glob("registration.yaml*"), *home.glob("operator-password*")]
    for file in (*files, *home.glob("credentials/**/*"), *home.glob("accounts/*.json")):
        if file.is_file():
            for secret in _texts(_parse(file)):
                yield secret, file.name


def _parse(file: Path) -> Any:
    text = file.read_text(errors="replace").strip()
    with contextlib.suppress(ValueError, RecursionError, yaml.YAMLError):  # a test has put something else in its place
        return yaml.safe_load(text) if ".yaml" in file.suffixes else json.loads(text)
    return text.split()[-1] if file.name == "signing.key" and text else text


def _texts(data: Any) -> Iterator[str]:
    """Yield what is secret of a file: the texts that are long, and no names, addresses or ids."""
    if isinstance(data, dict):
        for key, value in data.items():
            if "token" in key or "secret" in key:
                yield from _texts(value)
    elif isinstance(data, str) and len(data) >= _WORTHLESS:
        yield data
