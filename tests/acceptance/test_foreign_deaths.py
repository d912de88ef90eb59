"""Flushes into a catalog that is not ours, by real processes: workers die around its commits and one sleeps too long.

One house, two tables, one story. The catalog is pyiceberg's of SQL kind, in a file of its own. Who flushes is a command
and no worker of Celery, so that who does it next is said here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lakehouse.catalog import foreign
from lakehouse.conf import Settings
from lakehouse.query import duck
from rpc.failpoints import VARIABLE, Failpoint
from tests.acceptance.processes import ROOT, WITHIN_S, House, Process, assert_exactly_once, until
from tests.acceptance.test_street import EAGER, LEASE_MS, new_database
from tests.lakehouse.foreign_site import settings_of
from tests.services import free_port

STEPS = [
    (Failpoint.FOREIGN_ANNOUNCED, "kill@1"),
    (Failpoint.FOREIGN_APPENDING, "kill@2"),
    (Failpoint.FOREIGN_APPENDED, "kill@2"),
    (Failpoint.FOREIGN_APPENDING, "pause@2"),
]
"""At the second of two tables. Each table is tried in test_foreign.py, without processes."""

RESCUE = """
import django, time
django.setup()
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Parent
from lakehouse.tasks import flusher
while flusher().run(Parent.objects.get().pk, trigger=FlushTrigger.MANUAL) is None:
    time.sleep(0.1)  # the lease of the other has not ended
"""
"""One flush, of whoever comes next."""


class ForeignHouse(House):
    """Its tables are found where they are."""

    def lake(self, source: str | None = None) -> list[dict[str, Any]]:
        wanted, values = ("WHERE _source = ?", [source]) if source is not None else ("", [])
        opened = foreign.of(self.settings)
        found: list[dict[str, Any]] = []
        with duck.connect(self.settings) as connection:
            for name, location in opened.locations(["lake"]).get("lake", {}).items():
                cursor = connection.execute(f"SELECT * FROM {duck.scan(location)} {wanted}", values)
                columns = [column[0] for column in cursor.description]
                found += [{"_table": name, **dict(zip(columns, row, strict=True))} for row in cursor.fetchall()]
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
    for process in (house.daphne, shop.process):
        process.start()
    for number, (point, action) in enumerate(STEPS):
        until(lambda: waiting(house) > 50, "changes wait for a flush", shop.process, house.daphne)
        flusher = a_flusher(house, f"flusher-{number}", point, action)
        flusher.start()
        until(lambda one=flusher: is_gone(one), f"it meets {point}={action}", flusher, within_s=2 * WITHIN_S)
        doubtful = house.open_flush()
        house.run([sys.executable, "-c", RESCUE])
        assert house.journal.rows(f"SELECT state FROM lakehouse_flush WHERE id = {doubtful}") == [("committed",)]
        if action.startswith("pause"):
            flusher.send(signal.SIGCONT)
            until(lambda one=flusher: one.running.poll() is not None, "who slept is awake and gone", flusher)
            assert "is somebody else's, or finished, by now" in flusher.said
    assert shop.process.end() == 0, shop.process.said
    house.manage("flush_buffers", "--wait")
    assert assert_exactly_once(house, shop) > 30
    rows = house.journal.rows
    assert rows("SELECT pending_batches, pending_entries, pending_bytes FROM lakehouse_parent") == [(0, 0, 0)]
    assert rows("SELECT state FROM lakehouse_batch GROUP BY state") == [("persisted",)]
    assert rows("SELECT count(*) FROM lakehouse_foreigncommit") == [(0,)]
    assert rows("SELECT count(*) FROM lakehouse_icebergtable") == [(0,)]


def waiting(house: House) -> int:
    return int(house.journal.one("SELECT coalesce(sum(pending_entries), 0) FROM lakehouse_parent"))


def a_flusher(house: House, name: str, point: Failpoint, action: str) -> Process:
    """A worker without a broker, with this end before it."""
    made = house.another(name, [sys.executable, str(ROOT / "manage.py"), "flush_buffers"])
    made.env = {**made.env, VARIABLE: f"{point}={action}"}
    return made


def is_gone(flusher: Process) -> bool:
    """Dead, or stopped."""
    assert flusher.running is not None
    if flusher.running.poll() is not None:
        assert flusher.running.returncode == -signal.SIGKILL, flusher.said
        return True
    return psutil.Process(flusher.pid).status() == psutil.STATUS_STOPPED
