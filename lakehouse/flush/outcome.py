"""Whether an append that was announced is in its table, told from what the table says of itself. Pure.

A stamp is in the snapshot's summary and in a property of the table, both of the same commit. Summaries go with their
snapshots when those expire; the property stays until somebody takes it away. "I cannot tell" is an answer, and never
means "it is not there" (docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STAMP_SEPARATOR = "-"


@dataclass(frozen=True, slots=True)
class Announced:
    """What the journal wrote down before the catalog was asked."""

    stamp: str
    table_uuid: str
    base_snapshot_id: int | None
    marker_before: str


@dataclass(frozen=True, slots=True)
class SeenSnapshot:
    snapshot_id: int
    parent_id: int | None
    sequence_number: int | None
    stamp: str
    """Ours in its summary, or empty."""


@dataclass(frozen=True, slots=True)
class SeenTable:
    """One loaded handle. `snapshots` are all it still has."""

    table_uuid: str
    main_snapshot_id: int | None
    snapshots: Sequence[SeenSnapshot]
    marker: str
    """Our property, or empty."""


@dataclass(frozen=True, slots=True)
class Landed:
    snapshot_id: int | None
    """None: its snapshot has expired."""


@dataclass(frozen=True, slots=True)
class Absent:
    pass


@dataclass(frozen=True, slots=True)
class Unknown:
    why: str


Outcome = Landed | Absent | Unknown


def look_up(announced: Announced, seen: SeenTable | None) -> Outcome:
    """`seen` is None when there is no such table."""
    if seen is None:
        return Unknown("the table is gone")
    if seen.table_uuid != announced.table_uuid:
        return Unknown(f"the table is another one ({seen.table_uuid}, wanted {announced.table_uuid})")
    for snapshot in seen.snapshots:
        if snapshot.stamp == announced.stamp:
            return Landed(snapshot.snapshot_id)
    if seen.marker == announced.stamp:
        return Landed(None)
    if _has_whole_history(seen, announced.base_snapshot_id):
        return Absent()
    if not seen.marker:
        return Unknown("the table has no marker of ours, and snapshots that may have had one have expired")
    if seen.marker == announced.marker_before:
        return Absent()
    return Unknown(f"the marker of the table is {seen.marker!r}, of neither this flush nor the one before it")


def is_ahead(marker: str, flush_id: int) -> bool:
    """Whether the table has a flush that the journal has not come to."""
    number, found, _ = marker.partition(STAMP_SEPARATOR)
    return bool(found) and number.isdecimal() and int(number) >= flush_id


def _has_whole_history(seen: SeenTable, base: int | None) -> bool:
    """Whether every snapshot between main and the base is still there; then a stamp would have been seen.

    A table that began empty begins with sequence number 1; catalogs that show the newest snapshot only call it a first.
    """
    known = {snapshot.snapshot_id: snapshot for snapshot in seen.snapshots}
    at = seen.main_snapshot_id
    for _ in range(len(known) + 1):
        if at == base:
            return True
        snapshot = known.get(at) if at is not None else None
        if snapshot is None or (snapshot.parent_id is None and snapshot.sequence_number != 1):
            return False
        at = snapshot.parent_id
    return False
