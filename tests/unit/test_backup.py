"""A home in one archive: what is written, what is read back, and what is refused before anything of it is used."""

import contextlib
import gzip
import json
import sqlite3
import stat
import tarfile
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat import backup
from aiagentchat.backup import DATABASE, MANIFEST, copy_database, write_backup
from aiagentchat.config import Paths
from aiagentchat.errors import AiAgentChatError, InvalidRequestError, NotFoundError, RefusedError
from aiagentchat.restoring import restore
from tests.archives import make_tar, regular, special

SAID = {"format": 1, "version": "0.1.0", "made_at": "2026-11-23T10:15:02Z"}
HOME = {
    "config.toml": b"operator = 'alice'\n",
    "operator-password": b"secret",
    "credentials/operator": b"secret",
    "credentials/agents/claude-dev.json": b"{}",
    "accounts/claude-dev.json": b"{}",
    "homeserver/embedded.json": b"{}",
    "homeserver/signing.key": b"ed25519 a",
    "homeserver/media/local_content/ab/cd/ef": b"\x89PNG",
}
MADE_ANEW = {
    "cchat.sock": b"",
    "daemon.lock": b"1\n",
    "daemon.log": b"",
    "landmarks.json": b"[]",
    "files/3f/screen.png": b"",
    "element/1f/index.html": b"",
    "homeserver/homeserver.yaml": b"",
    "homeserver/homeserver.log": b"",
    "homeserver/synapse.lock": b"1\n",
    "homeserver/media/.tmp": b"",
}
Member = tuple[tarfile.TarInfo, bytes]


def paths_of(directory: Path) -> Paths:
    return Paths(config_dir=directory / "config", data_dir=directory / "data")


def fill(directory: Path, files: dict[str, bytes]) -> Paths:
    paths = paths_of(directory)
    for name, data in files.items():
        path = paths.config_file if name == "config.toml" else paths.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return paths


def found_in(directory: Path) -> dict[str, bytes]:
    paths = paths_of(directory)
    files = {path.relative_to(paths.data_dir).as_posix(): path for path in paths.data_dir.rglob("*") if path.is_file()}
    if paths.config_file.exists():
        files["config.toml"] = paths.config_file
    return {name: path.read_bytes() for name, path in files.items()}


def written(paths: Paths, target: Path, *, replace: bool = False) -> Path:
    write_backup(paths, target, replace=replace, progress=lambda text: None)
    return target


def put_back(archive: Path | bytes, directory: Path, *, move_aside: bool = False) -> Path | None:
    if isinstance(archive, bytes):
        (directory / "given").write_bytes(archive)
        archive = directory / "given"
    return restore(paths_of(directory), archive, move_aside=move_aside, progress=lambda text: None).aside


def archive_of(*members: Member, said: object = SAID) -> bytes:
    """Return an archive that says what ours say, and has these members."""
    text = json.dumps(said).encode()
    return make_tar([(regular(MANIFEST, text), text), *members])


def file(name: str, data: bytes = b"x") -> Member:
    return regular(name, data), data


def new(directory: Path, name: str) -> Path:
    (directory / name).mkdir()
    return directory / name


# --- there and back


def test_what_must_not_be_lost_is_there_again_and_what_is_made_anew_is_not(tmp_path: Path) -> None:
    paths = fill(tmp_path / "old", HOME | MADE_ANEW)
    archive = written(paths, tmp_path / "home.tar.gz")
    put_back(archive, tmp_path / "new")
    assert found_in(tmp_path / "new") == HOME
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home.tar.gz", "new", "old"]


@given(st.dictionaries(st.from_regex(r"credentials/[a-z0-9._-]{1,60}\.json", fullmatch=True), st.binary(max_size=3000)))
def test_every_file_comes_back_as_it_was_for_its_owner_alone(files: dict[str, bytes]) -> None:
    files = {name: data for name, data in files.items() if not name.startswith("credentials/.")} or HOME
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        paths = fill(directory / "old", files)
        put_back(written(paths, directory / "home.tar.gz"), directory / "new")
        assert found_in(directory / "new") == files
        made = list((directory / "new" / "data").rglob("*"))
        assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_file()} <= {0o600}
        assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_dir()} <= {0o700}


def test_a_database_is_copied_as_it_was_at_one_moment_while_somebody_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES", 1)
    source = tmp_path / "source.db"
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE moved (a INTEGER, b INTEGER, padding BLOB)")
        database.executemany("INSERT INTO moved VALUES (1, 0, ?)", [(b"x" * 2000,) for _ in range(400)])
    stop, wrote = threading.Event(), 0

    def write() -> None:
        nonlocal wrote
        with contextlib.closing(sqlite3.connect(source, isolation_level=None, timeout=30)) as database:
            while not stop.is_set():  # in each state of it all rows are alike
                database.execute("UPDATE moved SET a = a - 1, b = b + 1")
                wrote += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for number in range(5):
            before = wrote
            copy_database(source, tmp_path / f"{number}.db", lambda text: None)
            with contextlib.closing(sqlite3.connect(tmp_path / f"{number}.db")) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert len(database.execute("SELECT DISTINCT a, b FROM moved").fetchall()) == 1
                assert database.execute("SELECT count(*) FROM moved").fetchone() == (400,)
        assert wrote > before
    finally:
        stop.set()
        writing.join()


def test_a_database_that_is_none_is_said_and_no_archive_is_left(tmp_path: Path) -> None:
    paths = fill(tmp_path / "old", HOME | {DATABASE: b"no database" * 1000})
    with pytest.raises(AiAgentChatError, match="cannot be copied"):
        written(paths, tmp_path / "home.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


# --- what is not written over


def test_a_file_that_is_there_is_replaced_only_when_that_is_asked_for(tmp_path: Path) -> None:
    paths, target = fill(tmp_path / "old", HOME), tmp_path / "home.tar.gz"
    target.write_bytes(b"mine")
    with pytest.raises(RefusedError, match="is there already"):
        written(paths, target)
    assert target.read_bytes() == b"mine"
    put_back(written(paths, target, replace=True), tmp_path / "new")
    with pytest.raises(InvalidRequestError, match="is a directory"):
        written(paths, tmp_path, replace=True)
    with pytest.raises(AiAgentChatError, match="No such file"):
        written(paths, tmp_path / "nowhere" / "home.tar.gz")


def test_of_an_empty_home_there_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        written(fill(tmp_path / "old", MADE_ANEW), tmp_path / "home.tar.gz")


@pytest.mark.parametrize("present", ["config.toml", "daemon.log", "credentials/operator"])
def test_a_home_that_is_not_empty_is_refused_or_moved_aside(tmp_path: Path, present: str) -> None:
    archive = written(fill(tmp_path / "old", HOME), tmp_path / "home.tar.gz")
    fill(tmp_path / "new", {present: b"before", "daemon.lock": b""})
    with pytest.raises(RefusedError, match="is not empty"):
        put_back(archive, tmp_path / "new")
    assert found_in(tmp_path / "new") == {present: b"before", "daemon.lock": b""}
    aside = put_back(archive, tmp_path / "new", move_aside=True)
    assert aside is not None
    assert {path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file()} == {present}
    assert (aside / present).read_bytes() == b"before"
    kept = {f"{aside.name}/{present}": b"before", "daemon.lock": b""}
    assert found_in(tmp_path / "new") == HOME | kept


def test_a_restore_that_fails_in_the_middle_leaves_the_home_as_it_was(tmp_path: Path) -> None:
    archive = written(fill(tmp_path / "old", HOME), tmp_path / "home.tar.gz")
    before = {"credentials/operator": b"before", "homeserver/embedded.json": b"before"}
    paths = fill(tmp_path / "new", before)
    paths.config_dir.write_bytes(b"no directory")
    with pytest.raises(AiAgentChatError, match="config"):
        put_back(archive, tmp_path / "new", move_aside=True)
    assert found_in(tmp_path / "new") == before


# --- what is refused


@pytest.mark.parametrize(
    "member",
    [
        file("../out"),
        file("credentials/../../out"),
        file("/out"),
        file("credentials/..\\out"),
        file("credentials//operator"),
        file("credentials/./operator"),
        file("credentials"),
        file("homeserver/homeserver.yaml"),
        file("daemon.lock"),
        file("other"),
        (special("credentials/link", tarfile.SYMTYPE, "operator"), b""),
        (special("credentials/link", tarfile.LNKTYPE, "config.toml"), b""),
        (special("credentials/device", tarfile.CHRTYPE), b""),
        (special("credentials/pipe", tarfile.FIFOTYPE), b""),
        (special("credentials/sparse", tarfile.GNUTYPE_SPARSE), b""),
        (special("credentials/directory", tarfile.DIRTYPE), b""),
    ],
    ids=lambda member: f"{member[0].name} {member[0].type!r}",
)
def test_what_is_no_plain_file_of_a_home_is_refused_and_nothing_is_left(tmp_path: Path, member: Member) -> None:
    home = new(tmp_path, "home")
    with pytest.raises(InvalidRequestError, match="cannot be used"):
        put_back(archive_of(file("credentials/operator"), member), home)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "given", "home"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (SAID | {"format": 2, "version": "0.9.0"}, "aiagentchat 0.9.0 wrote it"),
        (SAID | {"format": "1"}, "does not say what it is"),
        ({}, "does not say what it is"),
        ([1], "does not say what it is"),
        ("x" * 70_000, "has not written it"),
    ],
)
def test_what_says_that_it_is_another_or_a_newer_format_is_refused(tmp_path: Path, said: object, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        put_back(archive_of(file("credentials/operator"), said=said), tmp_path)
    assert found_in(tmp_path) == {}


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"no archive",
        gzip.compress(b"no tar" * 200),
        make_tar([]),
        make_tar([file("credentials/operator")]),
        gzip.compress(gzip.decompress(archive_of(file("credentials/operator"))) + b"\0" * 5_000_000),
        archive_of(file("credentials/operator"), file("credentials/operator")),
        archive_of(file("homeserver/media/a"), file("homeserver/media/a/b")),
        archive_of(file("/".join(["homeserver/media", *["x" * 200] * 6000]))),
    ],
    ids=[
        "empty",
        "no gzip",
        "no tar",
        "no members",
        "another's",
        "goes on",
        "a file twice",
        "a file as a directory",
        "a name",
    ],
)
def test_what_is_no_backup_is_refused(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(AiAgentChatError):
        put_back(archive, tmp_path)
    assert found_in(tmp_path) == {}


def whole() -> bytes:
    return archive_of(*(file(name, data) for name, data in HOME.items()))


def restored_or_refused(archive: bytes) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        try:
            put_back(archive, Path(directory))
        except AiAgentChatError:
            assert found_in(Path(directory)) == {}
        return found_in(Path(directory))


@given(length=st.integers(0, len(whole()) - 1))
def test_of_an_archive_that_was_cut_off_nothing_is_restored(length: int) -> None:
    assert restored_or_refused(whole()[:length]) == {}


@given(start=st.integers(0, 20_000), changed=st.binary(min_size=1, max_size=40), is_zipped=st.booleans())
def test_an_archive_that_is_broken_anywhere_is_refused_or_restored_and_raises_nothing_else(
    start: int, changed: bytes, is_zipped: bool
) -> None:
    data = whole() if is_zipped else gzip.decompress(whole())
    start %= len(data)
    data = data[:start] + changed + data[start + len(changed) :]
    restored_or_refused(data if is_zipped else gzip.compress(data, 1))


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.sampled_from(["credentials", "homeserver", "media", "..", "", "a", "\\"]), min_size=1, max_size=4
            ),
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]),
        ),
        max_size=4,
    )
)
def test_whatever_members_an_archive_has_nothing_but_files_within_the_home_come_of_it(
    members: list[tuple[list[str], bytes]],
) -> None:
    def made() -> Iterable[Member]:
        return ((special("/".join(parts), kind, "../../out"), b"") for parts, kind in members)

    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with contextlib.suppress(AiAgentChatError):
            put_back(archive_of(*made()), new(directory, "home"))
        outside = {path.name for path in directory.iterdir()} | {path.name for path in (directory / "home").iterdir()}
        assert outside <= {"home", "given", "data", "config"}
        assert not any(path.is_symlink() for path in directory.rglob("*"))
