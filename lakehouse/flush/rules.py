"""How the columns of a table are chosen, where a setting or a registered schema says more than the values do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakehouse.declared import Decimals, Kind, ListOf, StructOf
from lakehouse.flush import moments, widening

_SIMPLE: dict[str, Any] = {
    "boolean": pa.bool_(),
    "long": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "date": moments.DATE,
    "timestamptz": moments.TIMESTAMP,
    "json": pa.string(),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """`declared` are Arrow types by key; they count where the table has no such column, or a narrower one."""

    is_nested: bool = False
    """Objects and arrays become structs and lists instead of JSON text."""
    is_closed: bool = False
    """A key that is no column and not declared stays in `_rest`."""
    is_listed: bool = False
    """What goes to `_rest` is told to the inbox."""
    declared: Mapping[str, Any] = field(default_factory=dict)

    def schema(self, known: Any | None) -> Any | None:
        """The columns there are, and those that are declared."""
        if not self.declared:
            return known
        columns = {} if known is None else {column.name: column.type for column in known}
        for name, declared in self.declared.items():
            have = columns.get(name)
            columns[name] = declared if have is None or widening.wider(have, declared) == declared else have
        return pa.schema(list(columns.items()), None if known is None else known.metadata)

    def is_open(self, known: Any | None) -> bool:
        """Whether new keys may become columns. A table that is not there, nor declared, has to begin with some."""
        return not self.is_closed or (known is None and not self.declared)


USUAL = Rules()


def arrow_type(kind: Kind) -> Any:
    """Of a column that is declared so."""
    if isinstance(kind, Decimals):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, ListOf):
        return pa.list_(pa.field("element", arrow_type(kind.element)))
    if isinstance(kind, StructOf):
        return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in kind.fields.items()])
    return _SIMPLE[kind.name]


def name_of(kind: Any) -> str:
    """How a type is declared; "" for one that cannot be."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return next((name for name, one in _SIMPLE.items() if one == kind), "")
