"""How many bytes wait uncut, without counting them twice.

Triggers and other processes add entries behind our back, so nobody can keep a counter. Each entry is measured once:
the meter remembers the last one it has seen and asks only for those behind it.
"""

from __future__ import annotations

import sqlite3

ENTRY_BYTES = 33
"""What an entry takes besides its texts, rounded up."""

_MEASURE = f"""
SELECT coalesce(max(id), 0), coalesce(sum({ENTRY_BYTES} + length(CAST(table_name AS BLOB))
    + length(CAST(row_id AS BLOB)) + coalesce(length(CAST(before AS BLOB)), 0)
    + coalesce(length(CAST(after AS BLOB)), 0) + coalesce(length(CAST(metadata AS BLOB)), 0)), 0)
FROM _evodb_change WHERE id > ?
"""  # noqa: S608 - a constant


class Meter:
    def __init__(self) -> None:
        self._cut_through = -1
        self._seen_through = -1
        self._size_bytes = 0

    def uncut_bytes(self, connection: sqlite3.Connection, *, cut_through: int) -> int:
        """The bytes of the entries behind `cut_through`."""
        if cut_through != self._cut_through:
            self._restart(cut_through)
        last, size_bytes = connection.execute(_MEASURE, (self._seen_through,)).fetchone()
        self._seen_through = max(self._seen_through, last)
        self._size_bytes += size_bytes
        return self._size_bytes

    def cut(self, *, after: int, last: int, size_bytes: int) -> None:
        """The entries behind `after` up to `last`, of this size, are not uncut any more."""
        if after == self._cut_through and last <= self._seen_through:
            self._cut_through = last
            self._size_bytes -= size_bytes
        else:
            self._restart(last)

    def _restart(self, cut_through: int) -> None:
        self._cut_through = self._seen_through = cut_through
        self._size_bytes = 0
