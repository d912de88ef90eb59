"""Events that wait to be sent: one SQLite file, which also numbers the changes of collections (bookmarks).

    append ─▶ waiting ─ cut ─▶ batch ─ stored  ─▶ gone
                                     └ refused ─▶ set aside, with the reason

A batch is a name on some of the rows, written down before anybody sends it, so a restart sends the same batch under the
same name. Only rows with that name are deleted when it is stored: what was appended, cut or dropped meanwhile is never
touched. Safe for threads and for processes that share the file; a fork opens the file anew.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import orjson

from rpc import event_aside
from rpc.clock import now_ms as wall_clock_ms
from rpc.config import MIB
from rpc.errors import BufferOverflowError
from rpc.event_aside import SetAside

__all__ = ["EventBatch", "EventBufferFullError", "EventOutbox", "SetAside"]

BUSY_TIMEOUT_S = 5.0
BOOKMARK_DIGITS = 20
SCHEMA = """
CREATE TABLE IF NOT EXISTS _evodb_event (id INTEGER PRIMARY KEY AUTOINCREMENT, batch TEXT, body BLOB NOT NULL,
    appended_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS _evodb_event_batch ON _evodb_event (batch);
CREATE TABLE IF NOT EXISTS _evodb_event_number (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS _evodb_document (collection TEXT NOT NULL, id TEXT NOT NULL, doc TEXT NOT NULL,
    PRIMARY KEY (collection, id)) WITHOUT ROWID
"""
ASIDE_MAX, ASIDE_BYTES_MAX = 1000, 16 * MIB


class EventBufferFullError(BufferOverflowError):
    """The outbox of events is full; the oldest were dropped for the newest."""

    code: ClassVar[str] = "EVENT_BUFFER_FULL"

    def __init__(self, dropped: int) -> None:
        super().__init__(
            f"{dropped} of the oldest events were dropped, for the outbox is full; the newest are kept. Look at why "
            "nothing is sent (get_retry_queue_stats), or raise max_retry_queue_size",
            details={"dropped": dropped},
        )
        self.dropped = dropped


@dataclass(frozen=True, slots=True)
class EventBatch:
    name: str
    ids: list[int]
    bodies: list[bytes]


class EventOutbox:
    """`events_max` bounds what waits, the others what was set aside; beyond them the oldest are dropped."""

    def __init__(
        self,
        path: str | Path,
        *,
        events_max: int = 10_000,
        aside_max: int = ASIDE_MAX,
        aside_bytes_max: int = ASIDE_BYTES_MAX,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.path = str(path)
        self.events_max = events_max
        self.aside_max, self.aside_bytes_max = aside_max, aside_bytes_max
        self._now_ms = now_ms
        self._lock = threading.RLock()
        self._depth = self._dropped = 0
        self._pid = -1
        self._connection: sqlite3.Connection | None = None
        with self.turn():
            pass

    def append(self, bodies: Sequence[bytes]) -> None:
        """Durable when it returns. Raises EventBufferFullError when others were dropped for these."""
        with self.transaction() as connection:
            now_ms = self._now_ms()
            connection.executemany(
                "INSERT INTO _evodb_event (body, appended_ms) VALUES (?, ?)", [(body, now_ms) for body in bodies]
            )
            self._make_room(connection)

    def next_bookmark(self) -> str:
        """Higher than all before it; part of the transaction it is asked for in."""
        with self.transaction() as connection:
            return f"{_added(connection, 'bookmark', 1):0{BOOKMARK_DIGITS}}"

    def cut(self, events_max: int) -> EventBatch | None:
        """The oldest batch, or one of the oldest events that are in none; None when nothing waits."""
        with self.transaction() as connection:
            name = _one(connection, "SELECT batch FROM _evodb_event WHERE batch IS NOT NULL ORDER BY id LIMIT 1")
            if name is None:
                name = uuid.uuid4().hex
                connection.execute(
                    "UPDATE _evodb_event SET batch = ? WHERE id IN "
                    "(SELECT id FROM _evodb_event WHERE batch IS NULL ORDER BY id LIMIT ?)",
                    (name, events_max),
                )
            rows = connection.execute("SELECT id, body FROM _evodb_event WHERE batch = ? ORDER BY id", (name,))
            found = rows.fetchall()
        return EventBatch(str(name), [pk for pk, _ in found], [body for _, body in found]) if found else None

    def stored(self, batch: EventBatch) -> None:
        """The batch is durable elsewhere."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM _evodb_event WHERE batch = ?", (batch.name,))

    def set_aside(self, batch: EventBatch, ids: Collection[int], reason: str) -> list[SetAside]:
        """These of a refused batch are kept apart; the others will be in new ones. Returns those that were kept before
        and had to go for these.
        """
        with self.transaction() as connection:
            event_aside.put(connection, batch.name, ids, reason, now_ms=self._now_ms())
            connection.execute("UPDATE _evodb_event SET batch = NULL WHERE batch = ?", (batch.name,))
            gone = event_aside.make_room(connection, events_max=self.aside_max, bytes_max=self.aside_bytes_max)
            _added(connection, "aside_dropped", len(gone))
        return gone

    def split(self, batch: EventBatch) -> None:
        """Make two batches of one that was refused as a whole."""
        with self.transaction() as connection:
            half = batch.ids[: len(batch.ids) // 2]
            marks = ", ".join("?" * len(half))
            for name, which in ((uuid.uuid4().hex, "IN"), (uuid.uuid4().hex, "NOT IN")):
                connection.execute(
                    f"UPDATE _evodb_event SET batch = ? WHERE batch = ? AND id {which} ({marks})",  # noqa: S608 - ours
                    (name, batch.name, *half),
                )

    def number(self, name: str) -> int:
        with self.turn() as connection:
            found = _one(connection, "SELECT value FROM _evodb_event_number WHERE name = ?", name)
        return int(found or 0)

    def set_numbers(self, **numbers: int) -> None:
        with self.transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO _evodb_event_number VALUES (?, ?)", list(numbers.items()))

    def pending(self) -> int:
        with self.turn() as connection:
            return int(_one(connection, "SELECT count(*) FROM _evodb_event") or 0)

    def oldest_ms(self) -> int | None:
        with self.turn() as connection:
            found = _one(connection, "SELECT appended_ms FROM _evodb_event ORDER BY id LIMIT 1")
        return None if found is None else int(found)

    def aside(self, limit: int = 1000) -> list[SetAside]:
        """What was refused for good, the oldest first."""
        with self.turn() as connection:
            return event_aside.kept(connection, limit)

    def aside_count(self) -> int:
        with self.turn() as connection:
            return int(_one(connection, "SELECT count(*) FROM _evodb_event_aside") or 0)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; inside another one it is part of that. Raises EventBufferFullError after the commit."""
        with self.turn() as connection:
            if self._depth == 0:
                connection.execute("BEGIN IMMEDIATE")
                self._dropped = 0
            self._depth += 1
            try:
                yield connection
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    _roll_back(connection)
                raise
            self._depth -= 1
            if self._depth == 0:
                try:
                    connection.execute("COMMIT")
                except BaseException:
                    _roll_back(connection)
                    raise
                if self._dropped:
                    raise EventBufferFullError(self._dropped)

    def close(self) -> None:
        with self.turn() as connection:
            connection.close()
            self._connection = None

    def _make_room(self, connection: sqlite3.Connection) -> None:
        surplus = int(_one(connection, "SELECT count(*) FROM _evodb_event") or 0) - self.events_max
        if surplus <= 0:
            return
        # What is left of a batch gets a new name, for the old one stands for all of it. An event has an id of its own,
        # so one that was stored meanwhile is not stored again.
        connection.execute(
            "UPDATE _evodb_event SET batch = NULL WHERE batch IN (SELECT batch FROM _evodb_event "
            "WHERE batch IS NOT NULL AND id IN (SELECT id FROM _evodb_event ORDER BY id LIMIT ?))",
            (surplus,),
        )
        connection.execute(
            "DELETE FROM _evodb_event WHERE id IN (SELECT id FROM _evodb_event ORDER BY id LIMIT ?)", (surplus,)
        )
        _added(connection, "dropped", surplus)
        self._dropped += surplus

    @contextmanager
    def turn(self) -> Iterator[sqlite3.Connection]:
        """Nobody else of this process is at it meanwhile."""
        if self._pid != os.getpid():
            _inherited.append(self._connection)  # neither used nor closed here, for it is another process's
            self._lock, self._connection = threading.RLock(), None
            self._pid, self._depth = os.getpid(), 0
        with self._lock:
            if self._connection is None:
                self._connection = self._opened()
            yield self._connection

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in (*SCHEMA.split(";"), event_aside.SCHEMA):
            connection.execute(statement)
        return connection


_inherited: list[sqlite3.Connection | None] = []


def body_of(event: dict[str, object]) -> bytes:
    """Raises TypeError for what no JSON is: a key that is no text, what is too deep or in itself."""
    try:
        return _dumps(event)
    except TypeError:
        try:
            return _dumps(_spelled(event))
        except RecursionError as exc:
            raise TypeError("an event is too deep, or has itself in it") from exc


def _dumps(event: object) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_UUID)


def _spelled(value: object) -> object:
    """The same with numbers of any length, and with a sign for half an emoji, which no UTF-8 has."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if type(value) is int and value.bit_length() > 63:
        return orjson.Fragment(str(value))
    if isinstance(value, dict):
        return {_spelled(name): _spelled(one) for name, one in value.items()}
    return [_spelled(one) for one in value] if isinstance(value, list | tuple) else value


def _roll_back(connection: sqlite3.Connection) -> None:
    """Unless SQLite did, as it does when the disk is full."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _added(connection: sqlite3.Connection, name: str, more: int) -> int:
    connection.execute(
        "INSERT INTO _evodb_event_number VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, more),
    )
    return int(_one(connection, "SELECT value FROM _evodb_event_number WHERE name = ?", name) or 0)


def _one(connection: sqlite3.Connection, sql: str, *parameters: object) -> str | int | None:
    row = connection.execute(sql, parameters).fetchone()
    return None if row is None else row[0]
