"""The inbox of drift: which keys of a table in inbox mode are no columns or do not fit theirs.

Looked for while nothing is locked, in the rows that have something in `_rest` at all; written in the transaction of the
commit, one query and one write for each such table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lakehouse.flush import drift
from lakehouse.flush.drift import FIELDS_MAX, Seen
from lakehouse.flush.rules import Rules
from lakehouse.models import DriftField, DriftKind

Drift = Mapping[str, Sequence[Seen]]


def drift_of(tables: Mapping[str, Any], known: Mapping[str, Any], rules_of: Callable[[str], Rules]) -> Drift:
    """What is in `_rest` of these rows, by table, where the rules ask for it. `known` are the schemas there were."""
    found = {}
    for table, rows in tables.items():
        rest = rows["_rest"]
        if rules_of(table).is_listed and rest.null_count < len(rest):
            schema = rules_of(table).schema(known.get(table))
            found[table] = drift.seen(rest, {*rows.column_names, *(schema.names if schema is not None else ())})
    return found


def note(parent_id: int, found: Drift, *, now_ms: int) -> None:
    """In the transaction that has the parent's row, so nobody else writes the same ones."""
    for table, fields in found.items():
        rows = {row.field: row for row in DriftField.objects.filter(parent=parent_id, table=table)}
        known = set(rows)
        for one in fields:
            if one.field in rows or len(rows) < FIELDS_MAX:
                new = DriftField(parent_id=parent_id, table=table, field=one.field, first_ms=now_ms)
                _count(rows.setdefault(one.field, new), one, now_ms)
        changed = [rows[one.field] for one in fields if one.field in known]
        DriftField.objects.bulk_update(changed, ["kind", "type", "example", "values", "last_ms"], batch_size=50)
        DriftField.objects.bulk_create(row for name, row in rows.items() if name not in known)


def _count(row: DriftField, one: Seen, now_ms: int) -> None:
    row.kind = DriftKind.NEW if one.is_new else DriftKind.MISFIT
    row.type, row.example, row.last_ms = one.type, one.example, now_ms
    row.values += one.values
