"""Every row of the old database into the new one, in one transaction, with the numbers they had.

Numbers are names: a batch, a commit, a table is known by its own everywhere, and none may ever be given twice. So the
counters that make them come along, too, and not only what they made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, connections
from django.db.models import AutoField, BinaryField, Max, Model

from lakehouse.models import IcebergTable, Parent
from lakehouse.models.parents import Holder
from lakehouse.moving.old_house import CannotMove

ROWS_AT_ONCE, LARGE_ROWS_AT_ONCE = 2000, 16
BYTES_AT_ONCE = 8 * 2**20
MADE_BY_MIGRATE: tuple[type[Model], ...] = (Permission, ContentType)
LEFT: tuple[type[Model], ...] = (Holder,)
"""Processes of the old house."""


def models() -> list[type[Model]]:
    return [one for one in apps.get_models(include_auto_created=True) if one._meta.managed and not one._meta.proxy]


def is_empty(alias: str) -> bool:
    return not _first_rows(alias)


def check_is_empty(alias: str) -> None:
    """Raises CannotMove."""
    if found := _first_rows(alias):
        raise CannotMove(
            f"found {found} in the new database, wanted an empty one: nothing may have been started on it before"
        )


def _first_rows(alias: str) -> str:
    for model in models():
        if model not in MADE_BY_MIGRATE and (count := model._base_manager.using(alias).count()):
            return f"{count} rows of {model._meta.db_table}"
    return ""


def has_all(source: str, target: str) -> bool:
    """Whether the rows of `source` were copied, of which the parents and the tables tell."""

    def named(alias: str) -> set[tuple[Any, ...]]:
        parents = Parent.objects.using(alias).values_list("pk", "name", "created_ms")
        return {*parents, *IcebergTable.objects.using(alias).values_list("pk", "name")}

    return named(source) <= named(target)


def copy(source: str, target: str) -> int:
    """How many rows there were. In a transaction of `target`. Raises CannotMove for a row it cannot keep."""
    for model in MADE_BY_MIGRATE:
        model._base_manager.using(target).all().delete()
    return sum(_copy(model, source, target) for model in models() if model not in LEFT)


def copy_counters(source: str, target: str) -> None:
    """What the next row of each table will be called."""
    for model in models():
        if isinstance(model._meta.pk, AutoField):
            given = _next_of(model, source)
            highest = model._base_manager.using(target).aggregate(highest=Max("pk"))["highest"] or 0
            _count_from(model, target, max(given, highest + 1))


def _copy(model: type[Model], source: str, target: str) -> int:
    count = 0
    for rows in _portions(model, source):
        try:
            model._base_manager.using(target).bulk_create(rows)
        except (DatabaseError, ValueError) as exc:
            raise CannotMove(
                f"the new database does not take {model._meta.db_table} {rows[0].pk} to {rows[-1].pk}: "
                f"{' '.join(str(exc).split())}"
            ) from exc
        count += len(rows)
    return count


def _portions(model: type[Model], source: str) -> Iterator[list[Model]]:
    """As many rows as may be in memory."""
    large = [one.attname for one in model._meta.concrete_fields if isinstance(one, BinaryField)]
    rows, size = list[Model](), 0
    found = model._base_manager.using(source).order_by("pk")
    for row in found.iterator(LARGE_ROWS_AT_ONCE if large else ROWS_AT_ONCE):
        rows.append(row)
        size += sum(len(getattr(row, name) or b"") for name in large)
        if len(rows) == ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _next_of(model: type[Model], alias: str) -> int:
    table = model._meta.db_table
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute(f"SELECT last_value, is_called FROM {_sequence(cursor, model)}")  # noqa: S608 - our own name
            last, was_given = cursor.fetchone()
            return int(last) + bool(was_given)
        cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [table])
        found = cursor.fetchone()
    return int(found[0]) + 1 if found else 1


def _count_from(model: type[Model], alias: str, number: int) -> None:
    table = model._meta.db_table
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute("SELECT setval(%s, %s, false)", [_sequence(cursor, model), number])
            return
        cursor.execute("DELETE FROM sqlite_sequence WHERE name = %s", [table])
        cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, number - 1])


def _sequence(cursor: Any, model: type[Model]) -> str:
    pk = model._meta.pk
    assert pk is not None
    cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", [f'"{model._meta.db_table}"', pk.column])
    return str(cursor.fetchone()[0])
