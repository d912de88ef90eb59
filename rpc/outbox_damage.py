"""A damaged outbox file: how damage is found, and how the file is put aside, whole.

Damage is what SQLite cannot read or what a batch lacks. A file that is somebody else's, or of another format, is none.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from rpc.errors import LakehouseRpcError, OutboxCorruptError

CODES = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

SUFFIXES = ("-wal", "-shm", "-journal", "")
"""What may belong to a database; the file itself is last."""

_BROKEN_BATCH = """SELECT sequence, entries,
    (SELECT count(*) FROM _evodb_change WHERE id BETWEEN first AND last) AS found
FROM _evodb_batch WHERE found != entries LIMIT 1"""


class DamagedFileError(OutboxCorruptError):
    """The file cannot be read any more, or lost entries it should have."""


def damage(connection: sqlite3.Connection) -> str | None:
    """What SQLite finds wrong with the file, in its words. It reads all of it: 1 ms a MiB when that is cached."""
    try:
        lines = [str(text, "utf-8", "replace") for (text,) in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.DatabaseError as exc:
        return str(exc)
    return None if lines == ["ok"] else " ".join(" ".join(lines).split())


def broken_batch(connection: sqlite3.Connection) -> str | None:
    """A batch that lacks entries; it could not be sent again as it was."""
    row = connection.execute(_BROKEN_BATCH).fetchone()
    return None if row is None else batch_lacks(*row)


def batch_lacks(sequence: int, entries: int, found: int) -> str:
    return f"batch {sequence} has {found} of its {entries} entries"


def last_epoch(connection: sqlite3.Connection) -> int:
    """The epoch of a damaged file; 0 when that cannot be read either."""
    with suppress(sqlite3.Error, TypeError, ValueError):
        row = connection.execute("SELECT value FROM _evodb_meta WHERE key = 'epoch'").fetchone()
        return int(row[0])
    return 0


def put_aside(path: Path, *, now_ms: int) -> Path:
    """Rename the file and what belongs to it; nothing is overwritten. Nobody may have it open.

    Whoever dies in between leaves the file itself, to be found damaged again.
    """
    while any(_aside(path, now_ms, suffix).exists() for suffix in SUFFIXES):
        now_ms += 1
    try:
        for suffix in SUFFIXES:
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(_aside(path, now_ms, suffix))
    except OSError as exc:
        raise LakehouseRpcError(f"{path} cannot be kept aside: {exc}; make its folder writable") from exc
    return _aside(path, now_ms, "")


def _aside(path: Path, now_ms: int, suffix: str) -> Path:
    return Path(f"{path}.corrupt-{now_ms}{suffix}")
