"""A cdc_batch as bytes: frame around a payload that is checked but not taken apart.

    batch = header(40), source, correlation id, payload

This is all the parent does with a batch before the journal. The layout is that of @evodb/rpc version 1
(docs/protocol.md section 2); flags 0x08 and up are ours.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple
from zlib import crc32

from rpc import columns, compression, entries, msgpack_payload
from rpc.compression import Compression
from rpc.errors import ProtocolError

MAGIC, VERSION, KIND_BATCH = 0xCDC2, 1, 1
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
COMPRESSED_FROM_BYTES = 512
SEQUENCE_MAX = 2**63 - 1
"""Of an entry; the wire has room for twice as many, databases and tables have not."""
"""Smaller payloads are not worth a zstd frame."""

HEADER = struct.Struct("<HBBB3xQQHIIHI")
"""magic, version, kind, flags, timestamp ms, sequence, len(source), entries, len(payload), len(correlation id), crc"""
assert HEADER.size == 40
CRC_AT = 36


class Flag:
    """Bits of a frame's head, plain numbers: `&` of an IntFlag takes 1.0 us (CPython 3.11), and a frame needs four."""

    COMPRESSED: Final = 0x01
    """The payload is a zstd frame (rpc.compression)."""
    CORRELATION: Final = 0x02
    RETRY: Final = 0x04
    STRICT_CRC: Final = 0x08
    """The crc is right, check it. Old encoders send a wrong one from their second message on."""
    METADATA: Final = 0x10
    """Entries have the longer header with metadata (rpc.entries)."""
    COLUMNS: Final = 0x20
    """The payload is columnar (rpc.columns)."""
    MSGPACK: Final = 0x40
    """The payload is msgpack (rpc.msgpack_payload)."""


class Encoding(StrEnum):
    """How a payload is laid out behind the parent's door, and how the journal remembers it."""

    BINARY = "binary"
    BINARY_METADATA = "binary+meta"
    COLUMNS = "columns"


class Layout(StrEnum):
    """Payloads of the wire alone; on arrival they become one of `Encoding`."""

    MSGPACK = "msgpack"


class Dialect(StrEnum):
    """In whose words a message is written, and its answer."""

    RPC = "rpc"
    """@evodb/rpc: entries."""
    DOLAKE = "dolake"
    """DoSQL's integration guide: events (rpc.dolake)."""


class BatchFrame(NamedTuple):
    """A cdc_batch whose payload is checked bytes. Times in ms; `tables` are the distinct names, not yet judged."""

    timestamp_ms: int
    correlation_id: str | None
    source: str
    shard: str | None
    sequence: int
    is_retry: bool
    encoding: Encoding
    payload: bytes
    entries: int
    tables: set[bytes] | list[bytes]
    entry_sequences: memoryview | list[int]
    identity: bytes | None = None
    """The payload by which repeats are known, where it differs: without the times that the parent filled in."""
    dialect: Dialect = Dialect.RPC
    once: Sequence[bytes] = ()
    """A digest for each entry that its parent stores once, whatever batch it comes in; empty for the others."""


def encode(
    payload: bytes,
    *,
    encoding: Encoding | Layout,
    entry_count: int,
    source: str,
    sequence: int,
    timestamp_ms: int,
    correlation_id: str | None = None,
    is_retry: bool = False,
    strict_crc: bool = False,
    compress_with: Compression = Compression.NONE,
) -> bytes:
    """The frame of a batch whose payload is encoded already. It is compressed if asked for and if that helps."""
    source_bytes, correlation = entries.utf8(source, "source"), entries.utf8(correlation_id or "", "correlation id")
    flags = _PAYLOAD_FLAGS[encoding] | (Flag.CORRELATION if correlation_id else 0)
    flags |= (Flag.RETRY if is_retry else 0) | (Flag.STRICT_CRC if strict_crc else 0)
    if compress_with is Compression.ZSTD and len(payload) >= COMPRESSED_FROM_BYTES:
        if len(payload) > MESSAGE_BYTES_MAX:
            raise ProtocolError(f"payload has {len(payload)} bytes; at most {MESSAGE_BYTES_MAX} may be compressed")
        smaller = compression.compress(payload)
        if len(smaller) < len(payload):
            payload, flags = smaller, flags | Flag.COMPRESSED
    fields = (MAGIC, VERSION, KIND_BATCH, flags, timestamp_ms, sequence)
    lengths = (len(source_bytes), entry_count, len(payload), len(correlation))
    body = source_bytes + correlation
    try:
        crc = crc32(payload, crc32(body, crc32(HEADER.pack(*fields, *lengths, 0))))
        frame = b"".join((HEADER.pack(*fields, *lengths, crc), body, payload))
    except struct.error as exc:
        raise ProtocolError(f"batch {sequence} does not fit the binary layout: {exc}") from None
    if len(frame) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"batch {sequence} has {len(frame)} bytes; at most {MESSAGE_BYTES_MAX} fit a message")
    return frame


def read(data: bytes, *, documents: bool = False) -> BatchFrame:
    """The checked frame; a msgpack or compressed payload is a plain one from here on. Raises ProtocolError.

    `documents`: whether entries may bring typed documents (Arrow), which has to be agreed on.
    """
    if len(data) < HEADER.size:
        raise ProtocolError(f"cdc_batch has {len(data)} bytes, wanted at least {HEADER.size}")
    _, _, _, flags, timestamp_ms, sequence, source_len, count, payload_len, correlation_len, crc = HEADER.unpack_from(
        data
    )
    source_end = HEADER.size + source_len
    payload_at = source_end + correlation_len
    correlation_id = None
    try:
        correlation_id = data[source_end:payload_at].decode() if flags & Flag.CORRELATION else None
        if payload_at + payload_len != len(data):
            raise ProtocolError(f"cdc_batch has {len(data)} bytes, its header says {payload_at + payload_len}")
        if flags & Flag.STRICT_CRC:
            _check_crc(data, crc)
        encoding, payload = _plain(data[payload_at:], flags)
        if (found := entries.count_of(payload)) != count:
            raise ProtocolError(f"Entry count mismatch: header says {count}, payload says {found}")
        tables, entry_sequences = _check_payload(payload, encoding)
        _check_sequences(entry_sequences)
        if not documents and encoding is Encoding.COLUMNS and columns.has_documents(payload):
            raise ProtocolError("the payload brings Arrow documents, which connect did not agree on")
        source = data[HEADER.size : source_end].decode()
    except UnicodeDecodeError as exc:
        raise ProtocolError(f"text of the header is not UTF-8: {exc}", sequence_number=sequence) from None
    except ProtocolError as exc:
        exc.sequence_number, exc.correlation_id = sequence, correlation_id
        raise
    is_retry = bool(flags & Flag.RETRY)
    identity = (timestamp_ms, correlation_id, source, None, sequence, is_retry)
    return BatchFrame(*identity, encoding, payload, count, tables, entry_sequences)


def raw_entries(frame: BatchFrame) -> list[entries.RawEntry]:
    """The entries of a frame, one by one, without typed documents."""
    if frame.encoding is Encoding.COLUMNS:
        return columns.decode(frame.payload).entries()
    return entries.walk(frame.payload, with_metadata=frame.encoding is Encoding.BINARY_METADATA)


def select(frame: BatchFrame, indices: Sequence[int]) -> BatchFrame:
    """The frame with these of its entries only; what typed documents they have stay with them."""
    if frame.encoding is Encoding.COLUMNS:
        payload = columns.select(frame.payload, indices)
    else:
        whole = raw_entries(frame)
        payload = columns.encode([whole[index] for index in indices])
    sequences = [frame.entry_sequences[index] for index in indices]
    return frame._replace(
        encoding=Encoding.COLUMNS,
        payload=payload,
        entries=len(sequences),
        entry_sequences=sequences,
        identity=None if frame.identity is None else columns.select(frame.identity, indices),
    )


_PAYLOAD_FLAGS: dict[Encoding | Layout, int] = {
    Encoding.BINARY: 0,
    Encoding.BINARY_METADATA: Flag.METADATA,
    Encoding.COLUMNS: Flag.COLUMNS,
    Layout.MSGPACK: Flag.MSGPACK,
}
_ENCODINGS = {flag: encoding for encoding, flag in _PAYLOAD_FLAGS.items()}
_NOT_OF_THE_PAYLOAD = ~(Flag.COMPRESSED | Flag.CORRELATION | Flag.RETRY | Flag.STRICT_CRC)


def _plain(payload: bytes, flags: int) -> tuple[Encoding, bytes]:
    """The payload as the journal knows it."""
    encoding = _ENCODINGS.get(flags & _NOT_OF_THE_PAYLOAD)
    if encoding is None:
        raise ProtocolError(f"Unknown flags: 0x{flags:02x}")
    if flags & Flag.COMPRESSED:
        payload = compression.decompress(payload, bytes_max=MESSAGE_BYTES_MAX)
    if not isinstance(encoding, Encoding):
        return Encoding.COLUMNS, msgpack_payload.to_columns(payload)
    return encoding, payload


def _check_sequences(found: memoryview | list[int]) -> None:
    """Nobody can keep a larger one. Of a column the highest byte of each is looked at: 0.9 us for 1000."""
    fits = max(found, default=0) <= SEQUENCE_MAX if isinstance(found, list) else found.tobytes()[7::8].isascii()
    if not fits:
        raise ProtocolError(f"an entry has the sequence {max(found)}, wanted at most {SEQUENCE_MAX}")


def _check_payload(payload: bytes, encoding: Encoding) -> tuple[set[bytes] | list[bytes], memoryview | list[int]]:
    if encoding is Encoding.COLUMNS:
        return columns.check(payload)
    seen = entries.scan(payload, with_metadata=encoding is Encoding.BINARY_METADATA)
    return seen.tables, seen.sequences


def _check_crc(data: bytes, crc: int) -> None:
    found = crc32(memoryview(data)[HEADER.size :], crc32(b"\0\0\0\0", crc32(data[:CRC_AT])))
    if found != crc:
        raise ProtocolError(f"crc mismatch: header says {crc:08x}, bytes have {found:08x}")
