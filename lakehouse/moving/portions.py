"""Rows of a table in portions that fit into memory, by their keys.

The sizes are asked first, which costs no reading of what is large; then each portion is read whole. A cursor would
fetch so many rows at once, whatever they weigh: 16 payloads of 16 MiB are 256 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.db.models import BinaryField, Field, IntegerField, JSONField, Model, TextField, Value
from django.db.models.functions import Cast, Coalesce, Length

ROWS_AT_ONCE = 1000
BYTES_AT_ONCE = 8 * 2**20
KEYS_AT_ONCE = 10_000
JSON_WEIGHT = 10
"""Of objects, compared with their text."""


def of(model: type[Model], alias: str) -> Iterator[list[Model]]:
    """In the order of their keys."""
    rows = model._base_manager.using(alias).order_by("pk")
    size: Any = Value(0, output_field=IntegerField())
    for field in model._meta.concrete_fields:
        if isinstance(field, (BinaryField, TextField, JSONField)):
            size = size + _weight(field)
    sizes = rows.annotate(_size=size).values_list("pk", "_size").iterator(KEYS_AT_ONCE)
    for first, last in cut(sizes, rows_max=ROWS_AT_ONCE, bytes_max=BYTES_AT_ONCE):
        yield list(rows.filter(pk__gte=first, pk__lte=last))


def _weight(field: Field[Any, Any]) -> Any:
    if isinstance(field, JSONField):
        return Coalesce(Length(Cast(field.attname, TextField())), 0) * JSON_WEIGHT
    return Coalesce(Length(field.attname), 0)


def cut(sizes: Iterable[tuple[Any, int]], *, rows_max: int, bytes_max: int) -> Iterator[tuple[Any, Any]]:
    """The first and the last key of each portion. One row may be larger than all that fits."""
    keys, total = list[Any](), 0
    for key, size in sizes:
        if keys and (len(keys) == rows_max or total + size > bytes_max):
            yield keys[0], keys[-1]
            keys, total = [], 0
        keys.append(key)
        total += size
    if keys:
        yield keys[0], keys[-1]
