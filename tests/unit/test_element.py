"""Element Web's archive, configuration and headers, without sockets: what is unpacked, refused, and told."""

import gzip
import io
import json
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiagentchat import tarball
from aiagentchat.errors import InvalidRequestError
from aiagentchat.homeserver import element_archive
from aiagentchat.homeserver.element import render_config, render_headers
from aiagentchat.homeserver.element_archive import LOCK_FILE, ensure_element, parse_lock, unpack
from aiagentchat.tarball import check_member
from tests.archives import FILES, make_archive, make_tar, regular, special, sum_of

INDEX = (regular("element/index.html", b"<p>"), b"<p>")
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
    ]
)
NAMES = st.lists(
    st.sampled_from(["..", ".", "", "a", "b", "index.html", "\\", "é", "x" * 120]), min_size=1, max_size=6
).map("/".join)
OF_FILES = settings(deadline=None)


def unpacked(archive: bytes, directory: Path) -> dict[str, bytes]:
    """Return the files that are there of an archive, by name."""
    target = directory / "unpacked"
    unpack(io.BytesIO(archive), target)
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def around(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


async def ensure(directory: Path, archive: bytes, sha256: str = "") -> Path:
    file = directory / "element.tar.gz"
    file.write_bytes(archive)
    return await ensure_element(directory / "element", archive=file, sha256=sha256, progress=lambda text: None)


# --- what is unpacked


@pytest.mark.parametrize("top", ["element-v1.99.9/", "", "./"])
def test_an_archive_is_unpacked_without_the_directory_that_it_is_in(tmp_path: Path, top: str) -> None:
    assert unpacked(make_archive(top=top), tmp_path) == FILES


def test_what_is_unpacked_has_no_more_rights_than_it_needs(tmp_path: Path) -> None:
    member, data = INDEX
    member = member.replace(mode=0o6777, deep=False)
    assert unpacked(make_tar([(member, data)]), tmp_path)
    assert stat.S_IMODE((tmp_path / "unpacked" / "index.html").stat().st_mode) & 0o7022 == 0


@OF_FILES
@given(files=st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}\.js)?", fullmatch=True), st.binary(max_size=2000)))
def test_every_plain_file_arrives_as_it_is(files: dict[str, bytes]) -> None:
    directories = {name.split("/")[0] for name in files if "/" in name}
    files = {name: data for name, data in files.items() if name not in directories} | {"index.html": b"<p>"}
    with tempfile.TemporaryDirectory() as directory:
        assert unpacked(make_archive(files), Path(directory)) == files


# --- what is refused


@pytest.mark.parametrize(
    "member",
    [
        regular("../out.html"),
        regular("element/../../out.html"),
        regular("/out.html"),
        regular("element/..\\out.html"),
        special("element/link", tarfile.SYMTYPE, "index.html"),
        special("element/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("element/link", tarfile.LNKTYPE, "element/index.html"),
        special("element/device", tarfile.CHRTYPE),
        special("element/pipe", tarfile.FIFOTYPE),
        special("element/sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda member: f"{member.name} {member.linkname}",
)
def test_what_leads_out_and_what_is_no_plain_file_is_refused_and_nothing_is_left(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    inside = tmp_path / "element"
    inside.mkdir()
    with pytest.raises(ValueError, match=r"is a link|leads out"):
        check_member(member)
    with pytest.raises(InvalidRequestError, match="archive cannot be used"):
        unpack(io.BytesIO(make_tar([INDEX, (member, b"")])), inside / "unpacked")
    assert around(tmp_path) == ["element"]


@OF_FILES
@given(members=st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=5))
def test_whatever_members_an_archive_has_nothing_but_plain_files_within_it_come_of_it(
    members: list[tuple[str, bytes, str]],
) -> None:
    archive = make_tar([INDEX, *((special(name, kind, target), b"") for name, kind, target in members)])
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "element").mkdir()
        try:
            unpack(io.BytesIO(archive), directory / "element" / "unpacked")
        except InvalidRequestError:
            assert around(directory) == ["element"]
        else:
            found = list(directory.rglob("*"))
            assert all((path.is_file() or path.is_dir()) and not path.is_symlink() for path in found)
            assert [path for path in found if "unpacked" not in path.parts] == [directory / "element"]


@OF_FILES
@given(start=st.integers(0, 400), changed=st.binary(min_size=1, max_size=40), is_zipped=st.booleans())
def test_an_archive_that_is_broken_anywhere_is_refused_or_unpacked_and_raises_nothing_else(
    start: int, changed: bytes, is_zipped: bool
) -> None:
    data = make_archive()
    data = data if is_zipped else gzip.decompress(data)
    data = data[:start] + changed + data[start + len(changed) :]
    with tempfile.TemporaryDirectory() as directory:
        try:
            unpack(io.BytesIO(data if is_zipped else gzip.compress(data, 1)), Path(directory) / "unpacked")
        except InvalidRequestError:
            assert around(Path(directory)) == []


@pytest.mark.parametrize(
    "archive",
    [b"", b"no archive", gzip.compress(b"no tar" * 200), make_archive()[:300], make_archive({"a.html": b""})],
    ids=["empty", "no gzip", "no tar", "cut off", "without index.html"],
)
def test_what_is_no_archive_of_element_is_refused(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="archive cannot be used"):
        unpack(io.BytesIO(archive), tmp_path / "unpacked")
    assert around(tmp_path) == []


@pytest.mark.parametrize(
    ("limit", "most", "archive"),
    [
        ("_MAX_UNPACKED", 1000, make_archive({"index.html": b"\0" * 2000})),
        ("_MAX_MEMBERS", 5, make_archive({"index.html": b"", **{str(n): b"" for n in range(5)}})),
        ("MAX_HEADER", 1000, make_archive({"index.html": b"", "/".join(["x" * 200] * 8): b""})),
        ("_MAX_UNZIPPED", 40_000, make_archive({"index.html": b"", **{f"{n:0200}": b"" for n in range(40)}})),
    ],
    ids=["bytes", "files", "a header", "headers"],
)
def test_an_archive_that_would_become_too_large_is_refused_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, archive: bytes
) -> None:
    unpack(io.BytesIO(archive), tmp_path / "allowed")
    monkeypatch.setattr(tarball if limit == "MAX_HEADER" else element_archive, limit, most)
    with pytest.raises(InvalidRequestError, match="archive cannot be used"):
        unpack(io.BytesIO(archive), tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_a_file_of_the_claimed_size_of_a_disk_is_refused_by_its_claim(tmp_path: Path) -> None:
    header = regular("element/index.html").replace(deep=False)
    header.size = 10**12
    archive = gzip.compress(header.tobuf() + b"\0" * 4096)
    with pytest.raises(InvalidRequestError, match=r"more than \d+ files or"):
        unpack(io.BytesIO(archive), tmp_path / "unpacked")
    assert around(tmp_path) == []


# --- the sum


async def test_an_archive_with_another_sum_is_refused_with_both_and_nothing_of_it_is_unpacked(tmp_path: Path) -> None:
    archive, wanted = make_archive(), "0" * 64
    with pytest.raises(InvalidRequestError) as refused:
        await ensure(tmp_path, archive, wanted)
    assert sum_of(archive) in refused.value.message
    assert wanted in refused.value.message
    assert list((tmp_path / "element").iterdir()) == []


async def test_the_archive_of_a_file_has_to_be_the_locked_release_unless_a_sum_is_given(tmp_path: Path) -> None:
    release = parse_lock(LOCK_FILE.read_text())
    assert release is not None
    with pytest.raises(InvalidRequestError, match=release.sha256):
        await ensure(tmp_path, make_archive())


async def test_without_a_sum_that_is_known_one_is_demanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "element.lock"
    lock.write_text("# no sum is known\n")
    monkeypatch.setattr(element_archive, "LOCK_FILE", lock)
    with pytest.raises(InvalidRequestError) as refused:
        await ensure(tmp_path, make_archive())
    assert "--element-sha256" in refused.value.hint


@pytest.mark.parametrize("given_sum", ["abc", "0" * 63, "g" * 64])
async def test_what_is_no_sum_is_refused(tmp_path: Path, given_sum: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no SHA-256"):
        await ensure(tmp_path, make_archive(), given_sum)


async def test_what_was_unpacked_is_kept_until_another_release_takes_its_place(tmp_path: Path) -> None:
    first, second = make_archive(), make_archive({"index.html": b"newer"})
    directory = tmp_path / "element"
    kept = await ensure(tmp_path, first, sum_of(first).upper())
    (directory / "port").write_text("17000\n")
    (tmp_path / "element.tar.gz").unlink()
    again = await ensure_element(directory, archive=None, sha256=sum_of(first), progress=lambda text: None)
    assert again == kept
    newer = await ensure(tmp_path, second, sum_of(second))
    assert (newer / "index.html").read_bytes() == b"newer"
    assert {path.name for path in directory.iterdir()} == {newer.name, "port"}


def test_the_lock_names_one_release_or_none() -> None:
    text = LOCK_FILE.read_text()
    release = parse_lock(text)
    assert release is not None
    assert release.url.endswith(f"/v{release.version}/element-v{release.version}.tar.gz")
    assert parse_lock("") is parse_lock("# nothing") is parse_lock(text + text) is parse_lock(text.upper()) is None


# --- what Element is told


def test_element_knows_the_homeserver_and_no_other() -> None:
    config = render_config("https://chat.example.org", "example.org")
    server = {"base_url": "https://chat.example.org", "server_name": "example.org"}
    assert config["default_server_config"] == {"m.homeserver": server}
    assert config["disable_custom_urls"] is True
    json.dumps(config)


def test_a_page_of_element_may_reach_itself_and_the_homeserver_alone() -> None:
    url = "http://localhost:8008"
    policy = dict(part.split(" ", 1) for part in render_headers(url)["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {name for name, sources in policy.items() if url in sources} == {"connect-src", "img-src", "media-src"}
    sources = {source for sources in policy.values() for source in sources.split()}
    assert sources == {"'none'", "'self'", "'unsafe-inline'", "'wasm-unsafe-eval'", "blob:", "data:", url}
    assert [name for name, sources in policy.items() if "'unsafe-inline'" in sources] == ["style-src"]
    assert policy["frame-ancestors"] == "'self'"
