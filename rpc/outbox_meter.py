"""How many bytes wait uncut, without counting them twice.

Triggers and other processes add entries behind our back, and others may cut them, so nobody can keep a counter. Each
entry is measured once: the meter remembers the sum up to some of them, asks only for those behind the last one, and
after a cut by somebody else only for those between the cut and the next sum it knows.

Measured (one core, 200 000 entries of 19 columns uncut): an append after such a cut takes 1.5 ms; measuring all again
it took 77 ms.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from operator import itemgetter

ENTRY_BYTES = 33
"""What an entry takes besides its texts, rounded up."""
STEP = 4096
"""Entries between two sums that are remembered."""

SIZE = f"""{ENTRY_BYTES} + length(CAST(table_name AS BLOB))
    + length(CAST(row_id AS BLOB)) + coalesce(length(CAST(before AS BLOB)), 0)
    + coalesce(length(CAST(after AS BLOB)), 0) + coalesce(length(CAST(metadata AS BLOB)), 0)"""
"""The bytes of an entry, as SQL."""

_NEXT = f"""SELECT max(id), sum(size), count(*) FROM
    (SELECT id, {SIZE} AS size FROM _evodb_change WHERE id > ? ORDER BY id LIMIT ?)"""  # noqa: S608 - a constant
_BETWEEN = f"SELECT coalesce(sum({SIZE}), 0) FROM _evodb_change WHERE id > ? AND id <= ?"  # noqa: S608 - a constant


class Meter:
    def __init__(self) -> None:
        self._restart(-1)

    def uncut_bytes(self, connection: sqlite3.Connection, *, cut_through: int) -> int:
        """The bytes of the entries behind `cut_through`."""
        if not self._cut_through <= cut_through <= self._sums[-1][0]:
            self._restart(cut_through)
        elif cut_through != self._cut_through:
            end, sum_bytes = self._sums[bisect_left(self._sums, cut_through, key=itemgetter(0))]
            still = connection.execute(_BETWEEN, (cut_through, end)).fetchone()[0]
            self._cut(cut_through, sum_bytes - still)
        self._measure_new(connection)
        return self._sums[-1][1] - self._cut_bytes

    def cut(self, *, after: int, last: int, size_bytes: int) -> None:
        """The entries behind `after` up to `last`, of this size, are not uncut any more."""
        if after == self._cut_through and last <= self._sums[-1][0]:
            self._cut(last, self._cut_bytes + size_bytes)
        else:
            self._restart(last)

    def _measure_new(self, connection: sqlite3.Connection) -> None:
        entries = STEP
        while entries == STEP:
            seen, sum_bytes = self._sums[-1]
            last, size_bytes, entries = connection.execute(_NEXT, (seen, STEP)).fetchone()
            if entries:
                # Of those nearer to one another than a step only the last is worth keeping.
                if len(self._sums) > 1 and last - self._sums[-2][0] < STEP:
                    self._sums.pop()
                self._sums.append((last, sum_bytes + size_bytes))

    def _cut(self, cut_through: int, cut_bytes: int) -> None:
        self._cut_through, self._cut_bytes = cut_through, cut_bytes
        del self._sums[: bisect_left(self._sums, cut_through, key=itemgetter(0))]

    def _restart(self, cut_through: int) -> None:
        self._cut_through, self._cut_bytes = cut_through, 0
        self._sums = [(cut_through, 0)]
        """Up to and with which entry how many bytes were measured."""
