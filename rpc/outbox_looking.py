"""A look at a SQLite file that leaves no trace, neither in it nor beside it.

In WAL mode SQLite makes two files beside a database for whoever opens it, and a connection that may not write cannot
take them away. Where there is no log, nobody has the database open and all of it is in the one file: that is read as it
stands, and read again when somebody came meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

TRIES = 5
BUSY_S = 5.0
_VERSIONS = slice(18, 20)
"""Where the header of a database says 2 for one in WAL mode."""

T = TypeVar("T")


def look(path: Path, work: Callable[[sqlite3.Connection], T], *, busy_s: float = BUSY_S) -> T:
    """What `work` makes of this database, within one transaction that only reads. Raises what sqlite3 raises."""
    for _ in range(TRIES):
        before = _at_rest(path)
        if before is None:
            break
        try:
            found = _looked(path, "immutable=1", work, busy_s)
        except sqlite3.Error:
            if _at_rest(path) == before:
                raise
        else:
            if _at_rest(path) == before:
                return found
    return _looked(path, "mode=ro", work, busy_s)


def _looked(path: Path, how: str, work: Callable[[sqlite3.Connection], T], busy_s: float) -> T:
    uri = f"{path.resolve().as_uri()}?{how}"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=busy_s)) as connection:
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _at_rest(path: Path) -> tuple[int, ...] | None:
    """What tells this file from a changed one, if it is in WAL mode and nobody has it open."""
    try:
        with path.open("rb") as file:
            if file.read(_VERSIONS.stop)[_VERSIONS] != b"\2\2":
                return None
        found = path.resolve()
        if found.with_name(f"{found.name}-wal").exists():
            return None
        status = found.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
