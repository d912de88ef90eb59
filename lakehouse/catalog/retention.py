"""Which snapshots a table's metadata keeps naming. Every commit reads and writes all of them, so they are bounded.

What a branch or tag points at stays, and the newest of each branch. Others are forgotten when they are too old, and
thinned when there are too many: the span they may live is cut into equal parts, and the first of each part stays. So
there is a way back of days, and a commit costs the same however often a table is written. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import SnapshotRef, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    RemovePartitionStatisticsUpdate,
    RemoveSchemasUpdate,
    RemoveSnapshotRefUpdate,
    RemoveSnapshotsUpdate,
    TableUpdate,
)

from lakehouse.catalog import table_properties
from lakehouse.catalog.pointers import Forgotten
from lakehouse.conf import Settings

HOUR_MS = 3_600_000
AGE, NEWEST, REF_AGE = (
    "history.expire.max-snapshot-age-ms",
    "history.expire.min-snapshots-to-keep",
    "history.expire.max-ref-age-ms",
)
MOST = "evodb.history.max-snapshots"
COLLECTED = "gc.enabled"
"""A table that says no here keeps everything: files of it may belong to others."""
MAIN = "main"
HALVINGS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    age_ms: int
    newest: int
    """Of each branch, however old."""
    most: int
    """Altogether; more are thinned."""
    ref_age_ms: int | None = None
    """None: branches and tags live for ever."""

    def of_table(self, properties: Mapping[str, str]) -> Retention:
        """What the table itself says counts; what it says and cannot be meant does not."""
        found = {
            "age_ms": table_properties.number(properties, AGE, 0),
            "newest": table_properties.number(properties, NEWEST, 1),
            "most": table_properties.number(properties, MOST, 1),
            "ref_age_ms": table_properties.number(properties, REF_AGE, 0),
        }
        return replace(self, **{name: value for name, value in found.items() if value is not None})


def from_settings(settings: Settings) -> Retention:
    return Retention(
        age_ms=settings.snapshot_hours * HOUR_MS, newest=settings.snapshots_newest, most=settings.snapshots_max
    )


def is_collected(metadata: TableMetadata) -> bool:
    """Whether anything of this table may be deleted."""
    return metadata.properties.get(COLLECTED, "true").lower() == "true"


def forgetting(metadata: TableMetadata, retention: Retention, *, now_ms: int) -> tuple[TableUpdate, ...]:
    """What to change so that the metadata names only what is to be kept; nothing when all of it is."""
    wanted = retention.of_table(metadata.properties)
    if not is_collected(metadata):
        return ()
    refs = dict(_living_refs(metadata, wanted, now_ms))
    gone = _gone(metadata, refs, wanted, now_ms)
    updates: list[TableUpdate] = [
        RemoveSnapshotRefUpdate(ref_name=name)  # type: ignore[call-arg]
        for name in metadata.refs
        if name not in refs
    ]
    if gone:
        updates += [
            RemovePartitionStatisticsUpdate(snapshot_id=one.snapshot_id)  # type: ignore[call-arg]
            for one in metadata.partition_statistics
            if one.snapshot_id in gone
        ]
        updates.append(RemoveSnapshotsUpdate(snapshot_ids=sorted(gone)))  # type: ignore[call-arg]
        if schemas := _unused_schemas(metadata, gone):
            updates.append(RemoveSchemasUpdate(schema_ids=schemas))  # type: ignore[call-arg]
    return tuple(updates)


def forgotten(before: TableMetadata, after: TableMetadata) -> tuple[Forgotten, ...]:
    """What the one names and the other does not."""
    kept = {snapshot.snapshot_id for snapshot in after.snapshots}
    statistics = [*before.statistics, *before.partition_statistics]
    return tuple(
        Forgotten(
            snapshot.snapshot_id,
            snapshot.manifest_list,
            tuple(one.statistics_path for one in statistics if one.snapshot_id == snapshot.snapshot_id),
        )
        for snapshot in before.snapshots
        if snapshot.snapshot_id not in kept
    )


def _gone(metadata: TableMetadata, refs: Mapping[str, SnapshotRef], wanted: Retention, now_ms: int) -> set[int]:
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    kept = set(_named(by_id, refs, wanted, now_ms)) | ({metadata.current_snapshot_id} & by_id.keys())
    young = [one for one in metadata.snapshots if one.timestamp_ms > now_ms - wanted.age_ms]
    if len(kept | {one.snapshot_id for one in young}) > wanted.most:
        young = _thinned([one for one in young if one.snapshot_id not in kept], wanted.age_ms, wanted.most - len(kept))
    return by_id.keys() - kept - {one.snapshot_id for one in young}


def _named(
    by_id: Mapping[int, Snapshot], refs: Mapping[str, SnapshotRef], wanted: Retention, now_ms: int
) -> Iterator[int]:
    """What refs point at, and the newest of each branch; a branch may have terms of its own."""
    for ref in refs.values():
        yield ref.snapshot_id
        if ref.snapshot_ref_type is not SnapshotRefType.BRANCH:
            continue
        newest = ref.min_snapshots_to_keep or wanted.newest
        age_ms = ref.max_snapshot_age_ms or 0
        found = by_id.get(ref.snapshot_id)
        for number in range(len(by_id)):
            if found is None or (number >= newest and found.timestamp_ms <= now_ms - age_ms):
                break
            yield found.snapshot_id
            found = None if found.parent_snapshot_id is None else by_id.get(found.parent_snapshot_id)


def _living_refs(metadata: TableMetadata, wanted: Retention, now_ms: int) -> Iterator[tuple[str, SnapshotRef]]:
    for name, ref in metadata.refs.items():
        age_ms = ref.max_ref_age_ms or wanted.ref_age_ms
        head = metadata.snapshot_by_id(ref.snapshot_id)
        if name == MAIN or age_ms is None or head is None or head.timestamp_ms > now_ms - age_ms:
            yield name, ref


def _thinned(snapshots: list[Snapshot], age_ms: int, most: int) -> list[Snapshot]:
    """The first of each part of the span; parts are halved as long as there are not too many.

    Parts are of absolute time and lie within one another, so that what stays once stays the next time.
    """
    if most < 2:
        return []
    span_ms = max(1, -(-age_ms // (most - 1)))
    latest_first = sorted(snapshots, key=lambda one: one.timestamp_ms, reverse=True)
    found: dict[int, Snapshot] = {}
    for halvings in range(HALVINGS_MAX):
        finer = {(one.timestamp_ms << halvings) // span_ms: one for one in latest_first}
        if len(finer) > most:
            break
        found = finer
    return [*found.values()]


def _unused_schemas(metadata: TableMetadata, gone: set[int]) -> list[int]:
    used = {one.schema_id for one in metadata.snapshots if one.snapshot_id not in gone} | {metadata.current_schema_id}
    return [one.schema_id for one in metadata.schemas if one.schema_id not in used]
