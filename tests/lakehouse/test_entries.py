from __future__ import annotations

import pytest

from lakehouse.flush import entries
from lakehouse.flush.entries import StoredBatch
from rpc import arrow_payload, columns
from rpc import entries as wire
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.messages import WalEntry, WalOperation

RAW = [
    RawEntry(2**64 - 1, 2**63, 0, b"t", b"", b"", b"\xff"),
    RawEntry(1, 2, 1, b"u", b"row", b"before", b"after", b"meta"),
    RawEntry(2, 3, 2, b"t", b"r" * 65_535, b"null", b""),
]


def stored(raw: list[RawEntry], encoding: Encoding, batch_id: int = 0) -> StoredBatch:
    has_metadata = encoding is Encoding.BINARY_METADATA
    binary = wire.join([wire.pack(one, with_metadata=has_metadata) for one in raw])
    payload = columns.encode(raw) if encoding is Encoding.COLUMNS else binary
    return StoredBatch(batch_id, "c", "s", 1, 1, 0, encoding, payload)


@pytest.mark.parametrize("encoding", [Encoding.COLUMNS, Encoding.BINARY_METADATA])
def test_a_letter_gives_back_each_entry_byte_by_byte(encoding: Encoding) -> None:
    empty = stored([], encoding)
    sheet = entries.read([empty, stored(RAW, encoding, 7), empty, stored(RAW[:1], encoding, 8)])
    letters = [sheet.letter(row, "why") for row in range(4)]
    assert [columns.decode(letter.payload).entries()[0] for letter in letters] == [*RAW, RAW[0]]
    assert [(letter.batch_id, letter.entry_index) for letter in letters] == [(7, 0), (7, 1), (7, 2), (8, 0)]


def test_absent_texts_are_null_and_a_row_id_never_is() -> None:
    rows = entries.read([stored(RAW, Encoding.BINARY), stored(RAW[:1], Encoding.COLUMNS)]).rows
    assert rows["before"].to_pylist() == [None, b"before", b"null", None]
    assert rows["after"].to_pylist() == [b"\xff", b"after", None, b"\xff"]
    assert rows["metadata"].to_pylist() == [None] * 4
    assert rows["row_id"].to_pylist()[0] == b""


def test_tables_are_numbered_over_all_batches() -> None:
    batches = [stored(raw, Encoding.COLUMNS) for raw in (RAW[1:2], RAW[:1], RAW, RAW[1:2], [])]
    sheet = entries.read(batches)
    assert [sheet.tables[number] for number in sheet.rows["table"].to_pylist()] == [b"u", b"t", b"t", b"u", b"t", b"u"]


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_cut_off_payload_is_one_unreadable(encoding: Encoding) -> None:
    whole = stored(RAW, encoding)
    for end in range(120):
        sheet = entries.read([whole._replace(payload=whole.payload[:end])])
        assert (sheet.rows.num_rows, len(sheet.unreadable)) == (0, 1)
        assert sheet.unreadable_entries in (1, 3)


def test_typed_documents_are_numbered_over_all_batches_and_a_letter_brings_its_own() -> None:
    def row(sequence: int, table: str, document: object) -> WalEntry:
        fields = {"timestamp": 1, "operation": WalOperation.INSERT, "row_id": "r"}
        return WalEntry(sequence=sequence, table=table, after=document, **fields)

    first = [row(1, "t", {"a": 1}), row(2, "u", {"b": 2}), row(3, "t", None), row(4, "t", {"a": 4})]
    second = [row(5, "u", {"b": 5}), row(6, "t", {"c": "x"})]
    made = [
        StoredBatch(number, "c", "s", 1, number, 0, Encoding.COLUMNS, payload)
        for number, payload in enumerate(
            [arrow_payload.encode(first), wire_columns([]), arrow_payload.encode(second), wire_columns(RAW[:1])]
        )
    ]
    sheet = entries.read(made)
    assert sheet.rows["document"].to_pylist() == [0, 0, None, 1, 1, 2, None]
    assert {table: sum(rows.num_rows for rows in found) for table, found in sheet.documents.items()} == {
        b"t": 3,
        b"u": 2,
    }
    letters = [arrow_payload.decode(sheet.letter(number, "why").payload) for number in range(6)]
    assert letters == [[one] for one in first + second]


def wire_columns(raw: list[RawEntry]) -> bytes:
    return columns.encode(raw)


def test_documents_nobody_can_read_make_their_batch_one_unreadable() -> None:
    garbage = columns.encode(RAW[:1], documents=[1], streams={b"t": b"smoke"})
    sheet = entries.read([StoredBatch(3, "c", "s", 1, 1, 0, Encoding.COLUMNS, garbage), stored(RAW, Encoding.COLUMNS)])
    (letter,) = sheet.unreadable
    assert (letter.batch_id, letter.entry_index, letter.payload, sheet.unreadable_entries) == (3, None, garbage, 1)
    assert "Arrow" in letter.reason
    assert sheet.rows.num_rows == len(RAW)
