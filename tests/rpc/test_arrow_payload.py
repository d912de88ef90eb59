from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc import arrow_payload, arrow_stream, columns, entries
from rpc.entries import RawEntry
from rpc.errors import ProtocolError
from rpc.messages import UNSET, WalEntry, WalOperation
from tests.repetition import at_length
from tests.rpc.test_protocol import TEXT, UINT, VALUES, maybe

KEYS = st.sampled_from(["a", "b", "A", "_own", "", "long name ü"])
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
ENTRIES = st.builds(
    WalEntry, sequence=UINT, timestamp=UINT, operation=st.sampled_from(WalOperation), table=st.sampled_from("tu"),
    row_id=TEXT, before=maybe(DOCUMENTS | VALUES), after=maybe(DOCUMENTS | VALUES),
    metadata=maybe(st.dictionaries(TEXT, VALUES, min_size=1, max_size=1)),
)  # fmt: skip


def row(sequence: int = 1, after: Any = UNSET, **fields: Any) -> WalEntry:
    made: dict[str, Any] = {"timestamp": 2, "operation": WalOperation.INSERT, "table": "t", "row_id": "r"}
    return WalEntry(sequence=sequence, after=after, **(made | fields))


def stream_of(payload: bytes) -> Any:
    """The documents of the only table."""
    return arrow_stream.documents(columns.decode(payload))[1][0]


def without_nulls(entry: WalEntry) -> dict[str, Any]:
    """What has to come back: a key with null is as good as none, a nested value is its text, numbers are equal."""
    found = {name: getattr(entry, name) for name in entry.__struct_fields__}
    name = "before" if entry.operation is WalOperation.DELETE else "after"
    if isinstance(found[name], dict):
        found[name] = {key: loaded(value) for key, value in found[name].items() if value is not None}
    return found


def loaded(value: Any) -> Any:
    """Nested values may come back as their JSON text; both are brought to the value."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


@settings(max_examples=at_length(300), deadline=None, derandomize=True)
@given(st.lists(ENTRIES, max_size=6))
def test_entries_come_back_whatever_their_documents_hold(sent: list[WalEntry]) -> None:
    back = arrow_payload.decode(arrow_payload.encode(sent))
    assert [without_nulls(entry) for entry in back] == [without_nulls(entry) for entry in sent]


@settings(max_examples=at_length(200), deadline=None, derandomize=True)
@given(st.lists(ENTRIES, max_size=5))
def test_json_texts_become_the_same_documents(sent: list[WalEntry]) -> None:
    raw = [entries.from_wal(entry) for entry in sent]
    back = arrow_payload.decode(arrow_payload.from_columns(columns.encode(raw)))
    assert [without_nulls(entry) for entry in back] == [without_nulls(entry) for entry in sent]


def test_a_key_becomes_one_column_of_what_most_of_its_values_are() -> None:
    sent = [
        row(1, {"s": "a", "n": 1, "x": 1, "b": True, "j": {"k": [1]}, "at": datetime(2024, 1, 2, tzinfo=UTC)}),
        row(2, {"s": "b", "n": 2, "x": 0.5, "b": False, "j": "text", "at": datetime(2024, 1, 3, tzinfo=UTC)}),
        row(3, {"s": 3, "n": "no", "x": 2**53 + 1, "b": 0, "j": 7, "at": 5, "day": date(2024, 1, 2)}),
    ]
    found = stream_of(arrow_payload.encode(sent))
    assert {name: str(found.schema.field(name).type) for name in found.column_names} == {
        "s": "string", "n": "int64", "x": "double", "b": "bool", "j": "string", "at": "timestamp[us, tz=UTC]",
        "day": "date32[day]", "_rest": "string",
    }  # fmt: skip
    assert found["j"].to_pylist() == ['{"k":[1]}', "text", None]
    assert [text and json.loads(text) for text in found["_rest"].to_pylist()] == [
        None, None, {"s": 3, "n": "no", "x": 2**53 + 1, "b": 0, "j": 7, "at": 5}
    ]  # fmt: skip


def test_what_does_not_fit_exactly_is_kept_as_it_is() -> None:
    sent = {"big": 2**63, "half": "\ud800", "_own": 1, "": 2, "ok": -(2**63)}
    found = stream_of(arrow_payload.encode([row(1, sent)])).to_pylist()[0]
    assert found["ok"] == -(2**63)
    assert json.loads(found["_rest"]) == {"big": 2**63, "half": "\ud800", "_own": 1, "": 2}


def test_other_values_are_what_json_makes_of_them() -> None:
    naive = datetime(2024, 1, 2, tzinfo=UTC).replace(tzinfo=None)
    sent = {"d": Decimal("1.50"), "b": b"\x00\xff", "t": (1, 2), "naive": naive, "nan": math.nan}
    found = stream_of(arrow_payload.encode([row(1, sent)])).to_pylist()[0]
    assert (found["d"], found["b"], found["t"], found["naive"]) == ("1.50", "AP8=", "[1,2]", "2024-01-02T00:00:00")
    assert math.isnan(found["nan"])


def test_a_number_whose_digits_a_double_would_lose_is_kept_as_its_text() -> None:
    kept = ["0.1000000000000000055", "1e400", "1e-400", "1.0000000000000000000001"]
    fine = ["0.10", "1e20", "-0.0", "1.5e-7", "123456789012345.5"]
    raw = [RawEntry(1, 2, 0, b"t", b"r", b"", f'{{"a": {text}, "n": [{text}]}}'.encode()) for text in kept + fine]
    found = stream_of(arrow_payload.from_columns(columns.encode(raw)))
    assert found["a"].to_pylist() == [None] * 4 + [float(text) for text in fine]
    assert found["_rest"].to_pylist() == [f'{{"a":{text}}}' for text in kept] + [None] * 5
    assert found["n"].to_pylist()[:4] == [f"[{text}]" for text in kept]


def test_nan_and_infinity_in_json_text_are_doubles() -> None:
    raw = [RawEntry(1, 2, 0, b"t", b"r", b"", b'{"a": NaN, "b": -Infinity, "c": [NaN]}')]
    found = stream_of(arrow_payload.from_columns(columns.encode(raw))).to_pylist()[0]
    assert math.isnan(found["a"])
    assert (found["b"], found["c"]) == (-math.inf, "[NaN]")


def test_only_the_document_that_tells_the_row_is_taken_out_of_the_texts() -> None:
    sent = [
        row(1, {"a": 1}, operation=WalOperation.UPDATE, before={"a": 0}),
        row(2, operation=WalOperation.DELETE, before={"a": 2}),
        row(3, {"a": 3}, operation=WalOperation.DELETE),
        row(4, None),
        row(5),
    ]
    payload = arrow_payload.encode(sent)
    found = columns.decode(payload)
    assert [(entry.before, entry.after) for entry in found.entries()] == [
        (b'{"a":0}', b""), (b"", b""), (b"", b'{"a":3}'), (b"", b"null"), (b"", b"")
    ]  # fmt: skip
    assert list(found.documents) == [1, 2, 0, 0, 0]
    assert arrow_payload.decode(payload) == sent


def test_a_batch_without_documents_is_an_ordinary_one() -> None:
    assert not columns.has_documents(arrow_payload.encode([row(1, None)]))
    assert arrow_payload.decode(arrow_payload.encode([])) == []


def test_rows_that_are_arrow_anyway_are_sent_untouched() -> None:
    table = pa.table({"a": [1, 2, 3], "s": ["x", None, "z"]})
    for ids in (
        pa.array(["r1", "ü2", ""]),
        pa.chunked_array([["r1"], ["ü2", ""]]),
        pa.array(["no", "r1", "ü2", ""])[1:],
    ):
        payload = arrow_payload.of_table(
            table, ids, table="t", first_sequence=7, timestamp_ms=2, operation=WalOperation.UPDATE
        )
        assert arrow_payload.decode(payload) == [
            row(7, {"a": 1, "s": "x"}, row_id="r1", operation=WalOperation.UPDATE),
            row(8, {"a": 2}, row_id="ü2", operation=WalOperation.UPDATE),
            row(9, {"a": 3, "s": "z"}, row_id="", operation=WalOperation.UPDATE),
        ]
    empty = arrow_payload.of_table(table[:0], pa.array([], pa.string()), table="t", first_sequence=7, timestamp_ms=2)
    assert arrow_payload.decode(empty) == []


@pytest.mark.parametrize(
    ("ids", "first", "said"),
    [
        (["a"], 0, "1 row ids with 0 nulls, wanted one for each of 2"),
        (["a", None], 0, "2 row ids with 1 nulls"),
        (["a", "x" * 65_536], 0, "does not fit the columnar layout"),
        (["a", "b"], 2**64 - 1, "does not fit the columnar layout"),
    ],
)
def test_rows_that_do_not_fit_are_a_protocol_error(ids: list[str | None], first: int, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        arrow_payload.of_table(
            pa.table({"a": [1, 2]}), pa.array(ids, pa.string()), table="t", first_sequence=first, timestamp_ms=2
        )


@pytest.mark.parametrize("text", [b'{"a":', b'{"a":"\xff"}', b"{" * 100_000, b'{"a":' + b"1" * 5000 + b"}"])
def test_a_text_that_is_not_json_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="is not JSON"):
        arrow_payload.from_columns(columns.encode([RawEntry(1, 2, 0, b"t", b"r", b"", text)]))


def test_an_integer_of_thousands_of_digits_is_a_protocol_error() -> None:
    entry = WalEntry(
        sequence=1, timestamp=2, operation=WalOperation.INSERT, table="t", row_id="r", after={"a": 10**5000}
    )
    with pytest.raises(ProtocolError, match="cannot be written as JSON"):
        arrow_payload.encode([entry])


def test_a_rest_that_is_no_object_and_a_time_python_cannot_hold_are_protocol_errors_when_decoded() -> None:
    beyond = pa.array([2**62], pa.timestamp("us", tz="UTC"))
    for table in (pa.table({"_rest": ["[]"]}), pa.table({"_rest": ["{"]}), pa.table({"at": beyond})):
        payload = arrow_payload.of_table(table, pa.array(["r"]), table="t", first_sequence=1, timestamp_ms=2)
        with pytest.raises(ProtocolError):
            arrow_payload.decode(payload)
