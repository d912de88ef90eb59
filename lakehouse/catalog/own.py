"""The lake over our own catalog: files first, then one transaction for the pointers of all tables and the journal."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial

import pyarrow as pa
from pyiceberg.catalog import Catalog

from lakehouse.catalog import finding, side_by_side, tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.identifiers import namespace_key
from lakehouse.catalog.lake import Locations, Move
from lakehouse.catalog.retention import Retention
from lakehouse.catalog.tables import Begun, Staged
from lakehouse.errors import OutcomeUnknown, TableRefused
from lakehouse.models import IcebergTable

TABLES_AT_A_TIME = 8
"""Of a lake in an object store, where a stage waits for one request after the other: with 50 ms each, a flush of ten
tables takes 0.68 s, and 2.44 one by one."""
COLUMNS_EACH, BYTES_EACH = 125, 2 * 2**20
"""Of a table beside seven others. One that is wider or has more rows takes the room of several, so that all together
take as much memory as one table could: of 1000 columns each, eight at a time take 168 MB and one 52.
"""


class OwnLake:
    def __init__(self, catalog: DjangoCatalog, retention: Retention | None = None) -> None:
        self.catalog, self._retention = catalog, retention

    def known_schemas(self, namespace: str, names: Iterable[str]) -> tuple[dict[str, pa.Schema], list[TableRefused]]:
        return finding.known_schemas(self.catalog, namespace, names, self._room)

    def tables_in(self, namespace: str) -> int:
        levels = Catalog.identifier_to_tuple(namespace)
        return IcebergTable.objects.filter(namespace__name=namespace_key(levels)).count()

    def land(self, move: Move, rows: Mapping[str, pa.Table], parquet: Mapping[str, str]) -> list[Staged]:
        if move.is_resumed:
            raise OutcomeUnknown(
                f"flush {move.flush_id} was announced to another catalog; set EVODB_CATALOG to that one until it is "
                "finished, `manage.py in_doubt` lists what is open"
            )
        room = self._room if len(rows) > 1 else 1
        with closing(self._begun(move, rows, parquet, room)) as begun:
            staged, failed = side_by_side.each(tables.write, begun, room, room_of)
        if failed is None:
            return staged
        if isinstance(failed, TableRefused):
            tables.throw_away(self.catalog, staged)
        raise failed

    def _begun(
        self, move: Move, rows: Mapping[str, pa.Table], parquet: Mapping[str, str], room: int
    ) -> Generator[Begun]:
        begin = partial(tables.begin, self.catalog, move.namespace, flush_id=move.flush_id, parquet=parquet)
        with closing(finding.each(self.catalog, move.namespace, rows, room)) as found:
            for name, find in found:
                yield begin(name, rows[name], retention=self._retention, find=find)

    @property
    def _room(self) -> int:
        return 1 if self.catalog.is_in_a_folder else TABLES_AT_A_TIME

    def seal(self, move: Move, staged: Sequence[Staged]) -> None:
        tables.swap(staged)

    def tidy(self, staged: Sequence[Staged]) -> None:
        tables.tidy(self.catalog, staged)

    def locations(self, namespaces: Iterable[str]) -> Locations:
        found: Locations = {}
        wanted = set(namespaces)
        for table in IcebergTable.objects.select_related("namespace"):
            if str(table.namespace) in wanted:
                found.setdefault(str(table.namespace), {})[table.name] = table.metadata_location
        return found


def room_of(begun: Begun) -> int:
    return room_for(begun.change.table_metadata.last_column_id, begun.rows)


def room_for(columns: int, rows: pa.Table) -> int:
    """How many narrow tables could be written in its place; columns within columns count."""
    return max(1, columns // COLUMNS_EACH, rows.nbytes // BYTES_EACH)
