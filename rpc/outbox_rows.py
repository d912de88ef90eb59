"""Entries as rows of the outbox: how they are written, read back, measured and refused.

Pure but for its SQL text; transactions and batches are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rpc import columns
from rpc.batch import MESSAGE_BYTES_MAX
from rpc.entries import U16_MAX, RawEntry
from rpc.errors import ProtocolError
from rpc.names import is_table, table_complaint
from rpc.outbox_meter import ENTRY_BYTES

Row = tuple[Any, ...]
"""The fields of a RawEntry, in its order."""

ENTRY_BYTES_MAX = MESSAGE_BYTES_MAX - 256 * 1024
"""What leaves room for the frame around an entry that travels alone."""
assert ENTRY_BYTES_MAX + 3 * U16_MAX < MESSAGE_BYTES_MAX
I64_MAX = 2**63 - 1

INSERT = """INSERT INTO _evodb_change (timestamp_ms, operation, table_name, row_id, before, after, metadata)
VALUES (?, ?, ?, ?, nullif(?, x''), nullif(?, x''), nullif(?, x''))"""
SELECT = """SELECT id, timestamp_ms, operation, table_name, row_id, coalesce(before, x''), coalesce(after, x''),
coalesce(metadata, x'') FROM _evodb_change WHERE id BETWEEN ? AND ? ORDER BY id"""


def row_bytes(row: Row) -> int:
    return ENTRY_BYTES + sum(map(len, row[3:]))


def within(rows: Iterator[Row], bytes_max: int) -> Iterator[Row]:
    """The first row, and those behind it that fit with it into `bytes_max`."""
    size_bytes = columns.HEAD.size
    for position, row in enumerate(rows):
        size_bytes += row_bytes(row)
        if position and size_bytes > bytes_max:
            return
        yield row


def checked_bytes(entry: RawEntry) -> int:
    """The bytes of an entry that may be kept. Raises ProtocolError for one that cannot travel."""
    if entry.operation not in (0, 1, 2):
        raise ProtocolError(f"operation is {entry.operation}, wanted 0 INSERT, 1 UPDATE or 2 DELETE")
    if not is_table(entry.table):
        raise ProtocolError(table_complaint(entry.table))
    if not 0 <= entry.timestamp_ms <= I64_MAX:
        raise ProtocolError(f"timestamp is {entry.timestamp_ms}, wanted ms since 1970 in 63 bits")
    for name, value in (("table", entry.table), ("rowId", entry.row_id)):
        if len(value) > U16_MAX:
            raise ProtocolError(f"{name} has {len(value)} bytes; at most {U16_MAX} fit")
    size_bytes = row_bytes(entry)
    if size_bytes > ENTRY_BYTES_MAX:
        raise ProtocolError(f"an entry of table {entry.table!r} has {size_bytes} bytes; at most {ENTRY_BYTES_MAX} fit")
    return size_bytes
