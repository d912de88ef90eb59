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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

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
U64_MAX = 0xFFFF_FFFF_FFFF_FFFF

OPERATIONS = (WalOperation.INSERT, WalOperation.UPDATE, WalOperation.DELETE)
DELETE = OPERATIONS.index(WalOperation.DELETE)
OPERATION_CODES = {operation: code for code, operation in enumerate(OPERATIONS)}


Fields: TypeAlias = tuple[int, int, int, bytes, bytes, bytes, bytes, bytes]
"""Those of a RawEntry, in its order."""


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
    for name, value in (("table", entry.table), ("rowId", entry.row_id)):
        if len(value) > U16_MAX:
            raise ProtocolError(f"{name} of entry {entry.sequence} has {len(value)} bytes; at most {U16_MAX} fit")
    header, texts = (HEADER_META, entry[3:]) if with_metadata else (HEADER, entry[3:7])
    try:
        return b"".join((header.pack(*entry[:3], *map(len, texts)), *texts))
    except struct.error as exc:
        raise ProtocolError(f"entry {entry.sequence} does not fit the binary layout: {exc}") from None


def payload_of(entries: Iterable[RawEntry]) -> tuple[bytes, bool]:
    """The payload of these entries, and whether it carries metadata. 0.3 us an entry."""
    raw = list(entries)
    with_metadata = any(entry[7] for entry in raw)
    parts = [COUNT.pack(len(raw))]
    add = parts.extend
    try:
        if with_metadata:
            pack_header = HEADER_META.pack
            for sequence, time, operation, table, row, before, after, metadata in raw:
                header = pack_header(
                    sequence, time, operation, len(table), len(row), len(before), len(after), len(metadata)
                )
                add((header, table, row, before, after, metadata))
        else:
            pack_header = HEADER.pack
            for sequence, time, operation, table, row, before, after, _ in raw:
                add((pack_header(sequence, time, operation, len(table), len(row), len(before), len(after)), table, row))
                add((before, after))
    except struct.error:
        parts[1:] = [pack(entry, with_metadata=with_metadata) for entry in raw]  # names the one that does not fit
    return b"".join(parts), with_metadata


def join(packed: Sequence[bytes]) -> bytes:
    """The payload of entries packed before."""
    return COUNT.pack(len(packed)) + b"".join(packed)


def scan(payload: bytes, *, with_metadata: bool = False) -> Scan:
    """Walk a payload once and check every length and operation. 0.3 us an entry.

    Raises ProtocolError on anything that is not a whole payload.
    """
    header = HEADER_META if with_metadata else HEADER
    unpack, header_size, end = header.unpack_from, header.size, len(payload)
    count = count_of(payload)
    starts: list[int] = []
    sequences: list[int] = []
    operations: set[int] = set()
    tables: set[bytes] = set()
    add_start, add_sequence, add_operation, add_table = starts.append, sequences.append, operations.add, tables.add
    position, metadata = COUNT.size, 0
    try:
        for _ in range(count):
            add_start(position)
            if with_metadata:  # names instead of a list for the lengths: 0.28 us an entry, not 0.46
                sequence, _, operation, table, row, before, after, metadata = unpack(payload, position)
            else:
                sequence, _, operation, table, row, before, after = unpack(payload, position)
            add_sequence(sequence)
            add_operation(operation)
            position += header_size
            add_table(payload[position : position + table])
            position += table + row + before + after + metadata
    except struct.error:
        position = end + 1
    if (highest := max(operations, default=0)) > DELETE:
        raise ProtocolError(f"Invalid operation code: {highest}, wanted 0 INSERT, 1 UPDATE or 2 DELETE")
    if position != end:
        raise ProtocolError(f"payload of {end} bytes does not hold the {count} entries it announces")
    add_start(position)
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
    """Every entry of a payload that `scan` accepts. Raises ProtocolError otherwise. 0.9 us an entry."""
    scan(payload, with_metadata=with_metadata)
    return raw_entries(fields(payload, with_metadata=with_metadata))


def fields(payload: bytes, *, with_metadata: bool = False) -> Iterator[Fields]:
    """The fields of one entry after the other, of a payload that `scan` has accepted. 0.4 us an entry."""
    header = HEADER_META if with_metadata else HEADER
    unpack, header_size = header.unpack_from, header.size
    at, metadata = COUNT.size, 0
    for _ in range(count_of(payload)):
        if with_metadata:
            sequence, time, operation, table, row, before, after, metadata = unpack(payload, at)
        else:
            sequence, time, operation, table, row, before, after = unpack(payload, at)
        at += header_size
        yield (
            sequence, time, operation, payload[at : (at := at + table)], payload[at : (at := at + row)],
            payload[at : (at := at + before)] if before else b"",
            payload[at : (at := at + after)] if after else b"",
            payload[at : (at := at + metadata)] if metadata else b"",
        )  # fmt: skip


def raw_entries(rows: Iterable[Fields]) -> list[RawEntry]:
    return list(map(_raw_entry, rows))


def from_wal(entry: WalEntry) -> RawEntry:
    """The bytes of an entry given as Python values."""
    fields = (
        entry.sequence,
        entry.timestamp,
        OPERATION_CODES[entry.operation],
        utf8(entry.table, "table"),
        utf8(entry.row_id, "rowId"),
        b"" if entry.before is UNSET else dump_value(entry.before),
        b"" if entry.after is UNSET else dump_value(entry.after),
        dump_value(entry.metadata) if entry.metadata else b"",
    )
    return _raw_entry(fields)


def from_wire(entry: WireEntry) -> RawEntry:
    """The bytes of an entry that came as JSON; its values keep every digit they had."""
    fields = (
        entry.sequence,
        entry.timestamp,
        OPERATION_CODES[entry.operation],
        utf8(entry.table, "table"),
        utf8(entry.row_id, "rowId"),
        b"" if entry.before is UNSET else bytes(entry.before),
        b"" if entry.after is UNSET else bytes(entry.after),
        b"" if entry.metadata is UNSET else _metadata(bytes(entry.metadata), entry.sequence),
    )
    return _raw_entry(fields)


def _metadata(text: bytes, sequence: int) -> bytes:
    if text[:1] != b"{":
        raise ProtocolError(f"metadata of entry {sequence} is {text[:40]!r}, wanted an object")
    return b"" if text == b"{}" else text


def to_wal(entry: RawEntry) -> WalEntry:
    """An entry as Python values. Raises ProtocolError when a text is not UTF-8 or a value not JSON."""
    return to_wals([entry])[0]


def to_wals(rows: Iterable[Fields]) -> list[WalEntry]:
    """Entries as Python values, 0.8 us each with a document of 8 keys. Raises ProtocolError like `to_wal`."""
    found: list[WalEntry] = []
    names: dict[bytes, str] = {}
    add, known = found.append, names.get
    sequence = 0
    try:
        for sequence, time, operation, table, row_id, before, after, metadata in rows:
            if (name := known(table)) is None:
                name = names[table] = table.decode()
            entry = WalEntry(
                sequence=sequence,
                timestamp=time,
                operation=OPERATIONS[operation],
                table=name,
                row_id=row_id.decode(),
                before=load_value(before) if before else UNSET,
                after=load_value(after) if after else UNSET,
                metadata=load_value(metadata) if metadata else UNSET,
            )
            add(entry)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"entry {sequence} is not readable: {exc}") from None
    return found


def utf8(text: str, name: str) -> bytes:
    """Raises ProtocolError for half a surrogate pair, which Python holds and UTF-8 does not."""
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise ProtocolError(f"{name} is {text[:40]!r}, which UTF-8 cannot hold: {exc.reason}") from None


def dump_value(value: Any) -> bytes:
    """A JSON value as compact text; integers of any size and NaN or Infinity stay what they are.

    msgspec writes a document of 8 keys in 0.5 us and Python's json in 6, but NaN it writes as null and some values
    not at all; those are left to Python. Raises ProtocolError for a value that JSON cannot hold.
    """
    try:
        text = _FAST(value)
        if b"null" not in text:
            return text
    except (TypeError, ValueError, RecursionError, OverflowError):
        pass
    try:
        return _UTF8.encode(value).encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, but it has a JSON escape
        return _ASCII.encode(value).encode()
    except (TypeError, ValueError, RecursionError, OverflowError) as exc:
        raise ProtocolError(f"{type(value).__name__} cannot be written as JSON: {exc}") from None


def load_value(text: bytes) -> Any:
    """A JSON value with integers of any size exact. Raises ValueError when it is not JSON in UTF-8.

    msgspec reads a document of 8 keys in 0.6 us and Python's json in 3; what only Python's json takes (NaN, half a
    surrogate pair) is left to that.
    """
    try:
        return _READ(text)
    except (msgspec.DecodeError, RecursionError):
        return json.loads(text.decode())


_raw_entry = partial(tuple.__new__, RawEntry)
"""A RawEntry of its fields; RawEntry._make takes 0.05 us more and RawEntry(...) 0.15."""
_READ = msgspec.json.Decoder().decode
_FAST = msgspec.json.Encoder().encode
_UTF8 = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=msgspec.to_builtins)
_ASCII = json.JSONEncoder(separators=(",", ":"), default=msgspec.to_builtins)
