"""Files no snapshot names are told, and deleted when told to; never a file that is named, or may be soon."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.core.management import call_command
from django.db import transaction

from lakehouse.catalog import tables
from lakehouse.catalog.rest import operations, routes, swaps
from lakehouse.catalog.rest.entrance import EVERYBODY
from lakehouse.catalog.retention import HOUR_MS, Retention
from lakehouse.catalog.upkeep import compaction, expiry, orphans
from lakehouse.catalog.upkeep.orphans import Swept
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LeaseLost
from lakehouse.models import Flush, FlushState, TableToMake, TableUpkeep
from tests.builders import parent
from tests.lakehouse.rest_site import new_table
from tests.lakehouse.staging import stage_rows
from tests.lakehouse.test_tables import rows as some_rows
from tests.lakehouse.upkeep_site import PARQUET, Lake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


def later(hours: int = 1) -> int:
    return now_ms() + hours * HOUR_MS


def sweep(lake: Lake, *, before_ms: int | None = None, is_dry_run: bool = False, name: str = "flights") -> Swept:
    with lake.keeper(name=name) as keeper:
        return orphans.sweep(keeper, before_ms=later() if before_ms is None else before_ms, is_dry_run=is_dry_run)


def lost(lake: Lake) -> set[str]:
    """What a flush leaves that staged and died: a data file, a manifest, a list and a metadata file."""
    before = lake.files()
    stage_rows(lake.catalog, "lake", "flights", some_rows(2), flush_id=9, parquet=PARQUET)
    left = lake.files() - before
    assert len(left) == 4
    return left


def test_what_a_dead_flush_left_is_told_and_then_deleted(lake_settings: Settings) -> None:
    lake = Lake(lake_settings)
    lake.commit(3, days=2)
    left, rows = lost(lake), lake.rows()
    told = sweep(lake, is_dry_run=True)
    assert (told.found, told.deleted, {Path(path).name for path in told.named}) == (4, 0, left)
    assert told.size_bytes > 1000
    assert sweep(lake).deleted == 4
    assert lake.files() == lake.reached()
    assert lake.rows() == rows
    assert sweep(lake).found == 0


def test_what_a_first_flush_left_that_died_or_lost_is_swept_too(lake: Lake) -> None:
    stage_rows(lake.catalog, "lake", "flights", some_rows(2), flush_id=8, parquet=PARQUET)
    loser = stage_rows(lake.catalog, "lake", "flights", some_rows(2), flush_id=9, parquet=PARQUET)
    lake.commit()
    with pytest.raises(CommitConflict), transaction.atomic():
        tables.swap([loser])
    swept = sweep(lake)
    assert (swept.stranger, swept.deleted) == ("", 8)
    assert lake.files() == lake.reached()


def test_what_a_client_left_that_made_a_table_and_died_is_swept_too(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create() -> int:
        route = routes.find("POST", b"/v1/namespaces/lake/tables")
        body = orjson.dumps(new_table("flights"))
        done = operations.perform(route, settings=lake.settings, grant=EVERYBODY, query={}, headers={}, body=body)
        return done.status

    def dies(_: object) -> None:
        raise SystemExit

    lake.catalog.create_namespace("lake")
    monkeypatch.setattr(swaps, "reach", dies)
    monkeypatch.setattr(swaps, "_throw_away", lambda *_: None)
    with pytest.raises(SystemExit):
        create()
    monkeypatch.undo()
    assert create() == 200
    swept = sweep(lake)
    assert (swept.stranger, swept.deleted) == ("", 1)
    assert lake.files() == lake.reached()


def test_a_table_made_anew_after_one_was_dropped_or_renamed_is_another_one(lake: Lake) -> None:
    def made() -> str:
        lake.commit()
        return str(lake.table().metadata.table_uuid)

    first = made()
    assert made() == first
    lake.catalog.rename_table("lake.flights", "lake.flown")
    second = made()
    lake.catalog.drop_table("lake.flights")
    assert len({first, second, made()}) == 3
    assert TableToMake.objects.count() == 1


def test_young_files_may_be_named_soon(lake: Lake) -> None:
    lake.commit()
    lost(lake)
    assert sweep(lake, before_ms=now_ms() - HOUR_MS).found == 0


def test_files_of_an_open_flush_stay_however_old_they_are(lake: Lake) -> None:
    lake.commit()
    began = Flush.objects.create(parent=parent(), trigger="age", lease_epoch=1, started_ms=now_ms() - 1000)
    lost(lake)
    assert sweep(lake).found == 0
    Flush.objects.filter(pk=began.pk).update(state=FlushState.ABANDONED)
    assert sweep(lake).deleted == 4


def test_files_of_forgotten_snapshots_wait_for_their_time(lake: Lake) -> None:
    lake.commit(2)
    table = lake.table()
    table.overwrite(table.scan().to_arrow())
    with lake.keeper() as keeper:
        expiry.forget(keeper, Retention(age_ms=0, newest=1, most=1))
    assert sweep(lake).found == 0
    with lake.keeper() as keeper:
        assert expiry.delete(keeper, before_ms=2**62).deleted > 0
    assert lake.files() == lake.reached()


def test_a_renamed_table_shares_its_folder_with_the_new_one_of_its_name(lake: Lake) -> None:
    lake.commit(2)
    lake.catalog.rename_table("lake.flights", "lake.old")
    lake.commit(2)
    assert lake.table().location() == lake.table("old").location()
    assert sweep(lake).found == sweep(lake, name="old").found == 0
    left = lost(lake)
    assert sweep(lake, name="old").deleted == len(left)
    assert (lake.rows().total(), lake.rows("old").total()) == (4, 4)


def test_tables_of_a_namespace_below_are_not_touched(lake: Lake) -> None:
    lake.commit()
    other = stage_rows(lake.catalog, "lake.flights", "data", some_rows(2), flush_id=9, parquet=PARQUET)
    assert sweep(lake).found == 0  # not even before its first commit
    assert Path(other.metadata_location).exists()


def test_a_lake_behind_a_link_is_the_same_lake(tmp_path: Path) -> None:
    lake = Lake(Settings(data_dir=tmp_path / "there"))
    lake.commit(2)
    (tmp_path / "here").symlink_to(tmp_path / "there")
    moved = Lake(Settings(data_dir=tmp_path / "here"))
    lost(lake)
    assert sweep(moved).deleted == 4
    assert lake.rows().total() == 4


def test_a_table_that_collects_nothing_has_no_orphans(lake: Lake) -> None:
    lake.commit()
    lost(lake)
    with lake.table().transaction() as change:
        change.set_properties({"gc.enabled": "false"})
    assert sweep(lake).found == 0


def test_a_manifest_that_cannot_be_read_stops_the_sweep(lake: Lake) -> None:
    lake.commit(2)
    lost(lake)
    before = lake.files()
    snapshot = lake.table().current_snapshot()
    assert snapshot is not None
    place = Path(snapshot.manifests(lake.table().io)[0].manifest_path)
    place.rename(place.with_suffix(".away"))
    with pytest.raises(Exception, match="cannot be read or swept"):
        sweep(lake)
    place.with_suffix(".away").rename(place)
    assert lake.files() == before


def test_more_files_than_are_compared_at_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "AT_ONCE", 3)
    lake.commit(3, days=2)
    lost(lake)
    lost(lake)
    assert sweep(lake).deleted == 8
    assert lake.files() == lake.reached()


def test_a_compaction_that_overslept_the_sweep_commits_nothing(lake: Lake) -> None:
    lake.commit(4)
    with lake.keeper() as asleep:
        table = asleep.load()
        terms = compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False)
        [pile] = compaction._piles(table, asleep, terms)
        old = list(compaction.described(table, pile))
        new = compaction.rewritten(table, old, sum(file.record_count for file in old), terms)
        with lake.keeper(hours=1) as keeper:
            assert orphans.sweep(keeper, before_ms=later(), is_dry_run=False).deleted == 1
        with pytest.raises(LeaseLost):
            compaction.exchange(asleep, old, new, terms)
    assert lake.rows().total() == 8


def command(*args: str) -> str:
    out = io.StringIO()
    call_command("lake", *args, stdout=out, stderr=out)
    return out.getvalue()


def test_the_command_tells_first_and_deletes_when_told_to(settings: Any, lake: Lake) -> None:
    settings.EVODB = lake.settings
    lake.commit()
    left = lost(lake)
    for path in lake.settings.data_dir.rglob("*.*"):
        os.utime(path, (1, 1))
    said = command("orphans")
    assert said.startswith("lake.flights: 4 orphans of ")
    assert all(name in said for name in left)
    assert TableUpkeep.objects.get().orphans == 4
    assert "4 deleted" in command("orphans", "--delete")
    assert TableUpkeep.objects.get().orphans == 0
    assert lake.files() == lake.reached()


def test_the_command_compacts_and_says_so(settings: Any, lake: Lake) -> None:
    settings.EVODB = lake.settings
    lake.commit(4)
    assert "0 files became 0" in command("compact", "--files", "9")
    assert "4 files became 1 with 8 rows" in command("compact", "--all")
    assert "not looked for orphans yet" in command("stats")
    assert "0 orphans" in command("upkeep")
    said = command("stats")
    assert "1 files, " in said
    assert "7 snapshots, 0 more forgotten; 0 orphans" in said
