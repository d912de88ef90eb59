"""One keeper at a time, of one table, whatever it is called by now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from lakehouse.catalog.retention import HOUR_MS, Retention
from lakehouse.catalog.upkeep import compaction, expiry, orphans
from lakehouse.catalog.upkeep.compaction import Terms
from lakehouse.catalog.upkeep.lease import Keeper, kept
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import LeaseLost
from lakehouse.renewal import renewed
from tests.lakehouse.upkeep_site import LEASE_MS, Lake

pytestmark = pytest.mark.django_db(transaction=True)

ONE = Retention(age_ms=0, newest=1, most=1)
WORK: dict[str, Callable[[Keeper], object]] = {
    "forget": lambda keeper: expiry.forget(keeper, ONE),
    "delete": lambda keeper: expiry.delete(keeper, before_ms=2**62),
    "compact": lambda keeper: compaction.compact(keeper, Terms(target_bytes=2**27, files_min=2, is_tiered=False)),
    "sweep": lambda keeper: orphans.sweep(keeper, before_ms=now_ms() + HOUR_MS, is_dry_run=False),
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


def renamed_and_made_anew(lake: Lake) -> None:
    lake.catalog.rename_table("lake.flights", "lake.old")
    lake.commit()


@pytest.mark.parametrize("work", WORK)
def test_a_table_renamed_meanwhile_keeps_its_files_and_so_does_the_new_one_of_its_name(lake: Lake, work: str) -> None:
    lake.commit(3)
    with lake.keeper() as keeper:
        expiry.forget(keeper, ONE)
        renamed_and_made_anew(lake)
        with pytest.raises(LeaseLost, match=r"lake\.flights was renamed to lake\.old"):
            WORK[work](keeper)
    assert lake.rows("old").total() == 6
    assert lake.rows().total() == 2


def test_a_table_renamed_after_it_was_looked_at_is_the_one_that_is_committed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.commit(3)
    commit = Keeper.commit

    def meet(*args: Any, **keywords: Any) -> None:
        renamed_and_made_anew(lake)
        commit(*args, **keywords)

    with lake.keeper() as keeper:
        monkeypatch.setattr(Keeper, "commit", meet)
        expiry.forget(keeper, ONE)
    assert [len(lake.table(name).snapshots()) for name in ("old", "flights")] == [1, 1]
    assert lake.row("old").forgotten.count() == 2
    assert lake.rows("old").total() == 6


def test_who_took_the_lease_a_moment_ago_or_renews_it_now_keeps_it(lake: Lake) -> None:
    lake.commit()
    clock_ms = now_ms()
    with kept(lake.row(), lake.catalog, lease_ms=LEASE_MS, now_ms=lambda: clock_ms) as first:
        assert first is not None
        for slow_ms in (1, 5):  # Since the other looked at the clock.
            first.renew()
            with kept(lake.row(), lake.catalog, lease_ms=LEASE_MS, now_ms=lambda: clock_ms - slow_ms) as second:  # noqa: B023
                assert second is None
        first.renew()


def test_the_lease_is_renewed_again_after_the_database_was_away() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("a connection of SQLite does not break")
    pids: list[int] = []
    first, second = threading.Event(), threading.Event()

    def renew() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])
        (second if pids[0] != pids[-1] else first).set()

    with renewed(renew, term_ms=60, what="the lease of a test"):
        assert first.wait(10)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pids[0]])
        assert second.wait(10)
