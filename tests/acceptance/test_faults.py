"""What goes wrong in a house besides deaths, fault by fault: each change is in the lake once, and the sums agree.

One house walks through all of them, with two beats and two workers for its one parent the whole time; each fault has a
child of its own. `manage.py torture` does the same by chance and for long. As in test_street a run takes its own
database; a fault that knows nothing of the database is tried with SQLite only.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from lakehouse import up
from lakehouse.torture import edge_app
from lakehouse.torture.faults import HOUR_MS
from lakehouse.torture.services import Postgres, Redis
from rpc.failpoints import VARIABLE, Failpoint
from tests.acceptance.processes import Child, House, Process, assert_sums_agree, start_with, until
from tests.acceptance.test_deaths import assert_nothing_is_lost
from tests.acceptance.test_street import EAGER, LEASE_MS
from tests.services import free_port

DATABASE = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
on_sqlite = pytest.mark.skipif(
    DATABASE != "sqlite", reason="this fault never touches the parent's database; tried with SQLite"
)
on_postgresql = pytest.mark.skipif(DATABASE != "postgresql", reason="tried with PostgreSQL and Redis")
IMPATIENT = """
import sys
from evodb_site.celery import app
app.conf.broker_transport_options = {"visibility_timeout": 1}
app.worker_main(sys.argv[1:])
"""
"""A worker of a broker that takes every task for lost that is not done within a second."""
RECEIVED = re.compile(r"Task lakehouse\.tasks\.flush_parent\[(\S+)\] received")


class Town:
    """A house with two beats and two workers, and the services that may be taken away."""

    def __init__(self, house: House, database: Postgres | None) -> None:
        self.house, self.database = house, database
        self.second_worker = house.another("worker-2", up.worker().argv)
        self.second_beat = house.another("beat-2", up.beat().argv)

    @property
    def everybody(self) -> list[Process]:
        return [self.house.daphne, self.house.worker, self.second_worker, self.house.beat, self.second_beat]

    def shop(self, name: str) -> Child:
        """A child that streams; what it writes reaches tables."""
        shop = self.house.child(name, writes_per_s_max=20)
        shop.process.start()
        self.until_it_commits(shop)
        return shop

    def until_it_commits(self, shop: Child) -> None:
        before = self.house.commit_number()
        until(lambda: self.house.commit_number() > before, "a flush commits", *self.everybody, shop.process)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    settings: dict[str, object] = {"open": True, "lease_ms": LEASE_MS, "up_port": free_port(), "breaker_open_ms": 500}
    folder, database = tmp_path_factory.mktemp("faults"), None
    with ExitStack() as stack:
        if DATABASE == "postgresql":
            # PostgreSQL is another user than root, whom every pytest that begins shuts out of pytest's own folders.
            database = Postgres(Path(stack.enter_context(TemporaryDirectory(prefix="evodb-faults-"))))
            broker = Redis(folder)
            for service in (database, broker):
                stack.callback(service.close)
                service.start()
            settings |= {"database_url": database.url, "broker_url": broker.url, "redis_url": broker.url}
        house = stack.enter_context(House(folder, **settings))
        house.prepare(**EAGER)
        town = Town(house, database)
        for process in town.everybody:
            process.start()
        yield town


def stopped_in_a_flush(worker: Process) -> None:
    """The worker stands still with files written that no table has."""
    worker.kill()
    start_with(worker, **{VARIABLE: f"{Failpoint.FILES_WRITTEN}=pause"})
    until(lambda: is_stopped(worker), f"{worker.name} stands still", worker)


def is_stopped(process: Process) -> bool:
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


def test_of_two_workers_on_one_parent_the_one_that_wakes_up_late_loses(town: Town) -> None:
    shop = town.shop("two-workers")
    worker = town.house.worker
    stopped_in_a_flush(worker)
    town.until_it_commits(shop)
    worker.send(signal.SIGCONT)
    until(lambda: "is flushed by somebody else" in worker.said, "it hears that it lost its lease", worker)
    assert_nothing_is_lost(town.house, shop)


@on_postgresql
def test_a_task_that_is_delivered_again_while_its_first_worker_is_still_at_it_is_harmless(town: Town) -> None:
    shop = town.shop("redelivered")
    argv = [
        sys.executable,
        "-c",
        IMPATIENT,
        *up.worker().argv[up.worker().argv.index("worker") :],
        "--loglevel",
        "INFO",
    ]
    first, second = (town.house.another(f"impatient-{number}", argv) for number in (1, 2))
    for usual in (town.house.worker, town.second_worker):
        usual.kill()
    start_with(first, **{VARIABLE: f"{Failpoint.FILES_WRITTEN}=pause@2"})
    until(lambda: is_stopped(first), "it stands still in a flush", first)
    [*_, held] = RECEIVED.findall(first.said)
    until(lambda: town.house.journal.one(f"SELECT {EXPIRED}"), "its lease is over", first)
    second.start()
    until(lambda: held in RECEIVED.findall(second.said), "the same task comes to another worker", second)
    town.until_it_commits(shop)
    first.send(signal.SIGCONT)
    until(lambda: "is flushed by somebody else" in first.said, "the first worker loses", first)
    for process in (first, second):
        process.kill()
    for usual in (town.house.worker, town.second_worker):
        usual.start()
    assert_nothing_is_lost(town.house, shop)


EXPIRED = "lease_until_ms + 1000 < extract(epoch FROM clock_timestamp()) * 1000 FROM lakehouse_parent"


@on_sqlite
def test_a_house_whose_clocks_jump_an_hour_ahead_and_behind_loses_nothing_and_waits_for_no_clock(town: Town) -> None:
    house, shop = town.house, town.shop("clock")
    wrong = [house.daphne, house.worker, town.second_worker, shop.process]
    for shift_ms in (HOUR_MS, -HOUR_MS):
        for process in wrong:
            process.kill()
            start_with(process, EVODB_CLOCK_SHIFT_MS=str(shift_ms))
        town.until_it_commits(shop)
        until(lambda: house.open_flush(), "a flush is under way", *town.everybody)
    for process in wrong:
        process.kill()
    for process in wrong[:-1]:
        process.start()
    until(lambda: not house.journal.one("SELECT count(*) FROM lakehouse_batchpayload"), "all is flushed", *wrong)
    shop.process.start()
    assert_nothing_is_lost(house, shop)


@on_postgresql
def test_a_database_that_is_gone_for_a_while_loses_nothing(town: Town) -> None:
    assert town.database is not None
    shop = town.shop("no-database")
    town.house.journal.close()
    town.database.stop()
    written = edge_app.written(shop.database)
    until(lambda: edge_app.unacknowledged(shop.database) >= 2, "batches meet no database", shop.process)
    until(lambda: edge_app.written(shop.database) > written + 500, "it goes on writing", shop.process)
    town.database.start()
    assert_nothing_is_lost(town.house, shop)


@on_sqlite
def test_a_full_disk_under_the_parent_acks_nothing_and_loses_nothing(town: Town) -> None:
    house, shop = town.house, town.shop("full-disk")
    usual = full(house.daphne)
    until(lambda: edge_app.unacknowledged(shop.database) >= 3, "batches wait for an ack", house.daphne, shop.process)
    journalled, written = house.journalled(), edge_app.written(shop.database)
    until(lambda: edge_app.written(shop.database) > written + 500, "the shop writes on", shop.process)
    assert house.journalled() == journalled
    resource.prlimit(house.daphne.pid, resource.RLIMIT_FSIZE, usual)
    assert_nothing_is_lost(house, shop)


@on_sqlite
def test_a_full_disk_under_the_workers_commits_nothing_and_loses_nothing(town: Town) -> None:
    house, shop, workers = town.house, town.shop("full-lake"), [town.house.worker, town.second_worker]
    usual = [full(worker) for worker in workers]
    before = house.journalled()
    until(lambda: house.journalled() > before, "something more waits", house.daphne)
    commits, wanted = house.commit_number(), 5 * EAGER["flush_threshold_entries"]
    pending = "SELECT sum(pending_entries) FROM lakehouse_parent"
    until(lambda: house.journal.one(pending) > wanted, "more waits than a flush begins with", *town.everybody)
    assert house.commit_number() == commits
    for worker, limits in zip(workers, usual, strict=True):
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, limits)
    assert_nothing_is_lost(house, shop)


@on_sqlite
def test_a_full_disk_under_a_child_loses_nothing_it_was_told_is_written(town: Town) -> None:
    shop = town.shop("full-child")
    full(shop.process)
    until(lambda: not shop.process.is_running, "the application ends, for it cannot write", shop.process)
    shop.process.start()
    assert_nothing_is_lost(town.house, shop)


def full(process: Process) -> tuple[int, int]:
    """No file of this process grows any more, as on a full disk; returns what it was allowed."""
    usual = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, usual[1]))
    return usual


def test_after_all_that_everybody_lives_and_the_sums_of_children_journal_and_files_agree(town: Town) -> None:
    assert all(process.is_running for process in town.everybody)
    assert_sums_agree(town.house)
