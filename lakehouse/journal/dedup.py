"""What is new in a batch and what the journal has already. Pure: rows come in, a verdict goes out.

A child that keeps an epoch never uses an entry sequence twice in it, so there the sequence says which entry it is.
Any other child starts over at will; there an entry is known by the digest of all its bytes (sequence, timestamp,
operation, table, row id, before, after), never by message timestamp, correlation id or retry count.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from rpc import columns
from rpc.batch import BatchFrame, Encoding, raw_entries
from rpc.entries import RawEntry, pack, scan


@dataclass(frozen=True, slots=True)
class Stored:
    """What the journal remembers of the entries of one batch; `entry_digests` as in models.Batch."""

    entry_sequence_first: int
    entry_sequence_last: int
    entry_digests: bytes = b""


@dataclass(frozen=True, slots=True)
class Content:
    """A batch as it will be stored."""

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
        xxh3_128_digest(frame.payload),
        frame.entries,
        remember(frame, own_epoch=own_epoch),
    )


def remember(frame: BatchFrame, *, own_epoch: bool) -> Stored:
    sequences = frame.entry_sequences
    first, last = sequences[0], sequences[-1]
    consecutive = last - first + 1 == frame.entries and _are_consecutive(sequences)
    if own_epoch and consecutive:
        return Stored(first, last)
    if not consecutive:
        first, last = min(sequences), max(sequences)
    return Stored(first, last, array("Q", entry_digests(frame)).tobytes())


def rest_of(frame: BatchFrame, known: Iterable[Stored], *, own_epoch: bool) -> Content | None:
    """The batch without the entries that are stored already, or None when nothing is left."""
    digests: set[int] = set()
    ranges: list[tuple[int, int]] = []
    for stored in known:
        if stored.entry_digests:
            digests.update(array("Q", stored.entry_digests))
        elif own_epoch:
            ranges.append((stored.entry_sequence_first, stored.entry_sequence_last))
    rest = [
        entry
        for entry, digest in zip(raw_entries(frame), entry_digests(frame), strict=True)
        if digest not in digests and not any(low <= entry.sequence <= high for low, high in ranges)
    ]
    if len(rest) == frame.entries:
        return content(frame, own_epoch=own_epoch)
    if not rest:
        return None
    return content(_cut(frame, rest), own_epoch=own_epoch)


def entry_digests(frame: BatchFrame) -> list[int]:
    """xxh3-64 over the bytes of each entry in the version 1 layout, which old clients send as it is."""
    if frame.encoding is Encoding.BINARY:
        return [xxh3_64_intdigest(frame.payload[start:end]) for start, end in pairwise(scan(frame.payload).starts)]
    return [xxh3_64_intdigest(pack(entry, with_metadata=bool(entry.metadata))) for entry in raw_entries(frame)]


def _cut(frame: BatchFrame, entries: Sequence[RawEntry]) -> BatchFrame:
    return frame._replace(
        encoding=Encoding.COLUMNS,
        payload=columns.encode(entries),
        entries=len(entries),
        entry_sequences=[entry.sequence for entry in entries],
    )


def _are_consecutive(sequences: Sequence[int] | memoryview) -> bool:
    wanted = array("Q", range(sequences[0], sequences[0] + len(sequences)))
    if isinstance(sequences, memoryview):
        return sequences.tobytes() == wanted.tobytes()
    return list(sequences) == wanted.tolist()
