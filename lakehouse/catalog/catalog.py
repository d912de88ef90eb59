"""pyiceberg's catalog over our rows: namespaces and table pointers live in the database of the journal.

A commit writes its metadata file first and then moves the pointer by one conditional UPDATE. Errors are pyiceberg's
own, so that its tools and the REST door need no translation. It keeps no views and knows nothing of flushes.
"""

from __future__ import annotations

import pyarrow as pa
from django.db import transaction
from pyiceberg.catalog import (
    LOCATION,
    WAREHOUSE_LOCATION,
    Catalog,
    MetastoreCatalog,
    PropertiesUpdateSummary,
)
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.io import FileIO, InputFile
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import CommitTableResponse, StagedTable, Table
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, SortOrder
from pyiceberg.table.update import AssertCreate, TableRequirement, TableUpdate
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties

from lakehouse.catalog import neighbours, pointers, strange_properties
from lakehouse.catalog.files import FOLDER, DurableFileIO
from lakehouse.catalog.folders import join
from lakehouse.catalog.identifiers import check_table_name, namespace_key, shown, table_key
from lakehouse.catalog.known_metadata import BYTES_MAX, size_bytes
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.recent import Recent
from lakehouse.catalog.retention import forgotten
from lakehouse.catalog.views import WithoutViews
from lakehouse.models import IcebergTable, Namespace

strange_properties.mend()


class DjangoCatalog(WithoutViews):
    def __init__(self, name: str = "evodb", **properties: str) -> None:
        super().__init__(name, **properties)
        self._files = DurableFileIO(properties)
        self._known: Recent[TableMetadata] = Recent(BYTES_MAX, size_bytes)

    @property
    def is_in_a_folder(self) -> bool:
        """No object store: a file is written without a request."""
        return self._files.parse_location(self.properties[WAREHOUSE_LOCATION])[0] == FOLDER

    # Namespaces. As in other SQL catalogs a level above an existing one exists too, without a row of its own.

    def namespace_exists(self, namespace: str | Identifier) -> bool:
        key = namespace_key(namespace)
        return any(found == key or found.startswith(key + SEPARATOR) for found in self._namespace_keys())

    def create_namespace(self, namespace: str | Identifier, properties: Properties = EMPTY_DICT) -> None:
        key = namespace_key(namespace, ValueError)
        _, created = Namespace.objects.get_or_create(name=key, defaults={"properties": dict(properties)})
        if not created:
            raise NamespaceAlreadyExistsError(f"Namespace already exists: {shown(namespace)}")

    def all_namespaces(self) -> list[Identifier]:
        return [tuple(key.split(SEPARATOR)) for key in self._namespace_keys()]

    def drop_namespace(self, namespace: str | Identifier) -> None:
        key = namespace_key(namespace)
        with transaction.atomic():
            row = Namespace.objects.select_for_update().filter(name=key).first()
            below = any(found.startswith(key + SEPARATOR) for found in self._namespace_keys())
            if row is None and not below:
                raise NoSuchNamespaceError(f"Namespace does not exist: {shown(namespace)}")
            if row is None or below or row.tables.exists():
                raise NamespaceNotEmptyError(f"Namespace is not empty: {shown(namespace)}")
            row.delete()

    def list_namespaces(self, namespace: str | Identifier = ()) -> list[Identifier]:
        if namespace and not self.namespace_exists(namespace):
            raise NoSuchNamespaceError(f"Namespace does not exist: {shown(namespace)}")
        above = Catalog.identifier_to_tuple(namespace) if namespace else ()
        depth = len(above) + 1
        levels = (tuple(key.split(SEPARATOR)) for key in self._namespace_keys())
        return sorted({found[:depth] for found in levels if len(found) >= depth and found[: depth - 1] == above})

    def load_namespace_properties(self, namespace: str | Identifier) -> Properties:
        row = Namespace.objects.filter(name=namespace_key(namespace)).first()
        if row is None and not self.namespace_exists(namespace):
            raise NoSuchNamespaceError(f"Namespace does not exist: {shown(namespace)}")
        return dict(row.properties) if row else {}

    def update_namespace_properties(
        self, namespace: str | Identifier, removals: set[str] | None = None, updates: Properties = EMPTY_DICT
    ) -> PropertiesUpdateSummary:
        key = namespace_key(namespace)
        with transaction.atomic():
            current = self.load_namespace_properties(namespace)
            row, _ = Namespace.objects.select_for_update().get_or_create(name=key, defaults={"properties": current})
            summary, changed = self._get_updated_props_and_update_summary(row.properties, removals, updates)
            row.properties = dict(changed)
            row.save(update_fields=["properties"])
        return summary

    def _namespace_keys(self) -> list[str]:
        return list(Namespace.objects.values_list("name", flat=True))

    # Tables.

    def create_table(
        self,
        identifier: str | Identifier,
        schema: Schema | pa.Schema,
        location: str | None = None,
        partition_spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        sort_order: SortOrder = UNSORTED_SORT_ORDER,
        properties: Properties = EMPTY_DICT,
    ) -> Table:
        namespace, name = table_key(identifier)
        if not Namespace.objects.filter(name=namespace).exists():
            raise NoSuchNamespaceError(f"Namespace does not exist: {shown(identifier).rpartition('.')[0]}")
        if pointers.find(namespace, name) is not None:
            raise TableAlreadyExistsError(f"Table already exists: {shown(identifier)}")
        staged = self._create_staged_table(identifier, schema, location, partition_spec, sort_order, properties)
        self._write(staged)
        self._insert(staged)
        return self.load_table(identifier)

    def load_table(self, identifier: str | Identifier) -> Table:
        table = self.find(identifier)
        if table is None:
            raise NoSuchTableError(f"Table does not exist: {shown(identifier)}")
        return table

    def table_exists(self, identifier: str | Identifier) -> bool:
        return pointers.find(*table_key(identifier)) is not None

    def register_table(self, identifier: str | Identifier, metadata_location: str, overwrite: bool = False) -> Table:
        if overwrite:
            raise NotImplementedError("found overwrite=True, wanted False: drop the table first")
        metadata, levels = self._read(metadata_location), Catalog.identifier_to_tuple(identifier)
        neighbours.check(levels, metadata, metadata_location)
        self._insert(StagedTable(levels, metadata, metadata_location, self._files.fresh(), self))
        return self.load_table(identifier)

    def list_tables(self, namespace: str | Identifier) -> list[Identifier]:
        if not self.namespace_exists(namespace):
            raise NoSuchNamespaceError(f"Namespace does not exist: {shown(namespace)}")
        names = IcebergTable.objects.filter(namespace__name=namespace_key(namespace)).order_by("name")
        return [(*Catalog.identifier_to_tuple(namespace), name) for name in names.values_list("name", flat=True)]

    def drop_table(self, identifier: str | Identifier) -> None:
        namespace, name = table_key(identifier)
        dropped, _ = IcebergTable.objects.filter(namespace__name=namespace, name=name).delete()
        if not dropped:
            raise NoSuchTableError(f"Table does not exist: {shown(identifier)}")

    def rename_table(self, from_identifier: str | Identifier, to_identifier: str | Identifier) -> Table:
        source, target = table_key(from_identifier), table_key(to_identifier)
        check_table_name(target[1])
        with transaction.atomic():
            # Namespaces first, as everybody does, or two would wait for each other.
            namespace = Namespace.objects.select_for_update().filter(name=target[0]).first()
            rows = IcebergTable.objects.filter(namespace__name=source[0], name=source[1])
            row = rows.select_for_update(of=("self",)).first()
            if row is None:
                raise NoSuchTableError(f"Table does not exist: {shown(from_identifier)}")
            if namespace is None:
                raise NoSuchNamespaceError(f"Namespace does not exist: {shown(to_identifier).rpartition('.')[0]}")
            if pointers.find(*target) is not None:
                raise TableAlreadyExistsError(f"Table already exists: {shown(to_identifier)}")
            row.namespace, row.name = namespace, target[1]
            row.save(update_fields=["namespace", "name"])
        return self.load_table(to_identifier)

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        identifier = table.name()
        current = self.find(identifier)
        if current is None and not any(isinstance(requirement, AssertCreate) for requirement in requirements):
            raise NoSuchTableError(f"Table does not exist: {shown(identifier)}")
        staged = self._update_and_stage_table(current, identifier, requirements, updates)
        if current is not None and staged.metadata == current.metadata:
            return self._response(current)
        self._settle(table)
        self._write(staged)
        if current is None:
            self._insert(staged)
        elif not pointers.move(
            *table_key(identifier),
            expected=current.metadata_location,
            location=staged.metadata_location,
            forgotten=forgotten(current.metadata, staged.metadata),
        ):
            raise CommitFailedException(f"Table was moved by another writer: {shown(identifier)}")
        return self._response(staged)

    def find(self, identifier: str | Identifier) -> Table | None:
        """The table, or None."""
        location = pointers.find(*table_key(identifier))
        return None if location is None else self.at(identifier, location)

    def fetch(self, location: str) -> InputFile | None:
        """The metadata file with all its bytes, unless it is known. It asks no database, so threads may."""
        return None if self._known.find(location) is not None else self._files.fetched(location)

    def at(self, identifier: str | Identifier, location: str, fetched: InputFile | None = None) -> Table:
        """The table as this metadata file has it. Raises what a file that is away or no metadata raises."""
        metadata = self._known.find(location)
        if metadata is None:
            metadata = FromInputFile.table_metadata(fetched or self._files.new_input(location))
            self._known.keep(location, metadata)
        return Table(Catalog.identifier_to_tuple(identifier), metadata, location, self._files.fresh(), self)

    def _read(self, location: str) -> TableMetadata:
        """As its file has it now: others may have deleted what no pointer names. Raises FileNotFoundError."""
        self._known.forget(location)
        return FromInputFile.table_metadata(self._files.stored(location))

    @staticmethod
    def _settle(table: Table) -> None:
        """Data files and manifests a writer wrote through this table."""
        if isinstance(table.io, DurableFileIO):
            table.io.settle()

    def _write(self, staged: StagedTable) -> None:
        """The metadata file, on the disk before a pointer names it."""
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        self._settle(staged)
        self._known.keep(staged.metadata_location, staged.metadata)

    def _insert(self, staged: StagedTable) -> None:
        identifier = staged.name()
        try:
            created = pointers.insert(*table_key(identifier), staged.metadata_location)
        except Namespace.DoesNotExist:
            raise NoSuchNamespaceError(f"Namespace does not exist: {shown(identifier[:-1])}") from None
        if not created:
            raise TableAlreadyExistsError(f"Table already exists: {shown(identifier)}")

    # What pyiceberg would do with one level of namespaces and with the IO a table's own properties ask for.

    def _load_file_io(self, properties: Properties = EMPTY_DICT, location: str | None = None) -> DurableFileIO:
        return self._files.fresh()

    def _create_staged_table(
        self,
        identifier: str | Identifier,
        schema: Schema | pa.Schema,
        location: str | None = None,
        partition_spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        sort_order: SortOrder = UNSORTED_SORT_ORDER,
        properties: Properties = EMPTY_DICT,
    ) -> StagedTable:
        place = location.rstrip("/") if location else self._default_location(*table_key(identifier))
        metadata = new_table_metadata(
            self._convert_schema_if_needed(schema), partition_spec, sort_order, place, properties
        )
        path = load_location_provider(place, properties).new_table_metadata_file_location()
        return StagedTable(Catalog.identifier_to_tuple(identifier), metadata, path, self._files.fresh(), self)

    def _default_location(self, namespace: str, name: str) -> str:
        check_table_name(name)
        properties = Namespace.objects.filter(name=namespace).values_list("properties", flat=True).first() or {}
        base = properties.get(LOCATION) or join(self.properties[WAREHOUSE_LOCATION], namespace.split(SEPARATOR))
        return join(base, [name])

    @staticmethod
    def _delete_old_metadata(io: FileIO, base: TableMetadata, metadata: TableMetadata) -> None:
        """After the transaction around the commit, if there is one: until then the old files may be needed again."""
        transaction.on_commit(lambda: MetastoreCatalog._delete_old_metadata(io, base, metadata), robust=True)

    @staticmethod
    def _response(table: Table) -> CommitTableResponse:
        return CommitTableResponse(metadata=table.metadata, metadata_location=table.metadata_location)  # type: ignore[call-arg]
