"""The sums of rows: for each child, epoch and table their number and the sum of the digests of their entries.

Of rows that are about to be committed, and of those the lake gives back. Arrow puts the bytes of each entry together,
column by column and a slice at a time, so that Python does nothing for one but ask for its digest (rpc.entry_digest).

Measured (one busy core, 19 columns and 260 bytes): 0.4 us of the 7.6 us that a flush takes for an entry there.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from lakehouse.flush.moments import TIMESTAMP
from lakehouse.flush.whole import whole
from rpc import entry_digest
from rpc.entry_digest import Sum

SLICE_ROWS, SLICE_BYTES = 8192, 4 * 2**20
"""What is put together at once at most, so that the texts are not in memory twice."""
LARGE_BYTES = 2**30
"""Texts of a slice that need offsets of 64 bits, with what is put between them."""
Code = Literal["i", "q"]
COLUMNS = ("_source", "_epoch", "_seq", "_op", "_row_id", "_before", "_after", "_ts")
"""What digests are made of; the other columns of a row are read from its texts."""
OPERATIONS = pa.array(["INSERT", "UPDATE", "DELETE"])
UNKNOWN_OPERATION = 255

_WANTED: Any = [("digest", "count"), ("digest", "sum"), ("sequence", "min"), ("sequence", "max")]


class EntryColumns(NamedTuple):
    """Columns of the same length: epoch i64, sequence and time of 64 bits, operation u8, and three texts."""

    epochs: Any
    sequences: Any
    timestamps_ms: Any
    operations: Any
    row_ids: Any
    befores: Any
    afters: Any


class ChildSum(NamedTuple):
    """What there is of one child in one table."""

    source: str
    epoch: int
    table: str
    sum: Sum


def of_tables(tables: Mapping[str, Any]) -> list[ChildSum]:
    """The sums of rows as the lake has them, by the name of their table."""
    return [one for name, rows in tables.items() for one in of_rows(rows, table=name)]


def of_rows(rows: Any, *, table: str) -> Iterator[ChildSum]:
    """The sums of rows of one table, which need no other columns than COLUMNS."""
    source, epoch, *others = (whole(rows[name]) for name in COLUMNS)
    lives = source.dictionary_encode()
    found = digests(_entries(epoch, *others), entry_digest.seed_of(table.encode()))
    grouped = pa.table(
        {
            "life": lives.indices,
            "epoch": epoch,
            "digest": pa.Array.from_buffers(pa.uint64(), len(found), [None, pa.py_buffer(found)]),
            "sequence": others[0],
        }
    ).group_by(["life", "epoch"], use_threads=False)
    # Arrow's sum of u64 drops what is above 64 bits, as ours does.
    for row in grouped.aggregate(_WANTED).to_pylist():
        name = "" if row["life"] is None else lives.dictionary[row["life"]].as_py()
        counted = (row["digest_count"], row["digest_sum"], row["sequence_min"] or 0, row["sequence_max"] or 0)
        yield ChildSum(name, row["epoch"] or 0, table, Sum(*counted))


def _entries(
    epoch: Any, sequence: Any, operation: Any, row_id: Any, before: Any, after: Any, time: Any
) -> EntryColumns:
    milliseconds = pc.divide(time.cast(TIMESTAMP).cast(pa.int64()), 1000)
    code = pc.fill_null(pc.index_in(operation, OPERATIONS), UNKNOWN_OPERATION).cast(pa.uint8())
    numbers = [pc.fill_null(number, 0) for number in (epoch, sequence, milliseconds)]
    return EntryColumns._make([*numbers, code, row_id, before, after])


def digests(entries: EntryColumns, seed: int) -> array[int]:
    """The digest of each entry, with the seed of its table."""
    found = array("Q")
    count = len(entries.sequences)
    size = max(1, sum(text.nbytes for text in entries[4:]))
    rows = max(1, min(SLICE_ROWS, count * SLICE_BYTES // size))
    for start in range(0, count, rows):
        part = EntryColumns._make(column.slice(start, rows) for column in entries)
        joined, ends = _bytes_of(part)
        found.extend([xxh3_64_intdigest(joined[begin:end], seed) for begin, end in pairwise(ends)])
    return found


def _bytes_of(part: EntryColumns) -> tuple[bytes, list[int]]:
    """What digests are made of, one entry behind the other, and where each begins and the last one ends."""
    is_large = sum(text.nbytes for text in part[4:]) > LARGE_BYTES
    code: Code = "q" if is_large else "i"
    kind = pa.large_binary() if is_large else pa.binary()
    row_ids, befores, afters = (text.cast(kind) for text in part[4:])
    pieces: list[Any] = [
        *(_fixed(column, 8, code) for column in part[:3]),
        _fixed(part.operations, 1, code),
        *(_fixed(_lengths(text), 4, code) for text in (row_ids, befores)),
        row_ids,
        *(text for text in (befores, afters) if text.null_count < len(text)),
    ]
    nothing: Any = pa.scalar(b"", kind)
    joined: Any = pc.binary_join_element_wise(*pieces, nothing, null_handling="replace", null_replacement="")
    assert not joined.offset, "the bytes of a slice begin at the first"
    _, ends, content = joined.buffers()
    # A slice of bytes is a copy and costs half of one of a memoryview.
    return content.to_pybytes(), memoryview(ends).cast("B").cast(code)[: len(joined) + 1].tolist()


def _lengths(texts: Any) -> Any:
    return pc.fill_null(pc.binary_length(texts), 0).cast(pa.uint32())


def _fixed(numbers: Any, width: int, code: Code) -> Any:
    """The bytes of each number as a text; nothing is copied."""
    count, begin = len(numbers), numbers.offset * width
    data = pa.py_buffer(memoryview(numbers.buffers()[1])[begin : begin + count * width])
    kind = pa.large_binary() if code == "q" else pa.binary()
    return pa.Array.from_buffers(kind, count, [None, _steps(count, width, code), data])


@lru_cache(maxsize=64)
def _steps(count: int, width: int, code: Code) -> Any:
    """Offsets of texts that all are so long; making them takes as long as the digests."""
    return pa.py_buffer(array(code, range(0, (count + 1) * width, width)))
