"""CDC event frames: single change events, or a list of them, as checked JSON behind a short header.

    single = magic u16, version u8, 0 u8, length u32, crc32 u32, 0 u32, JSON object
    batch  = magic u16, version u8, type 0x10 u8, 0 u32, count u32, length u32, crc32 u32, JSON array

The crc covers the whole frame with its own field zeroed and is always checked (docs/protocol.md section 5).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntFlag
from typing import Any
from zlib import crc32

from rpc.entries import dump_value, load_value
from rpc.errors import ProtocolError
from rpc.messages import ClientCapabilities

__all__ = [
    "CapabilityFlags",
    "decode_batch",
    "decode_capabilities",
    "decode_frame",
    "encode_batch",
    "encode_capabilities",
    "encode_frame",
]

MAGIC, VERSION, TYPE_BATCH = 0xEDB0, 1, 0x10
SINGLE = struct.Struct("<HBxIIxxxx")
"""magic, version, length, crc32"""
BATCH = struct.Struct("<HBBxxxxIII")
"""magic, version, type, count, length, crc32"""
assert (SINGLE.size, BATCH.size) == (16, 20)
FRAME_BYTES_MAX = 16 * 1024 * 1024


class CapabilityFlags(IntFlag):
    BINARY_PROTOCOL = 1
    COMPRESSION = 2
    BATCHING = 4


def encode_frame(event: Mapping[str, Any]) -> bytes:
    body = _body(event)
    unsigned = SINGLE.pack(MAGIC, VERSION, len(body), 0) + body
    return SINGLE.pack(MAGIC, VERSION, len(body), crc32(unsigned)) + body


def encode_batch(events: Sequence[Mapping[str, Any]]) -> bytes:
    body = _body(list(events))
    unsigned = BATCH.pack(MAGIC, VERSION, TYPE_BATCH, len(events), len(body), 0) + body
    return BATCH.pack(MAGIC, VERSION, TYPE_BATCH, len(events), len(body), crc32(unsigned)) + body


def decode_frame(data: bytes) -> dict[str, Any]:
    """The event of a single frame. Raises ProtocolError."""
    if len(data) < SINGLE.size:
        raise ProtocolError(f"Frame too small: {len(data)} bytes, wanted at least {SINGLE.size}")
    magic, version, length, crc = SINGLE.unpack_from(data)
    event = _checked(data, SINGLE, magic, version, length, crc, SINGLE.pack(magic, version, length, 0))
    if not isinstance(event, dict):
        raise ProtocolError(f"frame holds {type(event).__name__}, wanted an object")
    return event


def decode_batch(data: bytes) -> list[dict[str, Any]]:
    """The events of a batch frame. Raises ProtocolError."""
    if len(data) < BATCH.size:
        raise ProtocolError(f"Frame too small: {len(data)} bytes, wanted at least {BATCH.size}")
    magic, version, kind, count, length, crc = BATCH.unpack_from(data)
    if kind != TYPE_BATCH:
        raise ProtocolError(f"frame type is 0x{kind:02x}, wanted 0x{TYPE_BATCH:02x}")
    events = _checked(data, BATCH, magic, version, length, crc, BATCH.pack(magic, version, kind, count, length, 0))
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise ProtocolError("batch frame does not hold an array of objects")
    if len(events) != count:
        raise ProtocolError(f"Entry count mismatch: header says {count}, frame has {len(events)}")
    return events


def encode_capabilities(capabilities: ClientCapabilities) -> CapabilityFlags:
    flags = CapabilityFlags(0)
    if capabilities.binary_protocol:
        flags |= CapabilityFlags.BINARY_PROTOCOL
    if capabilities.compression:
        flags |= CapabilityFlags.COMPRESSION
    if capabilities.batching:
        flags |= CapabilityFlags.BATCHING
    return flags


def decode_capabilities(flags: int) -> ClientCapabilities:
    """Unknown bits are ignored; the two sizes do not travel in flags and keep their defaults."""
    return ClientCapabilities(
        binary_protocol=bool(flags & CapabilityFlags.BINARY_PROTOCOL),
        compression=bool(flags & CapabilityFlags.COMPRESSION),
        batching=bool(flags & CapabilityFlags.BATCHING),
    )


def _body(value: Any) -> bytes:
    body = dump_value(value)
    if len(body) > FRAME_BYTES_MAX:
        raise ProtocolError(f"frame body has {len(body)} bytes; at most {FRAME_BYTES_MAX} are allowed")
    return body


def _checked(
    data: bytes, layout: struct.Struct, magic: int, version: int, length: int, crc: int, unsigned_header: bytes
) -> Any:
    if length > FRAME_BYTES_MAX:
        raise ProtocolError(f"frame announces {length} bytes; at most {FRAME_BYTES_MAX} are allowed")
    if magic != MAGIC:
        raise ProtocolError(f"frame begins with 0x{magic:04x}, wanted 0x{MAGIC:04x}")
    if version != VERSION:
        raise ProtocolError(f"Unsupported frame version: {version}, wanted {VERSION}")
    body = memoryview(data)[layout.size :]
    if len(body) < length:
        raise ProtocolError(f"Frame truncated: {len(data)} bytes, wanted {layout.size + length}")
    if len(body) > length:
        raise ProtocolError(f"frame has {len(data)} bytes, its header says {layout.size + length}")
    if (found := crc32(body, crc32(unsigned_header))) != crc:
        raise ProtocolError(f"crc mismatch: header says {crc:08x}, bytes have {found:08x}")
    try:
        return load_value(bytes(body))
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"frame does not hold JSON: {exc}") from None
