"""What an entry is counted by on its way into the lake: a digest of what the lake keeps of it, summed up by table.

    entry = epoch i64, sequence u64, timestamp ms u64, operation u8, length of row id u32, of before u32,
            row id, before, after
    digest of an entry = xxh3-64 of these bytes, with xxh3-64 of its table's name as the seed
    digest of many     = the sum, modulo 2^64

A sum knows no order, so batches may come in any, and that of a part can be taken away again. What belongs to an entry
is what arrives unchanged in the columns of the lake whatever payload brought it: of a typed document (Arrow) there is
no text, and of msgpack the text its values become at the parent's door, which `of_payload` makes as the parent does.
Metadata, shard, the batch and the time it was received are not in it.

Pure. 0.25 us an entry of 250 bytes, and 0.9 us when the payload has to be cut into entries first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from rpc import columns, msgpack_payload
from rpc.entries import Fields
from rpc.negotiation import PayloadEncoding

MODULUS = 2**64
HEAD = struct.Struct("<qQQBII")
"""epoch, sequence, timestamp ms, operation, len(row id), len(before)"""


class Sum(NamedTuple):
    """So many entries, the sum of their digests, and their lowest and highest sequence."""

    entries: int
    digest: int
    first: int
    last: int

    def __add__(self, other: Sum) -> Sum:  # type: ignore[override]  # not a longer tuple
        """Of both together."""
        return Sum(
            self.entries + other.entries,
            (self.digest + other.digest) % MODULUS,
            min(self.first, other.first),
            max(self.last, other.last),
        )

    @property
    def hex(self) -> str:
        return f"{self.digest:016x}"

    def is_as(self, other: Sum) -> bool:
        """Whether both are of the same entries; where these begin and end says nothing more."""
        return (self.entries, self.digest) == (other.entries, other.digest)


NOTHING = Sum(0, 0, 2**63 - 1, -1)
Sums = dict[str, Sum]
"""By table."""


def seed_of(table: bytes) -> int:
    return int(xxh3_64_intdigest(table))


def of_entries(entries: Iterable[Fields], *, epoch: int) -> Sums:
    """The sums of these entries, which have the fields of a RawEntry."""
    found: dict[bytes, list[int]] = {}
    pack, join, digest = HEAD.pack, b"".join, xxh3_64_intdigest
    for sequence, time, operation, table, row_id, before, after, _ in entries:
        if (mine := found.get(table)) is None:
            mine = found[table] = [seed_of(table), 0, 0, sequence, sequence]
        head = pack(epoch, sequence, time, operation, len(row_id), len(before))
        mine[1] += 1
        mine[2] += digest(join((head, row_id, before, after)), mine[0])
        if sequence > mine[4]:
            mine[4] = sequence
        elif sequence < mine[3]:
            mine[3] = sequence
    return {
        table.decode(errors="replace"): Sum(count, total % MODULUS, first, last)
        for table, (_, count, total, first, last) in found.items()
    }


def of_payload(payload: bytes, encoding: PayloadEncoding, *, epoch: int) -> Sums:
    """The sums of a payload as it travels: of what its parent makes of it. Raises ProtocolError."""
    if encoding is PayloadEncoding.MSGPACK:
        payload = msgpack_payload.to_columns(payload)
    return of_entries(columns.decode(payload).fields(), epoch=epoch)


def typed_tables(payload: bytes, encoding: PayloadEncoding) -> set[str]:
    """The tables whose entries bring typed documents (Arrow), of which no digest tells what they hold."""
    if encoding is not PayloadEncoding.ARROW:
        return set()
    whole = columns.decode(payload)
    found = {index for index, number in zip(whole.table_index, whole.documents, strict=False) if number}
    return {whole.tables[index].decode(errors="replace") for index in found}


def merged(*many: Mapping[str, Sum]) -> Sums:
    """All of these together."""
    found: Sums = {}
    for sums in many:
        for table, one in sums.items():
            found[table] = found[table] + one if table in found else one
    return found


def total(sums: Mapping[str, Sum]) -> Sum:
    """Of all tables."""
    found = NOTHING
    for one in sums.values():
        found += one
    return found


def dump(sums: Sums) -> bytes:
    return msgspec.json.encode(sums)


def load(text: bytes) -> Sums:
    """What `dump` wrote."""
    return _decoder.decode(text)


_decoder = msgspec.json.Decoder(Sums)
