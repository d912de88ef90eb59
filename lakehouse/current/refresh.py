"""A table of now is brought up to date: pulled by position, written bucket by bucket, committed with its position.

    look ─ pull what is new ─ buckets that change, anew ─ one transaction: pointer, positions, sources

What is read is one moment of the journal, and the transaction names the turn it saw; of two at once one counts, and a
death leaves files that nobody names. Whoever comes later begins where the last one ended.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
from django.db import transaction
from django.db.models import F
from pyiceberg.expressions import AlwaysTrue, In
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IntegerType, NestedField

from lakehouse.catalog import (
    evolution,
    own,
    parts,
    pointers,
    refusals,
    retention,
    side_by_side,
    table_properties,
    tables,
)
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.identifiers import table_key
from lakehouse.catalog.retention import HOUR_MS, forgetting
from lakehouse.catalog.staging import Creation, Staging
from lakehouse.catalog.upkeep.replacing import Exchange
from lakehouse.conf import Settings
from lakehouse.current import columns, pulling
from lakehouse.current.moment import Moment, look, wanted
from lakehouse.current.pulling import BUCKET, Pull
from lakehouse.errors import CommitConflict, LakehouseError, SchemaMismatch, StoreUnavailable, TableRefused
from lakehouse.models import CurrentSource, CurrentTable
from lakehouse.query import duck
from lakehouse.query.quoting import quoted
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)

BUCKETS = "evodb.current.buckets"
PROPERTIES = {
    **tables.TABLE_DEFAULTS,
    # A rewritten bucket holds what was deleted; it goes an hour later, and with it what nobody is to find any more.
    retention.AGE: str(HOUR_MS),
    retention.NEWEST: "1",
    retention.MOST: "10",
}


MISFITS = (duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException, TableRefused)
"""What is new does not go with what is there."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    buckets: int
    rows: int
    """In the buckets that were written."""
    late: int
    """Rows whose change came late."""


def go(catalog: DjangoCatalog, settings: Settings, *, now_ms: Callable[[], int], until: Callable[[], bool]) -> int:
    """Refresh each table of now that is wanted and has something new; returns how many were."""
    refreshed = 0
    for namespace, table in wanted(now_ms()):
        if until():
            break
        try:
            found = refresh(catalog, settings, namespace, table, now_ms=now_ms)
        except (LakehouseError, duckdb.Error) as exc:
            log.warning("the table of now of %s.%s is left for later: %s", namespace, table, exc)
            continue
        except Exception:  # no table keeps the others waiting
            log.exception("the table of now of %s.%s cannot be refreshed", namespace, table)
            continue
        if found is not None:
            refreshed += 1
            log.info("the table of now of %s.%s: %s", namespace, table, found)
    return refreshed


def refresh(
    catalog: DjangoCatalog, settings: Settings, namespace: str, table: str, *, now_ms: Callable[[], int]
) -> Refreshed | None:
    """None when nothing happened. Raises CommitConflict when somebody was faster, or StoreUnavailable."""
    moment = look(namespace, table)
    if moment is None:
        return None
    try:
        moment = _with_its_columns(catalog, moment)
        if moment.flushes == ():
            move_on(moment, now_ms())
            return Refreshed(0, 0, 0)
        try:
            return _once(catalog, settings, moment, now_ms)
        except MISFITS as exc:
            is_of_schema = not isinstance(exc, TableRefused) or isinstance(exc.__cause__, SchemaMismatch)
            if moment.flushes is None or not is_of_schema:
                raise
            log.warning("the table of now of %s.%s is made anew, for it cannot be merged: %s", namespace, table, exc)
            return _once(catalog, settings, replace(moment, flushes=None), now_ms)
    except (OSError, duckdb.IOException, duckdb.HTTPException) as exc:
        raise StoreUnavailable(f"the changes of {namespace}.{table} cannot be read or written: {exc}") from exc


def _with_its_columns(catalog: DjangoCatalog, moment: Moment) -> Moment:
    """The same, but that all is read where columns are not what they were, and nothing where no child writes."""
    with refusals.of(moment.namespace, moment.table):
        schema = _changes(catalog, moment).schema()
        now = catalog.find((*moment.namespace_of_now.split("."), moment.table))
    if now is None:
        return moment if evolution.is_of_children(schema) else replace(moment, flushes=())
    return replace(moment, flushes=None) if columns.are_others(now.properties, schema) else moment


def _changes(catalog: DjangoCatalog, moment: Moment) -> Table:
    """As they are read, whatever somebody makes of them meanwhile."""
    return catalog.at((*moment.namespace.split("."), moment.table), moment.changes_location)


def _once(catalog: DjangoCatalog, settings: Settings, moment: Moment, now_ms: Callable[[], int]) -> Refreshed:
    with duck.connect(settings) as connection, tempfile.TemporaryDirectory(prefix="evodb-current-") as folder:
        connection.execute(f"SET memory_limit = '{settings.query_memory_bytes_max}B'")
        connection.execute(f"SET temp_directory = {quoted(folder)}")
        connection.execute(f"SET threads = {settings.query_threads}")
        return _Refresh(catalog, connection, moment, settings).run(now_ms)


class _Refresh:
    """One of a table, from the moment that was looked at."""

    def __init__(
        self, catalog: DjangoCatalog, connection: duckdb.DuckDBPyConnection, moment: Moment, settings: Settings
    ) -> None:
        self._catalog, self._moment, self._settings = catalog, moment, settings
        self._staging = Staging(catalog)
        self._now = self._staging.find(self._identifier)
        found = None if self._now is None else self._now.metadata_location
        if found != moment.current_location or catalog.find((*moment.namespace.split("."), moment.table)) is None:
            raise CommitConflict(f"{moment.namespace}.{moment.table} or its table of now was changed meanwhile")
        buckets = settings.current_buckets
        if self._now is not None:
            buckets = table_properties.number(self._now.properties, BUCKETS, 1) or 0
        if not buckets:
            raise CommitConflict(
                f"{'.'.join(self._identifier)} is no table of now, for it does not say its {BUCKETS}; rename or drop "
                "it, and it is made anew"
            )
        self._changes, self._buckets = _changes(catalog, moment), buckets
        self._kept = list(columns.kept(self._changes.schema()))
        self._pull = Pull(connection, moment, [field.name for field in self._kept], self._buckets)

    def run(self, now_ms: Callable[[], int]) -> Refreshed:
        reached = {source: (epoch, seq) for source, epoch, seq in self._pull.sources()}
        applied = self._applied([*reached])
        late = self._pull.mend([(source, *at) for source, at in applied.items()]) if applied else 0
        *namespace, name = self._identifier
        with refusals.of(".".join(namespace), name):
            rows = self._stage(now_ms)
        reach(Failpoint.CURRENT_WRITTEN)
        latest = {source: max(at, applied.get(source, at)) for source, at in reached.items()}
        with transaction.atomic():
            self._commit(latest, now_ms())
        if self._is_staged:
            tables.delete_metadata(self._catalog, self._staging.obsolete)
        return Refreshed(len(self._pull.buckets()), rows, late)

    def _stage(self, now_ms: Callable[[], int]) -> int:
        """Write what changes. Raises TableRefused when the table of now takes no rows."""
        change = self._begin()
        rows = self._rewrite(change, self._pull.buckets())
        if change._updates or self._now is None:
            kept = retention.from_settings(self._settings)
            change._apply(forgetting(change.table_metadata, kept, now_ms=now_ms()))
            change.commit_transaction()
        return rows

    def _applied(self, sources: Sequence[str]) -> dict[str, tuple[int, int]]:
        """How far these sources were before. Of a table that is made anew nothing counts."""
        if self._moment.flushes is None:
            return {}
        known = CurrentSource.objects.filter(current=self._moment.current_id)
        return {
            source: (epoch, seq)
            for some in pulling.chunks(sources)
            for source, epoch, seq in known.filter(source__in=some).values_list("source", "epoch", "seq")
        }

    def _begin(self) -> Transaction:
        """A change of the table, with the columns of the changes; of a new one if there is none."""
        schema = self._changes.schema()
        marked = {columns.COLUMNS: columns.mark(schema, self._changes.metadata.last_column_id)}
        if self._now is None:
            fields = [field.model_copy(update={"required": False}) for field in self._kept]
            bucket = NestedField(schema.highest_field_id + 1, BUCKET, IntegerType(), required=False)
            spec = PartitionSpec(PartitionField(bucket.field_id, 1000, IdentityTransform(), BUCKET))
            properties = {**PROPERTIES, BUCKETS: str(self._buckets)} | marked
            return Creation(self._staging.stage_create(self._identifier, Schema(*fields, bucket), spec, properties))
        change = columns.evolved(self._now, schema, is_anew=self._moment.flushes is None)
        if not marked.items() <= self._now.properties.items():
            change.set_properties(marked)
        return change

    def _rewrite(self, change: Transaction, buckets: Sequence[int]) -> int:
        """Exchange the files of these buckets; of all, when the table is made anew."""
        old: list[DataFile] = []
        if self._now is not None:
            touched = AlwaysTrue() if self._moment.flushes is None else In(BUCKET, set(buckets))  # type: ignore[arg-type,call-arg]
            old = [task.file for task in self._now.scan(row_filter=touched).plan_files()]
        new = self._write(change, buckets)
        if old or new:
            Exchange(change, change._table.io, old, new).commit()
        return sum(file.record_count for file in new)

    def _write(self, change: Transaction, buckets: Sequence[int]) -> list[DataFile]:
        """Their files. DuckDB is asked in this thread only."""
        metadata, io = change.table_metadata, change._table.io
        contents = (content for bucket in buckets if len(content := self._pull.content(bucket)))

        def written(content: pa.Table) -> list[DataFile]:
            return parts.write(metadata, evolution.align(metadata.schema(), content), io, {})

        room = 1 if self._catalog.is_in_a_folder else own.TABLES_AT_A_TIME
        found, failed = side_by_side.each(
            written, contents, room, lambda content: own.room_for(metadata.last_column_id, content)
        )
        if failed is not None:
            raise failed
        return [file for files in found for file in files]

    def _commit(self, sources: dict[str, tuple[int, int]], now_ms: int) -> None:
        """Positions, sources and pointer, within one transaction. Raises CommitConflict; nothing may stay then."""
        move_on(self._moment, now_ms)
        rows = [
            CurrentSource(current_id=self._moment.current_id, source=source, epoch=epoch, seq=seq)
            for source, (epoch, seq) in sources.items()
        ]
        if self._moment.flushes is None:
            CurrentSource.objects.filter(current=self._moment.current_id).delete()
        CurrentSource.objects.bulk_create(
            rows,
            batch_size=500,
            update_conflicts=True,
            unique_fields=["current", "source"],
            update_fields=["epoch", "seq"],
        )
        if not self._is_staged:
            return
        namespace, name = table_key(self._identifier)
        location = self._staging.result.metadata_location
        if self._moment.current_location is None:
            pointers.lock_namespaces({namespace})
            moved = pointers.insert(namespace, name, location)
        else:
            moved = pointers.move(
                namespace,
                name,
                expected=self._moment.current_location,
                location=location,
                forgotten=self._staging.forgotten,
            )
        if not moved:
            raise CommitConflict(f"the table of now of {self._moment.namespace}.{name} was written meanwhile")
        reach(Failpoint.CURRENT_SWAPPED)

    @property
    def _is_staged(self) -> bool:
        return hasattr(self._staging, "result")

    @property
    def _identifier(self) -> tuple[str, ...]:
        return (*self._moment.namespace_of_now.split("."), self._moment.table)


def move_on(moment: Moment, now_ms: int) -> None:
    """The table has all up to these positions. Raises CommitConflict when somebody else was faster."""
    seen = CurrentTable.objects.filter(pk=moment.current_id, turn=moment.turn)
    if not seen.update(turn=F("turn") + 1, positions=moment.positions, version=moment.mark, refreshed_ms=now_ms):
        raise CommitConflict(f"the table of now of {moment.namespace}.{moment.table} was refreshed meanwhile")
