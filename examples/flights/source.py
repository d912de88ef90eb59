"""The edge: one SQLite database per carrier, and the applications that write them with ordinary SQL.

Each flight is inserted as scheduled; later it is updated with what really happened, or deleted when it was cancelled.
Nothing in here knows that somebody listens: the triggers that do are attached by `streaming`.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

COLUMNS = {
    "id": "INTEGER PRIMARY KEY",
    "year": "INTEGER",
    "month": "INTEGER",
    "day": "INTEGER",
    "dep_time": "INTEGER",
    "sched_dep_time": "INTEGER",
    "dep_delay": "INTEGER",
    "arr_time": "INTEGER",
    "sched_arr_time": "INTEGER",
    "arr_delay": "INTEGER",
    "carrier": "TEXT",
    "flight": "INTEGER",
    "tailnum": "TEXT",
    "origin": "TEXT",
    "dest": "TEXT",
    "air_time": "INTEGER",
    "distance": "INTEGER",
    "hour": "INTEGER",
    "minute": "INTEGER",
    "time_hour": "TEXT",
}
ACTUALS = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
"""What nobody knows before the flight."""

CREATE = f"CREATE TABLE flights ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})"
INSERT = f"INSERT INTO flights VALUES ({', '.join(f':{name}' for name in COLUMNS)})"
UPDATE = f"UPDATE flights SET {', '.join(f'{name} = :{name}' for name in ACTUALS)} WHERE id = :id"
DELETE = "DELETE FROM flights WHERE id = :id"

STATEMENTS = 500
"""Of one transaction."""

Flight = dict[str, Any]
Work = Callable[[sqlite3.Connection, list[Flight]], dict[str, int]]
"""Writes flights and returns how many rows were changed how."""


def flights(limit: int | None = None) -> dict[str, list[Flight]]:
    """The first `limit` flights that left New York City in 2013, by carrier; every carrier is there."""
    by_carrier: dict[str, list[Flight]] = {}
    for number, row in enumerate(_csv_rows(), start=1):
        known = by_carrier.setdefault(row["carrier"], [])
        if limit is None or number <= limit:
            known.append({"id": number} | {name: _value(name, text) for name, text in row.items()})
    return dict(sorted(by_carrier.items()))


def database(folder: Path, carrier: str) -> Path:
    return folder / f"{carrier}.sqlite3"


def create(path: Path) -> None:
    """An empty database, as its application makes it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(CREATE)


class Writers:
    """The applications of all carriers, in a process of their own; they take turns, a transaction each.

    The last transaction of each carrier waits for `go_on`, so that something is left to write when the parent dies,
    however fast the machine. What was done is then in the file `written`.
    """

    def __init__(self, folder: Path, written: Path, limit: int | None) -> None:
        spawn = get_context("spawn")
        self._changes, self._go_on = spawn.Value("q", 0), spawn.Event()
        self._process = spawn.Process(
            target=write, args=(folder, written, limit, self._changes, self._go_on), daemon=True
        )

    @property
    def changes(self) -> int:
        """Rows changed in transactions that are committed."""
        return self._changes.value

    def start(self) -> None:
        self._process.start()

    def go_on(self) -> None:
        self._go_on.set()

    def join(self) -> None:
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError(f"the writers ended with exit code {self._process.exitcode}")


def write(folder: Path, written: Path, limit: int | None, changes: Any, go_on: Any) -> None:
    transactions = {carrier: _transactions(rows) for carrier, rows in flights(limit).items()}
    connections = {carrier: sqlite3.connect(database(folder, carrier), timeout=60) for carrier in transactions}
    counts = {carrier: Counter() for carrier in transactions}
    for turn in _turns(transactions):
        if turn is None:
            go_on.wait()
            continue
        carrier, work, rows = turn
        with connections[carrier] as connection:
            done = work(connection, rows)
        counts[carrier].update(done)
        changes.value += sum(done.values())
    for connection in connections.values():
        connection.close()
    written.write_text(json.dumps(counts))
