"""What the lake has of each child, read row by row by somebody who wrote none of it: DuckDB over the current snapshot.

Nothing is kept of a row but its digest in a sum. What is wrong with a child is looked for batch by batch, where DuckDB
groups and sorts, within its memory limit and on disk beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from lakehouse.flush import digests
from lakehouse.query import duck, unreadable
from lakehouse.query.quoting import identifier, quoted
from lakehouse.storing import scheme_of
from rpc.entry_digest import Sum

ROWS_AT_ONCE = 20_000
NOT_FOUND = 404
OURS = dict.fromkeys(("_source", "_op", "_row_id", "_before", "_after"), "VARCHAR") | {
    **dict.fromkeys(("_epoch", "_seq", "_batch_seq"), "BIGINT"),
    "_ts": "TIMESTAMP WITH TIME ZONE",
}
"""What flushes write that is compared, as DuckDB calls it."""
_KEYS = "SELECT coalesce(_epoch, -1) AS _epoch, coalesce(_batch_seq, -1) AS _batch_seq, coalesce(_seq, -1) AS _seq"
_BATCHES = """SELECT _epoch, _batch_seq, count(*), count(DISTINCT _seq), min(_seq), max(_seq) FROM ({rows})
GROUP BY _epoch, _batch_seq ORDER BY _epoch, _batch_seq"""
_SEQUENCES = """SELECT _seq, count(*) FROM ({rows}) WHERE _epoch = ? AND _batch_seq = ? GROUP BY _seq ORDER BY _seq"""


class LakeBatch(NamedTuple):
    """The rows of one batch of a child, in all its tables."""

    epoch: int
    sequence: int
    rows: int
    distinct: int
    first: int
    last: int


class Accounted(NamedTuple):
    """An entry that is no row and need not be one: a dead letter."""

    epoch: int
    batch_sequence: int
    sequence: int


def complaint(connection: duckdb.DuckDBPyConnection, location: str) -> str:
    """Why the rows of flushes cannot be compared with those in this table; nothing when they can.

    Raises duckdb.IOException when the store is away, for then nothing can be said of the table.
    """
    try:
        if why := unreadable.complaint(connection, unreadable.metadata_of(connection, location)):
            return why
        found = connection.execute(f"DESCRIBE SELECT * FROM {duck.scan(location)}").fetchall()  # noqa: S608 - quoted
    except (duckdb.Error, OSError, ValueError) as exc:
        return _damage(exc, location)
    types = {row[0]: row[1] for row in found}
    wrong = [
        f"{name!r} ({types.get(name, 'gone')}, wanted {kind})" for name, kind in OURS.items() if types.get(name) != kind
    ]
    return f"the columns by which rows are compared are not what flushes write: {', '.join(wrong)}" if wrong else ""


def _damage(error: Exception, location: str) -> str:
    is_in_a_folder = scheme_of(location) in ("", "file")
    is_gone = getattr(error, "status_code", None) == NOT_FOUND or "No files found" in str(error)
    if isinstance(error, duckdb.IOException) and not is_in_a_folder and not is_gone:
        raise error
    return f"it cannot be read: {str(error).strip().partition(chr(10))[0]}"


def sums(
    connection: duckdb.DuckDBPyConnection, location: str | None, *, table: str, source: str | None
) -> tuple[dict[str, Sum], str]:
    """The sum of each child's rows, or of one child's; and why there are none, if the table cannot be read."""
    if location is None:
        return {}, ""
    try:
        return _sums(connection, location, table, source), ""
    except duckdb.Error as exc:
        return {}, _damage(exc, location)


def _sums(connection: duckdb.DuckDBPyConnection, location: str, table: str, source: str | None) -> dict[str, Sum]:
    where, values = ("", []) if source is None else (" WHERE _source = ?", [source])
    sql = f"SELECT {', '.join(digests.COLUMNS)} FROM {duck.scan(location)}{where}"  # noqa: S608 - quoted
    found: dict[str, Sum] = {}
    for some in connection.execute(sql, values).to_arrow_reader(ROWS_AT_ONCE):
        for one in digests.of_rows(pa.table(some), table=table):
            found[one.source] = found[one.source] + one.sum if one.source in found else one.sum
    return found


def typed(connection: duckdb.DuckDBPyConnection, location: str, *, source: str | None) -> dict[str, int]:
    """Rows of each child whose document came as typed columns (Arrow), of which no digest is made."""
    scan = duck.scan(location)
    without = "(CASE WHEN _op = 'DELETE' THEN _before ELSE _after END) IS NULL"
    where, values = (without, []) if source is None else (f"{without} AND _source = ?", [source])
    counted = f"SELECT _source, count(*) FROM {scan} WHERE {where}"  # noqa: S608 - quoted
    found = connection.execute(f"{counted} GROUP BY _source", values).fetchall()
    if not found:
        return {}
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()]  # noqa: S608 - quoted
    documents = [identifier(name) for name in names if name == "_rest" or not name.startswith("_")]
    if not documents:
        return {}
    # A change that says nothing but its row id has none.
    has_any = " OR ".join(f"{column} IS NOT NULL" for column in documents)
    return dict(connection.execute(f"{counted} AND ({has_any}) GROUP BY _source", values).fetchall())


class ChildRows:
    """The rows of one child in several tables, and its dead letters beside them."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        locations: Sequence[str],
        *,
        source: str,
        accounted: Iterable[Accounted],
    ) -> None:
        columns: list[Any] = [list(column) for column in zip(*accounted, strict=True)] or [[], [], []]
        letters = pa.table([pa.array(column, pa.int64()) for column in columns], ["_epoch", "_batch_seq", "_seq"])
        # One is read while the other is asked; what is registered is known to one cursor only.
        self._reader, self._asked = connection.cursor(), connection.cursor()
        for cursor in (self._reader, self._asked):
            cursor.register("accounted", letters)
        parts = [f"{_KEYS} FROM {duck.scan(location)} WHERE _source = {quoted(source)}" for location in locations]
        self._rows = " UNION ALL ".join([*parts, f"{_KEYS} FROM accounted"])

    def batches(self) -> Iterator[LakeBatch]:
        """By epoch and sequence."""
        self._reader.execute(_BATCHES.format(rows=self._rows))
        while rows := self._reader.fetchmany(1000):
            yield from map(LakeBatch._make, rows)

    def sequences(self, epoch: int, batch_sequence: int) -> list[tuple[int, int]]:
        """Each entry sequence of a batch, and how many rows have it."""
        found = self._asked.execute(_SEQUENCES.format(rows=self._rows), [epoch, batch_sequence]).fetchall()
        return [(sequence, rows) for sequence, rows in found]
