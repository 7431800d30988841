"""Element Web's release archive: fetched once, checked against a SHA-256, and unpacked into the home.

Nothing of an archive is used before its sum is the one wanted, and then nothing but files and directories that stay
within it and below the limits here. Called by `cchat up --element`, which holds the daemon's lock.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import BinaryIO

import aiohttp

from aiagentchat.config import ensure_private_dir
from aiagentchat.errors import AiAgentChatError, InvalidRequestError
from aiagentchat.tarball import BoundedGzip, check_member

LOCK_FILE = Path(__file__).with_name("element.lock")
RELEASES = "https://github.com/element-hq/element-web/releases/download"

_MIB = 1024 * 1024
_MAX_ARCHIVE = 128 * _MIB
"""Three times what a release has."""
_MAX_UNPACKED = 512 * _MIB
_MAX_MEMBERS = 10_000
_MAX_UNZIPPED = _MAX_UNPACKED + _MAX_MEMBERS * 1024  # with a header and the padding of each
_SAID_EVERY = 8 * _MIB
_CONNECT_S, _READ_S = 30.0, 60.0
_SUM = re.compile(r"[0-9a-f]{64}")
_LOCKED = re.compile(r"([0-9a-f]{64})  (element-v([0-9][0-9A-Za-z.-]*)\.tar\.gz)")


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Element Web, and the sum that its archive must have."""

    sha256: str
    name: str
    version: str

    @property
    def url(self) -> str:
        return f"{RELEASES}/v{self.version}/{self.name}"


def parse_lock(text: str) -> Release | None:
    """Return the release that a lock file names; None: none whose sum is known."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = _LOCKED.fullmatch(lines[0]) if len(lines) == 1 else None
    return None if found is None else Release(*found.groups())


async def ensure_element(
    directory: Path, *, archive: Path | None, sha256: str, progress: Callable[[str], None]
) -> Path:
    """Return the directory with Element Web's files, fetched and unpacked where that was not done before.

    Args:
        directory: of the home, for this alone. archive: None: the locked release is fetched. sha256: what is wanted in
            place of the locked sum, or "". progress: told each step, in a sentence for the person who waits.

    Raises:
        InvalidRequestError: no sum is known, the archive has another, or it holds what it should not. AiAgentChatError:
            it could not be fetched.
    """
    release = parse_lock(LOCK_FILE.read_text(encoding="utf-8"))
    wanted = sha256.lower() or ("" if release is None else release.sha256)
    if not wanted:
        raise InvalidRequestError(
            "there is no SHA-256 to check Element Web's archive against",
            hint="give the one that you trust with --element-sha256",
        )
    if not _SUM.fullmatch(wanted):
        raise InvalidRequestError(f"--element-sha256 {sha256} is no SHA-256", hint="it has 64 hexadecimal digits")
    unpacked = directory / wanted
    if archive is None and unpacked.is_dir():
        return unpacked
    ensure_private_dir(directory)
    if archive is not None:
        await asyncio.to_thread(_unpack_file, archive, wanted, unpacked)
        return unpacked
    if release is None:
        raise InvalidRequestError("no release of Element Web is locked to be fetched", hint="give --element-archive")
    with tempfile.TemporaryFile(dir=directory) as file:
        await fetch(release.url, file, progress)
        progress("unpacking Element Web")
        await asyncio.to_thread(_check_and_unpack, file, wanted, unpacked, release.url)
    return unpacked


async def fetch(url: str, file: BinaryIO, progress: Callable[[str], None]) -> None:
    """Write what is at `url` to `file`, at most three times a release's size. Raises as `ensure_element`."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, session.get(url) as response:
            if response.status != 200:
                raise _unfetched(url, f"it is answered with {response.status}")
            size = "" if response.content_length is None else f" of {response.content_length // _MIB} MiB"
            progress(f"fetching Element Web{size}: {url}")
            has, said = 0, 0
            async for chunk in response.content.iter_chunked(_MIB):
                has += len(chunk)
                if has > _MAX_ARCHIVE:
                    raise _unfetched(url, f"it has more than {_MAX_ARCHIVE // _MIB} MiB")
                file.write(chunk)
                if has - said >= _SAID_EVERY:
                    said = has
                    progress(f"fetching Element Web: {has // _MIB}{size or ' MiB'}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _unfetched(url, str(error) or type(error).__name__) from None


def _unfetched(url: str, reason: str) -> AiAgentChatError:
    return AiAgentChatError(
        f"Element Web could not be fetched from {url}: {reason}",
        hint="fetch it on another machine, and give it with --element-archive",
    )


def _unpack_file(archive: Path, wanted: str, target: Path) -> None:
    try:
        file = archive.open("rb")
    except OSError as error:
        raise InvalidRequestError(f"{archive} cannot be read: {error.strerror}") from None
    with file:
        _check_and_unpack(file, wanted, target, str(archive))


def _check_and_unpack(file: BufferedRandom | BufferedReader, wanted: str, target: Path, what: str) -> None:
    """Unpack an archive that has the sum wanted, in place of any other that was unpacked beside."""
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise InvalidRequestError(
            f"the SHA-256 of {what} is {found}, and not {wanted}",
            hint="nothing of it was used; if it is the release that you mean, give its sum with --element-sha256",
        )
    if target.is_dir():
        return
    file.seek(0)
    unpack(file, target)
    for other in target.parent.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)


def unpack(file: BinaryIO, target: Path) -> None:
    """Unpack a gzipped tar archive whose one directory, or itself, has an `index.html`, as the directory `target`.

    `target` is there as a whole, or not at all; what is beside it is not touched.

    Raises:
        InvalidRequestError: it is no such archive, is too large, or has links, devices or names that lead out of it.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as temporary:
        root = Path(temporary) / "root"
        root.mkdir(mode=0o700)
        with (
            _as_refusal(),
            BoundedGzip(file, _MAX_UNZIPPED) as unzipped,
            tarfile.open(fileobj=unzipped, mode="r:") as archive,
        ):
            for member in _checked(archive):
                archive.extract(member, root, filter="data")
        inside = [root, *(path for path in root.iterdir() if path.is_dir())]
        tops = [path for path in inside if (path / "index.html").is_file()]
        if not tops:
            raise _refusal("it has no index.html")
        os.replace(tops[0], target)


def _checked(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members, until one must be refused."""
    count = size = 0
    for member in archive:
        check_member(member)
        count, size = count + 1, size + member.size
        if count > _MAX_MEMBERS or size > _MAX_UNPACKED:
            raise _refusal(f"it has more than {_MAX_MEMBERS} files or {_MAX_UNPACKED // _MIB} MiB")
        yield member


@contextmanager
def _as_refusal() -> Iterator[None]:
    """Have all that `tarfile` and `gzip` raise of an archive mean one thing."""
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        raise _refusal(str(error) or type(error).__name__) from None


def _refusal(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"Element Web's archive cannot be used: {reason}")
