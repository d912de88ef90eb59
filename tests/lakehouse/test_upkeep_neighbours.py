"""Tables that share a folder, and flushes that share it with a sweep, lose nothing to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from pyiceberg.exceptions import TableAlreadyExistsError
from pyiceberg.table.update import SetLocationUpdate

from lakehouse.catalog import tables
from lakehouse.catalog.retention import HOUR_MS
from lakehouse.catalog.upkeep import orphans
from lakehouse.catalog.upkeep.orphans import Swept
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.models import Flush
from tests.builders import parent
from tests.lakehouse.staging import stage_rows
from tests.lakehouse.test_tables import rows as some_rows
from tests.lakehouse.upkeep_site import PARQUET, Lake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


def sweep(lake: Lake) -> Swept:
    with lake.keeper() as keeper:
        return orphans.sweep(keeper, before_ms=now_ms() + HOUR_MS, is_dry_run=False)


def test_a_table_is_not_registered_under_two_names(lake: Lake) -> None:
    lake.commit(2)
    location = lake.table().metadata_location
    lake.commit()
    with pytest.raises(TableAlreadyExistsError, match=r"lake\.flights lies in .*register this one again"):
        lake.catalog.register_table("lake.copy", location)
    lake.catalog.drop_table("lake.flights")
    lake.catalog.register_table("lake.copy", location)
    assert lake.rows("copy").total() == 4


def test_a_table_below_another_can_be_registered(lake: Lake) -> None:
    lake.commit()
    lake.catalog.create_namespace("lake.flights")
    below = lake.catalog.create_table("lake.flights.late", lake.table().schema())
    lake.catalog.drop_table("lake.flights.late")
    assert lake.catalog.register_table("lake.flights.late", below.metadata_location)


def guest_in_our_data(lake: Lake) -> str:
    path = f"{lake.table().location()}/data"
    guest = lake.catalog.create_table("lake.guest", lake.table().schema(), properties={"write.data.path": path})
    guest.append(lake.table().scan().to_arrow())
    return "guest"


def moved_out(lake: Lake) -> str:
    home = lake.table().location()
    lake.catalog.rename_table("lake.flights", "lake.old")
    with lake.table("old").transaction() as change:
        change._apply((SetLocationUpdate(location=f"{home}-old"),))
    lake.commit()
    return "old"


@pytest.mark.parametrize("neighbour", [guest_in_our_data, moved_out])
def test_files_of_a_table_that_lies_elsewhere_are_not_swept(lake: Lake, neighbour: Callable[[Lake], str]) -> None:
    lake.commit(2)
    name = neighbour(lake)
    swept = sweep(lake)
    assert swept.found > 0
    assert swept.deleted == 0
    assert f"table lake.{name} has files in" in str(swept)
    assert lake.rows(name).total() == 4


def test_a_dropped_table_can_be_registered_after_one_of_its_name_was_made_again_and_swept(lake: Lake) -> None:
    lake.commit(2)
    location = lake.table().metadata_location
    lake.catalog.drop_table("lake.flights")
    lake.commit()
    swept = sweep(lake)
    assert swept.found > 0
    assert swept.deleted == 0
    assert "delete it when nobody will register it again" in str(swept)
    lake.catalog.drop_table("lake.flights")
    lake.catalog.register_table("lake.back", location)
    assert lake.rows("back").total() == 4


@pytest.mark.parametrize("begun", ["before", "meanwhile"])
def test_a_sweep_whose_clock_is_days_ahead_takes_no_file_of_a_flush(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    lake.commit(2)
    found, staged = orphans._old_files, []

    def begin() -> None:
        Flush.objects.create(parent=parent(), trigger="age", lease_epoch=1, started_ms=now_ms())
        staged.append(stage_rows(lake.catalog, "lake", "flights", some_rows(2), flush_id=9, parquet=PARQUET))

    def meanwhile(*args: Any) -> Any:
        if begun == "meanwhile":
            begin()
        return found(*args)

    monkeypatch.setattr(orphans, "_old_files", meanwhile)
    if begun == "before":
        begin()
    with lake.keeper(hours=4 * 24) as keeper:
        assert orphans.sweep(keeper, before_ms=keeper.now_ms() - 72 * HOUR_MS, is_dry_run=False).deleted == 0
    with transaction.atomic():
        tables.swap(staged)
    assert len(lake.table().scan().to_arrow()) == 6
