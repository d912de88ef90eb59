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
from lakehouse.errors import DamagedTable
from lakehouse.query import duck, unreadable
from lakehouse.query.quoting import identifier

BUCKET = "_bucket"
LEFT_OUT = {"_before", "_batch_seq", "_flush", BUCKET}
"""Of the columns of changes: what was, and how it came."""
FLUSH = "_flush"
WANTED = {"_source": "VARCHAR", "_row_id": "VARCHAR", "_op": "VARCHAR", "_epoch": "BIGINT", "_seq": "BIGINT"}
"""The columns that say which change of a row is its last, as DuckDB calls their types."""
IS_CHANGE = " AND ".join(f"{name} IS NOT NULL" for name in WANTED)
"""Rows of other writers have none of them, and are in no table of now."""
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
        there = self._described()
        self._columns = ", ".join(identifier(name) for name in columns if name in there)
        self._bucket = f"CAST(md5_number_lower({KEY}) % {buckets} AS INTEGER) AS {BUCKET}"
        self._has_flushes = FLUSH in there
        self._read()

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
            self._check_order(f"{KEY} IN (SELECT key FROM late)")  # noqa: S608 - ours
            run(f"DELETE FROM fresh WHERE {KEY} IN (SELECT key FROM late)")  # noqa: S608 - ours
            run(
                f"INSERT INTO fresh SELECT {self._columns}, {self._bucket} FROM {self._scan} "  # noqa: S608 - quoted
                f"WHERE {KEY} IN (SELECT key FROM late) AND {IS_CHANGE} {NEWEST}"
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

    def _described(self) -> dict[str, str]:
        """The columns, with their types. Raises DamagedTable when those are missing that tell the last change."""
        metadata = unreadable.metadata_of(self._connection, self._moment.changes_location)
        if why := unreadable.complaint(self._connection, metadata):
            raise DamagedTable(f"{self._name} cannot be read: {why}")
        there = {row[0]: row[1] for row in self._connection.execute(f"DESCRIBE FROM {self._scan}").fetchall()}
        wrong = [
            f"{name} is {there.get(name, 'gone')}, wanted {kind}"
            for name, kind in WANTED.items()
            if there.get(name) != kind
        ]
        if wrong:
            raise DamagedTable(
                f"of {self._name} nobody can tell which change of a row is its last: {', '.join(wrong)}; drop a column "
                "that somebody made anew in another type, and flushes make the right one"
            )
        return there

    def _read(self) -> None:
        where, values = f"WHERE {IS_CHANGE}", []
        flushes = self._moment.flushes
        if flushes is None:
            self._check_order("true")
        else:
            assert self._has_flushes, f"rows of {self._moment.table} know no flush"
            # The bounds let DuckDB pass over files, the list says what is meant.
            values = [[*flushes]]
            bounds = f"WHERE {FLUSH} BETWEEN {min(flushes):d} AND {max(flushes):d}"
            where = f"{bounds} AND {FLUSH} IN (SELECT unnest(CAST(? AS BIGINT[]))) AND {IS_CHANGE}"
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE fresh AS SELECT {self._columns}, {self._bucket} "  # noqa: S608 - quoted
            f"FROM {self._scan} {where} {NEWEST}",
            values,
        )

    def _check_order(self, where: str) -> None:
        """Raises DamagedTable when rows of flushes have no place in the order of their child any more."""
        if not self._has_flushes:
            return
        sql = f"SELECT count(*) FROM {self._scan} WHERE {FLUSH} IS NOT NULL AND NOT ({IS_CHANGE}) AND {where}"  # noqa: S608
        ((lost,),) = self._connection.execute(sql).fetchall()
        if lost:
            raise DamagedTable(
                f"{lost} rows that flushes wrote to {self._name} have no value in {', '.join(WANTED)} any more, so "
                "nobody can tell which change of a row is its last; give them their values again (somebody dropped or "
                "renamed a column), or delete those rows"
            )

    @property
    def _name(self) -> str:
        return f"{self._moment.namespace}.{self._moment.table}"


def chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as one query of the database may name."""
    return (names[start : start + APPLIED_AT_ONCE] for start in range(0, len(names), APPLIED_AT_ONCE))
