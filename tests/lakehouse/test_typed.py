"""Documents that come as Arrow, through `shred` like all others."""

from __future__ import annotations

import json
import random
import tracemalloc
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.flush.shred import Shredded, StoredBatch, shred
from rpc import arrow_payload, arrow_stream, columns
from rpc import entries as wire
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.messages import UNSET, WalEntry, WalOperation

MOMENT = datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
OURS = {"_op", "_row_id", "_source", "_shard", "_epoch", "_seq", "_batch_seq", "_ts", "_received_at"}


def row(sequence: int, after: Any = UNSET, **fields: Any) -> WalEntry:
    made: dict[str, Any] = {"timestamp": 5, "operation": WalOperation.INSERT, "table": "t", "row_id": "r"}
    return WalEntry(sequence=sequence, after=after, **(made | fields))


def typed(*entries: WalEntry, batch_id: int = 1) -> StoredBatch:
    return stored(arrow_payload.encode(entries), batch_id)


def as_json(*entries: WalEntry, batch_id: int = 1) -> StoredBatch:
    return stored(columns.encode([wire.from_wal(entry) for entry in entries]), batch_id)


def stored(payload: bytes, batch_id: int = 1) -> StoredBatch:
    return StoredBatch(batch_id, "child", "s", 3, 9, 5, Encoding.COLUMNS, payload)


def streamed(table: Any, batch_id: int = 1) -> StoredBatch:
    """A batch of one entry for each row of a table made by a stranger."""
    raw = [RawEntry(number, 5, 0, b"t", b"r") for number in range(table.num_rows)]
    stream = arrow_stream.write(table)
    numbers = [*range(1, table.num_rows + 1)]
    return stored(columns.encode(raw, documents=numbers, streams={b"t": stream}), batch_id)


def rows(shredded: Shredded, table: str = "t") -> list[dict[str, Any]]:
    """What is not null and not ours."""
    shredded.tables[table].validate(full=True)
    return [
        {key: value for key, value in one.items() if value is not None and key not in OURS}
        for one in shredded.tables[table].to_pylist()
    ]


def test_typed_columns_are_the_columns_of_the_table() -> None:
    document = {"s": "ü", "n": -(2**63), "x": 0.1, "b": False, "at": MOMENT, "day": date(2024, 1, 2)}
    shredded = shred([typed(row(7, document), row(8, {"s": "y"}))], {})
    assert rows(shredded) == [document, {"s": "y"}]
    assert shredded.tables["t"]["_seq"].to_pylist() == [7, 8]
    assert (shredded.unreadable, shredded.entries) == ([], 2)


def test_they_are_the_columns_json_would_have_made() -> None:
    sent = [
        row(1, {"a": 1, "b": "x", "c": {"n": [1, 2]}, "_z": 4, "big": 2**70}),
        row(2, {"a": 2, "A": 7, "d": 1.5, "b": "y"}, operation=WalOperation.UPDATE, before={"a": 1}),
        row(3, operation=WalOperation.DELETE, before={"a": 3}),
        row(4, None),
        row(5, {"a": "no", "b": "z"}, table="u"),
    ]
    by_arrow, by_json = shred([typed(*sent)], {}), shred([as_json(*sent)], {})
    assert by_arrow.tables.keys() == by_json.tables.keys()
    for name, table in by_json.tables.items():
        ours = by_arrow.tables[name]
        assert sorted(ours.schema.names) == sorted(table.schema.names)
        for key in table.schema.names:
            if key == "_rest":
                found, wanted = ([text and json.loads(text) for text in t[key].to_pylist()] for t in (ours, table))
                assert found == wanted
            elif key not in ("_before", "_after"):
                assert ours[key].equals(table[key]), key
    # The document that became columns is not repeated as text; the other one of an update is.
    assert by_arrow.tables["t"]["_before"].to_pylist() == [None, '{"a":1}', None, None]
    assert by_arrow.tables["t"]["_after"].to_pylist() == [None, None, None, "null"]


def test_json_rows_of_the_same_table_get_the_types_of_the_typed_ones_and_order_is_kept() -> None:
    batches = [
        as_json(row(1, {"a": "text", "n": 1})),
        typed(row(2, {"a": 5}), row(3, {"a": 6})),
        as_json(row(4, {"a": 7, "n": 2})),
    ]
    shredded = shred(batches, {})
    assert shredded.tables["t"]["_seq"].to_pylist() == [1, 2, 3, 4]
    assert [(one.get("a"), one.get("n"), one.get("_rest")) for one in rows(shredded)] == [
        (None, 1, '{"a":"text"}'),
        (5, None, None),
        (6, None, None),
        (7, 2, None),
    ]


def test_a_known_table_keeps_its_types_and_misfits_go_to_the_rest() -> None:
    known = {"t": pa.schema([("a", pa.int64()), ("at", pa.timestamp("us", tz="UTC")), ("s", pa.string())])}
    sent = {"a": 1.0, "at": "2024-01-02T03:04:05Z", "s": "x"}, {"a": 1.5, "at": "soon", "s": "y"}
    shredded = shred([typed(*(row(number, one) for number, one in enumerate(sent)))], known)
    assert rows(shredded) == [
        {"at": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "s": "x", "_rest": '{"a":1.0}'},
        {"s": "y", "_rest": '{"a":1.5,"at":"soon"}'},
    ]


def test_batches_of_different_types_agree_on_one() -> None:
    shredded = shred(
        [typed(row(1, {"a": 1}), row(2, {"a": 2})), typed(row(3, {"a": 0.5})), typed(row(4, {"b": 1}))], {}
    )
    assert rows(shredded) == [{"a": 1.0}, {"a": 2.0}, {"a": 0.5}, {"b": 1}]


def test_moments_no_reader_can_show_are_kept_in_the_rest() -> None:
    times = pa.array([2**62, 0, None], pa.timestamp("us", tz="UTC"))
    found = rows(shred([streamed(pa.table({"at": times, "day": pa.array([0, 2**31 - 1, None], pa.date32())}))], {}))
    assert found[0].keys() == {"day", "_rest"}
    assert found[1].keys() == {"at", "_rest"}
    assert "at" in json.loads(found[0]["_rest"])
    assert found[2] == {}


def test_keys_that_may_not_be_columns_go_to_the_rest() -> None:
    table = pa.table({"a": [1], "A": [2], "_x": ["y"], "": [True], "_rest": ['{"b": 0.10}']})
    assert rows(shred([streamed(table)], {})) == [{"a": 1, "_rest": '{"A":2,"_x":"y","":true,"b":0.10}'}]


def test_what_is_under_a_key_that_can_be_no_column_is_no_text_of_it() -> None:
    odd = {"k\0": [1, None], "x" * 10_240: {"a": 1}, "": [], "_y": {"b": 2}}
    (found,) = rows(shred([typed(row(1, {"a": 1} | odd))], {}))
    assert (found["a"], json.loads(found["_rest"])) == (1, odd)


@pytest.mark.parametrize("rest", ["{", "[1]", "5", "", "null"])
def test_a_rest_that_is_no_object_makes_a_letter_and_harms_no_other(rest: str) -> None:
    table = pa.table({"a": [1, 2], "_rest": [None, rest]})
    shredded = shred([streamed(table), typed(row(9, {"_own": 1}), batch_id=2)], {})
    assert rows(shredded) == [{"a": 1}, {"_rest": '{"_own":1}'}]
    (letter,) = shredded.unreadable
    assert (letter.batch_id, letter.entry_index) == (1, 1)
    assert "_rest" in letter.reason
    assert shredded.entries == 3


def test_keys_without_a_column_in_many_batches_are_each_in_the_rest_of_their_rows() -> None:
    made = [
        streamed(pa.table({f"_{number}": [number, None], "a": [1, 2], "A": [None, True]}), number)
        for number in range(9)
    ]
    found = rows(shred([*made, typed(row(9, {"_own": 1}), batch_id=9)], {}))
    assert found[:3] == [{"a": 1, "_rest": '{"_0":0}'}, {"a": 2, "_rest": '{"A":true}'}, {"a": 1, "_rest": '{"_1":1}'}]
    assert found[16:] == [{"a": 1, "_rest": '{"_8":8}'}, {"a": 2, "_rest": '{"A":true}'}, {"_rest": '{"_own":1}'}]


def test_flags_that_are_no_columns_take_no_object_of_python_each() -> None:
    """2 million of them took a worker 400 MB."""
    table = pa.table({f"_flag_{number:03}": pa.array([True] * 250) for number in range(1000)})
    made = streamed(table)
    tracemalloc.start()
    try:
        found = rows(shred([made], {}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert json.loads(found[7]["_rest"]) == dict.fromkeys(table.column_names, True)
    assert peak < 40 * 250 * 1000


def test_documents_of_many_tables_are_too_much_for_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "CELLS_MAX", 4)
    entries = [row(number, {"a": 1, "b": 2}, table=f"t{number % 5}") for number in range(10)]
    assert shred([typed(*entries[:4])], {}).unreadable == []
    (letter,) = shred([typed(*entries)], {}).unreadable
    assert letter.entry_index is None
    assert letter.reason == (
        "documents of 5 tables have 20 values and 20 bytes of keys in one batch; at most 8 and 134217728 are allowed"
    )


def test_an_entry_that_is_no_row_for_another_reason_keeps_its_document_in_the_letter() -> None:
    bad = row(2, {"a": 2}, timestamp=2**53 - 1)
    (letter,) = shred([typed(row(1, {"a": 1}), bad, row(3, {"a": 3}))], {}).unreadable
    assert arrow_payload.decode(letter.payload) == [bad]


def test_the_documents_around_an_entry_that_is_no_row_stay_with_their_entries() -> None:
    bad = row(2, {"a": 2}, timestamp=2**53 - 1)
    first = typed(row(1, {"a": 1}), bad, row(3, {"a": 3}, table="u"), row(4, {"a": 4}))
    shredded = shred([first, typed(row(5, {"a": 5}, table="u"), row(6, {"a": 6}), batch_id=2)], {})
    assert [(one["_seq"], one["a"]) for one in shredded.tables["t"].to_pylist()] == [(1, 1), (4, 4), (6, 6)]
    assert [(one["_seq"], one["a"]) for one in shredded.tables["u"].to_pylist()] == [(3, 3), (5, 5)]


def test_a_text_beside_a_typed_document_has_to_be_json_too() -> None:
    raw = [RawEntry(1, 5, 0, b"t", b"r", b"", b"{"), RawEntry(2, 5, 0, b"t", b"r", b"", b'{"a":9}')]
    stream = arrow_stream.write(pa.table({"a": [1, 2]}))
    shredded = shred([stored(columns.encode(raw, documents=[1, 2], streams={b"t": stream}))], {})
    assert rows(shredded) == [{"a": 2, "_after": '{"a":9}'}]
    assert [letter.entry_index for letter in shredded.unreadable] == [0]


def test_a_batch_that_gave_up_some_entries_finds_its_documents() -> None:
    whole = arrow_payload.encode([row(number, {"a": number}) for number in range(5)])
    assert rows(shred([stored(columns.select(whole, [1, 4]))], {})) == [{"a": 1}, {"a": 4}]


def test_no_damaged_stream_raises_and_no_entry_is_lost() -> None:
    chance = random.Random(11)
    whole = arrow_payload.encode([row(number, {"a": number, "s": "x" * number, "_b": 1}) for number in range(5)])
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 2, 4))):
            damaged[chance.randrange(8, len(damaged))] = chance.choice((0, 1, 2, 0x7F, 0xFF, chance.randrange(256)))
        shredded = shred([stored(bytes(damaged)), typed(row(9, {"a": 9}), batch_id=2)], {})
        found = sum(table.num_rows for table in shredded.tables.values())
        letters = [letter for letter in shredded.unreadable if letter.entry_index is not None]
        whole_letters = len(shredded.unreadable) - len(letters)
        assert whole_letters in (0, 1)
        assert found + len(letters) + (shredded.entries - 1) * whole_letters == shredded.entries
        for table in shredded.tables.values():
            table.validate(full=True)


VALUES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "A", "_c"]), VALUES, max_size=3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.lists(DOCUMENTS, max_size=3)), max_size=4))
def test_every_value_is_in_its_column_or_in_the_rest(sent: list[tuple[bool, list[dict[str, Any]]]]) -> None:
    made, number = [], 0
    for is_typed, documents in sent:
        found = [row(number + offset, document) for offset, document in enumerate(documents)]
        number += len(documents)
        made.append((typed if is_typed else as_json)(*found))
    shredded = shred(made, {})
    assert shredded.unreadable == []
    whole = [document for _, documents in sent for document in documents]
    found_rows = shredded.tables["t"].to_pylist() if whole else []
    assert [one["_seq"] for one in found_rows] == [*range(number)]
    for document, one in zip(whole, found_rows, strict=True):
        rest = json.loads(one["_rest"] or "{}")
        back = {key: value for key, value in one.items() if key in ("a", "b", "A") and value is not None} | rest
        assert {key: value for key, value in back.items() if value is not None} == {
            key: value for key, value in document.items() if value is not None
        }
