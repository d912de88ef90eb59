"""The door to one SQLite file: a connection for several threads, short transactions, and SQLite's errors as ours.

Every statement of a child's outbox runs in `reading` or `writing`. Neither ever leaves a transaction open behind it,
so that a file shared with its application blocks nobody. What lies in the tables is not known here, only their shape
and a table of numbers (`number`, `set_number`).

A power cut takes commits back from the last one to the last fsync, and never one in the middle: in WAL a commit counts
only when everything before it is whole. So a commit with an fsync (`Fsync.NOW`) makes all before it durable, those of
other connections too, and nothing that such a commit read can be lost.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from enum import Enum
from pathlib import Path
from types import TracebackType

from rpc.config import MS_MAX
from rpc.errors import BufferOverflowError, CaptureError, LakehouseRpcError, OutboxClosedError, OutboxCorruptError
from rpc.outbox_damage import CODES as DAMAGE_CODES
from rpc.outbox_damage import DamagedFileError, damage, put_aside
from rpc.outbox_fsync import GroupedFsync
from rpc.outbox_lock import DrainLock
from rpc.outbox_lock import OutboxBusyError as OutboxBusyError

FORMAT = 1
BUSY_TIMEOUT_S = 5.0
MEMORY = ":memory:"

SCHEMA = {
    "_evodb_meta": "key TEXT PRIMARY KEY, value",
    "_evodb_change": """id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp_ms INTEGER NOT NULL, operation INTEGER NOT NULL,
        table_name TEXT NOT NULL, row_id TEXT NOT NULL, before, after, metadata""",
    "_evodb_batch": """sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL,
        entries INTEGER NOT NULL, size_bytes INTEGER NOT NULL, encoding TEXT, payload BLOB""",
    "_evodb_dead_letter": """id INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, reason TEXT NOT NULL,
        time_ms INTEGER NOT NULL, entries INTEGER NOT NULL, payload BLOB NOT NULL""",
}
"""The tables every outbox has, and their columns."""


class Fsync(Enum):
    """When a commit has to be on the disk. One that a power cut takes back is whole or not there at all."""

    NOW = "before `writing` is left"
    SOON = "within `fsync_within_ms`, together with others"
    NEVER = "with the next one that has to be"


class _Turn:
    """One thread at a time, again and again within itself, and SQLite's errors as ours.

    A class, for it is entered four times in an append and a generator takes 1 us longer each time.
    """

    def __init__(self, file: OutboxFile) -> None:
        self._file = file

    def __enter__(self) -> sqlite3.Connection:
        self._file.lock.acquire()
        return self._file.connection

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if isinstance(exc, sqlite3.Error):
                raise self._file.translated(exc) from exc
        finally:
            self._file.lock.release()


class OutboxFile:
    """One connection to a SQLite file, shared by threads, and the lock of the one process that drains it.

    A file that is `ours` alone also gets WAL, cheap deletes, and commits that do not wait for the disk.
    """

    def __init__(self, path: str | Path, *, ours: bool = True, fsync_within_ms: int = 0) -> None:
        known = isinstance(fsync_within_ms, int) and not isinstance(fsync_within_ms, bool)
        if not known or not 0 <= fsync_within_ms <= MS_MAX:
            raise ValueError(f"fsync_within_ms is {fsync_within_ms!r}, wanted a whole number of 0 to {MS_MAX} ms")
        self.path = str(path)
        if not self.path:
            raise ValueError(f"outbox is {path!r}, which would be gone with the process; wanted the path of a file")
        self.lock = threading.RLock()
        self._ours = ours
        self._level = "FULL"
        self._fsync_within_ms = fsync_within_ms
        self._grouped: GroupedFsync | None = None
        self._in_wal = False
        self._closed = False
        self._drain_lock = DrainLock(self.path)
        self._turn = _Turn(self)
        self._connect()

    def _connect(self) -> None:
        try:
            self.connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as exc:
            raise _ours(self.path, exc) from exc
        self.connection.text_factory = bytes

    def prepare(self, *, own: bool) -> None:
        """Check that this is a database and set it up."""
        with self.reading() as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if own:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                connection.execute("PRAGMA journal_size_limit = 67108864")
                # Some builds overwrite what is deleted with zeros, which doubles the price of an ack.
                connection.execute("PRAGMA secure_delete = OFF")
                # Only in WAL is a commit without fsync merely forgotten by a power cut, never half there.
                self._in_wal = mode == b"wal"
            connection.execute("PRAGMA synchronous = FULL")
            self._level = "FULL"

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._turn

    @contextmanager
    def writing(self, fsync: Fsync = Fsync.NOW) -> Iterator[sqlite3.Connection]:
        """One transaction, kept whole or not at all."""
        with self._turn as connection:
            grouped = self._group() if fsync is Fsync.SOON and self._fsync_within_ms else None
            relaxed = self._in_wal and (grouped is not None or fsync is Fsync.NEVER)
            self._sync_to("NORMAL" if relaxed else "FULL")
            with _transaction(connection):
                yield connection
            if grouped is not None:
                grouped.note()

    def _sync_to(self, level: str) -> None:
        if level != self._level:
            self.connection.execute(f"PRAGMA synchronous = {level}")
            self._level = level

    def _group(self) -> GroupedFsync | None:
        """Who syncs later; None when each commit does better to sync for itself."""
        if self._grouped is None and self._in_wal:
            name = self.connection.execute("PRAGMA database_list").fetchone()[2]  # as SQLite found it
            self._grouped = GroupedFsync(f"{os.fsdecode(name)}-wal", within_ms=self._fsync_within_ms)
        return None if self._grouped is None or self._grouped.failed else self._grouped

    @contextmanager
    def draining(self) -> Iterator[sqlite3.Connection]:
        """As `reading`, for calls that only one process at a time may make."""
        with self.reading() as connection:
            connection.total_changes  # noqa: B018 - raises when closed: a late call must not take the lock again
            if self.path != MEMORY:
                self._drain_lock.take()
            yield connection

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While nobody else drains; then as before. The file is opened afresh."""
        with self.lock:
            self._drain_lock.take()
            try:
                # In this order: a connection that is the last one writes the log into the file when it closes.
                former = self.connection
                self._connect()
                with suppress(sqlite3.Error):
                    self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                former.close()
                yield
            finally:
                self._drain_lock.release()

    def put_aside(self, *, now_ms: int) -> Path:
        """Rename this file and what belongs to it, as it is, and open an empty one in its place. Returns the name."""
        # SQLite follows links, and keeps what belongs to the file beside the file itself.
        aside = put_aside(Path(self.path).resolve(), now_ms=now_ms)
        self.connection.close()  # of a file that has moved SQLite leaves the log alone
        self._connect()
        return aside

    def damaged(self, found: str) -> DamagedFileError:
        """The error for a file of which this was found."""
        if self._ours:
            advice = "open it with keep_corrupt_aside=True, which renames it and begins with an empty one"
        else:
            advice = "repair it with `sqlite3 FILE .recover`"
        return DamagedFileError(f"{self.path}: {found}; restore a backup, or {advice}", details={"found": found})

    def translated(self, exc: sqlite3.Error) -> LakehouseRpcError:
        if self._closed:
            return OutboxClosedError(f"{self.path} is closed; nothing of this call was kept. Open it again")
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in DAMAGE_CODES:
            more = damage(self.connection)
            return self.damaged(str(exc) if more in (None, str(exc)) else f"{exc} ({more})")
        return _ours(self.path, exc)

    def close(self) -> None:
        """Close the file and let another process drain it; closing twice is fine."""
        with self.lock:
            if self._grouped is not None:
                self._grouped.close()
            self._closed = True
            self.connection.close()
            self._drain_lock.release()


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
    _add_columns(connection)
    if new:
        set_number(connection, "format", FORMAT)
        set_number(connection, "epoch", now_ms)


def _add_columns(connection: sqlite3.Connection) -> None:
    """What files of version 0.1 lack."""
    known = {row[1] for row in connection.execute("PRAGMA table_info(_evodb_batch)")}
    for name, kind in (("encoding", "TEXT"), ("payload", "BLOB")):
        if name.encode() not in known:
            connection.execute(f"ALTER TABLE _evodb_batch ADD COLUMN {name} {kind}")


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


def _ours(path: str, exc: sqlite3.Error) -> LakehouseRpcError:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return BufferOverflowError(f"{path}: {exc}; nothing of this call was kept. Free some space and try again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OutboxBusyError(f"{path}: {exc} after waiting {BUSY_TIMEOUT_S:g} s; nothing was changed, try again")
    if code == sqlite3.SQLITE_CANTOPEN:
        return OutboxCorruptError(f"{path}: {exc}; create its folder and make it writable")
    if code == sqlite3.SQLITE_READONLY:
        return LakehouseRpcError(f"{path}: {exc}; nothing was changed. Make the file and its folder writable")
    if "no such table: _evodb_" in str(exc):
        return CaptureError(f"{path} is not captured; call attach() first")
    return LakehouseRpcError(f"{path}: {exc}")
