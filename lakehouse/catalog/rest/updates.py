"""What clients may send, as pyiceberg's metadata functions can apply it.

pyiceberg is a client: it trusts that identifiers are fresh and that what is removed is there. Others (Java's clients
among them) count on the server for that. So a schema, spec or order that is there already is not added again, one whose
identifier is taken gets the next, and "the last one added" (-1) is named. What is the same in both stays as it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionSpec
from pyiceberg.table.metadata import TableMetadata, TableMetadataV1
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSnapshotUpdate,
    AddSortOrderUpdate,
    AssertCreate,
    AssertRefSnapshotId,
    AssignUUIDUpdate,
    RemovePartitionStatisticsUpdate,
    RemovePropertiesUpdate,
    RemoveSnapshotsUpdate,
    RemoveStatisticsUpdate,
    SetCurrentSchemaUpdate,
    SetDefaultSortOrderUpdate,
    SetDefaultSpecUpdate,
    SetLocationUpdate,
    SetPartitionStatisticsUpdate,
    SetPropertiesUpdate,
    SetStatisticsUpdate,
    TableRequirement,
    TableUpdate,
    UpgradeFormatVersionUpdate,
)

from lakehouse.catalog.folders import plain

LAST_ADDED = -1
UNNUMBERED = -1
"""The number of a field in a spec whose client left it to us."""
FORMAT_VERSION = 2
OF_PROPERTIES = (SetPropertiesUpdate, RemovePropertiesUpdate)
Numbered = TypeVar("Numbered")


def check(requirements: Iterable[TableRequirement], base: TableMetadata | None) -> None:
    """Raises CommitFailedException. A branch may begin on a table without snapshots, which pyiceberg forbids."""
    for requirement in requirements:
        if (
            base is None
            or not isinstance(requirement, AssertRefSnapshotId)
            or requirement.snapshot_id is not None
            or requirement.ref in base.refs
        ):
            requirement.validate(base)


def check_order(updates: Iterable[TableUpdate], base: TableMetadata) -> None:
    """A snapshot made before others were committed has to be made anew. Raises CommitFailedException."""
    if isinstance(base, TableMetadataV1):
        return
    last = base.last_sequence_number
    for update in updates:
        if not isinstance(update, AddSnapshotUpdate):
            continue
        number = update.snapshot.sequence_number or 0
        if number <= last:
            raise CommitFailedException(f"snapshot has sequence number {number}, the table is at {last} already")
        last = number


def is_applied(requirements: Sequence[TableRequirement], updates: Sequence[TableUpdate], base: TableMetadata) -> bool:
    """Whether this very commit was made before, and its client did not hear of it.

    Snapshots say so: their number and the name of their manifest list were thrown by dice. So does the UUID of a table
    that is to be created.
    """
    snapshots = [update.snapshot for update in updates if isinstance(update, AddSnapshotUpdate)]
    if snapshots:
        known = [base.snapshot_by_id(snapshot.snapshot_id) for snapshot in snapshots]
        return all(
            old is not None and old.manifest_list == new.manifest_list
            for old, new in zip(known, snapshots, strict=True)
        )
    ids = {update.uuid for update in updates if isinstance(update, AssignUUIDUpdate)}
    return ids == {base.table_uuid} and any(isinstance(one, AssertCreate) for one in requirements)


def of_creation(updates: Sequence[TableUpdate], *, location: str) -> tuple[TableUpdate, ...]:
    """What a new table needs and the client left to us goes first."""
    kinds = {type(update) for update in updates}
    missing: list[TableUpdate] = []
    if AssignUUIDUpdate not in kinds:
        missing.append(AssignUUIDUpdate(uuid=uuid4()))
    if UpgradeFormatVersionUpdate not in kinds:
        missing.append(UpgradeFormatVersionUpdate(format_version=FORMAT_VERSION))  # type: ignore[call-arg]
    if SetLocationUpdate not in kinds:
        missing.append(SetLocationUpdate(location=location))
    return (*missing, *updates)


def settled(updates: Iterable[TableUpdate], base: TableMetadata) -> tuple[TableUpdate, ...]:
    """The updates with identifiers that are free and with nothing removed that is not there."""
    return tuple(_Settling(base).settle(updates))


class _Settling:
    def __init__(self, base: TableMetadata) -> None:
        self._properties = set(base.properties)
        self._snapshots = {one.snapshot_id for one in base.snapshots}
        self._statistics = {one.snapshot_id for one in base.statistics}
        self._partition_statistics = {one.snapshot_id for one in base.partition_statistics}
        self._schemas = _Numbers({one.schema_id: _content(one, "schema_id") for one in base.schemas})
        self._specs = _Numbers({one.spec_id: _content(one, "spec_id") for one in base.partition_specs})
        self._fields = {
            (field.source_id, str(field.transform)): field.field_id
            for spec in base.partition_specs
            for field in spec.fields
        }
        self._last_field = max(base.last_partition_id or 0, PARTITION_FIELD_ID_START - 1)
        self._orders = _Numbers({one.order_id: _content(one, "order_id") for one in base.sort_orders})

    def settle(self, updates: Iterable[TableUpdate]) -> Iterable[TableUpdate]:
        for update in updates:
            found = self._settled(update)
            if found is not None:
                yield found
            if isinstance(found, RemoveSnapshotsUpdate):  # pyiceberg removes their other statistics only
                for number in self._partition_statistics & set(found.snapshot_ids):
                    self._partition_statistics.remove(number)
                    yield RemovePartitionStatisticsUpdate(snapshot_id=number)  # type: ignore[call-arg]

    def _settled(self, update: TableUpdate) -> TableUpdate | None:
        if isinstance(update, AddSchemaUpdate):
            schema = self._schemas.take(update.schema_, "schema_id")
            return None if schema is None else update.model_copy(update={"schema_": schema})
        if isinstance(update, AddPartitionSpecUpdate):
            spec = self._specs.take(self._numbered(update.spec), "spec_id")
            return None if spec is None else update.model_copy(update={"spec": spec})
        if isinstance(update, AddSortOrderUpdate):
            order = self._orders.take(update.sort_order, "order_id")
            return None if order is None else update.model_copy(update={"sort_order": order})
        if isinstance(update, SetCurrentSchemaUpdate):
            return update.model_copy(update={"schema_id": self._schemas.named(update.schema_id)})
        if isinstance(update, SetDefaultSpecUpdate):
            return update.model_copy(update={"spec_id": self._specs.named(update.spec_id)})
        if isinstance(update, SetDefaultSortOrderUpdate):
            return update.model_copy(update={"sort_order_id": self._orders.named(update.sort_order_id)})
        return self._of_properties(update) if isinstance(update, OF_PROPERTIES) else self._of_snapshots(update)

    def _numbered(self, spec: PartitionSpec) -> PartitionSpec:
        """With a number for each field: that of the same one in another spec, or the next."""
        fields = []
        for field in spec.fields:
            key = field.source_id, str(field.transform)
            if field.field_id == UNNUMBERED and key not in self._fields:
                self._last_field += 1
                self._fields[key] = self._last_field
            number = self._fields[key] if field.field_id == UNNUMBERED else field.field_id
            self._last_field = max(self._last_field, number)
            fields.append(field.model_copy(update={"field_id": number}))
        return PartitionSpec(*fields, spec_id=spec.spec_id)

    def _of_properties(self, update: TableUpdate) -> TableUpdate:
        if isinstance(update, SetPropertiesUpdate):
            self._properties |= set(update.updates)
        elif isinstance(update, RemovePropertiesUpdate):
            there = [name for name in dict.fromkeys(update.removals) if name in self._properties]
            self._properties -= set(there)
            return update.model_copy(update={"removals": there})
        return update

    def _of_snapshots(self, update: TableUpdate) -> TableUpdate | None:
        if isinstance(update, AddSnapshotUpdate):
            self._snapshots.add(update.snapshot.snapshot_id)
        elif isinstance(update, RemoveSnapshotsUpdate):
            there = [number for number in dict.fromkeys(update.snapshot_ids) if number in self._snapshots]
            self._snapshots -= set(there)
            self._statistics -= set(there)
            return update.model_copy(update={"snapshot_ids": there}) if there else None
        elif isinstance(update, SetStatisticsUpdate):
            self._statistics.add(update.statistics.snapshot_id)
        elif isinstance(update, SetPartitionStatisticsUpdate):
            self._partition_statistics.add(update.partition_statistics.snapshot_id)
        elif isinstance(update, RemoveStatisticsUpdate):
            return _taken(self._statistics, update)
        elif isinstance(update, RemovePartitionStatisticsUpdate):
            return _taken(self._partition_statistics, update)
        elif isinstance(update, SetLocationUpdate):
            return update.model_copy(update={"location": plain(update.location)})
        return update


def _taken(
    known: set[int], update: RemoveStatisticsUpdate | RemovePartitionStatisticsUpdate
) -> RemoveStatisticsUpdate | RemovePartitionStatisticsUpdate | None:
    """The update, unless there is nothing to remove."""
    if update.snapshot_id not in known:
        return None
    known.remove(update.snapshot_id)
    return update


class _Numbers:
    """Identifiers of one kind of thing, and what each stands for."""

    def __init__(self, known: dict[int, Any]) -> None:
        self._known = known
        self._last = LAST_ADDED

    def take(self, thing: Numbered, field: str) -> Numbered | None:
        """The thing under a free identifier, or None when it is known under another one."""
        content, number = _content(thing, field), getattr(thing, field)
        same = next((known for known, other in self._known.items() if other == content), None)
        if same is not None:
            self._last = same
            return None
        if number in self._known or number < 0:
            number = max(self._known, default=-1) + 1
        self._known[number], self._last = content, number
        copied: Numbered = thing.model_copy(update={field: number})  # type: ignore[attr-defined]
        return copied

    def named(self, number: int) -> int:
        """Without one that was added it stays -1, and pyiceberg says what is wrong."""
        return self._last if number == LAST_ADDED else number


def _content(thing: Any, number: str) -> dict[str, Any]:
    found: dict[str, Any] = thing.model_dump()
    return {name: value for name, value in found.items() if name != number.replace("_", "-")}
