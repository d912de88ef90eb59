"""Processes die at every named step of the street, one after the other, and each change is in the lake exactly once.

One house serves all. Each of its programs has a child whose changes it walks for, dies at its first step, goes on, dies
at its next, and so on while that child writes. As in test_street a run takes its own database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lakehouse.torture import edge_app
from rpc.failpoints import Failpoint
from tests.acceptance.processes import Child, House, assert_exactly_once, assert_sums_agree, dies_at_each, until
from tests.acceptance.test_street import EAGER, LEASE_MS, new_database
from tests.services import free_port

DATABASE = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
CHILD = (Failpoint.OUTBOX_WRITTEN, Failpoint.SENT, Failpoint.ACK_LOST)
DAPHNE = (Failpoint.RECEIVED, Failpoint.JOURNALLED, Failpoint.ACKED)
AWAY = (Failpoint.FALLBACK_WRITTEN, Failpoint.RECOVERY_STAGED, Failpoint.RECOVERY_SWAPPED)
"""While the store is away, and when it is back; see test_fallback_deaths."""
FOREIGN = (Failpoint.FOREIGN_ANNOUNCED, Failpoint.FOREIGN_APPENDING, Failpoint.FOREIGN_APPENDED)
"""Into a catalog that is not ours; see test_foreign_deaths."""
AFTERWARDS = tuple(point for point in Failpoint if point.name.startswith(("CURRENT_", "ERASED_", "MOVE_")))
"""Of tables of now, of who erases, of houses that move; see test_current, test_erase, test_move and the torture."""
WORKER = tuple(point for point in Failpoint if point not in CHILD + DAPHNE + AWAY + FOREIGN + AFTERWARDS)
VISIT = 2
"""Not the first one: what the last death left is mended by then, something was sent and acked, and tables exist."""
WRITES_PER_S_MAX = 30
ROWS_MIN = 31


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings: dict[str, object] = {"open": True, "lease_ms": LEASE_MS, "up_port": free_port()}
    if DATABASE == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgres_url"))
    with House(tmp_path_factory.mktemp("deaths"), **settings) as house:
        house.prepare(**EAGER)
        for process in (house.daphne, house.worker, house.beat):
            process.start()
        yield house


def test_the_parent_dies_at_each_of_its_steps(house: House) -> None:
    shop = house.child("shop-parent", writes_per_s_max=WRITES_PER_S_MAX)
    shop.process.start()
    house.daphne.kill()
    dies_at_each(house.daphne, DAPHNE, visit=VISIT)
    assert_nothing_is_lost(house, shop)


def test_the_worker_dies_at_each_of_its_steps(house: House) -> None:
    shop = house.child("shop-worker", writes_per_s_max=WRITES_PER_S_MAX)
    shop.process.start()
    house.worker.kill()
    dies_at_each(house.worker, WORKER, visit=VISIT)
    assert_nothing_is_lost(house, shop)


def test_a_child_dies_at_each_of_its_steps(house: House) -> None:
    shop = house.child("shop-child", writes_per_s_max=WRITES_PER_S_MAX)
    dies_at_each(shop.process, CHILD, visit=VISIT)
    assert_nothing_is_lost(house, shop)


def test_after_all_deaths_the_sums_of_children_journal_and_files_agree(house: House) -> None:
    assert_sums_agree(house)


def assert_nothing_is_lost(house: House, shop: Child) -> None:
    wanted = max(edge_app.written(shop.database) + 1, ROWS_MIN)
    until(lambda: edge_app.written(shop.database) >= wanted, f"{shop.name} goes on", shop.process, house.daphne)
    assert shop.process.end() == 0, shop.process.said
    until(lambda: not house.journal.one("SELECT count(*) FROM lakehouse_batchpayload"), "all is flushed", house.worker)
    assert assert_exactly_once(house, shop) >= ROWS_MIN
    rows = house.journal.rows
    assert rows("SELECT pending_batches, pending_entries, pending_bytes FROM lakehouse_parent") == [(0, 0, 0)]
    assert rows("SELECT state FROM lakehouse_batch GROUP BY state") == [("persisted",)]
    assert rows("SELECT count(*) FROM lakehouse_deadletter") == [(0,)]
