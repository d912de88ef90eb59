"""What is new in a batch and what the journal has already. Pure: rows come in, a verdict goes out.

An entry is known by the digest of all its bytes (sequence, timestamp, operation, table, row id, before, after), a batch
by that of its payload; never by message timestamp, correlation id or retry count.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import pairwise, repeat
from typing import NamedTuple

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from rpc import columns
from rpc.batch import BatchFrame, Encoding, select
from rpc.entries import pack, scan, walk

REQUESTS = 0
"""The epoch of what came as requests: each is known by its number alone, and stored whole or not at all."""
NUMBER_BITS = 61
BY_KEY, BY_CHANCE = 2 << NUMBER_BITS, 3 << NUMBER_BITS
"""From here on numbers of requests are made of keys, and by chance; those that JSON can say end at 2**53."""


class Stored(NamedTuple):
    """What the journal remembers of the entries of one batch; `entry_digests` as in models.Batch."""

    entry_sequence_first: int
    entry_sequence_last: int
    entry_digests: bytes = b""


class Content(NamedTuple):
    """A batch as it will be stored. `digest` is that of the batch as it was offered, whatever was filtered from it."""

    encoding: Encoding
    payload: bytes
    digest: bytes
    entries: int
    remembered: Stored


def content(frame: BatchFrame, *, own_epoch: bool) -> Content:
    """The whole frame, to be stored as it came."""
    return Content(
        frame.encoding,
        frame.payload,
        digest_of(frame),
        frame.entries,
        remember(frame, own_epoch=own_epoch),
    )


def whole(frame: BatchFrame) -> Content:
    """A request, to be stored as it came; its entries are compared with nobody's."""
    sequences = frame.entry_sequences
    remembered = Stored(min(sequences), max(sequences))
    return Content(frame.encoding, frame.payload, digest_of(frame), frame.entries, remembered)


def number_of(key: str) -> int:
    """The number of NUMBER_BITS that a request's own name for itself stands for."""
    return int.from_bytes(sha256(key.encode()).digest()[:8], "big") >> (64 - NUMBER_BITS)


def digest_of(frame: BatchFrame) -> bytes:
    return xxh3_128_digest(_identity(frame))


def _identity(frame: BatchFrame) -> bytes:
    return frame.payload if frame.identity is None else frame.identity


def remember(frame: BatchFrame, *, own_epoch: bool) -> Stored:
    sequences = frame.entry_sequences
    first, last = sequences[0], sequences[-1]
    consecutive = last - first + 1 == frame.entries and _are_consecutive(sequences)
    if own_epoch and consecutive:
        return Stored(first, last)
    if not consecutive:
        first, last = min(sequences), max(sequences)
    return Stored(first, last, array("Q", entry_digests(frame.encoding, _identity(frame))).tobytes())


def rest_of(frame: BatchFrame, known: set[int], *, own_epoch: bool) -> Content | None:
    """The batch without the entries whose digests are known, or None when nothing is left."""
    digests = entry_digests(frame.encoding, _identity(frame))
    rest = [index for index, digest in enumerate(digests) if digest not in known]
    if len(rest) == frame.entries:
        return content(frame, own_epoch=own_epoch)
    if not rest:
        return None
    left = select(frame, rest)
    sequences = left.entry_sequences
    remembered = Stored(min(sequences), max(sequences), array("Q", [digests[index] for index in rest]).tobytes())
    return Content(left.encoding, left.payload, digest_of(frame), left.entries, remembered)


def indices_in(frame: BatchFrame, stored: Content) -> set[int]:
    """Which entries of a frame are in what is left of it."""
    left = set(digests_in(stored.remembered.entry_digests))
    digests = entry_digests(frame.encoding, _identity(frame))
    return {index for index, digest in enumerate(digests) if digest in left}


def entry_digests(encoding: Encoding, payload: bytes) -> list[int]:
    """xxh3-64 over the bytes of each entry in the version 1 layout, which old clients send as it is.

    A typed document has no bytes of its own: its entry is known by the whole stream and its row there, so that the same
    entry in another batch counts as another one rather than be lost.
    """
    if encoding is Encoding.BINARY:
        return [xxh3_64_intdigest(payload[start:end]) for start, end in pairwise(scan(payload).starts)]
    if encoding is Encoding.COLUMNS:
        whole = columns.decode(payload)
        entries, documents = whole.entries(), _documents(whole)
    else:
        entries, documents = walk(payload, with_metadata=True), repeat(b"")
    return [
        xxh3_64_intdigest(pack(entry, with_metadata=bool(entry.metadata)) + document)
        for entry, document in zip(entries, documents, strict=False)
    ]


def _documents(whole: columns.Columns) -> Iterable[bytes]:
    """What tells the typed documents of two entries apart; empty without one."""
    if not whole.streams:
        return repeat(b"")
    streams = [xxh3_128_digest(stream) for stream in whole.streams]
    return [
        streams[table] + row.to_bytes(4, "little") if row else b""
        for table, row in zip(whole.table_index, whole.documents, strict=True)
    ]


def digests_in(stored: bytes) -> array[int]:
    """The entry digests as models.Batch keeps them."""
    return array("Q", stored)


def _are_consecutive(sequences: Sequence[int] | memoryview) -> bool:
    if len(sequences) == 1:
        return True
    wanted = array("Q", range(sequences[0], sequences[0] + len(sequences)))
    if isinstance(sequences, memoryview):
        return sequences.tobytes() == wanted.tobytes()
    return list(sequences) == wanted.tolist()
