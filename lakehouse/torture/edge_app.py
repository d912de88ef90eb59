"""An edge application: ordinary SQL in one thread, a captured database streaming in the other; one process of its own.

    python edge_app.py DATABASE NAME URL

Every change is also noted in `ledger`, by the application itself and within the same transaction; capture is not told
of that table. So the ledger says what has to be in the lake, whatever died in between. SIGTERM ends the writing, sends
the rest and returns 0. EVODB_TOKEN is the access key, WRITES_PER_S_MAX how many transactions a second at most.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from rpc.capture.sqlite import SqliteCapture
from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY, customer TEXT, total REAL, quantity INTEGER, placed_at TEXT, photo BLOB, anything
);
CREATE TABLE IF NOT EXISTS stock (code TEXT PRIMARY KEY, level INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (seq INTEGER PRIMARY KEY, op TEXT, name TEXT, row_id TEXT, payload TEXT);
"""
KEYS = {"orders": "id", "stock": "code"}
CONFIG = ChildConfig(
    max_batch_size=100,
    batch_timeout_ms=20,
    capture_poll_interval_ms=20,
    initial_retry_delay_ms=20,
    max_retry_delay_ms=200,
    max_reconnect_attempts=0,
)
CUSTOMERS = ["Ann", "Jürgen ✓", "", 'O\'Neil "the" \\ third', "line\nbreak\ttab", "null", "2024-01-01", None]
NUMBERS = [0, -1, 7, 2**53 + 1, 2**63 - 1, -(2**63), None]
TOTALS = [0.1, -2.5, 3.0, 1e300, 5e-324, 1 / 3, 123456.789, None]
ANYTHING = [1, 2.5, "text", "7", b"\x00\xff", None, 2**53 + 1]


def payload_of(row: dict[str, Any]) -> str:
    """A row as JSON, its bytes as base64 as in the lake."""
    plain = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in row.items()
    }
    return json.dumps(plain)


class Application:
    """Writes rows, and says of each in the ledger what it did."""

    def __init__(self, path: str, dice: random.Random) -> None:
        self._dice = dice
        self._connection = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(f"PRAGMA journal_mode = WAL; {SCHEMA}")

    def one_transaction(self) -> None:
        """Some changes that are kept, or now and then taken back."""
        self._connection.execute("BEGIN IMMEDIATE")
        for _ in range(self._dice.randint(1, 25)):
            change = self._dice.choices(
                (self._insert, self._update, self._delete, self._replace, self._upsert, self._restock),
                weights=(8, 6, 2, 2, 2, 1),
            )[0]
            change()
        self._connection.execute("ROLLBACK" if self._dice.random() < 0.07 else "COMMIT")

    def _insert(self) -> None:
        written = self._connection.execute(
            "INSERT INTO orders (customer, total, quantity, placed_at, photo, anything) VALUES (?, ?, ?, ?, ?, ?)",
            self._order(),
        )
        self._note("INSERT", "orders", self._rows("orders", "id = ?", written.lastrowid))

    def _update(self) -> None:
        number = self._some_id()
        self._connection.execute(
            "UPDATE orders SET total = ?, quantity = ? WHERE id = ?", (*self._order()[1:3], number)
        )
        self._note("UPDATE", "orders", self._rows("orders", "id = ?", number))

    def _delete(self) -> None:
        number = self._some_id()
        before = self._rows("orders", "id = ?", number)
        self._connection.execute("DELETE FROM orders WHERE id = ?", (number,))
        self._note("DELETE", "orders", before)

    def _replace(self) -> None:
        """SQLite deletes the row that stands in the way without a word."""
        number = self._some_id()
        before = self._rows("orders", "id = ?", number)
        self._connection.execute("REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *self._order()))
        self._note("DELETE", "orders", before)
        self._note("INSERT", "orders", self._rows("orders", "id = ?", number))

    def _upsert(self) -> None:
        code = f"code-{self._dice.randint(1, 60)}"
        operation = "UPDATE" if self._rows("stock", "code = ?", code) else "INSERT"
        self._connection.execute(
            "INSERT INTO stock VALUES (?, ?) ON CONFLICT (code) DO UPDATE SET level = level + excluded.level",
            (code, self._dice.randint(1, 9)),
        )
        self._note(operation, "stock", self._rows("stock", "code = ?", code))

    def _restock(self) -> None:
        """One statement, many rows."""
        low = self._dice.randint(2, 10)
        codes = [row["code"] for row in self._rows("stock", "level < ? ORDER BY rowid", low)]
        self._connection.execute("UPDATE stock SET level = level + 10 WHERE level < ?", (low,))
        for code in codes:
            self._note("UPDATE", "stock", self._rows("stock", "code = ?", code))

    def _order(self) -> tuple[Any, ...]:
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._dice.randrange(10**14))
        return (
            self._dice.choice(CUSTOMERS),
            self._dice.choice(TOTALS),
            self._dice.choice(NUMBERS),
            moment.isoformat(timespec="microseconds"),
            self._dice.choice([None, b"", self._dice.randbytes(40)]),
            self._dice.choice(ANYTHING),
        )

    def _some_id(self) -> int:
        """Of a row that may be there; the recent ones are changed more often."""
        newest: int = self._connection.execute("SELECT coalesce(max(id), 1) FROM orders").fetchone()[0]
        return max(1, newest - int(self._dice.expovariate(1 / 50)))

    def _rows(self, table: str, condition: str, value: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(f"SELECT * FROM {table} WHERE {condition}", (value,))]

    def _note(self, operation: str, table: str, rows: list[dict[str, Any]]) -> None:
        self._connection.executemany(
            "INSERT INTO ledger (op, name, row_id, payload) VALUES (?, ?, ?, ?)",
            [(operation, table, str(row[KEYS[table]]), payload_of(row)) for row in rows],
        )


def write_until(stopping: threading.Event, application: Application, writes_per_s_max: float) -> None:
    while not stopping.wait(1 / writes_per_s_max):
        application.one_transaction()


async def stopped() -> None:
    """Until somebody sends SIGTERM."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()


async def stream(path: str, name: str, url: str) -> None:
    application = Application(path, random.Random(os.getpid()))
    stopping = threading.Event()
    speed = float(os.environ.get("WRITES_PER_S_MAX", "60"))
    with SqliteCapture(path, tables=["orders", "stock"]) as capture:
        capture.attach()
        client = LakehouseRpcClient(url, name, outbox=capture, token=os.environ.get("EVODB_TOKEN"), config=CONFIG)
        writing = asyncio.create_task(asyncio.to_thread(write_until, stopping, application, speed))
        asked = asyncio.create_task(stopped())
        try:
            await client.connect()
            await asyncio.wait((writing, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.set()
            await writing
        await client.drain()
        await client.close()


# What a test reads of the database afterwards.


def ledger(path: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Every change the application made, in order: operation, table, row id, the row."""
    rows = _select(path, "SELECT op, name, row_id, payload FROM ledger ORDER BY seq")
    return [(operation, table, row_id, json.loads(payload)) for operation, table, row_id, payload in rows]


def state(path: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows as they are now, by table and row id."""
    found = {}
    for table, key in KEYS.items():
        columns = [row[1] for row in _select(path, f"PRAGMA table_info({table})")]
        for values in _select(path, f"SELECT * FROM {table}"):
            row = dict(zip(columns, values, strict=True))
            found[table, str(row[key])] = json.loads(payload_of(row))
    return found


def unacknowledged(path: str) -> int:
    """Batches that were cut, and probably sent, without an answer."""
    return int(next(_select(path, "SELECT count(*) FROM _evodb_batch"))[0])


def waiting(path: str) -> int:
    """Changes without an answer, in a batch or not."""
    return int(next(_select(path, "SELECT count(*) FROM _evodb_change"))[0])


def written(path: str) -> int:
    return int(next(_select(path, "SELECT coalesce(max(seq), 0) FROM ledger"))[0])


def so_far(path: str) -> int:
    """As `written`, also while there is no file, or no table in it."""
    try:
        return written(path)
    except sqlite3.OperationalError:
        return 0


def _select(path: str, sql: str) -> Iterator[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)
    try:
        yield from connection.execute(sql).fetchall()
    finally:
        connection.close()


if __name__ == "__main__":
    asyncio.run(stream(*sys.argv[1:4]))
