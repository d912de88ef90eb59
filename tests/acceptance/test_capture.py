"""`evodb capture` beside an application that goes on writing, while the parent is killed: source equals lake.

The application has written before capture begins and writes on until the end, also while the snapshot is taken. Of what
was there before, the lake has the snapshot; of what came later, each change once and in order. `make test-long` goes
on for a minute, CAPTURE_SECONDS=600 for ten.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lakehouse.torture import edge_app
from tests.acceptance.processes import House, Process, document, until
from tests.repetition import LONG
from tests.services import free_port

SECONDS = float(os.environ.get("CAPTURE_SECONDS", "60" if LONG else "3"))
WRITES_PER_S_MAX = 30
BEFORE = 150
"""Transactions before capture begins."""
KILLS = 3 if LONG else 2
EAGER = {"flush_threshold_entries": 2000, "flush_threshold_ms": 500, "flush_interval_ms": 500}
NAME = "shop"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path, open=True, lease_ms=1500, up_port=free_port()) as house:
        yield house


@contextmanager
def writing(application: edge_app.Application) -> Iterator[None]:
    stopping = threading.Event()
    writer = threading.Thread(target=edge_app.write_until, args=(stopping, application, WRITES_PER_S_MAX))
    writer.start()
    try:
        yield
    finally:
        stopping.set()
        writer.join()


def test_capture_follows_a_database_under_load_whoever_kills_the_parent(house: House) -> None:
    house.prepare(**EAGER)
    database = str(house.folder / f"{NAME}.sqlite3")
    application = edge_app.Application(database, random.Random(11))
    for _ in range(BEFORE):
        application.one_transaction()
    capture = house.process("capture", [evodb(), "capture", database, "--parent", house.url, *WANTED])
    everybody = [house.daphne, house.worker, house.beat, capture]
    with killing(capture):
        for process in everybody:
            process.start()
        until(lambda: '"attached"' in capture.said, "triggers are there", *everybody)
        before = edge_app.written(database)
        written_s = time.monotonic()
        with writing(application):
            until(lambda: house.journalled() > 0, "it streams", *everybody)
            began = time.monotonic()
            for number in range(1, KILLS + 1):
                until(lambda due=began + SECONDS * number / (KILLS + 1): time.monotonic() >= due, "time passes")
                kill_the_parent(house, database, everybody)
                if number == 1:
                    capture.kill()
                    capture.start()
                    streaming_again(house, everybody)
            until(lambda: time.monotonic() - began >= SECONDS, "time passes", within_s=SECONDS)
        written_s = time.monotonic() - written_s
        until(lambda: not edge_app.waiting(database), "everything is acknowledged", *everybody, within_s=60)
        assert capture.end(signal.SIGINT) == 0, capture.said
    house.manage("flush_buffers", "--wait")
    changes, snapshot = compare(house, database, before=before)
    assert changes > 100
    assert snapshot > 100
    print(f"{changes} changes in {written_s:.0f} s and {snapshot} rows of the snapshot; the parent died {KILLS} times")


WANTED = ["--child", NAME, "--tables", "orders,stock", "--snapshot", "--json"]


def evodb() -> str:
    return str(Path(sys.executable).with_name("evodb"))


@contextmanager
def killing(process: Process) -> Iterator[None]:
    try:
        yield
    finally:
        process.clean_up()


def kill_the_parent(house: House, database: str, everybody: list[Process]) -> None:
    """With batches on the wire that it never comes to read."""
    house.daphne.send(signal.SIGSTOP)
    until(lambda: edge_app.unacknowledged(database) >= 1, "batches in flight", *everybody)
    house.daphne.kill()
    house.daphne.start()
    streaming_again(house, everybody)


def streaming_again(house: House, everybody: list[Process]) -> None:
    before = house.journalled()
    until(lambda: house.journalled() > before, "the child comes back", *everybody)


def compare(house: House, database: str, *, before: int) -> tuple[int, int]:
    """Source and lake; returns how many changes there were since `before` and how many rows of the snapshot."""
    rows = sorted(house.lake(NAME), key=lambda row: (row["_epoch"], row["_seq"]))
    numbers = [row["_seq"] for row in rows]
    assert numbers == list(range(1, len(rows) + 1)), "each entry once"
    ledger = iter(edge_app.ledger(database)[before:])
    changes, snapshot, due = 0, [], next(ledger, None)
    for row in rows:
        if due == (row["_op"], row["_table"], row["_row_id"], document(row)):
            changes, due = changes + 1, next(ledger, None)
        else:
            assert row["_op"] == "INSERT", (
                f"{row['_op']} of {row['_row_id']} in {row['_table']} after {changes} changes, wanted {due}"
            )
            snapshot.append((row["_table"], row["_row_id"]))
    assert due is None, f"change {changes + 1} is not in the lake: {due}"
    assert len(snapshot) == len(set(snapshot)), "a row of the snapshot came twice"
    assert state_of(rows) == edge_app.state(database)
    return changes, len(snapshot)


def state_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that are left, for a reader to whom an INSERT of the snapshot says how a row is."""
    state: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["_op"] == "DELETE":
            state.pop((row["_table"], row["_row_id"]), None)
        else:
            state[row["_table"], row["_row_id"]] = document(row)
    return state
