"""The table `events`: columns that are there from the first flush on, so that no query ever misses one. Pure.

An event's members become columns as a document's do (docs/tables.md); these have a type before anybody sent them. What
is an object in an event (`do`, `doc`, `properties`, ...) is JSON text in its column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lakehouse.events.namespaces import TABLE

TEXTS_BEFORE = ("id", "ns", "type")
TEXTS = (
    *("do", "method", "namespace", "error", "collection", "docId", "doc", "prev", "bookmark", "reason"),
    *("event", "properties", "traits", "userId", "anonymousId", "sessionId", "data"),
    *("source", "webhook", "payload", "url", "actor", "meta"),
)
FIELDS: list[Any] = [
    *(pa.field(name, pa.string()) for name in TEXTS_BEFORE),
    pa.field("ts", pa.timestamp("us", tz="UTC")),
    *(pa.field(name, pa.string()) for name in TEXTS),
    pa.field("durationMs", pa.float64()),
    pa.field("success", pa.bool_()),
    pa.field("connectionCount", pa.int64()),
    pa.field("code", pa.int64()),
]
COLUMNS = pa.schema(FIELDS)


def with_ours(known: Mapping[str, Any]) -> dict[str, Any]:
    """These schemas, that of `events` with all our columns; one the table has already keeps its type."""
    there = list(known.get(TABLE, ()))
    names = {field.name.casefold() for field in there}
    return {**known, TABLE: pa.schema([*there, *(one for one in COLUMNS if one.name.casefold() not in names)])}


def completed(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a flush, those of `events` with all our columns."""
    found = dict(tables)
    if TABLE in found:
        rows = found[TABLE]
        names = {name.casefold() for name in rows.column_names}
        for field in COLUMNS:
            if field.name.casefold() not in names:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        found[TABLE] = rows
    return found
