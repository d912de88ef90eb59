"""A commit that is written and not made: its metadata file lies there, and no pointer names it yet.

pyiceberg copies the whole metadata, snapshot by snapshot, at 16 places of an append. None of its changes alters what it
was made from, so here nothing is copied: of the time that each snapshot adds to a commit, that is two thirds.
"""

from __future__ import annotations

from pyiceberg.io import FileIO
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, CreateTableTransaction, StagedTable, Table, Transaction
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import (
    TableRequirement,
    TableUpdate,
    _apply_table_update,
    _TableMetadataUpdateContext,
    _update_table_metadata_log,
)
from pyiceberg.typedef import Identifier, Properties

from lakehouse.catalog import retention, strange_properties
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.identifiers import table_key
from lakehouse.catalog.pointers import Forgotten, uuid_to_make
from lakehouse.clock import now_ms


class Staging(DjangoCatalog):
    """A catalog that writes the metadata file of a commit and keeps its location instead of moving the pointer."""

    result: StagedTable
    obsolete: tuple[str, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()

    def __init__(self, catalog: DjangoCatalog) -> None:
        super().__init__(catalog.name, **catalog.properties)
        self._files, self._known = catalog._files, catalog._known

    def taken(self, table: Table | None) -> Table | None:
        """The same table, for a commit that is staged here."""
        return table and Table(table.name(), table.metadata, table.metadata_location, table.io, self)

    def stage_create(
        self, identifier: str | Identifier, schema: Schema, spec: PartitionSpec, properties: Properties
    ) -> StagedTable:
        """A table that exists in memory only; its namespace need not exist yet."""
        found = self._create_staged_table(identifier, schema, None, spec, UNSORTED_SORT_ORDER, properties)
        found.metadata = found.metadata.model_copy(update={"table_uuid": uuid_to_make(*table_key(identifier))})
        return found

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        base = None if isinstance(table, StagedTable) else table
        self.result = self._update_and_stage_table(base, table.name(), requirements, updates)
        if isinstance(table.io, DurableFileIO) and isinstance(self.result.io, DurableFileIO):
            self.result.io.take_over(table.io)  # one pointer will name all of it, so none has to be there first
        self._write(self.result)
        kept = {entry.metadata_file for entry in self.result.metadata.metadata_log}
        self.obsolete = tuple(old.metadata_file for old in table.metadata.metadata_log if old.metadata_file not in kept)
        self.forgotten = retention.forgotten(table.metadata, self.result.metadata)
        return self._response(self.result)

    def _update_and_stage_table(
        self,
        current_table: Table | None,
        table_identifier: Identifier,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
    ) -> StagedTable:
        if current_table is None:
            return super()._update_and_stage_table(current_table, table_identifier, requirements, updates)
        for requirement in requirements:
            requirement.validate(current_table.metadata)
        metadata = _updated(current_table.metadata, updates)
        if metadata.last_updated_ms == current_table.metadata.last_updated_ms:
            metadata = metadata.model_copy(update={"last_updated_ms": now_ms()})
        metadata = _update_table_metadata_log(
            metadata, current_table.metadata_location, current_table.metadata.last_updated_ms
        )
        version = self._parse_metadata_version(current_table.metadata_location) + 1
        places = load_location_provider(metadata.location, metadata.properties)
        location = places.new_table_metadata_file_location(version)
        return StagedTable(table_identifier, metadata, location, self._files.fresh(), self)

    @staticmethod
    def _delete_old_metadata(io: FileIO, base: TableMetadata, metadata: TableMetadata) -> None:
        """Not before the pointer has moved, if it ever does; see tables.tidy."""


class Change(Transaction):
    """A transaction that makes its metadata once a change, and not whenever it is asked for.

    It writes by the properties that can be meant. The table keeps all of them.
    """

    _made: tuple[int, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        if self._made is None or self._made[0] != len(self._updates):
            made = _updated(self._table.metadata, self._updates)
            properties = strange_properties.meant(made.properties)
            self._made = len(self._updates), made.model_copy(update={"properties": properties})
        return self._made[1]


class Creation(Change, CreateTableTransaction):
    """The same for a table to be created."""


def _updated(metadata: TableMetadata, updates: tuple[TableUpdate, ...]) -> TableMetadata:
    context = _TableMetadataUpdateContext()
    for update in updates:
        metadata = _apply_table_update(update, metadata, context)
    return metadata
