"""What a homeserver has in its database: rows by table, and bytes. SQLite."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored, or, as a difference, what was added: of each table that has grown."""

    rows: Counter[str]
    bytes: int

    def __sub__(self, other: "Stored") -> "Stored":
        return Stored(self.rows - other.rows, max(0, self.bytes - other.bytes))


def read_stored(database: Path) -> Stored:
    """Return what is in a database that is in use, as of one moment; what is only in its write-ahead log counts too."""
    with _reading(database) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = Counter({name: _number(connection, f'SELECT count(*) FROM "{name}"') for name in tables})  # noqa: S608
        return Stored(rows, _bytes(connection))


def has_updates(database: Path) -> bool:
    """Whether the homeserver has still to do updates of its database, which it does beside all else."""
    with _reading(database) as connection:
        return _number(connection, "SELECT count(*) FROM background_updates") > 0


@contextlib.contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        yield connection


def _bytes(connection: sqlite3.Connection) -> int:
    """Return how many bytes of its pages are in use; where SQLite does not tell, how many its pages have."""
    try:
        return _number(connection, "SELECT sum(pgsize - unused) FROM dbstat")
    except sqlite3.OperationalError:
        pages, free, size = (
            _number(connection, f"PRAGMA {what}") for what in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])
