"""A table that others partitioned by a column that they dropped afterwards, made such that it can be written. Pure.

Iceberg forbids it and not every writer knows; dropping the partition field first is allowed. Of its partition fields
those stay whose columns are there; files that were written before keep the partitions they have.
"""

from __future__ import annotations

from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import AddPartitionSpecUpdate, SetDefaultSpecUpdate, TableUpdate

FORMAT_VERSION_MIN = 2
"""Before it, each partitioning has to have the fields of the one before."""


def fixed(metadata: TableMetadata) -> set[int]:
    """Earlier partitionings by a column that is gone: nobody knows its type to write a manifest of theirs anew."""
    schema = metadata.schema()
    return {
        spec.spec_id
        for spec in metadata.partition_specs
        if any(schema.find_column_name(field.source_id) is None for field in spec.fields)
    }


def repair(metadata: TableMetadata) -> tuple[TableUpdate, ...]:
    """What to change; nothing when its columns are there."""
    schema, spec = metadata.schema(), metadata.spec()
    left = [field for field in spec.fields if schema.find_column_name(field.source_id) is not None]
    if len(left) == len(spec.fields) or metadata.format_version < FORMAT_VERSION_MIN:
        return ()
    known = next((one.spec_id for one in metadata.partition_specs if [*one.fields] == left), None)
    if known is not None:
        return (SetDefaultSpecUpdate(spec_id=known),)  # type: ignore[call-arg]
    number = 1 + max(one.spec_id for one in metadata.partition_specs)
    added = AddPartitionSpecUpdate(spec=PartitionSpec(*left, spec_id=number))
    return added, SetDefaultSpecUpdate(spec_id=-1)  # type: ignore[call-arg]
