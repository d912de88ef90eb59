"""The door to one SQLite file: a connection for several threads, short transactions, and SQLite's errors as ours.

Every statement of a child's outbox runs in `reading` or `writing`. Neither ever leaves a transaction open behind it,
so that a file shared with its application blocks nobody. What lies in the tables is not known here, only their shape
and a table of numbers (`number`, `set_number`).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rpc.errors import BufferOverflowError, CaptureError, LakehouseRpcError, OutboxCorruptError

FORMAT = 1
BUSY_TIMEOUT_S = 5.0
MEMORY = ":memory:"

SCHEMA = {
    "_evodb_meta": "key TEXT PRIMARY KEY, value",
    "_evodb_change": """id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp_ms INTEGER NOT NULL, operation INTEGER NOT NULL,
        table_name TEXT NOT NULL, row_id TEXT NOT NULL, before, after, metadata""",
    "_evodb_batch": """sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL,
        entries INTEGER NOT NULL, size_bytes INTEGER NOT NULL""",
    "_evodb_dead_letter": """id INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, reason TEXT NOT NULL,
        time_ms INTEGER NOT NULL, entries INTEGER NOT NULL, payload BLOB NOT NULL""",
}
"""The tables every outbox has, and their columns."""


class OutboxBusyError(CaptureError):
    """The database is in use by somebody else; the same call may work a little later."""

    code = "OUTBOX_BUSY"
    retryable = True


class OutboxFile:
    """One connection to a SQLite file, shared by threads, and the lock of the one process that drains it."""

    def __init__(self, path: str | Path, *, synchronous: str) -> None:
        self.path = str(path)
        self.lock = threading.RLock()
        self._synchronous = synchronous
        self._relaxed = False
        self._lock_fd: int | None = None
        with _translated(self.path):
            self.connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self.connection.text_factory = bytes

    def prepare(self, *, own: bool) -> None:
        """Check that this is a database; a file that is ours alone also gets WAL and cheap deletes."""
        with self.reading() as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if own:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA journal_size_limit = 67108864")
                # Some builds overwrite what is deleted with zeros, which doubles the price of an ack.
                connection.execute("PRAGMA secure_delete = OFF")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # Only in WAL is a commit without fsync merely forgotten by a power cut, never half there.
            self._relaxed = own

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self.lock, _translated(self.path):
            yield self.connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, kept whole or not at all. One that is not durable may be forgotten by a power cut."""
        with self.lock, _translated(self.path):
            relaxed = self._relaxed and not durable
            if relaxed:
                self.connection.execute("PRAGMA synchronous = NORMAL")
            try:
                with _transaction(self.connection):
                    yield self.connection
            finally:
                if relaxed:
                    self.connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    @contextmanager
    def draining(self) -> Iterator[sqlite3.Connection]:
        """As `reading`, for calls that only one process at a time may make."""
        with self.reading() as connection:
            connection.total_changes  # noqa: B018 - raises when closed: a late call must not take the lock again
            if self._lock_fd is None and self.path != MEMORY:
                self._lock_fd = self._take_lock()
            yield connection

    def _take_lock(self) -> int:
        path = f"{self.path}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise LakehouseRpcError(f"{path} cannot be opened: {exc.strerror}; make its folder writable") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise OutboxBusyError(
                f"{self.path} is being drained by somebody else (lock file {path}); stop that one first, "
                "or give this child an outbox of its own"
            ) from None
        return descriptor

    def close(self) -> None:
        """Close the file and let another process drain it; closing twice is fine."""
        with self.lock:
            self.connection.close()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None


def number(connection: sqlite3.Connection, key: str) -> int:
    row = connection.execute("SELECT value FROM _evodb_meta WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def set_number(connection: sqlite3.Connection, key: str, value: int) -> None:
    connection.execute("INSERT OR REPLACE INTO _evodb_meta (key, value) VALUES (?, ?)", (key, value))


def never_reuse(connection: sqlite3.Connection, entry: int) -> None:
    """No entry gets this number or a lower one again.

    AUTOINCREMENT alone does not hold that: a statement that ends with OR FAIL keeps its rows, but SQLite does not note
    their numbers, and gives them out again once the rows are deleted.
    """
    known = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = '_evodb_change'").fetchone()
    if known is None:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('_evodb_change', ?)", (entry,))
    elif known[0] < entry:
        connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = '_evodb_change'", (entry,))


def has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = '_evodb_meta'").fetchone() is not None


def create_tables(connection: sqlite3.Connection, *, now_ms: int) -> None:
    """Our tables, within the caller's transaction; harmless where they are already."""
    new = not has_tables(connection)
    for name, definition in SCHEMA.items():
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({definition})")
    if new:
        set_number(connection, "format", FORMAT)
        set_number(connection, "epoch", now_ms)


def check_format(connection: sqlite3.Connection, path: str) -> None:
    if (found := number(connection, "format")) != FORMAT:
        raise OutboxCorruptError(
            f"{path} has outbox format {found}, this version of evodb reads {FORMAT}; run the version that wrote it "
            "until the outbox is empty, or start with another file"
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise _ours(path, exc) from exc


def _ours(path: str, exc: sqlite3.Error) -> LakehouseRpcError:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return BufferOverflowError(f"{path}: {exc}; nothing of this call was kept. Free some space and try again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OutboxBusyError(f"{path}: {exc} after waiting {BUSY_TIMEOUT_S:g} s; nothing was changed, try again")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return OutboxCorruptError(f"{path}: {exc}; move it away to start with an empty one, or restore a backup")
    if code == sqlite3.SQLITE_CANTOPEN:
        return OutboxCorruptError(f"{path}: {exc}; create its folder and make it writable")
    if "no such table: _evodb_" in str(exc):
        return CaptureError(f"{path} is not captured; call attach() first")
    return LakehouseRpcError(f"{path}: {exc}")
