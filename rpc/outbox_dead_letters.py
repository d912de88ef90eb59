"""Dead letters of the outbox: batches their parent will never take, kept whole with the reason.

Functions over a connection, within the caller's transaction. A new epoch numbers batches from 1 again, so one sequence
may have several letters; they are listed, revived and dropped together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from rpc import columns
from rpc.entries import RawEntry


class DeadLetter(NamedTuple):
    """A batch the parent will never take, and why. `payload` is in columns."""

    sequence: int
    reason: str
    time_ms: int
    entries: int
    payload: bytes


def put(connection: sqlite3.Connection, letter: DeadLetter) -> None:
    connection.execute(
        "INSERT INTO _evodb_dead_letter (sequence, reason, time_ms, entries, payload) VALUES (?, ?, ?, ?, ?)", letter
    )


def listed(connection: sqlite3.Connection) -> list[DeadLetter]:
    """Every letter, oldest first."""
    rows = connection.execute("SELECT sequence, reason, time_ms, entries, payload FROM _evodb_dead_letter ORDER BY id")
    return [DeadLetter(sequence, reason.decode(), *rest) for sequence, reason, *rest in rows.fetchall()]


def taken(connection: sqlite3.Connection, sequence: int) -> list[RawEntry]:
    """The entries of the letters with this sequence, which are letters no more."""
    rows = connection.execute("SELECT payload FROM _evodb_dead_letter WHERE sequence = ? ORDER BY id", (sequence,))
    entries = [entry for (payload,) in rows.fetchall() for entry in columns.decode(payload).entries()]
    connection.execute("DELETE FROM _evodb_dead_letter WHERE sequence = ?", (sequence,))
    return entries


def holding(connection: sqlite3.Connection, entries: Collection[int]) -> list[DeadLetter]:
    """The letters that have some of these entries."""
    wanted = set(entries)
    return [letter for letter in listed(connection) if not wanted.isdisjoint(numbers(letter.payload))]


def numbers(payload: bytes) -> list[int]:
    """The entries of a letter, by their numbers in the outbox."""
    return [entry.sequence for entry in columns.decode(payload).entries()]


def size_bytes(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT coalesce(sum(length(payload)), 0) FROM _evodb_dead_letter").fetchone()
    return int(found[0])
