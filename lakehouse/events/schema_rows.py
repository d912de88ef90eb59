"""The schemas of a namespace's events, as rows. Whatever changes one changes `Parent.schema_version` with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import transaction
from django.db.models import QuerySet

from lakehouse.models import EventSchema, Parent
from lakehouse.models.parents import schemas_changed

SCHEMAS_MAX = 100
"""Of a namespace."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The schemas of a namespace as texts, by type, and the version they are of."""

    version: int
    texts: Mapping[str, str]


def stored(parent_id: int) -> Stored:
    """The version first: what is read with an older number than it has is read again."""
    found = version(parent_id)
    return Stored(found, dict(rows(parent_id).values_list("type", "schema")) if found else {})


def version(parent_id: int) -> int:
    return Parent.objects.filter(pk=parent_id).values_list("schema_version", flat=True).first() or 0


def rows(parent_id: int) -> QuerySet[EventSchema]:
    return EventSchema.objects.filter(parent=parent_id).order_by("type")


def put(parent_id: int, kind: str, text: str, *, now_ms: int) -> tuple[EventSchema, bool] | None:
    """The row, and whether it is a new one. None when there is no room for one more."""
    with transaction.atomic():
        schemas_changed(parent_id)
        others = EventSchema.objects.filter(parent=parent_id).exclude(type=kind).count()
        if others >= SCHEMAS_MAX:
            return None
        values = {"schema": text, "changed_ms": now_ms}
        return EventSchema.objects.update_or_create(parent_id=parent_id, type=kind, defaults=values)


def delete(parent_id: int, kind: str) -> EventSchema | None:
    """The row that was there."""
    with transaction.atomic():
        schemas_changed(parent_id)
        found = EventSchema.objects.filter(parent=parent_id, type=kind).first()
        if found is not None:
            EventSchema.objects.filter(pk=found.pk).delete()
        return found
