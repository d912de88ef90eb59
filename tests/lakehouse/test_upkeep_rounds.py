"""Every table has its turn, and every kind of upkeep at each of them, whatever is wrong with another."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.statistics import StatisticsFile
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    RemoveSnapshotsUpdate,
    SetSnapshotRefUpdate,
    SetStatisticsUpdate,
)

from lakehouse.catalog.retention import HOUR_MS, Retention
from lakehouse.catalog.upkeep import expiry, reachable, rounds
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import DamagedTable
from lakehouse.models import ForgottenSnapshot, TableUpkeep
from tests.lakehouse.upkeep_site import Lake

pytestmark = pytest.mark.django_db(transaction=True)

ONE = Retention(age_ms=0, newest=1, most=1)
YEAR_HOURS = 365 * 24


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


def changed(lake: Lake, *updates: Any) -> None:
    with lake.table().transaction() as change:
        change._apply(updates)


def with_properties(lake: Lake, properties: dict[str, str]) -> None:
    with lake.table().transaction() as change:
        change.set_properties(properties)


def broken_data(lake: Lake) -> None:
    path = Path(lake.table().inspect.files()["file_path"].to_pylist()[0])
    path.write_bytes(b"PAR1" + bytes(path.stat().st_size - 4))


def broken_metadata(lake: Lake) -> None:
    Path(lake.table().metadata_location).write_bytes(b"{}")


def list_that_is_none(lake: Lake) -> None:
    lie = Path(lake.table().location()) / "metadata" / "snap-1-x.avro"
    lie.write_bytes(b"no avro")
    changed(lake, AddSnapshotUpdate(snapshot=snapshot(lake, 77, manifest_list=str(lie))))
    changed(lake, RemoveSnapshotsUpdate(snapshot_ids=[77]))


def snapshot(lake: Lake, number: int, *, summary: dict[str, str] | None = None, **more: Any) -> Snapshot:
    """As a client adds one, with what the newest has unless told otherwise."""
    table = lake.table()
    newest = table.current_snapshot()
    assert newest is not None
    found = {
        "parent_snapshot_id": newest.snapshot_id,
        "sequence_number": table.metadata.last_sequence_number + 1,
        "manifest_list": newest.manifest_list,
        "schema_id": 0,
        **more,
    }
    return Snapshot(snapshot_id=number, summary=Summary(Operation.APPEND, **(summary or {})), **found)


@pytest.mark.parametrize("damage", [broken_data, broken_metadata, list_that_is_none])
def test_a_table_nobody_can_read_keeps_no_other_from_its_upkeep(lake: Lake, damage: Callable[[Lake], None]) -> None:
    lake.commit(4)
    damage(lake)
    lake.commit(4, name="other")
    settings = dataclasses.replace(lake.settings, compact_files_min=2, forgotten_hours=0)
    last_ms = 0
    for hours in (1, 7, 13):
        ahead_ms = hours * HOUR_MS
        rounds.go(lake.catalog, settings, now_ms=lambda: now_ms() + ahead_ms, until=lambda: False)  # noqa: B023
        looked = TableUpkeep.objects.filter(looked_ms__gt=last_ms).count()
        assert looked == 2
        last_ms = now_ms() + ahead_ms
    assert len(lake.table("other").inspect.files()) == 1
    assert TableUpkeep.objects.get(table=lake.row("other")).swept_ms > 0


def test_a_step_that_fails_is_told_and_keeps_none_from_the_others(lake: Lake) -> None:
    lake.commit(4)
    broken_data(lake)
    settings = dataclasses.replace(lake.settings, compact_files_min=2, snapshots_newest=1, snapshots_max=2)
    with lake.keeper() as keeper, pytest.raises(DamagedTable, match=r"files of lake\.flights cannot be read"):
        rounds.keep(keeper, settings)
    assert len(lake.table().snapshots()) < 4
    assert TableUpkeep.objects.get().swept_ms > 0


def test_a_number_of_many_digits_counts_for_nothing_and_stops_no_flush(lake: Lake) -> None:
    lake.commit(2)
    names = ("evodb.history.max-snapshots", "write.target-file-size-bytes")
    with_properties(lake, dict.fromkeys(names, "9" * 5000))
    lake.commit(2)
    with lake.keeper() as keeper:
        assert rounds.keep(keeper, dataclasses.replace(lake.settings, compact_files_min=2)).compacted.old == 4


def test_a_table_whose_manifests_take_longer_than_a_round_is_compacted_and_swept(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.commit()
    with_properties(lake, {"commit.manifest-merge.enabled": "false"})
    lake.commit(5)
    clock_ms = [now_ms()]
    fields = reachable._fields

    def slow(*args: Any) -> Any:
        clock_ms[0] += 1000
        return fields(*args)

    monkeypatch.setattr(reachable, "_fields", slow)
    settings = dataclasses.replace(lake.settings, compact_files_min=4)
    until_ms = clock_ms[0] + 3000
    rounds.go(lake.catalog, settings, now_ms=lambda: clock_ms[0], until=lambda: clock_ms[0] >= until_ms)
    assert len(lake.table().inspect.files()) == 1
    assert TableUpkeep.objects.get().swept_ms > 0


@pytest.mark.once
def test_merging_manifests_comes_to_an_end(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MANIFESTS_MIN", 2)
    lake.commit()
    with_properties(lake, {"commit.manifest-merge.enabled": "false"})
    for _ in range(3):
        lake.commit()
        lake.commit(each=100, days=100)
    table = lake.table()
    newest = table.current_snapshot()
    assert newest is not None
    sizes = [one.manifest_length for one in newest.manifests(table.io)]
    with_properties(lake, {"commit.manifest.target-size-bytes": str(max(2 * min(sizes) + 500, max(sizes) + 100))})
    settings = dataclasses.replace(lake.settings, compact_files_min=0)
    versions = []
    for _ in range(4):
        rounds.go(lake.catalog, settings, now_ms=now_ms, until=lambda: False)
        versions.append(lake.row().version)
    assert versions[-1] == versions[-2]


def test_a_clock_that_was_a_year_ahead_keeps_no_table_waiting(lake: Lake) -> None:
    lake.commit()
    for hours in (YEAR_HOURS, 3 * 24):
        ahead_ms = now_ms() + hours * HOUR_MS
        assert rounds.go(lake.catalog, lake.settings, now_ms=lambda: ahead_ms, until=lambda: False) == 1  # noqa: B023
    upkeep = TableUpkeep.objects.get()
    assert upkeep.swept_ms == upkeep.looked_ms == ahead_ms


def test_the_grace_is_by_our_clock_and_not_by_that_of_a_client(lake: Lake) -> None:
    lake.commit(3)
    since_ms = now_ms()
    changed(
        lake,
        AddSnapshotUpdate(snapshot=snapshot(lake, 79, timestamp_ms=since_ms - 5 * HOUR_MS)),
        SetSnapshotRefUpdate(ref_name="main", type="branch", snapshot_id=79),
        RemoveSnapshotsUpdate(snapshot_ids=[lake.table().snapshots()[0].snapshot_id]),
    )
    assert ForgottenSnapshot.objects.get().forgotten_ms >= since_ms


def test_a_statistics_file_of_two_snapshots_stays_as_long_as_one_of_them(lake: Lake) -> None:
    lake.commit(2)
    place = Path(lake.table().location()) / "metadata" / "s.puffin"
    place.write_bytes(b"PFA1")
    for one in lake.table().snapshots():
        file = StatisticsFile(
            snapshot_id=one.snapshot_id,
            statistics_path=str(place),
            file_size_in_bytes=4,
            file_footer_size_in_bytes=0,
            blob_metadata=[],
        )
        changed(lake, SetStatisticsUpdate(statistics=file))
    with lake.keeper() as keeper:
        expiry.forget(keeper, ONE)
        expiry.delete(keeper, before_ms=2**62)
    assert [one.statistics_path for one in lake.table().metadata.statistics] == [str(place)]
    assert place.exists()


def command(*args: str) -> str:
    out = io.StringIO()
    call_command("lake", *args, stdout=out, stderr=out)
    return out.getvalue()


def test_the_command_goes_on_with_the_next_table(settings: Any, lake: Lake) -> None:
    settings.EVODB = lake.settings
    lake.commit(4)
    broken_data(lake)
    lake.commit(4, name="other")
    with pytest.raises(CommandError, match="1 of 2 tables are not done"):
        command("compact", "--all")
    assert len(lake.table("other").inspect.files()) == 1


def test_the_command_shows_a_table_that_says_strange_things_of_itself(settings: Any, lake: Lake) -> None:
    settings.EVODB = lake.settings
    lake.commit()
    changed(
        lake,
        AddSnapshotUpdate(snapshot=snapshot(lake, 78, summary={"total-files-size": "lots"})),
        SetSnapshotRefUpdate(ref_name="main", type="branch", snapshot_id=78),
    )
    assert "1 files, 1." in command("stats")
    broken_metadata(lake)
    assert "its metadata cannot be read" in command("stats")
    with pytest.raises(CommandError, match="there is no table ''"):
        command("expire", "--table", "")
