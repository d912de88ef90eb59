"""Stored batches as one sheet: a row an entry, a column a field, still nothing but bytes and numbers.

Columnar payloads are joined buffer by buffer and no entry is touched; binary ones are walked once, 1 us an entry.
A payload nobody can cut becomes one `Unreadable`. Knows nothing of JSON, tables' columns or what makes a good name.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush.unreadable import Document, Unreadable
from rpc import arrow_stream, columns, entries
from rpc.arrow_stream import Extent
from rpc.batch import Encoding
from rpc.errors import ProtocolError


class StoredBatch(NamedTuple):
    """A batch as the journal keeps it."""

    batch_id: int
    source: str
    shard: str
    epoch: int
    sequence: int
    received_ms: int
    encoding: Encoding
    payload: bytes


class Sheet(NamedTuple):
    """All entries in one Arrow table `rows`, a whole payload that cannot be cut in `unreadable`.

    Columns: row (its number), batch (index into `batches`), table (index into `tables`), sequence, timestamp_ms,
    operation, and as binary row_id, before, after, metadata, the last three null when absent. And document, which
    counts through the `documents` of the row's table and is null for an entry without a typed one.
    """

    rows: Any
    batches: list[StoredBatch]
    starts: list[int]
    """The row each batch begins at."""
    tables: list[bytes]
    unreadable: list[Unreadable]
    unreadable_entries: int
    documents: dict[bytes, list[Any]]
    """The typed documents of each table, as they came: Arrow tables one behind the other."""
    crowded: int | None = None
    """The first batch whose typed documents are too much beside those before it."""

    def letter(self, row: int, reason: str) -> Unreadable:
        """The entry of this row with everything it came with, as a batch of one."""
        fields = {name: column[row].as_py() for name, column in zip(self.rows.column_names, self.rows, strict=True)}
        batch, table = self.batches[fields["batch"]], self.tables[fields["table"]]
        raw = entries.RawEntry(
            fields["sequence"],
            fields["timestamp_ms"],
            fields["operation"],
            table,
            *(fields[name] or b"" for name in TEXTS),
        )
        index = row - self.starts[fields["batch"]]
        name = table.decode(errors="replace")
        document = Document.of(self.documents.get(table, ()), fields["document"], table=name)
        return Unreadable(batch.batch_id, index, name, Encoding.COLUMNS, columns.encode([raw]), reason, document)


class _Cut(NamedTuple):
    """A payload cut into the buffers of its columns."""

    entries: int
    tables: list[bytes]
    table_index: array[int] | memoryview
    fixed: Sequence[Any]
    """sequences u64, timestamps u64, operations u8"""
    lengths: Sequence[Any]
    """of row ids u16, befores u32, afters u32, metadatas u32 (or nothing)"""
    texts: Sequence[Any]
    documents: Any = None
    """The row of each entry's typed document in its table's stream, or null"""
    streams: Sequence[Any] = ()
    """An Arrow table for each of `tables`, or nothing"""


FIXED = {"sequence": pa.uint64(), "timestamp_ms": pa.uint64(), "operation": pa.uint8()}
TEXTS = {"row_id": pa.uint16(), "before": pa.uint32(), "after": pa.uint32(), "metadata": pa.uint32()}
"""Each text and the type of its length."""

INDEX = {2: pa.uint16(), 4: pa.uint32()}

TEXT_BYTES_MAX = 2**31 - 1
"""What the offsets of an Arrow string array reach."""


def read(batches: Sequence[StoredBatch]) -> Sheet:
    """The entries of all batches, in their order."""
    cuts: list[_Cut] = []
    whole: list[StoredBatch] = []
    unreadable: list[Unreadable] = []
    lost = 0
    for batch in batches:
        try:
            cuts.append(_cut(batch))
            whole.append(StoredBatch._make((*batch[:-1], b"")))  # its texts are joined below
        except ProtocolError as exc:
            unreadable.append(Unreadable(batch.batch_id, None, "", batch.encoding, batch.payload, str(exc)))
            lost += _announced(batch.payload)
    starts = list(accumulate((cut.entries for cut in cuts), initial=0))[:-1]
    tables: dict[bytes, int] = {}
    rows = _rows(cuts, tables)
    documents: dict[bytes, list[Any]] = {}
    rows = rows.append_column("document", _documents(cuts, documents))
    return Sheet(rows, whole, starts, list(tables), unreadable, lost, documents, _crowded(whole, cuts))


def _crowded(batches: Sequence[StoredBatch], cuts: Sequence[_Cut]) -> int | None:
    """Columns are of all that a flush has, so it may have as much of typed documents as a single batch may."""
    extent = Extent(0, 0)
    for batch, cut in zip(batches, cuts, strict=True):
        extent = extent.beside(Extent.of(*cut.streams))
        if extent.is_beyond():
            return batch.batch_id
    return None


def _rows(cuts: list[_Cut], tables: dict[bytes, int]) -> Any:
    counts = [cut.entries for cut in cuts]
    total = sum(counts)
    made = {
        "row": pc.subtract(pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int64()), total)), 1),
        "batch": _repeat(range(len(cuts)), counts),
        "table": _table_column(cuts, tables),
    }
    for number, (name, kind) in enumerate(FIXED.items()):
        made[name] = _from_buffer(kind, b"".join([cut.fixed[number] for cut in cuts]), total)
    for number, (name, kind) in enumerate(TEXTS.items()):
        lengths = b"".join([cut.lengths[number] for cut in cuts])
        texts = b"".join([cut.texts[number] for cut in cuts])
        made[name] = _text_column(_from_buffer(kind, lengths, total), texts, is_optional=name != "row_id")
    return pa.table(made)


def _table_column(cuts: list[_Cut], tables: dict[bytes, int]) -> Any:
    pieces = [pa.array([], pa.int32())]
    numbers: list[int] = []  # of the tables of the single-table batches since the last other one
    counts: list[int] = []
    for cut in cuts:
        found = [tables.setdefault(name, len(tables)) for name in cut.tables]
        if len(found) <= 1:
            numbers += found or [0]
            counts.append(cut.entries)
        else:
            pieces += [
                _repeat(numbers, counts),
                pa.array(found, pa.int32()).take(_index(cut)),
            ]
            numbers, counts = [], []
    return pa.concat_arrays([*pieces, _repeat(numbers, counts)])


def _documents(cuts: list[_Cut], documents: dict[bytes, list[Any]]) -> Any:
    """The number of each entry's typed document among those of its table."""
    pieces = [pa.array([], pa.int64())]
    starts: dict[bytes, int] = {}
    for cut in cuts:
        if not cut.streams:
            pieces.append(pa.nulls(cut.entries, pa.int64()))
            continue
        before = pa.array([starts.get(table, 0) for table in cut.tables], pa.int64())
        pieces.append(pc.add(cut.documents, before[0] if len(before) == 1 else before.take(_index(cut))))
        for table, rows in zip(cut.tables, cut.streams, strict=True):
            documents.setdefault(table, []).append(rows)
            starts[table] = starts.get(table, 0) + rows.num_rows
    return pa.concat_arrays(pieces)


def _index(cut: _Cut) -> Any:
    """The place of each entry's table in `tables`."""
    return _from_buffer(INDEX[cut.table_index.itemsize], bytes(cut.table_index), cut.entries)


def _repeat(values: Sequence[int], counts: Sequence[int]) -> Any:
    """Each value as often as its count says."""
    runs = [(value, count) for value, count in zip(values, counts, strict=True) if count]
    if not runs:
        return pa.array([], pa.int32())
    ends = pa.array(accumulate(count for _, count in runs), pa.int32())
    encoded: Any = pa.RunEndEncodedArray.from_arrays(ends, pa.array([value for value, _ in runs], pa.int32()))
    return pc.call_function("run_end_decode", [encoded])


def _from_buffer(kind: Any, buffer: bytes, count: int) -> Any:
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(buffer)])


def _text_column(lengths: Any, texts: bytes, *, is_optional: bool) -> Any:
    """The pieces of a text as a binary array, without touching one; absent ones are null."""
    if is_optional and not texts:
        return pa.nulls(len(lengths), pa.binary())
    assert len(texts) <= TEXT_BYTES_MAX, f"{len(texts)} bytes of text in one flush; lower EVODB_FLUSH_BYTES_MAX"
    ends = pc.cumulative_sum(lengths.cast(pa.int32()))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends]).buffers()[1]
    is_present = pc.greater(lengths, pa.scalar(0, lengths.type)).buffers()[1] if is_optional else None
    return pa.Array.from_buffers(pa.binary(), len(lengths), [is_present, offsets, pa.py_buffer(texts)])


def _cut(batch: StoredBatch) -> _Cut:
    if batch.encoding == Encoding.COLUMNS:
        found = columns.decode(batch.payload)
        absent = [] if len(found.metadata_lengths) else [bytes(4 * found.rows)]
        return _Cut(
            *(found.rows, found.tables, found.table_index, found[2:5]),
            [*found[6 : 10 - len(absent)], *absent],
            found[10:14],
            *arrow_stream.documents(found),
        )
    if batch.encoding not in (Encoding.BINARY, Encoding.BINARY_METADATA):
        raise ProtocolError(f"encoding {batch.encoding!r}, wanted one of {', '.join(Encoding)}")
    return _walk(batch.payload, with_metadata=batch.encoding == Encoding.BINARY_METADATA)


def _walk(payload: bytes, *, with_metadata: bool) -> _Cut:
    """The columns of a binary payload, every length checked on the way."""
    header = entries.HEADER_META if with_metadata else entries.HEADER
    unpack, size, position = header.unpack_from, header.size, entries.COUNT.size
    heads: list[tuple[int, ...]] = []
    texts: tuple[list[bytes], ...] = ([], [], [], [], [])
    add_table, add_row_id, add_before, add_after, add_metadata = (column.append for column in texts)
    try:
        for _ in range(entries.count_of(payload)):
            head = unpack(payload, position)
            heads.append(head)
            row_id = position + size + head[3]
            before = row_id + head[4]
            after = before + head[5]
            end = after + head[6]
            add_table(payload[position + size : row_id])
            add_row_id(payload[row_id:before])
            add_before(payload[before:after])
            add_after(payload[after:end])
            if with_metadata:
                end += head[7]
                add_metadata(payload[end - head[7] : end])
            position = end
    except struct.error:
        position = len(payload) + 1
    if position != len(payload):
        raise ProtocolError(f"payload of {len(payload)} bytes does not hold the entries it announces")
    return _columns_of(heads, texts)


def _columns_of(heads: list[tuple[int, ...]], texts: tuple[list[bytes], ...]) -> _Cut:
    names: dict[bytes, int] = {}
    sequences, timestamps, operations, _, row_ids, *others = zip(*heads, strict=True) if heads else [()] * 8
    if operations and max(operations) > 2:
        raise ProtocolError(f"Invalid operation code: {max(operations)}, wanted 0 INSERT, 1 UPDATE or 2 DELETE")
    lengths = [array("H", row_ids), *(array("I", column) for column in others)]
    return _Cut(
        len(heads),
        list(dict.fromkeys(texts[0])),
        array("I", [names.setdefault(name, len(names)) for name in texts[0]]),
        [array("Q", sequences), array("Q", timestamps), bytes(operations)],
        lengths if len(lengths) == len(TEXTS) else [*lengths, bytes(4 * len(heads))],
        [b"".join(column) for column in texts[1:]],
    )


def _announced(payload: bytes) -> int:
    """How many entries are lost with a payload: as many as it announces, if they could be in there, else one."""
    try:
        return max(1, entries.count_of(payload))
    except ProtocolError:
        return 1
