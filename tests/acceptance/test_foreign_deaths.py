"""Flushes into a catalog that is not ours, by real processes: a worker dies at each step of it and one sleeps too long.

One house, two tables, one story. The catalog is pyiceberg's of SQL kind, in a file of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse.catalog import foreign
from lakehouse.conf import Settings
from lakehouse.query import duck
from lakehouse.torture import edge_app
from rpc.failpoints import VARIABLE, Failpoint
from tests.acceptance.processes import WITHIN_S, House, Process, assert_exactly_once, until
from tests.acceptance.test_street import EAGER, LEASE_MS, new_database
from tests.lakehouse.foreign_site import settings_of
from tests.services import free_port

STEPS = [
    (Failpoint.FOREIGN_ANNOUNCED, "kill"),
    (Failpoint.FOREIGN_APPENDING, "kill"),
    (Failpoint.FOREIGN_APPENDED, "kill"),
    (Failpoint.MARKED, "kill"),
    (Failpoint.FOREIGN_APPENDING, "pause"),
]


class ForeignHouse(House):
    """Its tables are found where they are."""

    def lake(self) -> list[dict[str, Any]]:
        opened = foreign.of(self.settings)
        found: list[dict[str, Any]] = []
        with duck.connect(self.settings) as connection:
            for name, location in opened.locations(["lake"]).get("lake", {}).items():
                cursor = connection.execute(f"SELECT * FROM {duck.scan(location)}")
                columns = [column[0] for column in cursor.description]
                found += [{"_table": name, **dict(zip(columns, values, strict=True))} for values in cursor.fetchall()]
        opened.catalog.close()
        return found


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    given: Settings = settings_of(tmp_path)
    settings: dict[str, object] = {
        "open": True,
        "lease_ms": LEASE_MS,
        "up_port": free_port(),
        "catalog": given.catalog,
        "catalog_properties": given.catalog_properties,
    }
    if os.environ.get("EVODB_TEST_DATABASE", "sqlite") == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgres_url"))
    with ForeignHouse(tmp_path, **settings) as house:
        house.prepare(**EAGER)
        yield house


def test_every_change_is_in_the_foreign_catalog_once_whoever_dies_or_sleeps(house: House) -> None:
    shop = house.child("shop-1", writes_per_s_max=60)
    rescuer = house.another("rescuer", house.worker.argv)
    for process in (house.daphne, house.beat, shop.process):
        process.start()
    for point, action in STEPS:
        meets_its_end(house, house.worker, point, action)
        rescuer.start()
        before = house.commit_number()
        until(lambda before=before: house.commit_number() > before + 1, f"it goes on after {point}={action}", rescuer)
        if action == "pause":
            house.worker.send(signal.SIGCONT)
            until(lambda: "LeaseLost" in house.worker.said, "the one that slept has lost", house.worker)
            house.worker.kill()
        rescuer.kill()
    rescuer.start()
    written = edge_app.written(shop.database)
    until(lambda: edge_app.written(shop.database) > written, "the child goes on", shop.process, house.daphne)
    assert shop.process.end() == 0, shop.process.said
    house.manage("flush_buffers", "--wait")
    assert assert_exactly_once(house, shop) > 30
    rows = house.journal.rows
    assert rows("SELECT pending_batches, pending_entries, pending_bytes FROM lakehouse_parent") == [(0, 0, 0)]
    assert rows("SELECT state FROM lakehouse_batch GROUP BY state") == [("persisted",)]
    assert rows("SELECT count(*) FROM lakehouse_foreigncommit") == [(0,)]
    assert rows("SELECT count(*) FROM lakehouse_icebergtable") == [(0,)]
    assert "green" in house.manage("verify")
    assert "lake.orders" in house.manage("lake", "stats")
    assert "Nothing is in doubt." in house.manage("in_doubt")


def meets_its_end(house: House, worker: Process, point: Failpoint, action: str) -> None:
    usual = worker.env
    worker.env = {**usual, VARIABLE: f"{point}={action}@2"}
    worker.start()
    until(lambda: is_gone(worker), f"the worker meets {point}={action}", worker, house.daphne, within_s=2 * WITHIN_S)
    worker.env = usual


def is_gone(worker: Process) -> bool:
    """Dead, or stopped."""
    assert worker.running is not None
    if worker.running.poll() is not None:
        assert worker.running.returncode == -signal.SIGKILL, worker.said
        return True
    return any(one.status() == "stopped" for one in worker.tree())
