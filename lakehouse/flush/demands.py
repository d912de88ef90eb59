"""What a table that others changed demands of our rows: values where they made a column required, our types in ours.

A row that cannot have it is a dead letter with the reason, and the flush goes on with the others. What none of the rows
can have is no fault of a row: the table takes none. Pure.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import SchemaMismatch
from lakehouse.flush import widening
from lakehouse.flush.whole import whole

STAMP, STAMP_TYPE = "_flush", pa.int64()
"""The column that every row gets when it is written."""


def met(rows: Any, known: Any | None) -> tuple[Any, dict[int, str]]:
    """The rows without columns that the table has in another type, and the places of rows it does not take, with the
    reason. `known` is its schema if it is there. Raises SchemaMismatch when the table takes none."""
    unmet: dict[int, str] = {}
    for column in known or ():
        kind = _kind_of_ours(rows, column.name)
        if kind is not None and not _is_for(column.type, kind):
            said = f"column {column.name!r} of its table is {column.type}, wanted {kind}"
            places = _valid(rows, column.name)
            if column.name == STAMP or pc.all(places).as_py():
                raise SchemaMismatch(f"{said}; drop that column, and a flush makes it anew")
            _note(unmet, places, said)
            rows = rows.drop_columns([column.name]) if column.name in rows.column_names else rows
        if not column.nullable and column.name != STAMP:
            said = f"column {column.name!r} is required by its table, and this row has no value for it"
            if column.name not in rows.column_names:
                raise SchemaMismatch(
                    f"column {column.name!r} is required by it, and no row has a value for it; make it optional"
                )
            _note(unmet, pc.invert(_valid(rows, column.name)), said)
    return rows, unmet


def _kind_of_ours(rows: Any, name: str) -> Any | None:
    """Of a column that is ours and the rows have or get; those of documents are read in the types of the table."""
    if name == STAMP:
        return STAMP_TYPE
    return rows.schema.field(name).type if name.startswith("_") and name in rows.column_names else None


def _is_for(column: Any, kind: Any) -> bool:
    """Whether a column holds such values, or may become one that does."""
    return bool(column == kind or widening.wider(column, kind) == kind or widening.wider(kind, column) == column)


def _valid(rows: Any, name: str) -> Any:
    if name in rows.column_names:
        return whole(rows[name]).is_valid()
    return pa.repeat(pa.scalar(name == STAMP), len(rows))


def _note(unmet: dict[int, str], places: Any, said: str) -> None:
    for place in pc.indices_nonzero(places).to_pylist():
        unmet.setdefault(place, said)
