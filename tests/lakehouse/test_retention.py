"""Which snapshots a table keeps: a bounded number of them, whatever is written how often."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata, TableMetadataV2
from pyiceberg.table.refs import SnapshotRef
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import _apply_table_update, _TableMetadataUpdateContext
from pyiceberg.types import LongType, NestedField

from lakehouse.catalog.retention import HOUR_MS, Retention, forgetting, forgotten

NOW = 1_800_000_000_000
DAY = 24 * HOUR_MS
PLAIN = Retention(age_ms=5 * DAY, newest=3, most=10)


def table(ages: list[int], *, refs: dict[str, SnapshotRef] | None = None, **properties: str) -> TableMetadata:
    """Snapshots of these ages, the oldest first and each the parent of the next; their ids count from 1."""
    snapshots = [
        Snapshot(
            snapshot_id=number,
            parent_snapshot_id=number - 1 or None,
            timestamp_ms=NOW - age,
            manifest_list=f"list-{number}",
            schema_id=0,
            sequence_number=number,
        )
        for number, age in enumerate(ages, start=1)
    ]
    main = SnapshotRef(snapshot_id=len(ages), snapshot_ref_type="branch")
    return TableMetadataV2(
        location="lake/t",
        last_column_id=1,
        schemas=[Schema(NestedField(1, "a", LongType()))],
        partition_specs=[{"spec-id": 0, "fields": []}],
        properties=properties,
        snapshots=snapshots,
        current_snapshot_id=len(ages),
        refs={"main": main, **(refs or {})},
        last_sequence_number=len(ages),
    )


def after(metadata: TableMetadata, retention: Retention = PLAIN) -> TableMetadata:
    context = _TableMetadataUpdateContext()
    for update in forgetting(metadata, retention, now_ms=NOW):
        metadata = _apply_table_update(update, metadata, context)
    return metadata


def left(metadata: TableMetadata, retention: Retention = PLAIN) -> list[int]:
    return [snapshot.snapshot_id for snapshot in after(metadata, retention).snapshots]


def ref(snapshot_id: int, kind: str = "tag", **more: Any) -> SnapshotRef:
    return SnapshotRef(snapshot_id=snapshot_id, snapshot_ref_type=kind, **more)


def test_what_is_young_enough_stays_and_nothing_is_changed() -> None:
    assert forgetting(table([4 * DAY, DAY, 0]), PLAIN, now_ms=NOW) == ()


def test_the_old_are_forgotten_but_never_the_newest() -> None:
    assert left(table([9 * DAY, 8 * DAY, 7 * DAY, 6 * DAY, 6 * DAY])) == [3, 4, 5]
    assert left(table([9 * DAY])) == [1]


def test_many_commits_of_a_minute_are_thinned_to_a_bounded_number() -> None:
    found = left(table([400 - number for number in range(400)]))
    assert found[-3:] == [398, 399, 400]
    assert len(found) <= PLAIN.most


def test_what_is_thinned_lies_evenly_over_the_days() -> None:
    hourly = table([hours * HOUR_MS for hours in range(119, -1, -1)])
    ages = [(NOW - snapshot.timestamp_ms) // HOUR_MS for snapshot in after(hourly).snapshots]
    assert ages[-3:] == [2, 1, 0]
    assert len(ages) <= PLAIN.most
    assert max(ages) > 80
    assert max(a - b for a, b in pairwise(ages)) <= 21


def test_thinning_again_and_again_keeps_what_stayed_once() -> None:
    """With a commit each hour, a way back of days is there on each of them."""
    kept: list[int] = []
    for hour in range(200):
        kept.append(hour)
        now = NOW + hour * HOUR_MS
        metadata = table([NOW - (NOW + one * HOUR_MS) for one in kept])
        changes = forgetting(metadata, PLAIN, now_ms=now)
        gone = {number for change in changes for number in getattr(change, "snapshot_ids", [])}
        kept = [one for number, one in enumerate(kept, start=1) if number not in gone]
        assert len(kept) <= PLAIN.most
        assert hour - kept[0] >= min(hour, 99)


def test_tags_and_branches_keep_what_they_point_at() -> None:
    ages = [9 * DAY] * 6 + [0] * 3
    assert left(table(ages, refs={"audit": ref(2)})) == [2, 7, 8, 9]
    assert left(table(ages, refs={"try": ref(4, "branch")})) == [2, 3, 4, 7, 8, 9]
    assert left(table(ages, refs={"try": ref(4, "branch", min_snapshots_to_keep=1)})) == [4, 7, 8, 9]


def test_a_tag_that_is_too_old_goes_with_its_snapshot() -> None:
    metadata = after(
        table([9 * DAY, 0], refs={"audit": ref(1, max_ref_age_ms=DAY)}), Retention(age_ms=1, newest=1, most=9)
    )
    assert (list(metadata.refs), metadata.current_snapshot_id, len(metadata.snapshots)) == (["main"], 2, 1)


def test_what_a_table_says_counts_and_nonsense_does_not() -> None:
    ages = [3 * DAY, 2 * DAY, 0]
    one = {"history.expire.min-snapshots-to-keep": "1"}
    assert left(table(ages, **{"history.expire.max-snapshot-age-ms": str(DAY)}, **one)) == [3]
    assert left(table(ages, **{"history.expire.max-snapshot-age-ms": "soon"}, **one)) == [1, 2, 3]
    assert left(table(ages, **{"evodb.history.max-snapshots": "1"}, **one)) == [3]
    assert left(table([9 * DAY, 0], **{"gc.enabled": "false"}, **one)) == [1, 2]


def test_schemas_no_snapshot_has_any_more_go() -> None:
    metadata = table([9 * DAY, 0])
    first, second = metadata.snapshots
    changes = {
        "schemas": [*metadata.schemas, Schema(NestedField(1, "a", LongType()), schema_id=1)],
        "snapshots": [first, second.model_copy(update={"schema_id": 1})],
        "current_schema_id": 1,
    }
    changed = after(metadata.model_copy(update=changes), Retention(age_ms=DAY, newest=1, most=9))
    assert [schema.schema_id for schema in changed.schemas] == [1]


def test_what_was_forgotten_is_known_by_its_files() -> None:
    before = table([9 * DAY, 8 * DAY, 0, 0, 0])
    [first, second] = forgotten(before, after(before))
    assert (first.snapshot_id, first.manifest_list, second.manifest_list) == (1, "list-1", "list-2")


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_bound_that_leaves_no_room_keeps_the_newest(most: int) -> None:
    assert left(table([4, 3, 2, 1, 0]), Retention(age_ms=DAY, newest=3, most=most)) == [3, 4, 5]
