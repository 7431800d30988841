"""What any gzipped tar archive of somebody else's must be before anything of it is used. Pure.

Whoever unpacks one says in their own words that it cannot be used: everything here raises `ValueError` with the reason.
Called by `restoring` and `homeserver.element_archive`.
"""

import gzip
import io
import math
import tarfile
from pathlib import PurePosixPath
from typing import BinaryIO

MAX_HEADER = 1024 * 1024


class BoundedGzip(gzip.GzipFile):
    """The unzipped archive: no more of it than `most` bytes, and no header of `tarfile`'s that fills the memory."""

    def __init__(self, file: BinaryIO, most: float = math.inf) -> None:
        self._most = most
        super().__init__(fileobj=file, mode="rb")

    def read(self, size: int | None = -1) -> bytes:
        """Return as much, unless it would be too much."""
        if size is None or not 0 <= size <= MAX_HEADER:
            raise ValueError("a header of it is too long")
        self._check(self.tell() + size)
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there, unless it is too far."""
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, position: int) -> None:
        if position > self._most:
            raise ValueError(f"it has more than {self._most // (1024 * 1024)} MiB")


def check_member(member: tarfile.TarInfo) -> None:
    """Raise `ValueError` for whatever is no plain file or directory within the archive."""
    name = PurePosixPath(member.name)
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse():
        raise ValueError(f"{member.name!r} is a link, a device or the like")
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise ValueError(f"{member.name!r} leads out of it")
