"""Stored batches become Arrow: one table of rows for each table of the lake, everything else a dead letter.

Between claim and stage. Pure: bytes in, Arrow out. An entry is a row or an `Unreadable`, never both and never neither.
A row has our columns (docs/tables.md) and the typed columns of its document: `after`, or `before` of a DELETE and
whenever there is no `after`. Knows how to read entries; what a document is made of is known to `documents`.

Entries a second on one core, documents of 19 keys and 300 bytes in batches of 100: 600 000 columnar, 420 000 binary,
420 000 with two nested values in each, 390 000 updates with `before`, 150 000 on the exact path. As Parquet: 370 000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import documents, entries, exact, typed
from lakehouse.flush.entries import Sheet, StoredBatch, Unreadable
from lakehouse.flush.moments import TIMESTAMP
from rpc.names import is_table, table_complaint

__all__ = ["Shredded", "StoredBatch", "Unreadable", "shred", "table_names"]

TIMESTAMP_MS_MAX = pa.scalar(253_402_300_799_999, pa.uint64())
"""The last millisecond of the year 9999."""
SEQUENCE_MAX = pa.scalar(2**63 - 1, pa.uint64())
OPERATIONS = pa.array(["INSERT", "UPDATE", "DELETE"])
DELETE = pa.scalar(2, pa.uint8())
PARTITION = "_partition"


@dataclass(frozen=True, slots=True)
class Shredded:
    """`entries` counts the rows of all tables and the unreadable entries.

    A payload that cannot even be cut counts as the entries it announces.
    """

    tables: dict[str, pa.Table]
    unreadable: list[Unreadable]
    entries: int


def shred(batches: Sequence[StoredBatch], known: Mapping[str, pa.Schema]) -> Shredded:
    """The rows of these batches, in their order. `known` has the schema of every table that exists already."""
    sheet = entries.read(batches)
    reasons = _misfits(sheet)
    tables: dict[str, Any] = {}
    for name, rows in _by_table(sheet, reasons):
        table, unreadable = _table(rows, known.get(name), sheet.documents.get(name.encode(), []))
        reasons.update(unreadable)
        if table.num_rows:
            tables[name] = table
    letters = [sheet.letter(row, reason) for row, reason in sorted(reasons.items())]
    stored = sum(table.num_rows for table in tables.values())
    assert stored + len(letters) == sheet.rows.num_rows, (
        f"{stored} rows, {len(letters)} letters: not {sheet.rows.num_rows}"
    )
    return Shredded(tables, sheet.unreadable + letters, sheet.rows.num_rows + sheet.unreadable_entries)


def table_names(batches: Sequence[StoredBatch]) -> set[str]:
    """The tables these batches may have rows for."""
    found = {name for batch in batches for name in entries.tables_of(batch)}
    return {name.decode() for name in found if is_table(name)}


def _misfits(sheet: Sheet) -> dict[int, str]:
    """The entries that are no rows whatever their documents say, and why."""
    rows = sheet.rows
    reasons: dict[int, str] = {}
    for number, table in enumerate(sheet.tables):
        if not is_table(table):
            _note(reasons, pc.equal(rows["table"], pa.scalar(number, pa.int32())), table_complaint(table))
    late = pc.greater(rows["timestamp_ms"], TIMESTAMP_MS_MAX)
    _note(reasons, late, f"its timestamp is over {TIMESTAMP_MS_MAX}, the end of the year 9999")
    _note(reasons, pc.greater(rows["sequence"], SEQUENCE_MAX), f"its sequence is over {SEQUENCE_MAX}")
    for name in entries.TEXTS:
        for row in _not_utf8(rows[name].combine_chunks()):
            reasons.setdefault(row, f"{name} is not UTF-8")
    return reasons


def _note(reasons: dict[int, str], is_misfit: Any, reason: str) -> None:
    if pc.any(is_misfit).as_py():
        for row in pc.indices_nonzero(is_misfit).to_pylist():
            reasons.setdefault(row, reason)


def _not_utf8(texts: Any) -> list[int]:
    try:
        texts.cast(pa.string())
    except pa.ArrowInvalid:
        return [row for row, text in enumerate(texts.to_pylist()) if text is not None and not _is_utf8(text)]
    return []


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _by_table(sheet: Sheet, reasons: Mapping[int, str]) -> list[tuple[str, Any]]:
    """The rows of each table with texts as strings and what they inherit from their batch."""
    rows = _inherit(sheet)
    if reasons:
        rows = rows.filter(_without(rows["row"], reasons))
    for name in entries.TEXTS:
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(pa.string()))
    if not rows.num_rows:
        return []
    if len(sheet.tables) == 1:
        return [(sheet.tables[0].decode(), rows)]
    # One sort (it is stable) and slices: a filter for each table would cost tables x rows.
    rows = rows.take(pc.sort_indices(rows, [("table", "ascending"), ("row", "ascending")])).combine_chunks()
    counts = pc.value_counts(rows["table"].combine_chunks()).to_pylist()
    found, start = [], 0
    for count in counts:
        found.append((sheet.tables[count["values"]].decode(), rows.slice(start, count["counts"])))
        start += count["counts"]
    return found


def _inherit(sheet: Sheet) -> Any:
    batch, rows, of = sheet.rows["batch"], sheet.rows, sheet.batches
    received = pa.array([one.received_ms * 1000 for one in of], pa.int64()).cast(TIMESTAMP)
    inherited: dict[str, Any] = {
        "_source": pa.array([one.source for one in of], pa.string()),
        "_shard": pa.array([one.shard for one in of], pa.string()),
        "_epoch": pa.array([one.epoch for one in of], pa.int64()),
        "_batch_seq": pa.array([one.sequence for one in of], pa.int64()),
        "_received_at": received,
    }
    for name, values in inherited.items():
        rows = rows.append_column(name, values.take(batch))
    return rows


def _without(rows: Any, reasons: Mapping[int, str]) -> Any:
    return pc.invert(pc.is_in(rows, pa.array(list(reasons), pa.int64())))


def _table(rows: Any, known: Any | None, streams: Sequence[Any]) -> tuple[Any, dict[int, str]]:
    """The rows of one table as the lake wants them, and the row numbers of those that are not readable."""
    texts = {name: rows[name].combine_chunks() for name in entries.TEXTS}
    document, other = _document(rows["operation"].combine_chunks(), texts["before"], texts["after"])
    numbers = rows["document"].combine_chunks()
    read = typed.read(streams, numbers, document, known) if streams else documents.read(document, known)
    unreadable = read.unreadable | documents.check(other)
    partition, not_json = _partition(texts["metadata"])
    unreadable |= not_json
    ours = {
        "_op": OPERATIONS.take(rows["operation"]),
        "_row_id": texts["row_id"],
        "_source": rows["_source"],
        "_shard": rows["_shard"],
        "_epoch": rows["_epoch"],
        "_seq": rows["sequence"].cast(pa.int64()),
        "_batch_seq": rows["_batch_seq"],
        "_ts": pc.multiply(rows["timestamp_ms"].cast(pa.int64()), 1000).cast(TIMESTAMP),
        "_received_at": rows["_received_at"],
        "_before": texts["before"],
        "_after": texts["after"],
        "_rest": read.rest,
    }
    if partition.null_count < len(partition) or (known is not None and PARTITION in known.names):
        ours[PARTITION] = partition
    table = pa.table(ours | read.columns)
    found = {rows["row"][index].as_py(): reason for index, reason in unreadable.items()}
    return (table.filter(_without(rows["row"], found)) if found else table), found


def _document(operation: Any, before: Any, after: Any) -> tuple[Any, Any]:
    """What the typed columns are read from, and the other text when there are both."""
    is_delete = pc.equal(operation, DELETE)
    if not pc.any(is_delete).as_py() and not after.null_count:
        return after, before
    document = pc.if_else(is_delete, pc.coalesce(before, after), pc.coalesce(after, before))
    both = pc.and_(before.is_valid(), after.is_valid())
    nothing = pa.scalar(None, pa.string())
    return document, pc.if_else(both, pc.if_else(is_delete, after, before), nothing)


def _partition(metadata: Any) -> tuple[Any, dict[int, str]]:
    """The `partition` of each metadata: a string as it is, anything else as JSON text."""
    if metadata.null_count == len(metadata):
        return metadata, {}
    found: list[str | None] = []
    unreadable = {}
    for index, text in enumerate(metadata.to_pylist()):
        try:
            found.append(None if text is None else _partition_of(text.encode()))
        except exact.NotJson as exc:
            unreadable[index] = f"metadata is {exc}"
            found.append(None)
    return pa.array(found, pa.string()), unreadable


def _partition_of(metadata: bytes) -> str | None:
    text = bytes((exact.split(metadata) or {}).get("partition", b"null"))
    if text == b"null":
        return None
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.MsgspecError:
        return text.decode()
