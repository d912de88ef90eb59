"""The changes that a table of now lacks, and what becomes of its buckets. DuckDB reads, sorts and joins.

Of new changes the last one of each row counts. If it lies behind everything its source had brought before, it is the
last there is; if not, it came late, and the changes of that row are asked for, all there are. So a table of now needs
to remember no deleted row: a late change of one finds the deletion where it is kept anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from lakehouse.current.moment import Moment
from lakehouse.query import duck
from lakehouse.query.quoting import identifier

BUCKET = "_bucket"
LEFT_OUT = {"_before", "_batch_seq", "_flush", BUCKET}
"""Of the columns of changes: what was, and how it came."""
NEWEST = "QUALIFY row_number() OVER (PARTITION BY _source, _row_id ORDER BY _epoch DESC, _seq DESC) = 1"
KEY = "coalesce(_source, '') || chr(31) || coalesce(_row_id, '')"
"""Of a row, never NULL; an empty row id is one."""
APPLIED_AT_ONCE = 500


class Pull:
    """What is new in a table, held by a connection."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, moment: Moment, columns: Sequence[str], buckets: int
    ) -> None:
        self._connection, self._moment = connection, moment
        self._scan = duck.scan(moment.changes_location)
        there = {row[0] for row in connection.execute(f"DESCRIBE FROM {self._scan}").fetchall()}
        self._columns = ", ".join(identifier(name) for name in columns if name in there and name not in LEFT_OUT)
        self._bucket = f"CAST(md5_number_lower({KEY}) % {buckets} AS INTEGER) AS {BUCKET}"
        self._read(has_flushes="_flush" in there)

    def sources(self) -> list[tuple[str, int, int]]:
        """How far each source comes with this: name, epoch and sequence."""
        last = "max({'epoch': _epoch, 'seq': _seq}) AS last"
        found = self._connection.execute(
            f"SELECT _source, last.epoch, last.seq FROM (SELECT _source, {last} FROM fresh GROUP BY _source)"  # noqa: S608
        ).fetchall()
        return [(source, epoch, seq) for source, epoch, seq in found]

    def mend(self, applied: Sequence[tuple[str, int, int]]) -> int:
        """Look again for the rows whose change came late, as these sources stand; returns how many there were."""
        run = self._connection.execute
        run("CREATE OR REPLACE TEMP TABLE applied (source VARCHAR, epoch BIGINT, seq BIGINT)")
        for start in range(0, len(applied), APPLIED_AT_ONCE):
            some = applied[start : start + APPLIED_AT_ONCE]
            run(
                f"INSERT INTO applied VALUES {', '.join(['(?, ?, ?)'] * len(some))}",  # noqa: S608 - parameters
                [value for one in some for value in one],
            )
        run(
            f"CREATE OR REPLACE TEMP TABLE late AS SELECT {KEY} AS key FROM fresh "  # noqa: S608 - ours
            "JOIN applied ON fresh._source = applied.source "
            "WHERE {'epoch': _epoch, 'seq': _seq} <= {'epoch': applied.epoch, 'seq': applied.seq}"
        )
        ((late,),) = run("SELECT count(*) FROM late").fetchall()
        if late:
            run(f"DELETE FROM fresh WHERE {KEY} IN (SELECT key FROM late)")  # noqa: S608 - ours
            run(
                f"INSERT INTO fresh SELECT {self._columns}, {self._bucket} FROM {self._scan} "  # noqa: S608 - quoted
                f"WHERE {KEY} IN (SELECT key FROM late) {NEWEST}"
            )
        return int(late)

    def buckets(self) -> list[int]:
        """Those that change."""
        found = self._connection.execute(f"SELECT DISTINCT {BUCKET} FROM fresh ORDER BY 1").fetchall()  # noqa: S608
        return [row[0] for row in found]

    def content(self, bucket: int) -> Any:
        """All rows of a bucket as they are now, as an Arrow table in the order of their ids."""
        sql = f"SELECT * FROM fresh WHERE {BUCKET} = {bucket:d} AND _op <> 'DELETE'"  # noqa: S608 - numbers
        if self._moment.current_location is not None and self._moment.flushes is not None:
            stays = f"SELECT * FROM {duck.scan(self._moment.current_location)} WHERE {BUCKET} = {bucket:d} "  # noqa: S608
            keys = f"{KEY} NOT IN (SELECT {KEY} FROM fresh WHERE {BUCKET} = {bucket:d})"  # noqa: S608
            sql = f"{sql} UNION ALL BY NAME {stays} AND {keys}"
        found = self._connection.execute(f"SELECT * FROM ({sql}) ORDER BY _source, _row_id")  # noqa: S608 - as above
        return found.to_arrow_table()

    def _read(self, *, has_flushes: bool) -> None:
        where, values = "", []
        flushes = self._moment.flushes
        if flushes is not None:
            assert has_flushes, f"rows of {self._moment.table} know no flush"
            # The bounds let DuckDB pass over files, the list says what is meant.
            values = [[*flushes]]
            bounds = f"WHERE _flush BETWEEN {min(flushes):d} AND {max(flushes):d}"
            where = f"{bounds} AND _flush IN (SELECT unnest(CAST(? AS BIGINT[])))"
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE fresh AS SELECT {self._columns}, {self._bucket} "  # noqa: S608 - quoted
            f"FROM {self._scan} {where} {NEWEST}",
            values,
        )


def chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as one query of the database may name."""
    return (names[start : start + APPLIED_AT_ONCE] for start in range(0, len(names), APPLIED_AT_ONCE))
