"""Batches of the outbox: which entries each has, from its cut to its ack.

A batch is a range of entries; only one that travels in another payload than columns keeps that payload as well.
Functions over a connection, within the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

from rpc.negotiation import FALLBACK, PayloadEncoding
from rpc.outbox_file import never_reuse, number, set_number
from rpc.outbox_rows import Row
from rpc.shapes import Shaped


class OutboxBatch(NamedTuple):
    """A batch as it travels: a payload of the entries with these sequences, in columns unless `encoding` says else."""

    sequence: int
    payload: bytes
    entries: int
    first: int
    last: int
    encoding: PayloadEncoding = FALLBACK


class Kept(NamedTuple):
    """A batch as it is written down. Without a payload of its own it is made of its entries again."""

    sequence: int
    first: int
    last: int
    entries: int
    encoding: bytes | None
    payload: bytes | None


def put(connection: sqlite3.Connection, rows: list[Row], shaped: Shaped, *, after: int) -> OutboxBatch:
    """Make the next batch of these rows, the first ones behind the entry `after`."""
    first, last = rows[0][0], rows[-1][0]
    sequence = number(connection, "last_sequence") + 1
    missing = number(connection, "missing") - (last - after - len(rows))
    kept = (None, None) if shaped.encoding is FALLBACK else shaped
    connection.execute(
        "INSERT INTO _evodb_batch (sequence, first, last, entries, size_bytes, encoding, payload)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (sequence, first, last, len(rows), len(shaped.payload), *kept),
    )
    set_number(connection, "last_sequence", sequence)
    set_number(connection, "cut_through", last)
    never_reuse(connection, last)
    if last - after != len(rows):
        set_number(connection, "missing", max(0, missing))
    return OutboxBatch(sequence, shaped.payload, len(rows), first, last, shaped.encoding)


def listed(connection: sqlite3.Connection, *, after: int, limit: int) -> list[Kept]:
    """Those with sequences above `after`, oldest first."""
    rows = connection.execute(
        "SELECT sequence, first, last, entries, encoding, payload FROM _evodb_batch"
        " WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit),
    )
    return list(map(Kept._make, rows.fetchall()))


def holding(connection: sqlite3.Connection, entries: Sequence[int]) -> list[int]:
    """The sequences of the batches that have some of these entries, which are sorted."""
    if not entries:
        return []
    rows = connection.execute(
        "SELECT sequence, first, last FROM _evodb_batch WHERE last >= ? AND first <= ? ORDER BY sequence",
        (entries[0], entries[-1]),
    )
    return [sequence for sequence, first, last in rows if bisect_left(entries, first) < bisect_right(entries, last)]


def of_all(connection: sqlite3.Connection, expression: str) -> Any:
    return connection.execute(f"SELECT {expression} FROM _evodb_batch").fetchone()[0]  # noqa: S608 - ours


def span(connection: sqlite3.Connection, which: str, sequence: int) -> tuple[int, int] | None:
    """The first and last entry of these batches; None when there are none."""
    found = f"SELECT min(first), max(last) FROM _evodb_batch WHERE {which}"  # noqa: S608 - ours
    first, last = connection.execute(found, (sequence,)).fetchone()
    return None if first is None else (first, last)


def forget(connection: sqlite3.Connection, which: str, sequence: int, *, first: int, last: int) -> None:
    """These batches, and their entries."""
    connection.execute("DELETE FROM _evodb_change WHERE id BETWEEN ? AND ?", (first, last))
    connection.execute(f"DELETE FROM _evodb_batch WHERE {which}", (sequence,))  # noqa: S608 - ours


def uncut_all(connection: sqlite3.Connection) -> None:
    """No batch is left; their entries are in none again."""
    first = of_all(connection, "min(first)")
    connection.execute("DELETE FROM _evodb_batch")
    if first is not None:
        last, entries = connection.execute("SELECT max(id), count(*) FROM _evodb_change").fetchone()
        set_number(connection, "cut_through", first - 1)
        set_number(connection, "missing", last - first + 1 - entries)
