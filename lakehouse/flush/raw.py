"""Stored batches as raw rows: those of each table together, their documents still texts, and no schema asked.

The half of shredding that needs no lake; `shred` gives them types. While the lake is away raw rows are kept and read
again, so each knows the batch it came in and its place there: what turns out unreadable later is still a dead letter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import entries
from lakehouse.flush.entries import Sheet, StoredBatch
from lakehouse.flush.moments import TIMESTAMP
from lakehouse.flush.unreadable import Document, Unreadable
from lakehouse.flush.whole import whole
from rpc import arrow_stream, batch, columns
from rpc.arrow_stream import Extent
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.names import is_table, table_complaint

TIMESTAMP_MS_MAX = pa.scalar(253_402_300_799_999, pa.uint64())
"""The last millisecond of the year 9999."""
SEQUENCE_MAX = pa.scalar(batch.SEQUENCE_MAX, pa.uint64())
STREAMS = "streams"
"""A column of kept rows: the typed documents, all in the first row."""
DROPPED = ("row", "batch", "table")
"""Columns that mean something only beside the other tables of their flush."""


@dataclass(frozen=True, slots=True)
class RawRows:
    """The rows of one table. `document` counts through the `streams`, null for a row whose document is a text."""

    table: str
    rows: Any
    streams: Sequence[Any]

    def letter(self, index: int, reason: str) -> Unreadable:
        """The entry of this row with everything it came with, as a batch of one."""
        fields = {name: self.rows[name][index].as_py() for name in self.rows.column_names}
        name = self.table.encode()
        texts = ((fields[text] or "").encode() for text in entries.TEXTS)
        entry = RawEntry(fields["sequence"], fields["timestamp_ms"], fields["operation"], name, *texts)
        document = Document.of(self.streams, fields["document"], table=self.table)
        place = fields["batch_id"], fields["entry_index"]
        return Unreadable(*place, self.table, Encoding.COLUMNS, columns.encode([entry]), reason, document)


@dataclass(frozen=True, slots=True)
class Raw:
    """`letters` are the rows of the sheet that are no rows of a table, by their number there.

    `aside` are the rows of tables that take none now.
    """

    sheet: Sheet
    tables: list[RawRows]
    letters: dict[int, Unreadable]
    aside: Sequence[RawRows] = ()

    def without(self, table: str) -> Raw:
        """The same with the rows of this table aside."""
        aside = [one for one in self.tables if one.table == table]
        return replace(self, tables=[one for one in self.tables if one.table != table], aside=[*self.aside, *aside])

    def refusing(self, tables: Collection[str], reason: str) -> Raw:
        """The same with the rows of these tables as letters."""
        letters = {
            row: one.letter(index, reason)
            for one in self.tables
            if one.table in tables
            for index, row in enumerate(one.rows["row"].to_pylist())
        }
        kept = [one for one in self.tables if one.table not in tables]
        return replace(self, tables=kept, letters=self.letters | letters)

    @property
    def entries(self) -> int:
        rows: int = self.sheet.rows.num_rows
        return rows + self.sheet.unreadable_entries

    @property
    def unreadable(self) -> list[Unreadable]:
        """Whole batches first, then entry by entry."""
        return self.sheet.unreadable + [letter for _, letter in sorted(self.letters.items())]


def read(batches: Sequence[StoredBatch]) -> Raw:
    """The raw rows of these batches, in their order."""
    sheet = entries.read(batches)
    reasons = _misfits(sheet)
    tables = [RawRows(name, rows, sheet.documents.get(name.encode(), [])) for name, rows in _by_table(sheet, reasons)]
    return Raw(sheet, tables, {row: sheet.letter(row, reason) for row, reason in reasons.items()})


def to_keep(raw: RawRows) -> Any:
    """As one Arrow table."""
    rows = raw.rows.drop_columns([name for name in DROPPED if name in raw.rows.column_names])
    streams = [arrow_stream.write(stream) for stream in raw.streams]
    first = pa.array([streams], pa.list_(pa.binary()))
    return rows.append_column(STREAMS, pa.concat_arrays([first, pa.nulls(rows.num_rows - 1, first.type)]))


def kept(table: str, parts: Sequence[Any]) -> RawRows:
    """What `to_keep` made of the rows of one table, piece behind piece."""
    pieces, streams, before = [], [], 0
    for part in parts:
        found = [arrow_stream.read(stream) for stream in part[STREAMS][0].as_py()]
        numbers = pc.add(part["document"], pa.scalar(before, pa.int64()))
        place = part.column_names.index("document")
        pieces.append(part.drop_columns([STREAMS]).set_column(place, "document", numbers))
        streams += found
        before += sum(stream.num_rows for stream in found)
    return RawRows(table, pa.concat_tables(pieces).combine_chunks(), streams)


def extent(part: Any) -> Extent:
    """What the typed documents of a piece that `to_keep` made come to."""
    return Extent.of(*(arrow_stream.read(stream) for stream in part[STREAMS][0].as_py()))


def batch_ids(rows: Any) -> list[int]:
    """The batches these rows came in, ascending."""
    found: list[int] = sorted(pc.unique(rows["batch_id"]).to_pylist())
    return found


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
        for row in _not_utf8(whole(rows[name])):
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
        rows = rows.filter(pc.invert(pc.is_in(rows["row"], pa.array(list(reasons), pa.int64()))))
    for name in entries.TEXTS:
        # What is no UTF-8 is among the reasons and gone, so nobody looks at each byte again.
        texts = rows[name].cast(pa.string(), safe=False)
        rows = rows.set_column(rows.column_names.index(name), name, texts)
    if not rows.num_rows:
        return []
    if len(sheet.tables) == 1:
        return [(sheet.tables[0].decode(), rows)]
    # One sort (it is stable) and slices: a filter for each table would cost tables x rows.
    rows = rows.take(pc.sort_indices(rows, [("table", "ascending"), ("row", "ascending")])).combine_chunks()
    counts = pc.value_counts(rows["table"]).to_pylist()
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
        "batch_id": pa.array([one.batch_id for one in of], pa.int64()),
    }
    for name, values in inherited.items():
        rows = rows.append_column(name, values.take(batch))
    starts = pa.array(sheet.starts, pa.int64()).take(batch)
    return rows.append_column("entry_index", pc.subtract(rows["row"], starts))
