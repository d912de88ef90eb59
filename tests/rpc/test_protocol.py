from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc import arrow_payload, batch, entries, protocol
from rpc.batch import SEQUENCE_MAX, BatchFrame, Encoding
from rpc.errors import ProtocolError
from rpc.messages import (
    UNSET,
    AckDetails,
    AckMessage,
    AckStatus,
    AnyRpcMessage,
    BufferStats,
    CDCBatchMessage,
    ClientCapabilities,
    ConnectMessage,
    DisconnectMessage,
    FlushReason,
    FlushRequestMessage,
    FlushResponseMessage,
    FlushResult,
    HeartbeatMessage,
    NackMessage,
    NackReason,
    ParentState,
    PongMessage,
    StatusMessage,
    WalEntry,
    WalOperation,
)
from rpc.protocol import decode_message, encode_message, is_binary_encoded

JSON_MAX, U64_MAX = 2**53 - 1, 2**64 - 1
UINT, U64 = st.integers(0, JSON_MAX), st.integers(0, U64_MAX)
TEXT = st.text(max_size=12)
FALSY = st.sampled_from([None, 0, "", False, [], {}, 0.0])
VALUES = st.recursive(
    FALSY | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(UNSET) | strategy


METADATA = maybe(st.dictionaries(TEXT, VALUES, min_size=1, max_size=2))


def wal(sequences: st.SearchStrategy[int] = UINT) -> st.SearchStrategy[WalEntry]:
    return st.builds(
        WalEntry, sequence=sequences, timestamp=sequences, operation=st.sampled_from(WalOperation), table=TEXT,
        row_id=TEXT, before=maybe(VALUES), after=maybe(VALUES), metadata=METADATA,
    )  # fmt: skip


def batches(numbers: st.SearchStrategy[int] = UINT) -> st.SearchStrategy[CDCBatchMessage]:
    """Batches as they come back: what is derived from the entries agrees with them."""

    def whole(found: list[WalEntry], **fields: Any) -> CDCBatchMessage:
        first, last = (found[0].sequence, found[-1].sequence) if found else (0, 0)
        return CDCBatchMessage(entries=found, first_entry_sequence=first, last_entry_sequence=last, **fields)

    return st.builds(
        whole, st.lists(wal(numbers), max_size=4), timestamp=numbers, correlation_id=maybe(st.text(min_size=1)),
        source_do_id=TEXT, sequence_number=numbers, is_retry=st.booleans(),
    )  # fmt: skip


CAPABILITIES = st.builds(
    ClientCapabilities, binary_protocol=st.booleans(), compression=st.booleans(), max_batch_size=UINT,
    binary_replies=maybe(st.booleans()), encodings=maybe(st.lists(TEXT)), compressions=maybe(st.lists(TEXT)),
)  # fmt: skip
STATS = st.builds(
    BufferStats, batch_count=UINT, entry_count=UINT, total_size_bytes=UINT, utilization=st.floats(0, 1),
    oldest_batch_time=maybe(UINT), newest_batch_time=maybe(UINT),
)  # fmt: skip
RESULTS = st.builds(
    FlushResult,
    success=st.booleans(),
    batches_flushed=UINT,
    bytes_written=UINT,
    paths=st.lists(TEXT),
    error=maybe(TEXT),
)
ACKS = st.builds(
    AckMessage, timestamp=UINT, correlation_id=maybe(TEXT), sequence_number=U64, status=st.sampled_from(AckStatus),
    batch_id=maybe(TEXT),
    details=maybe(st.builds(AckDetails, entries_processed=UINT, buffer_utilization=st.floats(0, 1))),
)  # fmt: skip
NACKS = st.builds(
    NackMessage, timestamp=UINT, correlation_id=maybe(TEXT), sequence_number=U64, reason=st.sampled_from(NackReason),
    error_message=TEXT, should_retry=st.booleans(), retry_delay_ms=maybe(UINT),
)  # fmt: skip
OTHERS = st.one_of(
    st.builds(
        ConnectMessage, timestamp=UINT, source_do_id=TEXT, source_shard_name=maybe(TEXT), last_ack_sequence=UINT,
        capabilities=CAPABILITIES, epoch=maybe(UINT),
    ),
    st.builds(HeartbeatMessage, timestamp=UINT, source_do_id=TEXT, last_ack_sequence=UINT, pending_entries=UINT),
    st.builds(
        FlushRequestMessage, timestamp=UINT, source_do_id=TEXT, reason=st.sampled_from(FlushReason),
        correlation_id=maybe(TEXT),
    ),
    st.builds(DisconnectMessage, timestamp=UINT, reason=maybe(TEXT)),
    st.builds(
        StatusMessage, timestamp=UINT, state=st.sampled_from(ParentState), buffer=STATS, connected_children=UINT,
        resume_sequence=maybe(UINT), encodings=maybe(st.lists(TEXT)), compressions=maybe(st.lists(TEXT)),
    ),
    st.builds(PongMessage, timestamp=UINT, server_time=UINT),
    st.builds(FlushResponseMessage, timestamp=UINT, correlation_id=maybe(TEXT), result=RESULTS),
    ACKS,
    NACKS,
)  # fmt: skip


def sized(message: CDCBatchMessage, back: AnyRpcMessage) -> CDCBatchMessage:
    """The message with the size the reader counted; version 1 leaves it to whoever reads."""
    assert isinstance(back, CDCBatchMessage)
    return msgspec.structs.replace(message, size_bytes=back.size_bytes)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(OTHERS)
def test_every_message_comes_back_from_json(message: AnyRpcMessage) -> None:
    text = encode_message(message, binary=False)
    assert isinstance(text, str)
    assert decode_message(text) == message == decode_message(text.encode())
    assert json.loads(text)["type"] == message.type


@settings(max_examples=300, deadline=None, derandomize=True)
@given(batches())
def test_a_batch_comes_back_from_json_and_binary(message: CDCBatchMessage) -> None:
    for binary in (True, False):
        data = encode_message(message, binary=binary)
        back = decode_message(data)
        assert back == sized(message, back)
        frame = protocol.read(data)
        assert isinstance(frame, BatchFrame)
        assert [entries.to_wal(entry) for entry in batch.raw_entries(frame)] == message.entries


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batches(st.integers(0, SEQUENCE_MAX)))
def test_sequences_up_to_the_last_that_can_be_kept_are_exact_in_binary(message: CDCBatchMessage) -> None:
    back = decode_message(encode_message(message))
    assert back == sized(message, back)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ACKS | NACKS)
def test_acks_and_nacks_come_back_from_binary(message: AckMessage | NackMessage) -> None:
    if isinstance(message, NackMessage) and (message.retry_delay_ms or 0) >= 2**32:
        with pytest.raises(ProtocolError):
            encode_message(message)
        return
    wanted = msgspec.structs.replace(message, correlation_id=message.correlation_id or UNSET)
    if isinstance(wanted, AckMessage):  # these two travel in JSON only
        wanted = msgspec.structs.replace(wanted, batch_id=UNSET, details=UNSET)
    else:
        wanted = msgspec.structs.replace(wanted, retry_delay_ms=wanted.retry_delay_ms or UNSET)
    assert decode_message(encode_message(message)) == wanted


@pytest.mark.parametrize("value", [None, 0, "", False, 0.0, [], {}])
@pytest.mark.parametrize("field", ["before", "after"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_value_that_is_false_survives_and_is_not_absent(field: str, value: Any, binary: bool) -> None:
    sent = WalEntry(sequence=1, timestamp=2, operation=WalOperation.UPDATE, table="t", row_id="r", **{field: value})
    message = CDCBatchMessage(timestamp=1, source_do_id="s", entries=[sent], sequence_number=1)
    back = decode_message(encode_message(message, binary=binary))
    assert isinstance(back, CDCBatchMessage)
    found = back.entries[0]
    assert getattr(found, field) == value
    assert type(getattr(found, field)) is type(value)
    assert getattr(found, "after" if field == "before" else "before") is UNSET


def test_nan_and_infinity_travel_in_binary_and_are_refused_in_json() -> None:
    sent = [math.nan, math.inf, -math.inf, None]
    row = WalEntry(sequence=1, timestamp=2, operation=WalOperation.INSERT, table="t", row_id="r", after=sent)
    message = CDCBatchMessage(timestamp=1, source_do_id="s", entries=[row], sequence_number=1)
    back = decode_message(encode_message(message))
    assert isinstance(back, CDCBatchMessage)
    assert str(back.entries[0].after) == "[nan, inf, -inf, None]"
    with pytest.raises(ProtocolError, match="binary batch only"):
        encode_message(message, binary=False)
    quoted = msgspec.structs.replace(message, entries=[msgspec.structs.replace(row, after="NaN")])
    assert "NaN" in str(encode_message(quoted, binary=False))


def batch_of(**fields: Any) -> CDCBatchMessage:
    made: dict[str, Any] = {"timestamp": 1, "source_do_id": "s", "entries": [], "sequence_number": 1}
    return CDCBatchMessage(**(made | fields))


@pytest.mark.parametrize("field", ["source_do_id", "correlation_id"])
def test_a_text_of_65535_bytes_fits_and_one_more_is_an_error(field: str) -> None:
    longest = batch_of(**{field: "x" * 65_535})
    assert getattr(decode_message(encode_message(longest)), field) == "x" * 65_535
    for text in ("x" * 65_536, "ü" * 32_768):
        with pytest.raises(ProtocolError):
            encode_message(batch_of(**{field: text}))


@pytest.mark.parametrize(
    "message",
    [
        batch_of(source_do_id="\ud800"),
        batch_of(correlation_id="\ud800"),
        AckMessage(timestamp=1, sequence_number=1, status=AckStatus.OK, correlation_id="\ud800"),
        AckMessage(timestamp=1, sequence_number=2**64, status=AckStatus.OK),
        DisconnectMessage(timestamp=1, reason="\ud800"),
        batch_of(sequence_number=2**64),
        batch_of(sequence_number=-1),
    ],
    ids=str,
)
def test_what_the_wire_cannot_hold_is_a_protocol_error_in_the_sender(message: AnyRpcMessage) -> None:
    with pytest.raises(ProtocolError):
        encode_message(message)


def test_a_message_over_16_mib_is_an_error_in_the_sender() -> None:
    for message in (DisconnectMessage(timestamp=1, reason="x" * 2**24), batch_of(correlation_id="x" * 2**24)):
        with pytest.raises(ProtocolError, match="at most 16777216"):
            encode_message(message, binary=False)


def test_binary_is_told_by_its_first_two_bytes() -> None:
    assert is_binary_encoded(b"\xc2\xcd")
    assert is_binary_encoded(bytearray(b"\xc2\xcd\x00"))
    assert not is_binary_encoded("\xc2\xcd")
    assert not is_binary_encoded(b"\xcd\xc2")


def test_a_batch_with_arrow_documents_is_decoded_as_values_and_read_only_when_agreed_on() -> None:
    row = WalEntry(sequence=1, timestamp=2, operation=WalOperation.INSERT, table="t", row_id="r", after={"a": 1})
    data = batch.encode(
        arrow_payload.encode([row]), encoding=Encoding.COLUMNS, entry_count=1, source="s", sequence=9, timestamp_ms=1,
        correlation_id="c-9",
    )  # fmt: skip
    back = decode_message(data)
    assert isinstance(back, CDCBatchMessage)
    assert back.entries == [row]
    assert isinstance(protocol.read(data, documents=True), BatchFrame)
    with pytest.raises(ProtocolError, match="did not agree") as caught:
        protocol.read(data)
    assert (caught.value.sequence_number, caught.value.correlation_id) == (9, "c-9")


def test_what_could_be_read_of_a_wrong_json_message_goes_into_the_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.read('{"type":"cdc_batch","sequenceNumber":7,"correlationId":"c-7"}')
    assert (caught.value.sequence_number, caught.value.correlation_id) == (7, "c-7")


def test_a_child_says_no_acks() -> None:
    ack = encode_message(AckMessage(timestamp=1, sequence_number=1, status=AckStatus.OK), binary=False)
    with pytest.raises(ProtocolError, match="ack"):
        protocol.read(ack)


def test_json_is_read_from_whatever_holds_bytes() -> None:
    text = encode_message(AckMessage(timestamp=1, sequence_number=7, status=AckStatus.OK), binary=False)
    assert isinstance(text, str)
    for kind in (bytes, bytearray, memoryview):
        message = decode_message(kind(text.encode()))  # type: ignore[arg-type]
        assert isinstance(message, AckMessage)
        assert message.sequence_number == 7
