"""Secrets of a home that stand in one of its logs: looked for in all homes, once a whole run of tests is over."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WORTHLESS = 16
"""Shorter than this is no secret, but a word that a test has put in the place of one."""


def homes_below(directory: Path) -> list[Path]:
    """Return the homes below a directory that have a secret."""
    marks = ("**/credentials", "**/homeserver/embedded.json", "**/registration.yaml")
    found = {path.parent for mark in marks for path in directory.glob(mark) if not path.is_symlink()}
    return sorted({path.parent if path.name == "homeserver" else path for path in found})


def leaks_of(home: Path) -> Iterator[str]:
    """Yield each log that holds a secret of its home, with the name of the file that the secret is from."""
    secrets = dict(_secrets_of(home))
    for log in home.rglob("*.log*"):
        if log.is_file():
            text = log.read_text(errors="replace")
            yield from (f"{log} holds what is in {source}" for secret, source in secrets.items() if secret in text)


def _secrets_of(home: Path) -> Iterator[tuple[str, str]]:
    files = [home / "homeserver" / "embedded.json", home / "operator-password"]
    for file in (*files, *home.glob("credentials/**/*"), *home.glob("accounts/*.json")):
        if file.is_file():
            for secret in _texts(_parse(file.read_text(errors="replace").strip())):
                yield secret, file.name


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a test has put something else in the place of one
        return text


def _texts(data: Any) -> Iterator[str]:
    """Yield what is secret of a file: the texts that are long, and no names, addresses or ids."""
    if isinstance(data, dict):
        for key, value in data.items():
            if "token" in key or "secret" in key:
                yield from _texts(value)
    elif isinstance(data, str) and len(data) >= _WORTHLESS:
        yield data
