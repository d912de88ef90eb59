"""The entries in payloads of the journal, whatever their encoding. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import orjson

from lakehouse.flush import raw
from lakehouse.flush.entries import StoredBatch
from lakehouse.flush.raw import RawRows
from lakehouse.subscriptions.events import DELETE, Entry, Found
from rpc.batch import Encoding

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
    """A document of typed columns as JSON; what JSON has no word for becomes text."""
    said = {name: value for name, value in document.items() if value is not None}
    return orjson.dumps(said, default=_said, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()


def _entries(one: RawRows, of: Mapping[int, Found]) -> Iterator[tuple[int, int, Entry]]:
    typed = [row for stream in one.streams for row in stream.to_pylist()] if one.streams else []
    columns = [one.rows[name].to_pylist() for name in _COLUMNS]
    for batch_id, index, row_id, operation, before, after, sequence, ms, number in zip(*columns, strict=True):
        if number is not None:
            text = as_text(typed[number])
            before, after = (text, after) if operation == DELETE else (before, text)
        batch = of[batch_id]
        where = (batch.source, batch.shard, batch.epoch, batch.sequence)
        yield batch_id, index, Entry(one.table, row_id, operation, before, after, sequence, ms, *where)


def _said(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
