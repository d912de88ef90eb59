"""Entries whose payloads are gone from the journal, read from the tables they are rows of now.

A row says which batch it came in: source, epoch, sequence and moment of arrival. So files may be merged and snapshots
forgotten meanwhile; what a flush wrote is found as long as nobody deleted the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pyiceberg import expressions
from pyiceberg.catalog import Catalog

from lakehouse.catalog import foreign_tables, storage
from lakehouse.conf import Settings
from lakehouse.models import Flush, FlushTable
from lakehouse.models.flushes import RECOVERY
from lakehouse.subscriptions.events import DELETE, Entry, Found
from lakehouse.subscriptions.payloads import as_text
from rpc.arrow_stream import REST

log = logging.getLogger(__name__)

_OPERATIONS = {"INSERT": 0, "UPDATE": 1, "DELETE": DELETE}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Their types say nothing of the two arguments they take.
_AND: Any = expressions.And
_IN: Any = expressions.In
_FROM: Any = expressions.GreaterThanOrEqual
_TO: Any = expressions.LessThanOrEqual
_Key = tuple[str, int, int, int]


class TableReader:
    """Opens the catalog when it is first needed; most processes never do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalog: Catalog | None = None

    def read(self, flush_id: int, batches: Sequence[Found]) -> dict[int, list[Entry]]:
        """By batch. A replay of a dead letter is among the rows of the batch that the letter came in."""
        of = {_key(one): one for one in batches if one.letter_id is None}
        found: dict[int, list[Entry]] = {one.batch_id: [] for one in batches}
        if of:
            for namespace, name in self._tables(flush_id):
                for batch_id, entry in self._rows(namespace, name, of):
                    found[batch_id].append(entry)
        return found

    def _open(self) -> Catalog:
        if self._catalog is None:
            ours = not self._settings.catalog
            self._catalog = storage.from_settings(self._settings) if ours else storage.foreign(self._settings)
        return self._catalog

    def _tables(self, flush_id: int) -> list[tuple[str, str]]:
        """Those that may have rows of this flush. A recovery says of one table only, its batches may be in all."""
        flush = Flush.objects.select_related("parent").get(pk=flush_id)
        if flush.trigger != RECOVERY:
            return sorted(FlushTable.objects.filter(flush=flush_id).values_list("namespace", "table"))
        namespace = flush.parent.namespace
        return [(namespace, name) for name in foreign_tables.names(self._open(), namespace)]

    def _rows(self, namespace: str, name: str, of: dict[_Key, Found]) -> Iterator[tuple[int, Entry]]:
        table = foreign_tables.find(self._open(), namespace, name)
        if table is None:
            log.warning("table %s.%s is gone, and with it events that were not delivered", namespace, name)
            return
        moments = sorted(key[3] for key in of)
        within = _AND(
            _IN("_source", sorted({key[0] for key in of})),
            _AND(_FROM("_received_at", _iso(moments[0])), _TO("_received_at", _iso(moments[-1]))),
        )
        with foreign_tables.store_errors():
            for rows in table.scan(row_filter=within).to_arrow_batch_reader():
                for row in pa.Table.from_batches([rows]).to_pylist():
                    batch = of.get((row["_source"], row["_epoch"], row["_batch_seq"], _ms(row["_received_at"])))
                    if batch is not None:
                        yield batch.batch_id, _entry(name, row, batch)


def _key(one: Found) -> _Key:
    return one.source, one.epoch, one.sequence, one.received_ms


def _iso(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat()


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _entry(table: str, row: dict[str, Any], batch: Found) -> Entry:
    operation = _OPERATIONS[row["_op"]]
    before, after = row["_before"], row["_after"]
    if (before if operation == DELETE else after) is None:
        typed = {name: value for name, value in row.items() if not name.startswith("_") or name == REST}
        if any(value is not None for value in typed.values()):
            before, after = (as_text(typed), after) if operation == DELETE else (before, as_text(typed))
    where = (batch.source, batch.shard, batch.epoch, batch.sequence)
    return Entry(table, row["_row_id"], operation, before, after, row["_seq"], _ms(row["_ts"]), *where)
