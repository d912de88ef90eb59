"""The binary payload of a batch: how one entry lies in bytes, and how to walk many without building objects.

    payload = u32 count, entry*
    entry   = header, table, row id, before, after [, metadata]

before, after and metadata are JSON text; length 0 means absent, so null is the four bytes `null`. An entry with
metadata needs the longer header, which a batch announces with flag 0x10 (docs/protocol.md section 2).
The layout without metadata is that of @evodb/rpc version 1.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from rpc.errors import ProtocolError
from rpc.messages import UNSET, WalEntry, WalOperation, WireEntry

COUNT = struct.Struct("<I")
HEADER = struct.Struct("<QQBHHII")
"""sequence, timestamp ms, operation, len(table), len(row id), len(before), len(after)"""
HEADER_META = struct.Struct("<QQBHHIII")
"""HEADER and len(metadata)"""
assert HEADER.size == 29
assert HEADER_META.size == 33

U16_MAX = 0xFFFF
U32_MAX = 0xFFFF_FFFF
U64_MAX = 0xFFFF_FFFF_FFFF_FFFF

OPERATIONS = (WalOperation.INSERT, WalOperation.UPDATE, WalOperation.DELETE)
OPERATION_CODES = {operation: code for code, operation in enumerate(OPERATIONS)}


class RawEntry(NamedTuple):
    """One entry as the bytes it travels as; empty bytes mean absent."""

    sequence: int
    timestamp_ms: int
    operation: int
    table: bytes
    row_id: bytes
    before: bytes = b""
    after: bytes = b""
    metadata: bytes = b""


@dataclass(frozen=True, slots=True)
class Scan:
    """What one walk over a payload learned.

    `starts` has the offset of every entry and one behind the last.
    """

    starts: list[int]
    sequences: list[int]
    tables: set[bytes]


def pack(entry: RawEntry, *, with_metadata: bool = False) -> bytes:
    """The bytes of one entry. Raises ProtocolError when a field does not fit its length."""
    _, _, _, table, row_id, before, after, metadata = entry
    for name, value in (("table", table), ("rowId", row_id)):
        if len(value) > U16_MAX:
            raise ProtocolError(f"{name} of entry {entry.sequence} has {len(value)} bytes; at most {U16_MAX} fit")
    lengths = (len(table), len(row_id), len(before), len(after))
    try:
        if with_metadata:
            header = HEADER_META.pack(*entry[:3], *lengths, len(metadata))
        else:
            header = HEADER.pack(*entry[:3], *lengths)
    except struct.error as exc:
        raise ProtocolError(f"entry {entry.sequence} does not fit the binary layout: {exc}") from None
    return b"".join((header, table, row_id, before, after, metadata if with_metadata else b""))


def payload_of(entries: Iterable[RawEntry]) -> tuple[bytes, bool]:
    """The payload of these entries, and whether it carries metadata."""
    raw = list(entries)
    with_metadata = any(entry.metadata for entry in raw)
    return join([pack(entry, with_metadata=with_metadata) for entry in raw]), with_metadata


def join(packed: Sequence[bytes]) -> bytes:
    """The payload of entries packed before."""
    return COUNT.pack(len(packed)) + b"".join(packed)


def scan(payload: bytes, *, with_metadata: bool = False) -> Scan:
    """Walk a payload once and check every length and operation.

    Raises ProtocolError on anything that is not a whole payload.
    """
    header = HEADER_META if with_metadata else HEADER
    unpack, header_size, end = header.unpack_from, header.size, len(payload)
    count = count_of(payload)
    starts: list[int] = []
    sequences: list[int] = []
    tables: set[bytes] = set()
    position = COUNT.size
    metadata = 0
    try:
        for _ in range(count):
            if with_metadata:
                sequence, _, operation, table, row_id, before, after, metadata = unpack(payload, position)
            else:
                sequence, _, operation, table, row_id, before, after = unpack(payload, position)
            if operation > 2:
                raise ProtocolError(f"Invalid operation code: {operation}, wanted 0 INSERT, 1 UPDATE or 2 DELETE")
            starts.append(position)
            sequences.append(sequence)
            position += header_size
            tables.add(payload[position : position + table])
            position += table + row_id + before + after + metadata
    except struct.error:
        position = end + 1
    if position != end:
        raise ProtocolError(f"payload of {end} bytes does not hold the {count} entries it announces")
    starts.append(position)
    return Scan(starts, sequences, tables)


def count_of(payload: bytes) -> int:
    """How many entries a payload announces; never more than its bytes can hold."""
    if len(payload) < COUNT.size:
        raise ProtocolError(f"payload has {len(payload)} bytes, wanted at least {COUNT.size}")
    count: int = COUNT.unpack_from(payload)[0]
    if count * HEADER.size > len(payload):
        raise ProtocolError(f"payload announces {count} entries, {len(payload)} bytes cannot hold them")
    return count


def walk(payload: bytes, *, with_metadata: bool = False) -> list[RawEntry]:
    """Every entry of a payload that `scan` accepts. Raises ProtocolError otherwise."""
    starts = scan(payload, with_metadata=with_metadata).starts
    return [entry_at(payload, start, with_metadata=with_metadata) for start in starts[:-1]]


def entry_at(payload: bytes, position: int, *, with_metadata: bool = False) -> RawEntry:
    """The entry whose header begins at `position`."""
    header = HEADER_META if with_metadata else HEADER
    sequence, timestamp_ms, operation, *lengths = header.unpack_from(payload, position)
    at = position + header.size
    fields = []
    for length in lengths:
        fields.append(payload[at : at + length])
        at += length
    return RawEntry(sequence, timestamp_ms, operation, *fields)


def from_wal(entry: WalEntry) -> RawEntry:
    """The bytes of an entry given as Python values."""
    return RawEntry(
        entry.sequence,
        entry.timestamp,
        OPERATION_CODES[entry.operation],
        entry.table.encode(),
        entry.row_id.encode(),
        b"" if entry.before is UNSET else dump_value(entry.before),
        b"" if entry.after is UNSET else dump_value(entry.after),
        dump_value(entry.metadata) if entry.metadata else b"",
    )


def from_wire(entry: WireEntry) -> RawEntry:
    """The bytes of an entry that came as JSON; its values keep every digit they had."""
    return RawEntry(
        entry.sequence,
        entry.timestamp,
        OPERATION_CODES[entry.operation],
        entry.table.encode(),
        entry.row_id.encode(),
        b"" if entry.before is UNSET else bytes(entry.before),
        b"" if entry.after is UNSET else bytes(entry.after),
        dump_value(entry.metadata) if entry.metadata else b"",
    )


def to_wal(entry: RawEntry) -> WalEntry:
    """An entry as Python values. Raises ProtocolError when a text is not UTF-8 or a value not JSON."""
    try:
        return WalEntry(
            sequence=entry.sequence,
            timestamp=entry.timestamp_ms,
            operation=OPERATIONS[entry.operation],
            table=entry.table.decode(),
            row_id=entry.row_id.decode(),
            before=load_value(entry.before) if entry.before else UNSET,
            after=load_value(entry.after) if entry.after else UNSET,
            metadata=load_value(entry.metadata) if entry.metadata else UNSET,
        )
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"entry {entry.sequence} is not readable: {exc}") from None


def dump_value(value: Any) -> bytes:
    """A JSON value as compact text; integers of any size and NaN or Infinity stay what they are.

    Raises ProtocolError for a value that JSON cannot hold.
    """
    try:
        return _UTF8.encode(value).encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, but it has a JSON escape
        return _ASCII.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"{type(value).__name__} cannot be written as JSON: {exc}") from None


def load_value(text: bytes) -> Any:
    """A JSON value with integers of any size exact. Raises ValueError when it is not JSON in UTF-8."""
    return json.loads(text)


_UTF8 = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=msgspec.to_builtins)
_ASCII = json.JSONEncoder(separators=(",", ":"), default=msgspec.to_builtins)
