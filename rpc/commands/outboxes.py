"""The outbox file of `evodb send`: made when there is something to keep, taken away when nothing is left in it.

Several runs may share one, while others end and take it away. So it is opened and taken away by one process at a time,
and only taken away when nobody else has it open: SQLite leaves WAL for the last one only.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

LEFT = """SELECT EXISTS (SELECT 1 FROM _evodb_change) OR EXISTS (SELECT 1 FROM _evodb_batch)
OR EXISTS (SELECT 1 FROM _evodb_dead_letter)"""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While nobody else is in here for the same folder. A folder that cannot be locked is nobody's."""
    descriptor = None
    try:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def take_away_if_empty(path: Path) -> bool:
    """Remove this outbox, which its owner has closed, if nothing is left in it; returns whether it is gone."""
    with alone_in(path.parent):
        try:
            with closing(_connection(path)) as connection:
                if connection.execute(LEFT).fetchone()[0]:
                    return False
                connection.execute("PRAGMA journal_mode = DELETE")  # fails while somebody else has it open
                if connection.execute(LEFT).fetchone()[0]:
                    return False
        except sqlite3.Error:
            return False
        for suffix in ("", "-wal", "-shm", ".lock"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    return True


def _connection(path: Path) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
