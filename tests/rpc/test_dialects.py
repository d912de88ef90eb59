from __future__ import annotations

import json
from typing import Any

import pytest

from rpc import batch, protocol
from rpc.batch import BatchFrame
from rpc.dialects import README_ENTRIES, README_SEQUENCES
from rpc.entries import RawEntry
from rpc.errors import ProtocolError


def message(*entries: Any, **fields: Any) -> str:
    made = {"type": "cdc_batch", "timestamp": 9, "sourceDoId": "s", "sequenceNumber": 4, "entries": entries}
    return json.dumps(made | fields)


def read(text: str) -> list[RawEntry]:
    frame = protocol.read(text)
    assert isinstance(frame, BatchFrame)
    return batch.raw_entries(frame)


FIRST = 4 * README_ENTRIES
"""The sequence of the first entry without one in batch 4."""
PROPER = {"sequence": 1, "timestamp": 2, "operation": "UPDATE", "table": "t", "rowId": "r"}


def test_a_batch_of_the_package_becomes_columns() -> None:
    frame = protocol.read(message(PROPER | {"after": None}, correlationId="c", sourceShardName="x", isRetry=True))
    assert isinstance(frame, BatchFrame)
    assert frame[:6] == (9, "c", "s", "x", 4, True)
    assert batch.raw_entries(frame) == [RawEntry(1, 2, 1, b"t", b"r", b"", b"null")]
    assert (frame.tables, frame.entry_sequences) == ({b"t"}, [1])


def test_values_keep_their_digits_and_their_white_space() -> None:
    text = message(PROPER | {"after": "HERE"}).replace('"HERE"', '{"a": 0.10, "b":1e400,\n"c":12345678901234567890123}')
    assert read(text)[0].after == b'{"a": 0.10, "b":1e400,\n"c":12345678901234567890123}'


def test_an_entry_of_the_readme_is_taken_as_well() -> None:
    found = read(message({"op": "INSERT", "table": "users", "data": {"id": 7, "name": "Alice"}, "lsn": 3}))
    assert found == [RawEntry(3, 9, 0, b"users", b"7", b"", b'{"id": 7, "name": "Alice"}')]


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"op": "DELETE", "table": "t", "data": {"id": "a"}}, RawEntry(FIRST, 9, 2, b"t", b"a", b'{"id": "a"}')),
        ({"op": "DELETE", "table": "t"}, RawEntry(FIRST, 9, 2, b"t", b"")),
        ({"op": "INSERT", "table": "t", "data": [1]}, RawEntry(FIRST, 9, 0, b"t", b"", b"", b"[1]")),
        ({"op": "INSERT", "table": "t", "data": {}, "rowId": "k"}, RawEntry(FIRST, 9, 0, b"t", b"k", b"", b"{}")),
        (
            {"op": "INSERT", "table": "t", "data": {"id": None}},
            RawEntry(FIRST, 9, 0, b"t", b"null", b"", b'{"id": null}'),
        ),
        ({"op": "INSERT", "table": "t", "data": None, "timestamp": 5}, RawEntry(FIRST, 5, 0, b"t", b"", b"", b"null")),
    ],
)
def test_what_the_readme_leaves_out_is_filled_in(entry: dict[str, Any], wanted: RawEntry) -> None:
    assert read(message(entry)) == [wanted]


def test_entries_of_the_readme_without_lsn_are_counted_and_no_two_batches_share_a_sequence() -> None:
    entries = [{"op": "INSERT", "table": "t", "data": {"id": n}} for n in range(3)]
    assert [entry.sequence for entry in read(message(*entries))] == [FIRST, FIRST + 1, FIRST + 2]
    assert next(entry.sequence for entry in read(message(*entries, sequenceNumber=5))) == FIRST + README_ENTRIES


def test_a_batch_of_the_readme_with_a_sequence_too_high_for_that_is_refused() -> None:
    entry = {"op": "INSERT", "table": "t", "data": {}}
    with pytest.raises(ProtocolError, match=f"wanted less than {README_SEQUENCES}"):
        protocol.read(message(entry, sequenceNumber=README_SEQUENCES))


def test_a_time_the_parent_filled_in_is_no_part_of_what_a_batch_is_known_by() -> None:
    entry = {"op": "INSERT", "table": "t", "data": {}}
    first, again = (protocol.read(message(entry, timestamp=at)) for at in (9, 10))
    assert isinstance(first, BatchFrame)
    assert isinstance(again, BatchFrame)
    assert first.payload != again.payload
    assert first.identity is not None
    assert first.identity == again.identity
    cut = batch.select(first, [0])
    assert (cut.payload, cut.identity) == (first.payload, first.identity)


def test_unknown_fields_are_ignored() -> None:
    assert len(read(message(PROPER | {"novelty": {"a": [1]}}, more=1))) == 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "sequence"),
        (PROPER | {"operation": "UPSERT"}, "UPSERT"),
        (PROPER | {"sequence": -1}, ">= 0"),
        (PROPER | {"sequence": 2**53}, "<="),
        (PROPER | {"table": 7}, "table"),
        (PROPER | {"rowId": "x" * 65_536}, "does not fit"),
        (PROPER | {"metadata": []}, "metadata of entry 1"),
    ],
)
def test_a_wrong_entry_is_named_and_the_nack_finds_its_batch(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        protocol.read(message(entry, correlationId="c-4"))
    assert (caught.value.sequence_number, caught.value.correlation_id) == (4, "c-4")


@pytest.mark.parametrize("text", ["", "hello", "[]", "null", "7", '{"type":"nonsense"}', '{"a":1}', "{"])
def test_what_is_no_message_is_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.read(text)


def test_a_nonsensical_sequence_is_not_echoed() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.read('{"type":"cdc_batch","sequenceNumber":-5,"correlationId":"c"}')
    assert (caught.value.sequence_number, caught.value.correlation_id) == (0, "c")
