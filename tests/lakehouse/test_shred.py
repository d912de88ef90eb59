from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.flush import digests
from lakehouse.flush.shred import Shredded, StoredBatch, shred
from rpc import columns
from rpc import entries as wire
from rpc.batch import Encoding
from rpc.entries import RawEntry
from tests.repetition import at_length

INSERT, UPDATE, DELETE = range(3)
COUNTING = pa.proxy_memory_pool(pa.default_memory_pool())
"""It has to outlive every array made in it."""
EVERY_ENCODING = pytest.mark.parametrize("encoding", list(Encoding))


def entry(sequence: int = 0, after: Any = None, **fields: Any) -> RawEntry:
    made: dict[str, Any] = {"timestamp_ms": 1_700_000_000_123, "operation": INSERT, "table": b"t", "row_id": b"r"}
    if after is not None:
        made["after"] = after if isinstance(after, bytes) else json.dumps(after).encode()
    return RawEntry(sequence=sequence, **(made | fields))


def batch(*entries: RawEntry, encoding: Encoding = Encoding.COLUMNS, **fields: Any) -> StoredBatch:
    if encoding is Encoding.COLUMNS:
        payload = columns.encode(entries)
    else:
        has_metadata = encoding is Encoding.BINARY_METADATA
        payload = wire.join([wire.pack(one, with_metadata=has_metadata) for one in entries])
    made: dict[str, Any] = {"batch_id": 1, "source": "child", "shard": "s", "epoch": 3, "sequence": 9, "received_ms": 5}
    return StoredBatch(**(made | {"encoding": encoding, "payload": payload} | fields))


def rows(shredded: Shredded, table: str = "t") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shredded.tables[table].to_pylist()
    return found


@EVERY_ENCODING
def test_an_entry_becomes_a_row_with_where_it_came_from(encoding: Encoding) -> None:
    text = b'{"a": 1,  "s":"\xc3\xbc"}'
    made = batch(entry(7, text, row_id="ü".encode(), operation=UPDATE, before=b"null"), encoding=encoding)
    shredded = shred([made], {})
    table = shredded.tables["t"]
    assert rows(shredded) == [
        {
            "_op": "UPDATE",
            "_row_id": "ü",
            "_source": "child",
            "_shard": "s",
            "_epoch": 3,
            "_seq": 7,
            "_batch_seq": 9,
            "_ts": datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC),
            "_received_at": datetime(1970, 1, 1, 0, 0, 0, 5000, tzinfo=UTC),
            "_before": "null",
            "_after": text.decode(),
            "_rest": None,
            "a": 1,
            "s": "ü",
        }
    ]
    assert [str(column.type) for column in table.schema][:12] == [
        *["string"] * 4, *["int64"] * 3, *["timestamp[us, tz=UTC]"] * 2, *["string"] * 3
    ]  # fmt: skip
    assert (shredded.unreadable, shredded.entries) == ([], 1)


@EVERY_ENCODING
def test_every_operation_reads_the_document_that_tells_the_row(encoding: Encoding) -> None:
    one, two = b'{"a":1}', b'{"a":2}'
    made = [
        entry(0, one),
        entry(1, two, operation=UPDATE, before=one),
        entry(2, operation=DELETE, before=one),
        entry(3, two, operation=DELETE, before=one),
        entry(4, two, operation=DELETE),
        entry(5, operation=UPDATE, before=one),
        entry(6, operation=INSERT),
        entry(7, b"null", before=one),
    ]
    found = rows(shred([batch(*made, encoding=encoding)], {}))
    assert [row["a"] for row in found] == [1, 2, 1, 1, 2, 1, None, None]
    assert [row["_before"] and row["_before"].encode() for row in found] == [one.before or None for one in made]
    assert [row["_after"] and row["_after"].encode() for row in found] == [one.after or None for one in made]


def test_batches_of_every_encoding_and_table_keep_their_order() -> None:
    made = [
        batch(*(entry(10 * number + n, {"n": n}, table=f"t{n % 3}".encode()) for n in range(6)), encoding=encoding,
              sequence=number, source=f"c{number}")
        for number, encoding in enumerate([*Encoding, *Encoding])
    ]  # fmt: skip
    made.insert(2, batch())
    made.append(batch(entry(99, {"n": 9}, table=b"t1")))
    shredded = shred(made, {})
    assert list(shredded.tables) == ["t0", "t1", "t2"]
    assert [row["_seq"] for row in rows(shredded, "t1")] == [*(10 * b + n for b in range(6) for n in (1, 4)), 99]
    assert [row["_source"] for row in rows(shredded, "t2")] == [f"c{b}" for b in range(6) for _ in (2, 5)]
    assert shredded.entries == 37


def test_a_table_that_is_known_keeps_its_types() -> None:
    known = {"t": pa.schema([("_op", pa.string()), ("a", pa.float64())])}
    shredded = shred([batch(entry(0, {"a": 1}), entry(1, {"a": 1}, table=b"u"))], known)
    assert shredded.tables["t"].schema.field("a").type == pa.float64()
    assert shredded.tables["u"].schema.field("a").type == pa.int64()


@pytest.mark.parametrize("encoding", [Encoding.COLUMNS, Encoding.BINARY_METADATA])
def test_a_partition_in_the_metadata_becomes_a_column(encoding: Encoding) -> None:
    metadata = [b'{"partition":"eu","x":1}', b"", b'{"partition": 7}', b'{"partition":null}', b"[]"]
    made = batch(*(entry(n, metadata=one) for n, one in enumerate(metadata)), encoding=encoding)
    assert [row["_partition"] for row in rows(shred([made], {}))] == ["eu", None, "7", None, None]


def test_without_a_partition_the_column_is_there_only_if_the_table_has_it() -> None:
    made = [batch(entry(0, metadata=b'{"x":1}'))]
    assert "_partition" not in shred(made, {}).tables["t"].column_names
    known = {"t": pa.schema([("_partition", pa.string())])}
    assert rows(shred(made, known))[0]["_partition"] is None


@EVERY_ENCODING
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry(1, b'{"a":'), "JSON"),
        (entry(1, b'{"a":"\xff"}'), "after is not UTF-8"),
        (entry(1, b'{"a":1}', operation=UPDATE, before=b"{"), "JSON"),
        (entry(1, row_id=b"\xff"), "row_id is not UTF-8"),
        (entry(1, table=b"../../escape"), "table name"),
        (entry(1, table=b".."), "table name"),
        (entry(1, table=b"\xff"), "table name"),
        (entry(1, table=b""), "table name"),
        (entry(1, timestamp_ms=253_402_300_800_000), "timestamp"),
        (entry(2**63), "sequence"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_entry_that_cannot_be_a_row_becomes_a_letter_and_harms_no_other(
    bad: RawEntry, reason: str, encoding: Encoding
) -> None:
    first, second = batch(entry(0, {"a": 1})), batch(entry(1, {"a": 2}), bad, entry(3, {"a": 3}), batch_id=2)
    second = batch(entry(1, {"a": 2}), bad, entry(3, {"a": 3}), batch_id=2, encoding=encoding)
    shredded = shred([first, second], {})
    assert [row["a"] for row in rows(shredded)] == [1, 2, 3]
    (letter,) = shredded.unreadable
    assert (letter.batch_id, letter.entry_index, letter.encoding) == (2, 1, Encoding.COLUMNS)
    assert letter.table == bad.table.decode(errors="replace")
    assert reason in letter.reason
    assert columns.decode(letter.payload).entries() == [bad]
    assert shredded.entries == 4


def test_metadata_that_is_not_json_makes_a_letter() -> None:
    (letter,) = shred([batch(entry(0, metadata=b"{"))], {}).unreadable
    assert "metadata" in letter.reason
    assert columns.decode(letter.payload).entries()[0].metadata == b"{"


@EVERY_ENCODING
def test_a_payload_that_cannot_be_cut_is_one_letter_and_counts_what_it_announces(encoding: Encoding) -> None:
    whole = batch(*(entry(n, {"a": n}) for n in range(5)), encoding=encoding, batch_id=4)
    broken = whole._replace(payload=whole.payload[:-1])
    shredded = shred([broken, batch(entry(0, {"a": 1}))], {})
    (letter,) = shredded.unreadable
    assert letter[:5] == (4, None, "", encoding, broken.payload)
    assert letter.reason
    assert len(rows(shredded)) == 1
    assert shredded.entries == 6


def test_a_batch_of_an_encoding_nobody_knows_is_a_letter() -> None:
    made: Any = batch(entry())._replace(encoding="smoke")
    (letter,) = shred([made], {}).unreadable
    assert "smoke" in letter.reason


def test_a_binary_entry_with_an_unknown_operation_is_a_letter() -> None:
    made = batch(entry(0, operation=3), encoding=Encoding.BINARY)
    (letter,) = shred([made], {}).unreadable
    assert "operation" in letter.reason


def test_nothing_becomes_nothing() -> None:
    assert shred([], {}) == Shredded({}, [], 0)
    assert shred([batch()], {}) == Shredded({}, [], 0)


def test_a_table_of_nothing_but_letters_has_no_rows() -> None:
    shredded = shred([batch(entry(0, b"{"), entry(1, b"{", table=b"u"))], {})
    assert shredded.tables == {}
    assert [letter.table for letter in shredded.unreadable] == ["t", "u"]


def test_rows_of_many_chunks_stay_with_their_documents() -> None:
    made = [
        batch(*(entry(n, {"n": n, "s": f"v{n}"}, row_id=b"%d" % n) for n in range(start, start + 100)))
        for start in range(0, 5000, 100)
    ]
    table = shred(made, {}).tables["t"]
    assert table["n"].to_pylist() == list(range(5000)) == table["_seq"].to_pylist()
    assert table["s"].to_pylist() == [f"v{n}" for n in range(5000)]
    assert table["_row_id"].to_pylist() == [str(n) for n in range(5000)]


BYTES = st.binary(max_size=8) | st.sampled_from([b"", b"{}", b'{"a":1}', b'{"a":"x"}', b'{"_a":1}', b"null", b"[1]"])
ENTRIES = st.builds(
    RawEntry,
    sequence=st.integers(0, 2**64 - 1),
    timestamp_ms=st.integers(0, 2**64 - 1) | st.just(1),
    operation=st.integers(0, 2),
    table=st.sampled_from([b"t", b"u", b"/", b"\xff"]),
    row_id=BYTES,
    before=BYTES,
    after=BYTES,
    metadata=BYTES,
)
BATCHES = st.builds(
    lambda made, encoding: batch(*made, encoding=encoding), st.lists(ENTRIES), st.sampled_from(Encoding)
)


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(st.lists(BATCHES, max_size=4))
def test_no_entry_is_lost_or_doubled_whatever_it_holds(batches: list[StoredBatch]) -> None:
    sent = []
    for number, one in enumerate(batches):
        batches[number] = one._replace(batch_id=number)
        sent += [(number, index) for index in range(wire.count_of(one.payload))]
    shredded = shred(batches, {})
    letters = [(letter.batch_id, letter.entry_index) for letter in shredded.unreadable]
    stored = sum(table.num_rows for table in shredded.tables.values())
    assert len(set(letters)) == len(letters)
    assert set(letters) <= set(sent)
    assert stored + len(letters) == len(sent) == shredded.entries
    for table in shredded.tables.values():
        table.validate(full=True)


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.sampled_from(Encoding))
def test_no_payload_raises(payload: bytes, encoding: Encoding) -> None:
    shredded = shred([batch()._replace(payload=payload, encoding=encoding)], {})
    assert shredded.entries >= len(shredded.unreadable)


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(st.data(), st.sampled_from(Encoding))
def test_no_damaged_payload_raises(data: st.DataObject, encoding: Encoding) -> None:
    whole = batch(entry(0, {"a": 1}, before=b"{}"), entry(1, table=b"u", metadata=b"{}"), encoding=encoding)
    damaged = bytearray(whole.payload)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    shredded = shred([whole._replace(payload=bytes(damaged))], {})
    assert shredded.tables or shredded.unreadable or not shredded.entries


def test_large_documents_are_in_memory_once_as_text_and_once_as_a_column() -> None:
    made = [batch(*(entry(n, {"text": chr(65 + n % 26) * 40_000}) for n in range(100))) for _ in range(8)]
    size_bytes = sum(len(one.payload) for one in made)
    before = pa.default_memory_pool()
    pa.set_memory_pool(COUNTING)
    try:
        shredded = shred(made, {})
        found = digests.of_tables(shredded.tables)
    finally:
        pa.set_memory_pool(before)
    assert found[0].sum.entries == shredded.tables["t"].num_rows == 800
    # The text is Python's, the column is Arrow's; what comes and goes meanwhile is a few pieces of 4 MiB.
    assert COUNTING.max_memory() < 1.6 * size_bytes
