"""The msgpack payload: entries as msgpack arrays, for children whose values are not JSON text yet.

    payload = array of entries
    entry   = [sequence, timestamp ms, operation 0..2, table, row id [, before [, after [, metadata]]]]

Absent is the extension 0 without data, or an array that ends earlier; nil is null. On arrival it becomes the columnar
payload, so nothing behind the parent's door knows msgpack. Values become JSON text:

    bin         base64 text, as everywhere else in EvoDB
    timestamp   ISO text with its offset (extension -1)
    extension 1 the JSON text in it as it is: an integer over 64 bits, or a number whose digits count
    NaN, Infinity  the words, as Python writes and reads them

A value has at most 1 MiB here, because a byte of msgpack can become 80 of memory; larger values travel as JSON.
Announced with flag 0x40 (docs/protocol.md section 2). 1000 entries of 180 bytes become columns in 3.8 ms.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.msgpack import Decoder, Encoder, Ext

from rpc import columns
from rpc.digits import Digits, exact
from rpc.entries import OPERATION_CODES, RawEntry, utf8
from rpc.errors import ProtocolError
from rpc.messages import WalEntry

VALUE_BYTES_MAX = 1024 * 1024
COLUMNS_BYTES_MAX = 16 * 1024 * 1024
"""A byte of msgpack may become six of JSON; what arrives is as large as a message at most, all the same."""
EXT_ABSENT, EXT_JSON = 0, 1
ABSENT = Ext(EXT_ABSENT, b"")
ABSENT_BYTES = b"\xc7\x00\x00"

U64 = Annotated[int, Meta(ge=0)]
Code = Annotated[int, Meta(ge=0, le=2)]


class PackedEntry(Struct, array_like=True, forbid_unknown_fields=True):
    """An entry whose values are still the msgpack bytes they came as."""

    sequence: U64
    timestamp_ms: U64
    operation: Code
    table: str
    row_id: str
    before: Raw | UnsetType = UNSET
    after: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


def encode(entries: Sequence[WalEntry]) -> bytes:
    """The msgpack payload of these entries. Raises ProtocolError for a value it cannot hold."""
    rows = [
        (
            entry.sequence,
            entry.timestamp,
            OPERATION_CODES[entry.operation],
            entry.table,
            entry.row_id,
            ABSENT if entry.before is UNSET else entry.before,
            ABSENT if entry.after is UNSET else entry.after,
            entry.metadata or ABSENT,
        )
        for entry in entries
    ]
    try:
        return _pack(rows)
    except (OverflowError, UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return b"".join([_ARRAY.pack(_ARRAY_CODE, len(rows)), *(_pack_exactly(row) for row in rows)])


def from_columns(payload: bytes) -> bytes:
    """The msgpack payload of a columnar one, numbers with the digits they have there. Raises ProtocolError for a text
    that is not JSON, or a value that a parent would refuse.
    """
    rows = []
    for sequence, time, operation, table, row_id, *texts in columns.decode(payload).entries():
        try:
            names = (table.decode(), row_id.decode())
        except UnicodeDecodeError as exc:
            raise ProtocolError(f"a name of entry {sequence} is not UTF-8: {exc}") from None
        before, after, metadata = map(_packed, texts)
        rows.append((sequence, time, operation, *names, before, after, ABSENT if texts[2] == b"{}" else metadata))
    return _pack(rows)


def _packed(text: bytes) -> Raw | Ext:
    """A JSON text as msgpack."""
    if not text:
        return ABSENT
    try:
        try:
            value = _as_written.decode(text)
        except (msgspec.DecodeError, RecursionError):  # NaN is for Python's json to read
            value = json.loads(text.decode(), parse_float=_number)
        packed = _pack(_portable(value))
    except (OverflowError, UnicodeError, TypeError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"{text[:40]!r} does not fit msgpack: {exc}") from None
    if len(packed) > VALUE_BYTES_MAX:
        raise ProtocolError(f"a value has {len(packed)} bytes of msgpack; at most {VALUE_BYTES_MAX} are taken")
    return Raw(packed)


def _number(text: str) -> float | Ext:
    """A number as a double of the same value, or else its digits."""
    value = exact(text)
    return Ext(EXT_JSON, value.text.encode()) if isinstance(value, Digits) else value


def to_columns(payload: bytes) -> bytes:
    """The columnar payload of the same entries. Raises ProtocolError on anything that is not a whole payload."""
    try:
        packed = _entries.decode(payload)
        raw, room = [], COLUMNS_BYTES_MAX
        for entry in packed:
            raw.append(_raw(entry))
            room -= sum(map(len, raw[-1][3:]))
            if room < 0:
                raise ProtocolError(f"a msgpack payload becomes more than {COLUMNS_BYTES_MAX} bytes of JSON values")
        return columns.encode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ProtocolError(f"not a msgpack payload: {exc}") from None


def _raw(entry: PackedEntry) -> RawEntry:
    metadata = _json(entry.metadata)
    if metadata[:1] not in (b"", b"{"):
        raise ProtocolError(f"metadata of entry {entry.sequence} is {metadata[:40]!r}, wanted a map")
    return RawEntry(
        entry.sequence,
        entry.timestamp_ms,
        entry.operation,
        utf8(entry.table, "table"),
        utf8(entry.row_id, "rowId"),
        _json(entry.before),
        _json(entry.after),
        b"" if metadata == b"{}" else metadata,
    )


def _json(packed: Raw | UnsetType) -> bytes:
    """The value as JSON text, nothing when it is absent."""
    if packed is UNSET:
        return b""
    text = bytes(packed)
    if text == ABSENT_BYTES:
        return b""
    if len(text) > VALUE_BYTES_MAX:
        raise ProtocolError(f"a msgpack value has {len(text)} bytes; at most {VALUE_BYTES_MAX} are allowed, use JSON")
    if _NOT_FINITE.search(text) is None:
        return _dump(_exact.decode(text))
    return _dump(_worded(_exact.decode(text)))


def _dump(value: Any) -> bytes:
    try:
        return _json_text(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise ProtocolError(f"a msgpack value cannot be JSON: {exc}") from None


def _verbatim(code: int, data: memoryview) -> Any:
    """The value of an extension."""
    if code != EXT_JSON:
        raise ProtocolError(f"msgpack extension {code}, wanted {EXT_JSON} (a number as JSON text) or -1 (timestamp)")
    text = bytes(data)
    if _NUMBER.fullmatch(text) is None:
        raise ProtocolError(f"msgpack extension {EXT_JSON} holds {text[:40]!r}, wanted the JSON text of a number")
    return Raw(text)


def _worded(value: Any) -> Any:
    """The value with NaN and Infinity as the words they are in JSON text; msgspec would write null."""
    if isinstance(value, float) and not math.isfinite(value):
        return Raw(json.dumps(value).encode())
    if isinstance(value, dict):
        return {key: _worded(item) for key, item in value.items()}
    return [_worded(item) for item in value] if isinstance(value, list) else value


def _pack_exactly(row: tuple[Any, ...]) -> bytes:
    try:
        return _pack([*row[:5], *map(_portable, row[5:])])
    except (OverflowError, UnicodeEncodeError, TypeError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"entry {row[0]} does not fit msgpack: {exc}") from None


def _portable(value: Any) -> Any:
    """The value with integers over 64 bits as their digits."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return Ext(EXT_JSON, str(value).encode())
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    return [_portable(item) for item in value] if isinstance(value, list | tuple) else value


_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
"""A value with NaN or Infinity has these bytes; one without may have them as well and only loses time."""
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ARRAY = struct.Struct(">BI")
_ARRAY_CODE = 0xDD

_entries = Decoder(list[PackedEntry])
_exact = Decoder(ext_hook=_verbatim)
_pack = Encoder().encode
_as_written = msgspec.json.Decoder(float_hook=_number)
_json_text = msgspec.json.Encoder().encode
