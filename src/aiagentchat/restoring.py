"""An archive of `backup`, put back into an empty home: all of it, or nothing.

The archive is somebody else's until all of it was looked at. Called by `cchat restore`, which sees to it that nothing
runs in the home.
"""

import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from aiagentchat.backup import (
    DATABASE,
    FILES,
    FORMAT,
    MANIFEST,
    MIB,
    TREES,
    Manifest,
    Paced,
    Progress,
    as_failure,
    now,
    place_of,
)
from aiagentchat.config import Paths, ensure_private_dir
from aiagentchat.errors import InvalidRequestError, RefusedError
from aiagentchat.model import visible
from aiagentchat.tarball import BoundedGzip, check_member

_STAGING: Final = ".restoring"
_ASIDE: Final = "before-restore-"
_NO_CONTENT: Final = ("daemon.lock", _STAGING)
_MOST_MANIFEST: Final = 65_536


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back. `aside`: where what was in the home is kept now."""

    manifest: Manifest
    files: int
    aside: Path | None


def restore(paths: Paths, archive: Path, *, move_aside: bool, progress: Progress) -> Restored:
    """Put what an archive holds into an empty home: all of it, or nothing. Nothing may run in that home meanwhile.

    Args:
        move_aside: what is in the home is moved into a directory there. progress: told how far it is, once a second.

    Raises:
        RefusedError: the home is not empty. InvalidRequestError: the archive cannot be used. AiAgentChatError:
            something cannot be written.
    """
    present = _present(paths)
    if present and not move_aside:
        raise RefusedError(
            f"{paths.data_dir} is not empty: it has {', '.join(sorted(path.name for path in present)[:5])}",
            hint="restore into another AIAGENTCHAT_HOME; or --move-aside, which keeps what is there in a directory",
        )
    ensure_private_dir(paths.data_dir)
    staging = paths.data_dir / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    try:
        with as_failure(paths.data_dir):
            manifest, count = unpack(archive, staging, progress)
            aside = _swap(paths, staging, present)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Restored(manifest, count, aside)


def _present(paths: Paths) -> list[Path]:
    """Return what makes a home one that is not empty."""
    found = list(paths.data_dir.iterdir()) if paths.data_dir.is_dir() else []
    found = [path for path in found if path.name not in _NO_CONTENT and not path.name.startswith(_ASIDE)]
    return found + [path for path in [paths.config_file] if path.exists() and path not in found]


def _swap(paths: Paths, staging: Path, present: list[Path]) -> Path | None:
    """Move aside what is there, and into its place what was unpacked; nothing, where something cannot be moved."""
    aside = paths.data_dir / f"{_ASIDE}{now().replace(':', '')}" if present else None
    with ExitStack() as undo:

        def move(source: Path, target: Path) -> None:
            shutil.move(source, target)
            undo.callback(shutil.move, target, source)

        if aside is not None:
            aside.mkdir(mode=0o700)
            undo.callback(aside.rmdir)
            for path in present:
                move(path, aside / path.name)
        paths.config_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(staging.iterdir()):
            move(path, place_of(paths, path.name))
        undo.pop_all()
    return aside


def unpack(archive: Path, target: Path, progress: Progress) -> tuple[Manifest, int]:
    """Unpack an archive of `write_backup` into a directory; return what it says of itself, and how many files it has.

    Directories get mode 0700, files 0600, whatever the archive says.

    Raises:
        InvalidRequestError: it is none, is broken, is of a newer format, or has anything that is not of a home.
    """
    try:
        file = archive.open("rb")
    except OSError as error:
        raise InvalidRequestError(f"{archive} cannot be read: {error.strerror}") from None
    paced, count = Paced(progress), 0
    with file, _as_refusal(archive), BoundedGzip(file) as unzipped:
        with tarfile.open(fileobj=unzipped, mode="r:") as members:
            manifest = _read_manifest(members)
            while (member := members.next()) is not None:
                _check(member)
                _extract(members, member, target, lambda: paced.tell(f"unpacking: {unzipped.tell() // MIB} MiB"))
                count += 1
        # To its end, where the sum stands that says whether all of it is as it was written.
        if len(unzipped.read(MIB)) == MIB:
            raise ValueError("something comes after it")
    return manifest, count


def _read_manifest(archive: tarfile.TarFile) -> Manifest:
    first = archive.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > _MOST_MANIFEST:
        raise ValueError("'cchat backup' has not written it")
    content = archive.extractfile(first)
    assert content is not None  # of a plain file
    said: Any = json.loads(content.read(_MOST_MANIFEST))
    values = [said.get(name) for name in ("format", "version", "made_at")] if isinstance(said, dict) else []
    match values:
        case [int(number), str(version), str(made_at)]:
            if number > FORMAT:
                raise ValueError(
                    f"aiagentchat {visible(version)[:20]} wrote it, in format {number}, and this one knows {FORMAT}: "
                    "update it"
                )
            return Manifest(number, visible(version)[:20], visible(made_at)[:20])
    raise ValueError(f"its {MANIFEST} does not say what it is")


def _check(member: tarfile.TarInfo) -> None:
    """Refuse whatever `write_backup` would not have written."""
    check_member(member)
    name = member.name
    is_ours = name in (*FILES, DATABASE) or any(name.startswith(f"{tree}/") for tree in TREES)
    if not member.isreg() or not is_ours or PurePosixPath(name).as_posix() != name:
        raise ValueError(f"{name!r} is no file of a home")


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, look: Callable[[], None]) -> None:
    for parent in reversed(PurePosixPath(member.name).parents):
        (root / parent).mkdir(mode=0o700, exist_ok=True)
    content = archive.extractfile(member)
    assert content is not None  # of a plain file
    with open(os.open(root / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while chunk := content.read(MIB):
            file.write(chunk)
            look()
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _as_refusal(archive: Path) -> Iterator[None]:
    """Have all that a broken archive raises mean one thing. What the system refuses us is no fault of the archive."""
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidRequestError(
            f"{archive} cannot be used: {visible(str(error)) or type(error).__name__}", hint="nothing was restored"
        ) from None
