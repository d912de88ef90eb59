"""A stage as a flush makes it, for one table."""

from __future__ import annotations

from typing import Any

from lakehouse.catalog import tables
from lakehouse.catalog.tables import Staged


def stage_rows(*table: Any, **terms: Any) -> Staged:
    """As `tables.begin` is told: catalog, namespace, name and rows."""
    return tables.write(tables.begin(*table, **terms))
