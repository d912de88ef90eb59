"""The promise, kept by real processes: whatever is killed while changes are written, each is in the lake exactly once.

SQLite over a folder is how a laptop is run, PostgreSQL over S3 with Redis as broker how several machines are; `make
test-long` tries the other two as well. A run of the suite takes the cases of its own database (EVODB_TEST_DATABASE, see
tests.environment), so that `make test`, which runs it once per database, does each once. PostgreSQL is reached through
PgBouncer here; everywhere else it is not.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lakehouse.torture import edge_app
from tests.acceptance import pooler
from tests.acceptance.processes import House, Process, assert_exactly_once, assert_sums_agree, until
from tests.repetition import LONG
from tests.services import free_port

DATABASE = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
CASES = {
    # lake, rounds of killing everybody
    "sqlite": [("folder", 2), ("s3", 1)],
    "postgresql": [("s3", 2), ("folder", 1)],
}[DATABASE][: 2 if LONG else 1]
EAGER = {"flush_threshold_entries": 400, "flush_threshold_ms": 400, "flush_interval_ms": 400}
LEASE_MS = 1500


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path, lake: str) -> Iterator[House]:
    settings: dict[str, object] = {"open": True, "lease_ms": LEASE_MS, "up_port": free_port()}
    if DATABASE == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgres_url"))
        settings["broker_url"] = settings["redis_url"] = request.getfixturevalue("redis_url")
    if lake == "s3":
        store = request.getfixturevalue("rclone_store")
        settings |= {"warehouse": f"s3://{store.bucket}/{uuid.uuid4().hex}", **store.settings}
    with House(tmp_path, **settings) as house, ExitStack() as stack:
        house.prepare(**EAGER)
        if DATABASE == "postgresql":
            stack.enter_context(pooler.between(house))
        yield house


def new_database(url: str) -> str:
    import psycopg

    name = f"street_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@pytest.mark.parametrize(("lake", "rounds"), CASES)
def test_every_change_is_in_the_lake_once_whoever_is_killed(house: House, rounds: int) -> None:
    shops = [house.child("shop-1", writes_per_s_max=30), house.child("shop-2", writes_per_s_max=10)]
    for process in (house.daphne, house.worker, house.beat, *(shop.process for shop in shops)):
        process.start()
    abandoned = [0]
    for number in range(rounds):
        abandoned.append(kill_the_worker(house, after=abandoned[-1]))
        kill_the_parent(house, in_flight=number % 2 == 0)
        kill_a_child(house, shops[number % 2].process, shops[number % 2].database)
    for shop in shops:
        assert shop.process.end() == 0, shop.process.said
    house.manage("flush_buffers", "--wait")
    for shop in shops:
        assert assert_exactly_once(house, shop) > 100
    assert_sums_agree(house)
    assert_the_books_are_closed(house, abandoned[1:])


def kill_the_parent(house: House, *, in_flight: bool) -> None:
    """Either with batches on the wire that it never comes to read, or right after it stored some."""
    if in_flight:
        house.daphne.send(signal.SIGSTOP)
        database = house.children[0].database
        until(lambda: edge_app.unacknowledged(database) >= 3, "batches in flight", *everybody(house))
    else:
        before = house.journalled()
        until(lambda: house.journalled() > before, "a batch is stored", *everybody(house))
    house.daphne.kill()
    house.daphne.start()
    before = house.journalled()
    until(lambda: house.journalled() > before, "children come back", *everybody(house))


def kill_the_worker(house: House, *, after: int) -> int:
    """In the middle of a flush younger than `after`; returns its id. The first one creates the tables.

    Frozen first, for a look whether it is still in the middle.
    """

    def caught() -> int:
        if house.open_flush() <= after:
            return 0
        house.worker.send(signal.SIGSTOP)
        if not (flush := house.open_flush()):
            house.worker.send(signal.SIGCONT)
        return flush

    flush = until(caught, "a flush is under way", *everybody(house))
    house.worker.kill()
    house.worker.start()
    return flush


def kill_a_child(house: House, program: Process, database: str) -> None:
    """While it has batches that nobody has acknowledged; it goes on with them, and with writing."""
    until(lambda: edge_app.unacknowledged(database) > 0, "it is sending", *everybody(house))
    program.kill()
    before = edge_app.written(database)
    program.start()
    until(lambda: edge_app.written(database) > before, "it writes again", *everybody(house))


def assert_the_books_are_closed(house: House, abandoned: list[int]) -> None:
    rows = house.journal.rows
    assert rows("SELECT pending_batches, pending_entries, pending_bytes FROM lakehouse_parent") == [(0, 0, 0)]
    assert rows("SELECT state FROM lakehouse_batch GROUP BY state") == [("persisted",)]
    assert rows("SELECT count(*) FROM lakehouse_batchpayload") == [(0,)]
    assert rows("SELECT count(*) FROM lakehouse_deadletter") == [(0,)]
    flushes = dict(rows("SELECT id, state FROM lakehouse_flush"))
    assert set(flushes.values()) == {"abandoned", "committed"}
    assert {flushes[flush] for flush in abandoned} == {"abandoned"}
    numbers = rows("SELECT commit_number FROM lakehouse_flush WHERE state = 'committed' ORDER BY commit_number")
    assert [number for (number,) in numbers] == list(range(1, len(numbers) + 1))
    stored = house.journal.one("SELECT sum(entries) FROM lakehouse_batch")
    assert house.journal.one("SELECT sum(rows) FROM lakehouse_flush WHERE state = 'committed'") == stored
    assert house.stray_files() == []


def everybody(house: House) -> list[Process]:
    return [house.daphne, house.worker, house.beat, *(child.process for child in house.children)]
