"""Archives like Element Web's release, and like what somebody could put in its place."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping

FILES = {
    "index.html": b'<!doctype html><title>Element</title><script src="bundles/1f/bundle.js"></script>',
    "bundles/1f/bundle.js": b"window.mxBundle = true;",
    "bundles/1f/crypto.wasm": b"\0asm\1\0\0\0",
    "version": b"1.99.9",
    "config.json": b'{"default_server_name": "of the archive"}',
}


def make_archive(files: Mapping[str, bytes] = FILES, *, top: str = "element-v1.99.9/") -> bytes:
    """Return a gzipped tar archive of files below one directory."""
    return make_tar((regular(f"{top}{name}", data), data) for name, data in files.items())


def make_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return a gzipped tar archive of just these members."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 1)


def regular(name: str, data: bytes = b"") -> tarfile.TarInfo:
    """Return the header of a plain file."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return the header of a link, a device or the like."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def sum_of(archive: bytes) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(archive).hexdigest()
