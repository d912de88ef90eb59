from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc import columns
from rpc.columns import KIND_ARROW
from rpc.entries import RawEntry
from rpc.errors import ProtocolError
from tests.rpc.test_entries import RAW

ROWS = [
    RawEntry(2**64 - 1, 2**63, 0, b"t", b"r", b"", b"null"),
    RawEntry(1, 2, 1, b"u", b"r" * 65_535, b"{}", b"[]", b"{}"),
    RawEntry(2, 3, 2, b"t", b"", b"0", b""),
]
STREAMS = {b"t": b"stream of t", b"u": b""}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(RAW, max_size=6))
def test_entries_come_back_from_columns(raw: list[RawEntry]) -> None:
    payload = columns.encode(raw)
    found = columns.decode(payload)
    assert found.entries() == raw
    assert list(found.fields()) == [tuple(entry) for entry in raw]
    assert not columns.has_documents(payload)
    assert found.tables == list(dict.fromkeys(entry.table for entry in raw))
    assert list(found.sequences) == [entry.sequence for entry in raw]
    indices = [*range(0, len(raw), 2)]
    assert columns.decode(columns.select(payload, indices)).entries() == raw[::2]


MISTAKES = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=2)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.lists(RAW, max_size=2), MISTAKES, st.integers(0, 2))
def test_a_check_finds_what_decoding_finds(raw: list[RawEntry], mistakes: list[tuple[int, int]], cut: int) -> None:
    payload = bytearray(columns.encode(raw))
    for at, value in mistakes:
        payload[at % len(payload)] = value
    told = _told(bytes(payload[: len(payload) - cut]), check=True)
    assert told == _told(bytes(payload[: len(payload) - cut]), check=False)


def _told(payload: bytes, *, check: bool) -> str | tuple[list[bytes], list[int]]:
    try:
        if check:
            tables, sequences = columns.check(payload)
        else:
            whole = columns.decode(payload)
            tables, sequences = whole.tables, whole.sequences
    except ProtocolError as exc:
        return exc.message
    return tables, list(sequences)


def test_documents_and_their_streams_come_back() -> None:
    payload = columns.encode(ROWS, documents=[1, 0, 5], streams=STREAMS)
    found = columns.decode(payload)
    assert columns.has_documents(payload)
    assert found.entries() == ROWS
    assert list(found.documents) == [1, 0, 5]
    assert [bytes(stream) for stream in found.streams] == [b"stream of t", b""]


def test_a_selection_keeps_documents_and_streams() -> None:
    found = columns.decode(columns.select(columns.encode(ROWS, documents=[1, 0, 5], streams=STREAMS), [2]))
    assert (found.entries(), list(found.documents)) == ([ROWS[2]], [5])
    assert (found.tables, [bytes(stream) for stream in found.streams]) == ([b"t"], [b"stream of t"])


@pytest.mark.parametrize("documents", [None, [1, 0, 5]])
def test_a_payload_cut_off_anywhere_is_a_protocol_error(documents: list[int] | None) -> None:
    rows = [ROWS[0], ROWS[2], RawEntry(9, 9, 0, b"u", b"r", b"", b"1", b"{}")]
    payload = columns.encode(rows, documents=documents, streams=STREAMS) if documents else columns.encode(rows)
    for end in range(len(payload)):
        with pytest.raises(ProtocolError):
            columns.decode(payload[:end])
    with pytest.raises(ProtocolError, match="lengths add up"):
        columns.decode(payload + b"x")


def test_an_unknown_kind_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="Unknown columnar payload kind: 4, wanted 0 to 3"):
        columns.decode(columns.HEAD.pack(0, 0, 4))


def test_a_table_named_twice_cannot_bring_documents() -> None:
    names = b"\x01\x00t" * 2
    assert columns.decode(columns.HEAD.pack(0, 2, 0) + names).tables == [b"t", b"t"]
    with pytest.raises(ProtocolError, match="names a table twice"):
        columns.decode(columns.HEAD.pack(0, 2, KIND_ARROW) + names + bytes(8))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (RawEntry(1, 2, 3, b"t", b"r"), "Invalid operation code: 3"),
        (RawEntry(1, 2, 0, b"t", b"r"), "entry points to table 7, the payload names 1"),
    ],
)
def test_a_field_that_means_nothing_is_a_protocol_error(entry: RawEntry, said: str) -> None:
    payload = bytearray(columns.encode([entry]))
    if "table" in said:
        payload[columns.HEAD.size + 3 + 17] = 7
    with pytest.raises(ProtocolError, match=said):
        columns.decode(bytes(payload))


def test_entries_need_a_table() -> None:
    fixed = columns.encode([RawEntry(1, 2, 0, b"", b"")])[columns.HEAD.size + 2 :]
    with pytest.raises(ProtocolError, match="names no table"):
        columns.decode(columns.HEAD.pack(1, 0, 0) + fixed)


@pytest.mark.parametrize(
    "entry", [RawEntry(2**64, 1, 0, b"t", b"r"), RawEntry(1, 1, 0, b"t", b"r" * 65_536), RawEntry(1, 1, 256, b"t", b"")]
)
def test_what_does_not_fit_is_a_protocol_error_in_the_sender(entry: RawEntry) -> None:
    with pytest.raises(ProtocolError, match="does not fit the columnar layout"):
        columns.encode([entry])
