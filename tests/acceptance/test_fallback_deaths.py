"""The store is away and comes back, and the worker dies at each step of that: each change is in the lake exactly once.

The outage is a drill's: a moment in the breaker's row until which every flush finds the store away.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from lakehouse.clock import now_ms
from rpc.failpoints import Failpoint
from tests.acceptance.processes import WITHIN_S, House, assert_sums_agree, connection_to, dies_at, dies_at_each, until
from tests.acceptance.test_deaths import DATABASE, assert_nothing_is_lost
from tests.acceptance.test_street import EAGER, LEASE_MS, new_database
from tests.services import free_port

BREAKER = """
import django
django.setup()
from lakehouse.models import StoreBreaker
StoreBreaker.objects.create(pk=1)
"""
OUTAGE_MS = 600_000
RECOVERY = (Failpoint.RECOVERY_STAGED, Failpoint.RECOVERY_SWAPPED)


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings: dict[str, object] = {
        "open": True,
        "lease_ms": LEASE_MS,
        "up_port": free_port(),
        "breaker_failures_max": 1,
        "breaker_open_ms": 1000,
        # The folder that is a laptop's broker sometimes shows a worker a message that is not written yet.
        "broker_url": request.getfixturevalue("redis_url"),
    }
    if DATABASE == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgres_url"))
    with House(tmp_path_factory.mktemp("outage"), **settings) as house:
        house.prepare(**EAGER)
        house.run([sys.executable, "-c", BREAKER])
        for process in (house.daphne, house.worker, house.beat):
            process.start()
        yield house


def test_the_worker_dies_at_each_step_of_an_outage_and_of_its_end(house: House) -> None:
    shop = house.child("shop-1", writes_per_s_max=20)
    shop.process.start()
    until(house.commit_number, "something is in the lake before", house.worker, shop.process, within_s=2 * WITHIN_S)
    outage(house, until_ms=now_ms() + OUTAGE_MS)
    house.worker.kill()
    dies_at(house.worker, Failpoint.FALLBACK_WRITTEN, within_s=2 * WITHIN_S)
    until(lambda: pieces(house) > 1, "rows are kept", house.worker)
    house.worker.kill()
    outage(house, until_ms=0)
    dies_at_each(house.worker, RECOVERY)
    until(lambda: not pieces(house), "nothing is kept any more", house.worker)
    assert_nothing_is_lost(house, shop)
    assert house.journal.one("SELECT count(*) FROM lakehouse_flush WHERE trigger = 'recovery' AND state = 'committed'")


def test_after_all_deaths_the_sums_of_children_journal_and_files_agree(house: House) -> None:
    assert_sums_agree(house)


def outage(house: House, *, until_ms: int) -> None:
    with closing(connection_to(house.settings.resolved_database_url)) as database, database:
        told = database.execute(f"UPDATE lakehouse_storebreaker SET outage_until_ms = {until_ms}")
        assert told.rowcount == 1


def pieces(house: House) -> int:
    return int(house.journal.one("SELECT count(*) FROM lakehouse_fallbackbatch"))
