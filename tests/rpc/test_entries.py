from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc import entries
from rpc.entries import RawEntry, dump_value, load_value
from rpc.errors import ProtocolError
from rpc.messages import UNSET, WalEntry, WalOperation, WireEntry
from tests.repetition import at_length

BYTES = st.binary(max_size=20)
RAW = st.builds(
    RawEntry, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2), BYTES, BYTES, BYTES, BYTES,
    st.just(b"") | BYTES,
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(st.lists(RAW, max_size=5))
def test_entries_come_back_from_a_payload(raw: list[RawEntry]) -> None:
    payload, with_metadata = entries.payload_of(raw)
    assert with_metadata is any(entry.metadata for entry in raw)
    assert entries.walk(payload, with_metadata=with_metadata) == raw
    assert payload == entries.join([entries.pack(entry, with_metadata=with_metadata) for entry in raw])
    found = entries.scan(payload, with_metadata=with_metadata)
    assert (found.sequences, found.tables) == ([e.sequence for e in raw], {e.table for e in raw})


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(VALUES)
def test_a_value_comes_back_with_its_type_and_every_digit(value: Any) -> None:
    text = dump_value(value)
    assert repr(load_value(text)) == repr(value)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, [None, math.nan], {"a": math.nan, "b": 2**70}, "\ud800", 2**4000]
)
def test_what_other_json_libraries_bend_or_refuse_survives(value: Any) -> None:
    assert repr(load_value(dump_value(value))) == repr(value)


@pytest.mark.parametrize(
    "text", [b"12345678901234567890123", b"-9223372036854775809", b"[0.1,1e300]", b"NaN", b"1e999"]
)
def test_numbers_are_read_as_python_reads_them(text: bytes) -> None:
    assert repr(load_value(text)) == repr(json.loads(text))


def test_times_decimals_and_bytes_become_text() -> None:
    sent = {"at": datetime(2024, 1, 2, tzinfo=UTC), "price": Decimal("1.50"), "raw": b"\x00\xff", "none": None}
    assert load_value(dump_value(sent)) == {"at": "2024-01-02T00:00:00Z", "price": "1.50", "raw": "AP8=", "none": None}


@pytest.mark.parametrize("value", [object(), {1, object()}, {(1, 2): 3}, lambda: None])
def test_what_json_cannot_hold_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError, match="cannot be written as JSON"):
        dump_value(value)


def test_a_value_that_contains_itself_is_a_protocol_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ProtocolError, match="cannot be written as JSON"):
        dump_value(endless)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"1 2", b"[1,]", b'{"a":}', b"1" * 5000, b'"\xed\xa0\x80"'])
def test_what_is_no_json_in_utf8_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is the library's
        load_value(text)


@pytest.mark.parametrize(("field", "name"), [("table", "table"), ("row_id", "rowId")])
def test_a_name_of_65535_bytes_fits_and_one_more_is_named_in_the_error(field: str, name: str) -> None:
    longest: dict[str, Any] = {"table": b"t", "row_id": b"r", field: b"x" * 65_535}
    raw = RawEntry(3, 2, 0, **longest)
    assert entries.walk(entries.payload_of([raw])[0]) == [raw]
    for with_metadata in (b"", b"{}"):
        with pytest.raises(ProtocolError, match=f"{name} of entry 3 has 65536 bytes; at most 65535"):
            entries.payload_of([raw, RawEntry(3, 2, 0, **(longest | {field: b"x" * 65_536}), metadata=with_metadata)])


def test_a_number_too_large_for_its_field_is_a_protocol_error() -> None:
    for raw in (RawEntry(2**64, 1, 0, b"t", b"r"), RawEntry(1, -1, 0, b"t", b"r"), RawEntry(1, 1, 256, b"t", b"r")):
        with pytest.raises(ProtocolError, match="does not fit the binary layout"):
            entries.payload_of([raw])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(RAW, min_size=1, max_size=3), st.data())
def test_a_payload_cut_off_anywhere_is_a_protocol_error(raw: list[RawEntry], data: st.DataObject) -> None:
    payload, with_metadata = entries.payload_of(raw)
    end = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ProtocolError):
        entries.scan(payload[:end], with_metadata=with_metadata)
    with pytest.raises(ProtocolError):
        entries.walk(payload + b"x", with_metadata=with_metadata)


TEXTS = VALUES.map(dump_value) | st.sampled_from([b"", b"NaN", b'{"a":[1e999,"\\ud800"]}', b"1" * 40, b"-0.0", b"null"])
ROWS = st.builds(
    RawEntry, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2),
    st.sampled_from([b"t", b"u", "\u00fc".encode()]), st.text(max_size=5).map(str.encode), TEXTS, TEXTS,
    st.sampled_from([b"", b'{"a":1}']),
)  # fmt: skip


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(st.lists(ROWS, max_size=5))
def test_a_batch_has_the_values_that_its_entries_have_one_by_one(raw: list[RawEntry]) -> None:
    payload, with_metadata = entries.payload_of(raw)
    whole = entries.to_wals(entries.fields(payload, with_metadata=with_metadata))
    assert [repr(one) for one in whole] == [repr(value_of(entry)) for entry in raw]
    assert [repr(entries.to_wal(entry)) for entry in raw] == [repr(one) for one in whole]


def value_of(entry: RawEntry) -> WalEntry:
    """As Python's json reads it, which keeps every digit."""
    operation = (WalOperation.INSERT, WalOperation.UPDATE, WalOperation.DELETE)[entry.operation]
    values = [json.loads(text) if text else UNSET for text in entry[5:]]
    return WalEntry(
        sequence=entry.sequence, timestamp=entry.timestamp_ms, operation=operation, table=entry.table.decode(),
        row_id=entry.row_id.decode(), before=values[0], after=values[1], metadata=values[2],
    )  # fmt: skip


@pytest.mark.parametrize("texts", [(b"[1", b"2]"), (b"1,2", b"[3", b"4]"), (b"1", b""), (b"{}", b"{")])
def test_texts_that_are_json_only_side_by_side_are_not_json(texts: tuple[bytes, ...]) -> None:
    rows = [RawEntry(7 + n, 2, 0, b"t", b"r", b"", text or b" ") for n, text in enumerate(texts)]
    with pytest.raises(ProtocolError, match=r"entry (7|8) is not readable"):
        entries.to_wals(entries.fields(entries.payload_of(rows)[0]))


def test_an_unknown_operation_is_a_protocol_error() -> None:
    payload, _ = entries.payload_of([RawEntry(1, 2, 3, b"t", b"r")])
    with pytest.raises(ProtocolError, match="Invalid operation code: 3"):
        entries.scan(payload)


def test_a_count_its_bytes_cannot_hold_is_refused_before_the_walk() -> None:
    with pytest.raises(ProtocolError, match="announces 4294967295 entries"):
        entries.count_of(b"\xff\xff\xff\xff" + bytes(29))


def test_values_of_a_json_message_keep_every_digit_metadata_too() -> None:
    text = (
        b'{"sequence":1,"timestamp":2,"operation":"INSERT","table":"t","rowId":"r",'
        b'"after":{"a":0.10},"metadata":{"b":1e400}}'
    )
    raw = entries.from_wire(msgspec.json.decode(text, type=WireEntry))
    assert (raw.before, raw.after, raw.metadata) == (b"", b'{"a":0.10}', b'{"b":1e400}')


def test_metadata_that_is_no_object_is_refused() -> None:
    for text, wanted in ((b"{}", b""), (b"[]", None), (b"null", None)):
        wire = WireEntry(
            sequence=1, timestamp=2, operation=WalOperation.INSERT, table="t", row_id="r", metadata=msgspec.Raw(text)
        )
        if wanted is None:
            with pytest.raises(ProtocolError, match="wanted an object"):
                entries.from_wire(wire)
        else:
            assert entries.from_wire(wire).metadata == wanted


def test_a_text_without_utf8_is_a_protocol_error_both_ways() -> None:
    row = WalEntry(sequence=1, timestamp=2, operation=WalOperation.INSERT, table="\ud800", row_id="r", after=UNSET)
    with pytest.raises(ProtocolError, match="table is"):
        entries.from_wal(row)
    for raw in (RawEntry(1, 2, 0, b"\xff", b"r"), RawEntry(1, 2, 0, b"t", b"r", b"{")):
        with pytest.raises(ProtocolError, match="entry 1 is not readable"):
            entries.to_wal(raw)
        with pytest.raises(ProtocolError, match="entry 1 is not readable"):
            entries.to_wals([RawEntry(0, 2, 0, b"t", b"r"), raw, RawEntry(3, 2, 0, b"t", b"r")])
