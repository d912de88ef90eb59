"""The rows of a query, read until there are no more or there are enough: as JSON, as CSV or as an Arrow stream."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import orjson

from lakehouse.query import cells
from lakehouse.query.messages import Column

JSON, CSV, ARROW = FORMATS = ("json", "csv", "arrow")
ROWS_AT_ONCE = 1000

Parameters = list[Any] | dict[str, Any]


class Rows(NamedTuple):
    columns: list[Column]
    rows: int
    cut_at: str
    body: bytes


def read(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Parameters,
    *,
    form: str,
    rows_max: int,
    bytes_max: int,
) -> Rows:
    """Raises duckdb.Error for what is wrong with the query."""
    types = [(name, kind) for name, kind, *_ in _described(connection, sql, parameters)]
    columns = [Column(name, str(kind)) for name, kind in types]
    kinds = [kind for _, kind in types]
    if not sql.startswith("EXPLAIN"):
        sql = cells.select(sql, kinds, is_arrow=form == ARROW)
    if form == ARROW:
        names = [column.name for column in columns]
        return Rows(columns, *_arrow(connection.execute(sql, parameters), names, rows_max, bytes_max))
    converters = [cells.converter(kind) for kind in kinds]
    lines, begin, end, between = _as_csv(columns) if form == CSV else (orjson.dumps, b"[", b"]", b",")
    found = _values(connection.execute(sql, parameters), converters)
    taken, cut_at = _taken(map(lines, found), rows_max, bytes_max - len(begin) - len(end), between=len(between))
    return Rows(columns, len(taken), cut_at, begin + between.join(taken) + end)


def _described(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Parameters) -> Sequence[Any]:
    """Names and types without a row of it."""
    if sql.startswith("EXPLAIN"):
        return list(connection.execute("SELECT '' AS explain_key, '' AS explain_value").description or ())
    return list(connection.execute(f"SELECT * FROM (\n{sql}\n) LIMIT 0", parameters).description or ())  # noqa: S608


def _values(found: duckdb.DuckDBPyConnection, converters: list[Callable[[Any], Any]]) -> Iterator[list[Any]]:
    while rows := found.fetchmany(ROWS_AT_ONCE):
        for row in rows:
            yield [convert(value) for convert, value in zip(converters, row, strict=True)]


def _taken(lines: Iterator[bytes], rows_max: int, bytes_max: int, *, between: int) -> tuple[list[bytes], str]:
    taken: list[bytes] = []
    size = 0
    for line in lines:
        size += len(line) + between
        if len(taken) == rows_max:
            return taken, "rows"
        if size > bytes_max:
            return taken, "bytes"
        taken.append(line)
    return taken, ""


def _as_csv(columns: Sequence[Column]) -> tuple[Callable[[Any], bytes], bytes, bytes, bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")

    def line(values: Sequence[Any]) -> bytes:
        text.seek(0)
        text.truncate()
        writer.writerow([orjson.dumps(one).decode() if isinstance(one, list | dict | bool) else one for one in values])
        return text.getvalue().encode(errors="replace")

    return line, line([column.name for column in columns]), b"", b""


def _arrow(
    found: duckdb.DuckDBPyConnection, names: Sequence[str], rows_max: int, bytes_max: int
) -> tuple[int, str, bytes]:
    import pyarrow as pa

    reader = found.to_arrow_reader(ROWS_AT_ONCE)
    sink, rows, size, cut_at = io.BytesIO(), 0, 0, ""
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
    with pa.ipc.new_stream(sink, schema) as stream:
        for batch in reader:
            whole, room = pa.RecordBatch.from_arrays(batch.columns, schema=schema), rows_max - rows
            if len(whole) > room:
                whole, cut_at = whole.slice(0, room), "rows"
            if size + whole.nbytes > bytes_max:
                whole, cut_at = whole.slice(0, _fitting(whole, bytes_max - size)), "bytes"
            if len(whole):
                stream.write_batch(whole)
            rows, size = rows + len(whole), size + whole.nbytes
            if cut_at:
                break
    return rows, cut_at, sink.getvalue()


def _fitting(batch: Any, bytes_max: int) -> int:
    """How many rows of it have at most so many bytes."""
    low, high = 0, len(batch)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if batch.slice(0, middle).nbytes <= bytes_max else (low, middle - 1)
    return low
