"""Raw rows that were kept become the rows and dead letters they would have been at once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from lakehouse.fallback.storage import FallbackStorage, WaitingRows
from lakehouse.flush import raw, shred
from lakehouse.flush.entries import StoredBatch
from lakehouse.flush.unreadable import Unreadable
from rpc import arrow_stream, columns
from rpc.batch import Encoding
from rpc.entries import RawEntry
from tests.lakehouse.test_shred import EVERY_ENCODING, batch, entry
from tests.lakehouse.test_typed import streamed

MIXED = [
    entry(1, {"a": 1, "s": "ü"}, table=b"t"),
    entry(2, {"a": 2}, table=b"u", before=b'{"a":1}', operation=1),
    entry(3, b"{not json", table=b"t"),
    entry(4, {"a": "x", "b": [1, {"c": None}]}, table=b"t", row_id="ü".encode()),
    entry(5, table=b"u", before=b'{"a":2}', operation=2),
    entry(6, {"a": 1}, table=b"../escape"),
    entry(2**64 - 1, {"a": 1}, table=b"t"),
]


def after_keeping(batches: list[StoredBatch]) -> tuple[dict[str, Any], list[Any]]:
    """The tables and dead letters of these batches by way of the fallback, one piece for each batch and table."""
    parts: dict[str, list[Any]] = {}
    letters = []
    storage = FallbackStorage(None, now_ms=lambda: 0)  # type: ignore[arg-type]  # nothing is stored
    for one in batches:
        read = raw.read([one])
        letters += read.unreadable
        for rows in read.tables:
            packed = storage.pack("lake", rows.table, raw.to_keep(rows))
            parts.setdefault(rows.table, []).append(WaitingRows(1, packed).read())
    tables = {}
    for name, pieces in parts.items():
        kept = raw.kept(name, pieces)
        table, complaints = shred.type_rows(kept, None)
        letters += [kept.letter(index, reason) for index, reason in complaints.items()]
        tables[name] = table
    return tables, letters


def assert_the_same(batches: list[StoredBatch]) -> None:
    at_once, (tables, letters) = shred.shred(batches, {}), after_keeping(batches)
    assert {name: table.to_pylist() for name, table in tables.items()} == {
        name: table.to_pylist() for name, table in at_once.tables.items()
    }
    assert {name: table.schema for name, table in tables.items()} == {
        name: table.schema for name, table in at_once.tables.items()
    }
    assert sorted(map(whole, letters)) == sorted(map(whole, at_once.unreadable))


def whole(letter: Unreadable) -> tuple[str, bytes]:
    return repr(letter._replace(document=None)), letter.payload


@EVERY_ENCODING
def test_rows_and_dead_letters_are_the_same_in_every_encoding(encoding: Encoding) -> None:
    assert_the_same(
        [batch(*MIXED, encoding=encoding), batch(*reversed(MIXED), encoding=encoding, batch_id=2, sequence=10)]
    )


def test_documents_that_came_as_arrow_find_their_rows_piece_behind_piece() -> None:
    first, second = pa.table({"a": [1, 2], "s": ["x", None]}), pa.table({"a": [3, 4], "d": [0.5, 1.5]})
    assert_the_same([streamed(first, 1), batch(entry(7, {"a": 9}), batch_id=2), streamed(second, 3)])


def test_an_unreadable_row_with_an_arrow_document_is_a_dead_letter_with_it() -> None:
    entries = [RawEntry(1, 5, 0, b"t", b"r", b"", b"{"), RawEntry(2, 5, 0, b"t", b"r")]
    stream = arrow_stream.write(pa.table({"a": [1, 2]}))
    payload = columns.encode(entries, documents=[1, 2], streams={b"t": stream})
    assert_the_same([batch()._replace(payload=payload), streamed(pa.table({"a": [3]}), 2)])


def test_a_payload_that_cannot_be_cut_is_a_dead_letter_at_once() -> None:
    read = raw.read([batch()._replace(payload=b"\xff" * 9)])
    assert (read.tables, len(read.unreadable), read.entries) == ([], 1, 1)


def test_kept_rows_know_their_batches() -> None:
    read = raw.read([batch(entry(1, {}), batch_id=7), batch(entry(2, {}), entry(3, {}), batch_id=5)])
    assert raw.batch_ids(read.tables[0].rows) == [5, 7]
    assert raw.to_keep(read.tables[0])["entry_index"].to_pylist() == [0, 0, 1]


def test_a_row_without_its_document_is_our_mistake() -> None:
    rows = raw.read([streamed(pa.table({"a": [1]}))]).tables[0]
    with pytest.raises(AssertionError, match="no document 0 of table 't'"):
        raw.RawRows("t", rows.rows, []).letter(0, "why")
