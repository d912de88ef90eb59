"""The strict schemas of a parent, read when they have changed. Every group of batches brings the version along."""

from __future__ import annotations

import logging

from lakehouse import declared
from lakehouse.journal.strict import Schemas
from lakehouse.journal.strict import strict as compiled
from lakehouse.models import SchemaMode, TableSchema

log = logging.getLogger(__name__)

_known: dict[int, tuple[int, Schemas]] = {}


def strict(parent_id: int, version: int) -> Schemas:
    """By table. In the transaction that holds the parent's row, so a change is not half seen."""
    found = _known.get(parent_id)
    if found is None or found[0] != version:
        found = _known[parent_id] = version, _read(parent_id)
    return found[1]


def _read(parent_id: int) -> Schemas:
    schemas = {}
    for row in TableSchema.objects.filter(parent=parent_id, mode=SchemaMode.STRICT):
        try:
            schemas[row.table.encode()] = compiled(declared.read(row.fields))
        except ValueError as exc:  # written past every check
            log.error("the schema of table %s is not read and refuses nothing: %s", row.table, exc)
    return schemas
