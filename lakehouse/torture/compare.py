"""Source and lake, change by change and row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Change = tuple[str, str, str, dict[str, Any]]
"""Operation, table, row id, the row by its columns."""
State = dict[tuple[str, str], dict[str, Any]]
"""Rows by table and row id."""


def document(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the source that a row of the lake shows: its typed columns, and `_rest` where a value fits none.

    The JSON the child sent, which the lake keeps as well, has to tell the same.
    """
    sent: dict[str, Any] = json.loads(row["_before"] if row["_op"] == "DELETE" else row["_after"])
    rest = json.loads(row["_rest"]) if row["_rest"] else {}
    shown = {name: rest[name] if name in rest else row.get(name) for name in sent}
    told = {name: comparable(value, shown[name]) for name, value in sent.items()}
    assert shown == told, f"columns {shown} of {row['_row_id']} in {row['_table']}, wanted {told}"
    assert set(rest) <= set(sent), f"_rest has {sorted(rest)}, sent were {sorted(sent)}"
    return sent


def comparable(value: Any, shown: Any) -> Any:
    """A moment travels as text and is shown as a moment."""
    return datetime.fromisoformat(value) if isinstance(shown, datetime) else value


def state_of(changes: Sequence[Change]) -> State:
    """The rows that are left after all changes, by table and row id."""
    rows: State = {}
    for operation, table, row_id, row in changes:
        if operation == "DELETE":
            del rows[table, row_id]
        else:
            rows[table, row_id] = row
    return rows


def difference(wanted: Sequence[Change], found: Sequence[Change]) -> str | None:
    """The first place where the lake does not say what the source does; None when it says the same."""
    for number, (told, stored) in enumerate(zip(wanted, found, strict=False), 1):
        if stored != told:
            return f"change {number} is {stored} in the lake, the source made {told}"
    if len(found) != len(wanted):
        return f"the source made {len(wanted)} changes, {len(found)} are in the lake"
    return None
