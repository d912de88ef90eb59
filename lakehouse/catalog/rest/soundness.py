"""What no commit may bring into a table, because nobody could read or write it afterwards: no client, and no flush.

pyiceberg applies updates as they come. It finds out later, whoever comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSnapshotUpdate,
    AddSortOrderUpdate,
    AssignUUIDUpdate,
    SetSnapshotRefUpdate,
    TableUpdate,
)
from pyiceberg.types import IcebergType, ListType, MapType, StructType

from lakehouse.catalog.rest.problems import Problem
from lakehouse.catalog.rest.updates import UNNUMBERED

ORDER = ("_source", "_row_id", "_op", "_epoch", "_seq")
"""Of a table of changes; only one that has all of them is one."""
INT_MAX, LONG_MAX = 2**31 - 1, 2**63 - 1


def check(updates: Sequence[TableUpdate], base: TableMetadata | None) -> None:
    """Raises Problem."""
    added = [update.schema_ for update in updates if isinstance(update, AddSchemaUpdate)]
    sources = {number for schema in [*(base.schemas if base else ()), *added] for number in _ids(schema.as_struct())}
    for update in updates:
        if isinstance(update, AddSchemaUpdate):
            _check_schema(update.schema_)
        elif isinstance(update, AddPartitionSpecUpdate):
            _check_spec(update.spec, sources)
        elif isinstance(update, AddSortOrderUpdate):
            _check_sources((field.source_id for field in update.sort_order.fields), sources, "sort order")
        elif isinstance(update, AddSnapshotUpdate):
            _check_snapshot(update.snapshot)
        elif isinstance(update, SetSnapshotRefUpdate):
            if update.ref_name == MAIN_BRANCH and update.type != SnapshotRefType.BRANCH:
                raise _unsound(
                    f"found {MAIN_BRANCH} as a {update.type}, wanted a branch: it is what everybody writes to"
                )
        elif isinstance(update, AssignUUIDUpdate) and base and update.uuid != base.table_uuid:
            raise _unsound(f"the table is {base.table_uuid}, and cannot become {update.uuid}")


def check_left(now: TableMetadata, before: TableMetadata) -> None:
    """The columns by which changes have their order. Raises Problem."""
    schema, old = now.schema(), before.schema()
    if not all(name in old.column_names for name in ORDER):
        return
    kept = {field.name: field.field_id for field in schema.fields}
    for name in ORDER:
        if kept.get(name) != old.find_field(name).field_id:
            raise _unsound(
                f"the column {name!r} says with {', '.join(ORDER)} which change of a row is its last, and is neither "
                "dropped, renamed nor made anew; leave it out of what you read, or drop the table"
            )


def _check_schema(schema: Schema) -> None:
    seen: set[int] = set()
    for number in _ids(schema.as_struct()):
        if number in seen:
            raise _unsound(f"two fields of the schema have the id {number}, wanted one for each")
        if not 0 <= number <= INT_MAX:
            raise _unsound(f"a field of the schema has the id {number}, wanted 0 to {INT_MAX}")
        seen.add(number)


def _ids(kind: IcebergType) -> Iterator[int]:
    """Of all fields within, on all levels."""
    if isinstance(kind, StructType):
        for field in kind.fields:
            yield field.field_id
            yield from _ids(field.field_type)
    elif isinstance(kind, ListType):
        yield kind.element_id
        yield from _ids(kind.element_type)
    elif isinstance(kind, MapType):
        yield from (kind.key_id, kind.value_id)
        yield from _ids(kind.key_type)
        yield from _ids(kind.value_type)


def _check_spec(spec: PartitionSpec, sources: set[int]) -> None:
    _check_sources((field.source_id for field in spec.fields), sources, "partition spec")
    names = [field.name for field in spec.fields]
    numbers = [field.field_id for field in spec.fields if field.field_id != UNNUMBERED]
    if len(set(names)) < len(names) or len(set(numbers)) < len(numbers):
        raise _unsound("two fields of the partition spec have one name or id, wanted another for each")
    if any(not 0 <= number <= INT_MAX for number in numbers):
        raise _unsound(f"the partition spec has the field ids {numbers}, wanted 0 to {INT_MAX}")


def _check_sources(found: Iterable[int], known: set[int], what: str) -> None:
    for number in found:
        if number not in known:
            raise _unsound(f"the {what} is made of the field {number}, which no schema of the table has")


def _check_snapshot(snapshot: Snapshot) -> None:
    numbers = {
        "snapshot-id": snapshot.snapshot_id,
        "sequence-number": snapshot.sequence_number or 0,
        "timestamp-ms": snapshot.timestamp_ms,
    }
    for name, number in numbers.items():
        if not 0 <= number < LONG_MAX:
            raise _unsound(f"the {name} of a snapshot is {number}, wanted 0 to {LONG_MAX - 1}")


def _unsound(message: str) -> Problem:
    return Problem(400, "ValidationException", message)
