"""The table `events`: columns that are there from the first flush on, so that no query ever misses one. Pure.

An event's members become columns as a document's do (docs/tables.md); these have a type before anybody sent them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lakehouse.events import columns
from lakehouse.events.columns import MOMENT, TEXT
from lakehouse.events.namespaces import TABLE

TYPES: dict[str, Any] = {
    TEXT: pa.string(),
    MOMENT: pa.timestamp("us", tz="UTC"),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "BIGINT": pa.int64(),
}
FIELDS: list[Any] = [pa.field(name, TYPES[kind]) for name, kind in columns.COLUMNS.items()]
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
