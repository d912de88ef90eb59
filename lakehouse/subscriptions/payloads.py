"""The entries in payloads of the journal, whatever their encoding. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import orjson

from lakehouse.flush import exact, moments, raw
from lakehouse.flush.entries import StoredBatch
from lakehouse.flush.raw import RawRows
from lakehouse.flush.whole import whole
from lakehouse.subscriptions.events import DELETE, Entry, Found
from rpc.arrow_stream import REST
from rpc.batch import Encoding
from rpc.entries import dump_value

_COLUMNS = ("batch_id", "entry_index", "row_id", "operation", "before", "after", "sequence", "timestamp_ms", "document")


def unpack(
    batches: Sequence[Found], payloads: Mapping[int, bytes], letters: Mapping[int, set[int | None]]
) -> dict[int, list[Entry]]:
    """By batch, without those that are letters."""
    of = {one.batch_id: one for one in batches if None not in letters.get(one.batch_id, ())}
    found: dict[int, list[Entry]] = {pk: [] for pk in of}
    stored = [
        StoredBatch(pk, one.source, one.shard, one.epoch, one.sequence, 0, Encoding(one.encoding), payloads[pk])
        for pk, one in of.items()
    ]
    for rows in raw.read(stored).tables:
        for batch_id, index, entry in _entries(rows, of):
            if index not in letters.get(batch_id, ()):
                found[batch_id].append(entry)
    return found


def as_text(document: Mapping[str, Any]) -> str:
    """A document of typed columns as JSON, with what is in its `_rest`; what JSON has no word for becomes text."""
    said = {name: value for name, value in document.items() if value is not None and name != REST}
    text = orjson.dumps(said, default=_said, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()
    try:
        more = exact.split(document[REST].encode()) if document.get(REST) else None
    except exact.NotJson:  # a dead letter, of which nobody is told
        more = None
    if not more:
        return text
    members = [f"{dump_value(name).decode()}:{bytes(value).decode()}" for name, value in more.items()]
    return "{" + ",".join([*([text[1:-1]] if said else []), *members]) + "}"


def _entries(one: RawRows, of: Mapping[int, Found]) -> Iterator[tuple[int, int, Entry]]:
    typed = [row for stream in one.streams for row in _documents(stream)]
    columns = [one.rows[name].to_pylist() for name in _COLUMNS]
    for batch_id, index, row_id, operation, before, after, sequence, ms, number in zip(*columns, strict=True):
        if number is not None:
            text = as_text(typed[number])
            before, after = (text, after) if operation == DELETE else (before, text)
        batch = of[batch_id]
        where = (batch.source, batch.shard, batch.epoch, batch.sequence)
        yield batch_id, index, Entry(one.table, row_id, operation, before, after, sequence, ms, *where)


def _documents(stream: Any) -> list[dict[str, Any]]:
    names, columns = stream.column_names, [_values(column) for column in stream.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] or [{}] * stream.num_rows


def _values(column: Any) -> Any:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # a moment that Python cannot hold
        texts = moments.spelled(whole(column)).to_pylist()
        return [_value(one, text) for one, text in zip(column, texts, strict=True)]


def _value(one: Any, text: str | None) -> Any:
    try:
        return one.as_py()
    except (ValueError, OverflowError):
        return text


def _said(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
