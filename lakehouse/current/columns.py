"""The columns of a table of now, and whether they are still those of its changes.

A column that comes is added. One that somebody dropped, renamed, or made anew under its old name is another column, as
its field id says, and the rows of a table of now have values of the one before; then the table is made anew. So the
table says which ids had which names when it was written last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyiceberg.schema import Schema, index_name_by_id
from pyiceberg.table import Table, Transaction
from pyiceberg.types import NestedField

from lakehouse.catalog import evolution, tables
from lakehouse.current.pulling import BUCKET, LEFT_OUT

COLUMNS = "evodb.current.columns"


def kept(changes: Schema) -> Iterator[NestedField]:
    """The columns of a table of now: not those of others that we cannot write, or that differ from one only in case."""
    seen: set[str] = set()
    for field, arrow in zip(changes.fields, evolution.arrow_schema(changes), strict=True):
        key = field.name.casefold()
        if field.name not in LEFT_OUT and key not in seen and evolution.is_ours(arrow):
            seen.add(key)
            yield field


def are_others(now: Mapping[str, str], changes: Schema) -> bool:
    """Whether columns that the table of now was written with are not what they were. Of one that never said, nobody
    knows."""
    known = now.get(COLUMNS)
    return known is not None and known != mark(changes, int(known.partition("-")[0]))


def mark(changes: Schema, last_id: int) -> str:
    """Which names the columns up to this id have, whatever came since."""
    names = sorted((number, name) for number, name in index_name_by_id(changes).items() if number <= last_id)
    return f"{last_id}-{hashlib.blake2b(repr(names).encode(), digest_size=8).hexdigest()}"


def evolved(now: Table, changes: Schema, *, is_anew: bool) -> Transaction:
    """A change of the table of now with the columns of the changes. Raises SchemaMismatch.

    When all its rows are written anew, no column has to stay for their sake.
    """
    names = {field.name for field in kept(changes)}
    wanted = pa.schema([one for one in evolution.arrow_schema(changes) if one.name in names])
    without = [one.name for one in evolution.arrow_schema(now.schema()) if _differs(one, wanted)] if is_anew else []
    return tables.evolve(now, wanted.empty_table(), without=without)


def _differs(column: pa.Field[Any], wanted: pa.Schema) -> bool:
    return column.name != BUCKET and (column.name not in wanted.names or wanted.field(column.name).type != column.type)
