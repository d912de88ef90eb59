"""The columnar payload: the entries of a batch field by field, so that nobody has to walk them.

    payload    = count u32, tables u16, kind u16, table names, fixed columns, text columns [, streams]
    table name = length u16, bytes
    fixed      = sequence u64*n, timestamp ms u64*n, operation u8*n, table index u16*n,
                 length of row id u16*n, of before u32*n, of after u32*n
                 [, of metadata u32*n with kind bit 1] [, document u32*n with kind bit 2]
    text       = all row ids, all befores, all afters [, all metadata], one behind the other
    streams    = with kind bit 2: for each table length u32, bytes

Little-endian; length 0 of before, after or metadata means absent. With kind bit 2 a table may bring its documents as an
Arrow IPC stream (rpc.arrow_payload), which is not looked into here; `document` is 0 for an entry without one, else 1
plus its row there. A batch announces this payload with flag 0x20.
Checking 100 entries costs 7 us against 30 us for walking the version 1 layout (one core, CPython 3.11), and the
flush turns the columns into Arrow arrays without touching an entry.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from rpc.entries import Fields, RawEntry, raw_entries
from rpc.errors import ProtocolError

HEAD = struct.Struct("<IHH")
"""entries, distinct tables, kind"""
LENGTH = struct.Struct("<H")
STREAM_LENGTH = struct.Struct("<I")
KIND_PLAIN, KIND_METADATA, KIND_ARROW = 0, 1, 2
KIND_MAX = KIND_METADATA | KIND_ARROW
OPERATION_MAX = 2

FIXED = (8, 8, 1, 2, 2, 4, 4)
"""Bytes an entry of each fixed column: sequence, timestamp, operation, table, and three lengths."""
ONE = struct.Struct("<QQBHHII")
"""The fixed columns of one entry."""
ONE_HEAD = HEAD.pack(1, 1, KIND_PLAIN)

CODES: dict[int, Literal["Q", "I", "H", "B"]] = {8: "Q", 4: "I", 2: "H", 1: "B"}

assert sys.byteorder == "little", "the columns are read in place, which needs a little-endian machine"


class Columns(NamedTuple):
    """A checked columnar payload of n entries, read in place.

    sequences, timestamps_ms: u64; operations: u8; table_index: u16 into `tables`; row_id_lengths: u16;
    the other lengths: u32;
    row_ids, befores, afters, metadatas: all texts of a column one behind the other;
    documents: u32, and streams by table, both empty when no entry has a typed document.
    """

    rows: int
    tables: list[bytes]
    sequences: memoryview
    timestamps_ms: memoryview
    operations: memoryview
    table_index: memoryview
    row_id_lengths: memoryview
    before_lengths: memoryview
    after_lengths: memoryview
    metadata_lengths: memoryview
    row_ids: memoryview
    befores: memoryview
    afters: memoryview
    metadatas: memoryview
    documents: memoryview
    streams: list[memoryview]

    def entries(self) -> list[RawEntry]:
        """The entries one by one, without typed documents; for the paths that are not hot."""
        return raw_entries(self.fields())

    def fields(self) -> Iterator[Fields]:
        """The fields of one entry after the other, without typed documents."""
        return zip(
            self.sequences,
            self.timestamps_ms,
            self.operations,
            map(self.tables.__getitem__, self.table_index),
            _cut(self.row_ids, self.row_id_lengths),
            _cut(self.befores, self.before_lengths),
            _cut(self.afters, self.after_lengths),
            _cut(self.metadatas, self.metadata_lengths) if len(self.metadata_lengths) else [b""] * self.rows,
            strict=True,
        )


def encode(
    entries: Sequence[RawEntry], *, documents: Sequence[int] = (), streams: dict[bytes, bytes] | None = None
) -> bytes:
    """The columnar payload of these entries, and of typed documents if there are any: a number for each entry, and
    the stream of each table they are in. Raises ProtocolError when a number or a text does not fit.
    """
    names: dict[bytes, int] = {}
    columns = list(zip(*entries, strict=True)) or [()] * 8
    sequences, timestamps, operations, tables, *texts = columns
    kind = (KIND_METADATA if any(texts[3]) else 0) | (KIND_ARROW if streams else 0)
    if not kind & KIND_METADATA:
        texts.pop()
    try:
        index = array("H", [names.setdefault(table, len(names)) for table in tables])
        parts = [
            HEAD.pack(len(entries), len(names), kind),
            *(LENGTH.pack(len(name)) + name for name in names),
            array("Q", sequences).tobytes(),
            array("Q", timestamps).tobytes(),
            bytes(operations),
            index.tobytes(),
            array("H", map(len, texts[0])).tobytes(),
            *(array("I", map(len, column)).tobytes() for column in texts[1:]),
            array("I", documents).tobytes() if streams else b"",
            *(b"".join(column) for column in texts),
        ]
        if streams:
            found = [streams.get(name, b"") for name in names]
            parts += [STREAM_LENGTH.pack(len(stream)) + stream for stream in found]
    except (OverflowError, ValueError, TypeError, struct.error) as exc:
        raise ProtocolError(f"an entry does not fit the columnar layout: {exc}") from None
    return b"".join(parts)


def decode(payload: bytes | memoryview) -> Columns:
    """Check a columnar payload and show its columns. Raises ProtocolError on anything that is not a whole one."""
    view = memoryview(payload)
    if len(view) < HEAD.size:
        raise ProtocolError(f"columnar payload has {len(view)} bytes, wanted at least {HEAD.size}")
    count, table_count, kind = HEAD.unpack_from(view)
    if kind > KIND_MAX:
        raise ProtocolError(f"Unknown columnar payload kind: {kind}, wanted 0 to {KIND_MAX}")
    has_metadata, has_documents = bool(kind & KIND_METADATA), bool(kind & KIND_ARROW)
    tables, position = _table_names(view, table_count)
    widths = FIXED + (4,) * (has_metadata + has_documents)
    if position + count * sum(widths) > len(view):
        raise ProtocolError(f"columnar payload announces {count} entries, {len(view)} bytes cannot hold them")
    fixed = []
    for width in widths:
        end = position + count * width
        fixed.append(view[position:end].cast(CODES[width]))
        position = end
    _check(fixed, table_count)
    documents = fixed.pop() if has_documents else view[:0].cast("I")
    texts = []
    for lengths in fixed[4:]:
        end = position + sum(lengths)
        texts.append(view[position:end])
        position = end
    streams, position = _streams(view, position, tables) if has_documents else ([], position)
    if position != len(view):
        raise ProtocolError(f"columnar payload has {len(view)} bytes, its lengths add up to {position}")
    if not has_metadata:
        fixed.append(view[:0].cast("I"))
        texts.append(view[:0])
    return Columns._make((count, tables, *fixed, *texts, documents, streams))


def check(payload: bytes) -> tuple[list[bytes], memoryview | list[int]]:
    """The tables and the entry sequences of a columnar payload. Raises ProtocolError where `decode` does."""
    if (one := _one(payload)) is not None:
        return one
    whole = decode(payload)
    return whole.tables, whole.sequences


def has_documents(payload: bytes) -> bool:
    """Whether entries bring typed documents, that is Arrow. The payload is one that `decode` accepts."""
    return bool(HEAD.unpack_from(payload)[2] & KIND_ARROW)


def select(payload: bytes, indices: Sequence[int]) -> bytes:
    """The payload of these entries only, in this order; streams of documents stay whole. Raises ProtocolError."""
    whole = decode(payload)
    entries = whole.entries()
    kept = [entries[index] for index in indices]
    if not whole.streams:
        return encode(kept)
    documents = [whole.documents[index] for index in indices]
    streams = {table: bytes(stream) for table, stream in zip(whole.tables, whole.streams, strict=True)}
    return encode(kept, documents=documents, streams=streams)


def _one(payload: bytes) -> tuple[list[bytes], list[int]] | None:
    """Of a plain payload with one entry, which is what a quiet child sends: 0.8 us where all columns take 3.8. None for
    any other payload, and for one with a mistake."""
    if len(payload) < HEAD.size + LENGTH.size or not payload.startswith(ONE_HEAD):
        return None
    name_at = HEAD.size + LENGTH.size
    at = name_at + LENGTH.unpack_from(payload, HEAD.size)[0]
    if at + ONE.size > len(payload):
        return None
    sequence, _, operation, table, *lengths = ONE.unpack_from(payload, at)
    if operation > OPERATION_MAX or table or at + ONE.size + sum(lengths) != len(payload):
        return None
    return [payload[name_at:at]], [sequence]


def _table_names(view: memoryview, table_count: int) -> tuple[list[bytes], int]:
    position, tables = HEAD.size, []
    for _ in range(table_count):
        if position + LENGTH.size > len(view):
            raise ProtocolError(f"columnar payload ends within its {table_count} table names")
        end = position + LENGTH.size + LENGTH.unpack_from(view, position)[0]
        tables.append(bytes(view[position + LENGTH.size : end]))
        position = end
    return tables, position


def _streams(view: memoryview, position: int, tables: list[bytes]) -> tuple[list[memoryview], int]:
    if len(set(tables)) != len(tables):
        raise ProtocolError("columnar payload with documents names a table twice")
    streams = []
    for _ in tables:
        if position + STREAM_LENGTH.size > len(view):
            raise ProtocolError(f"columnar payload ends before the documents of its {len(tables)} tables")
        begin = position + STREAM_LENGTH.size
        position = begin + STREAM_LENGTH.unpack_from(view, position)[0]
        streams.append(view[begin:position])
    return streams, position


def _check(fixed: list[memoryview], table_count: int) -> None:
    operations, table_index = fixed[2].tobytes(), fixed[3]
    if unknown := operations.strip(b"\x00\x01\x02"):
        raise ProtocolError(f"Invalid operation code: {max(unknown)}, wanted 0 INSERT, 1 UPDATE or 2 DELETE")
    if table_index.tobytes().strip(b"\x00") and max(table_index) >= table_count:
        raise ProtocolError(f"entry points to table {max(table_index)}, the payload names {table_count}")
    if operations and not table_count:
        raise ProtocolError("columnar payload has entries and names no table")


def _cut(text: memoryview, lengths: memoryview) -> list[bytes]:
    whole = text.tobytes()  # 0.10 us a piece; of the view 0.17
    return [whole[begin:end] for begin, end in pairwise(accumulate(lengths, initial=0))]
