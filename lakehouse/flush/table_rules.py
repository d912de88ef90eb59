"""The rules of each table of a parent: its setting, and the schemas an operator registered. Read with every flush."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lakehouse import declared
from lakehouse.flush.rules import Rules, arrow_type
from lakehouse.models import NestedValues, Parent, SchemaMode, TableSchema

log = logging.getLogger(__name__)


def of(parent: Parent) -> Callable[[str], Rules]:
    """The rules by the name of a table."""
    is_nested = parent.settings.nested_values == "struct"
    usual = Rules(is_nested=is_nested)
    if not parent.schema_version:
        return lambda _: usual
    found = {row.table: _rules(row, is_nested) for row in TableSchema.objects.filter(parent=parent)}
    return lambda table: found.get(table, usual)


def _rules(row: TableSchema, is_nested: bool) -> Rules:
    try:
        kinds = declared.read(row.fields).kinds
    except ValueError as exc:  # written past every check
        log.error("the schema of table %s is not read: %s", row.table, exc)
        kinds = {}
    return Rules(
        is_nested=row.nested == NestedValues.STRUCT if row.nested else is_nested,
        is_closed=row.mode != SchemaMode.OFF,
        is_listed=row.mode == SchemaMode.INBOX,
        declared={name: arrow_type(kind) for name, kind in kinds.items()},
    )
