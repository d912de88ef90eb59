from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc import columns, entries, msgpack_payload
from rpc.errors import ProtocolError
from rpc.messages import WalEntry, WalOperation
from rpc.msgpack_payload import VALUE_BYTES_MAX
from tests.repetition import at_length
from tests.rpc.test_protocol import U64, wal


def arrived(payload: bytes) -> list[WalEntry]:
    return [entries.to_wal(entry) for entry in columns.decode(msgpack_payload.to_columns(payload)).entries()]


def row(**fields: Any) -> WalEntry:
    made: dict[str, Any] = {"sequence": 1, "timestamp": 2, "operation": WalOperation.INSERT, "table": "t"}
    return WalEntry(**(made | {"row_id": "r"} | fields))


def foreign(*values: Any) -> bytes:
    """A payload of one entry as another implementation writes it."""
    return bytes(msgpack.packb([[1, 2, 0, "t", "r", *values]]))


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(st.lists(wal(U64), max_size=4))
def test_entries_arrive_as_they_were_sent(sent: list[WalEntry]) -> None:
    assert arrived(msgpack_payload.encode(sent)) == sent


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(wal(U64), max_size=3))
def test_the_library_of_the_same_name_reads_the_payload(sent: list[WalEntry]) -> None:
    found = msgpack.unpackb(msgpack_payload.encode(sent), strict_map_key=False)
    assert [(one[0], one[3], one[4]) for one in found] == [(one.sequence, one.table, one.row_id) for one in sent]


def test_an_entry_may_end_where_the_rest_is_absent() -> None:
    assert arrived(bytes(msgpack.packb([[1, 2, 0, "t", "r"]]))) == [row()]
    assert arrived(foreign(None)) == [row(before=None)]
    assert arrived(foreign(msgpack.ExtType(0, b""), {"a": 1})) == [row(after={"a": 1})]
    assert arrived(foreign(None, None, {})) == [row(before=None, after=None)]


def test_an_integer_over_64_bits_and_a_number_whose_digits_count_are_their_text() -> None:
    big = 2**100
    assert arrived(msgpack_payload.encode([row(after=[big, -big, {"n": big}])]))[0].after == [big, -big, {"n": big}]
    payload = foreign(UNSET_EXT, msgpack.ExtType(1, b"0.10"))
    assert columns.decode(msgpack_payload.to_columns(payload)).afters.tobytes() == b"0.10"


UNSET_EXT = msgpack.ExtType(0, b"")


def test_bytes_become_base64_and_times_iso_text() -> None:
    moment = msgpack.Timestamp.from_datetime(datetime(2024, 1, 2, 3, tzinfo=UTC))
    found = arrived(foreign(UNSET_EXT, {"raw": b"\x00\xff", "at": moment, "text": "ü"}))
    assert found[0].after == {"raw": "AP8=", "at": "2024-01-02T03:00:00Z", "text": "ü"}


def test_nan_and_infinity_are_not_null() -> None:
    for value in (math.nan, math.inf, -math.inf):
        sent = {"a": [value, None], "b": 1.5}
        assert repr(arrived(msgpack_payload.encode([row(after=sent)]))[0].after) == repr(sent)
        single = msgpack.packb([[1, 2, 0, "t", "r", UNSET_EXT, value]], use_single_float=True)
        assert repr(arrived(bytes(single))[0].after) == repr(value)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "not a msgpack payload"),
        (b"\xc1", "not a msgpack payload"),
        (b"\xc0", "Expected `array`"),
        (b"\x90\x90", "trailing"),
        (bytes(msgpack.packb([[1, 2, 0, "t"]])), "array"),
        (bytes(msgpack.packb([[1, 2, 3, "t", "r"]])), "<= 2"),
        (bytes(msgpack.packb([[-1, 2, 0, "t", "r"]])), ">= 0"),
        (bytes(msgpack.packb([[1, 2, 0, "t", "r", 1, 2, {}, 4]])), "array"),
        (foreign(UNSET_EXT, UNSET_EXT, [1]), "metadata of entry 1"),
        (foreign(msgpack.ExtType(7, b"x")), "extension 7"),
        (foreign(msgpack.ExtType(1, b"nonsense")), "wanted the JSON text of a number"),
        (foreign({None: 1}), "cannot be JSON"),
        (foreign({(1, 2): 1}), "cannot be JSON"),
        (b"\x91\x96\x01\x02\x00\xa1t\xa1\xff\xc0", "not a msgpack payload"),
        (b"\x91\x96\x01\x02\x00\xa1t\xa1r\xa1\xff", "not a msgpack payload"),
        (b"\x91\x95\x01\x02\x00\xda\xff\xff", "truncated"),
        (bytes(msgpack.packb([[1, 2, 0, "t", "r" * 65_536]])), "does not fit the columnar layout"),
    ],
    ids=str,
)
def test_anything_else_is_a_protocol_error(payload: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        msgpack_payload.to_columns(payload)


def test_numbers_as_keys_become_text() -> None:
    assert arrived(foreign({7: "a"}))[0].before == {"7": "a"}


@pytest.mark.parametrize("value", [object(), "\ud800", {"a": {"b": "\ud800"}}, {1, object()}])
def test_what_msgpack_cannot_hold_is_a_protocol_error_in_the_sender(value: Any) -> None:
    with pytest.raises(ProtocolError, match="entry 1 does not fit msgpack"):
        msgpack_payload.encode([row(after=value)])


def test_a_value_over_a_mib_is_refused_before_it_is_looked_into() -> None:
    with pytest.raises(ProtocolError, match="at most 1048576"):
        msgpack_payload.to_columns(foreign(b"x" * VALUE_BYTES_MAX))


def test_values_that_grow_beyond_a_message_are_refused() -> None:
    row_of_controls = [1, 2, 0, "t", "r", "\0" * (VALUE_BYTES_MAX - 8)]
    with pytest.raises(ProtocolError, match="becomes more than 16777216 bytes"):
        msgpack_payload.to_columns(bytes(msgpack.packb([row_of_controls] * 4)))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_whatever_a_value_is_it_arrives_as_json_or_not_at_all(value: bytes) -> None:
    try:
        payload = msgpack_payload.to_columns(b"\x91\x96\x01\x02\x00\xa1t\xa1r" + value)
    except ProtocolError:
        return
    before = columns.decode(payload).befores.tobytes()
    if before:
        json.loads(before)
