from __future__ import annotations

from typing import Any

import pytest

from rpc import arrow_payload, batch, columns, entries, msgpack_payload
from rpc.batch import COMPRESSED_FROM_BYTES, CRC_AT, MESSAGE_BYTES_MAX, Encoding, Flag, Layout
from rpc.compression import Compression
from rpc.entries import RawEntry
from rpc.errors import ProtocolError
from rpc.messages import WalEntry, WalOperation

WAL = [
    WalEntry(sequence=n, timestamp=5, operation=WalOperation.INSERT, table=f"t{n % 2}", row_id=f"r{n}", after={"n": n})
    for n in range(1, 101)
]
RAW = [entries.from_wal(entry) for entry in WAL]
PAYLOADS: list[tuple[Encoding | Layout, bytes]] = [
    (Encoding.BINARY, entries.payload_of(RAW)[0]),
    (Encoding.BINARY_METADATA, entries.join([entries.pack(entry, with_metadata=True) for entry in RAW])),
    (Encoding.COLUMNS, columns.encode(RAW)),
    (Layout.MSGPACK, msgpack_payload.encode(WAL)),
]
EVERY_PAYLOAD = pytest.mark.parametrize(("encoding", "payload"), PAYLOADS, ids=[name for name, _ in PAYLOADS])


def frame(payload: bytes, encoding: Encoding | Layout, **options: Any) -> bytes:
    made: dict[str, Any] = {"entry_count": len(RAW), "source": "shop-1", "sequence": 7, "timestamp_ms": 9}
    return batch.encode(payload, encoding=encoding, **(made | options))


@EVERY_PAYLOAD
@pytest.mark.parametrize("compress_with", list(Compression))
def test_every_payload_arrives_as_the_same_entries(
    encoding: Encoding | Layout, payload: bytes, compress_with: Compression
) -> None:
    data = frame(payload, encoding, correlation_id="c", is_retry=True, strict_crc=True, compress_with=compress_with)
    found = batch.read(data)
    assert found[:6] == (9, "c", "shop-1", None, 7, True)
    assert batch.raw_entries(found) == RAW
    assert (found.entries, set(found.tables), list(found.entry_sequences)) == (100, {b"t0", b"t1"}, [*range(1, 101)])
    assert found.encoding is (encoding if isinstance(encoding, Encoding) else Encoding.COLUMNS)
    if isinstance(encoding, Encoding):
        assert found.payload == payload
    assert (len(data) < len(payload)) is (compress_with is Compression.ZSTD)


def test_a_payload_that_would_not_shrink_is_sent_as_it_is() -> None:
    small = frame(columns.encode([]), Encoding.COLUMNS, entry_count=0, compress_with=Compression.ZSTD)
    assert not small[4] & Flag.COMPRESSED
    assert len(small) < COMPRESSED_FROM_BYTES


@EVERY_PAYLOAD
def test_a_wrong_crc_refuses_a_batch_only_when_its_sender_vouched_for_it(
    encoding: Encoding | Layout, payload: bytes
) -> None:
    vouched, plain = frame(payload, encoding, strict_crc=True), frame(payload, encoding)
    assert batch.raw_entries(batch.read(vouched)) == batch.raw_entries(batch.read(plain)) == RAW
    with pytest.raises(ProtocolError, match="crc mismatch"):
        batch.read(vouched[:CRC_AT] + b"\0\0\0\0" + vouched[CRC_AT + 4 :])
    assert batch.raw_entries(batch.read(plain[:CRC_AT] + b"\0\0\0\0" + plain[CRC_AT + 4 :])) == RAW


@pytest.mark.parametrize("flags", [0x30, 0x50, 0x60, 0x80, 0xFF & ~Flag.STRICT_CRC])
def test_flags_that_exclude_each_other_or_are_unknown_are_an_error(flags: int) -> None:
    data = bytearray(frame(columns.encode(RAW), Encoding.COLUMNS))
    data[4] = flags
    with pytest.raises(ProtocolError, match="Unknown flags"):
        batch.read(bytes(data))


def test_the_count_of_the_header_has_to_be_that_of_the_payload() -> None:
    for encoding, payload in PAYLOADS:
        with pytest.raises(ProtocolError, match="Entry count mismatch: header says 99, payload says 100") as caught:
            batch.read(frame(payload, encoding, entry_count=99, correlation_id="c"))
        assert (caught.value.sequence_number, caught.value.correlation_id) == (7, "c")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("encoding", [Encoding.COLUMNS, Encoding.BINARY])
def test_an_entry_whose_sequence_nobody_can_keep_refuses_its_batch_for_good(encoding: Encoding, count: int) -> None:
    def framed(last: int) -> bytes:
        raw = [RawEntry(number, 1, 0, b"t", b"r") for number in range(last - count + 1, last + 1)]
        payload = columns.encode(raw) if encoding is Encoding.COLUMNS else entries.payload_of(raw)[0]
        return frame(payload, encoding, entry_count=count)

    assert max(batch.read(framed(2**63 - 1)).entry_sequences) == 2**63 - 1
    with pytest.raises(ProtocolError, match="sequence 9223372036854775808, wanted at most 9223372036854775807"):
        batch.read(framed(2**63))


def test_a_frame_of_16_mib_fits_and_one_byte_more_does_not() -> None:
    def made(size: int) -> bytes:
        head = batch.HEADER.size + len("shop-1") + 4 + entries.HEADER.size
        return frame(
            entries.payload_of([RawEntry(1, 2, 0, b"", b"", b"", b"x" * (size - head))])[0],
            Encoding.BINARY,
            entry_count=1,
        )

    assert len(made(MESSAGE_BYTES_MAX)) == MESSAGE_BYTES_MAX
    with pytest.raises(ProtocolError, match="16777217 bytes; at most 16777216"):
        made(MESSAGE_BYTES_MAX + 1)


def test_a_payload_too_large_to_be_decompressed_is_an_error_in_the_sender() -> None:
    with pytest.raises(ProtocolError, match="may be compressed"):
        frame(bytes(MESSAGE_BYTES_MAX + 1), Encoding.BINARY, compress_with=Compression.ZSTD)


@EVERY_PAYLOAD
def test_a_selection_has_these_entries_and_no_others(encoding: Encoding | Layout, payload: bytes) -> None:
    found = batch.select(batch.read(frame(payload, encoding)), [3, 50])
    assert batch.raw_entries(found) == [RAW[3], RAW[50]]
    assert (found.entries, list(found.entry_sequences), found.sequence) == (2, [4, 51], 7)
    again = batch.read(frame(found.payload, found.encoding, entry_count=2))
    assert batch.raw_entries(again) == [RAW[3], RAW[50]]


def test_a_selection_keeps_the_documents_of_its_entries() -> None:
    whole = batch.read(frame(arrow_payload.encode(WAL), Encoding.COLUMNS), documents=True)
    found = batch.select(whole, [99, 3][::-1])
    assert arrow_payload.decode(found.payload) == [WAL[3], WAL[99]]
    assert batch.select(found, []).entries == 0
