"""What of a home must not be lost, in one archive that is written while the home is in use.

A gzipped tar archive of plain files, the first of which, `backup.json`, says what it is. Called by `cchat backup`;
`restoring` reads it.
"""

import gzip
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from aiagentchat import __version__
from aiagentchat.config import Paths
from aiagentchat.errors import AiAgentChatError, InvalidRequestError, NotFoundError, RefusedError
from aiagentchat.model import render_time

FORMAT: Final = 1
MANIFEST: Final = "backup.json"
DATABASE: Final = "homeserver/homeserver.db"
FILES: Final = (
    "config.toml",
    "registration.yaml",
    "operator-password",
    "homeserver/embedded.json",
    "homeserver/signing.key",
)
TREES: Final = ("credentials", "accounts", "homeserver/media")
MIB: Final = 1024 * 1024
_PAGES: Final = 2048
"""Of the database, between two looks at the time."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says of itself. `made_at`: the state of the home that it holds, by this machine's clock."""

    format: int
    version: str
    made_at: str


class Paced:
    """Tells how far something is, once a second at most."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._said_at = time.monotonic()

    def tell(self, text: str) -> None:
        """Say it, unless something was said just now."""
        if time.monotonic() - self._said_at >= 1.0:
            self._said_at = time.monotonic()
            self._progress(text)


def write_backup(paths: Paths, target: Path, *, replace: bool, progress: Progress) -> tuple[Manifest, int]:
    """Write what of a home must not be lost to `target`, mode 0600: all of it, or nothing.

    Returns what the archive says of itself, and how many files it has.

    Args:
        replace: also where there is such a file. progress: told how far it is, once a second.

    Raises:
        NotFoundError: the home is empty. RefusedError: `target` is there. AiAgentChatError: something cannot be read
            or written.
    """
    _check_target(target, replace=replace)
    paced = Paced(progress)
    with as_failure(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as directory:
        copy, partial = Path(directory) / "database", Path(directory) / "archive"
        database, manifest = paths.data_dir / DATABASE, Manifest(FORMAT, __version__, now())
        if database.exists():
            copy_database(database, copy, paced.tell)
        members = dict(_files_of(paths)) | ({DATABASE: copy} if copy.exists() else {})
        if not members:
            raise NotFoundError(f"there is nothing in {paths.data_dir} that could be lost")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            count = _write_archive(file, manifest, members, paced.tell)
            os.fsync(file.fileno())
        _check_target(target, replace=replace)
        os.replace(partial, target)
    return manifest, count


def _check_target(target: Path, *, replace: bool) -> None:
    if target.is_dir():
        raise InvalidRequestError(f"{target} is a directory", hint="give the name of a file in it")
    if target.exists() and not replace:
        raise RefusedError(f"{target} is there already", hint="give another name, or --replace")


def copy_database(source: Path, target: Path, tell: Progress) -> None:
    """Copy a SQLite database as it is at one moment, whoever writes to it meanwhile.

    Raises:
        AiAgentChatError: it cannot be read, or is none.
    """

    def look(_status: int, remaining: int, total: int) -> None:
        tell(f"copying the homeserver's database: {100 * (total - remaining) // max(total, 1)} %")

    try:
        with (
            closing(
                sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
            ) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            # In a transaction of ours the copy is of the state that this begins with. Else it would begin anew whenever
            # somebody writes, and never end where that is often.
            reading.execute("BEGIN")
            reading.execute("SELECT 1 FROM sqlite_master").fetchone()
            reading.backup(writing, pages=_PAGES, progress=look)
    except sqlite3.Error as error:
        raise AiAgentChatError(f"{source} cannot be copied: {error}") from None


def _files_of(paths: Paths) -> Iterator[tuple[str, Path]]:
    for name in FILES:
        if (path := place_of(paths, name)).is_file():
            yield name, path
    for tree in TREES:
        for path in sorted((paths.data_dir / tree).rglob("*")):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):  # one that is being written
                yield path.relative_to(paths.data_dir).as_posix(), path


def place_of(paths: Paths, name: str) -> Path:
    """Return where what has this name in an archive lies in a home."""
    return paths.config_file if name == paths.config_file.name else paths.data_dir / name


def _write_archive(file: BinaryIO, manifest: Manifest, members: dict[str, Path], tell: Progress) -> int:
    """Write the members that are still there; return how many these are."""
    count = 0
    with _Telling(file, tell) as zipped, tarfile.open(fileobj=zipped, mode="w:") as archive:
        said = json.dumps(asdict(manifest)).encode()
        archive.addfile(_header(MANIFEST, len(said), time.time()), BytesIO(said))
        for name, path in members.items():
            try:
                content = path.open("rb")
            except FileNotFoundError:  # an agent left, or a picture is gone
                continue
            with content:
                status = os.fstat(content.fileno())
                archive.addfile(_header(name, status.st_size, status.st_mtime), content)
            count += 1
    return count


class _Telling(gzip.GzipFile):
    """Zips what is written, and tells how much that was."""

    def __init__(self, file: BinaryIO, tell: Progress) -> None:
        self._say = tell
        self._size = 0
        super().__init__(filename="", fileobj=file, mode="wb", compresslevel=6)

    def write(self, data: Any) -> int:
        self._size += len(data)
        self._say(f"writing: {self._size // MIB} MiB")
        return super().write(data)


def _header(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = size, int(mtime), 0o600
    return header


def now() -> str:
    """Return the time as `2026-11-23T10:15:02Z`."""
    return render_time(int(time.time() * 1000))


@contextmanager
def as_failure(where: Path) -> Iterator[None]:
    """Have what the system refuses, to read or to write, be said."""
    try:
        yield
    except OSError as error:
        raise AiAgentChatError(
            f"{error.filename or where}: {error.strerror or error}", hint="nothing was written"
        ) from None
