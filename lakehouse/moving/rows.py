"""Every row of the old database into the new one, in one transaction, with the numbers they had.

Numbers are names: a batch, a commit, a table is known by its own everywhere, and none may ever be given twice. So the
counters that make them come along, too, and not only what they made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, InterfaceError, OperationalError, connections, transaction
from django.db.models import AutoField, Max, Model

from lakehouse.models.parents import Holder
from lakehouse.moving import portions
from lakehouse.moving.loading import load
from lakehouse.moving.old_house import CannotMove

MADE_BY_MIGRATE: tuple[type[Model], ...] = (Permission, ContentType)
LEFT: tuple[type[Model], ...] = (Holder,)
"""Processes of the old house."""


def models() -> list[type[Model]]:
    return [one for one in apps.get_models(include_auto_created=True) if one._meta.managed and not one._meta.proxy]


def tables() -> list[str]:
    return [model._meta.db_table for model in models()]


def check_is_empty(alias: str) -> None:
    """Raises CannotMove."""
    if found := _first_rows(alias):
        raise CannotMove(
            f"found {found} in the new database, wanted an empty one: nothing may have been started on it before; make "
            "another one, or drop this one and make it again, and type the same"
        )


def _first_rows(alias: str) -> str:
    for model in models():
        if model not in MADE_BY_MIGRATE and (count := model._base_manager.using(alias).count()):
            return f"{count} rows of {model._meta.db_table}"
    return ""


@contextmanager
def as_they_are(alias: str) -> Iterator[None]:
    """All tables as of one moment, for logins change in a closed house too."""
    with transaction.atomic(alias):
        if connections[alias].vendor == "postgresql":
            with connections[alias].cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


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
    try:
        for rows in portions.of(model, source):
            if exc := _refusal(rows, target):
                _name_the_first_refused(model, rows, target, exc)
            count += len(rows)
    except DatabaseError as exc:
        raise CannotMove(f"{model._meta.db_table} of the old database cannot be read: {_said(exc)}") from exc
    return count


def _refusal(rows: list[Model], target: str) -> Exception | None:
    """Why the database does not take them; None when they are in it."""
    try:
        with transaction.atomic(target):
            load(rows, target)
    except (DatabaseError, ValueError, OverflowError) as exc:
        return exc
    return None


def _name_the_first_refused(model: type[Model], rows: list[Model], target: str, refused: Exception) -> None:
    """Raises CannotMove; returns where all were taken, each for itself."""
    table = model._meta.db_table
    if isinstance(refused, (OperationalError, InterfaceError)):  # no row is to blame
        raise CannotMove(f"the new database went away, or its disk is full, at {table}: {_said(refused)}") from refused
    for row in rows:
        if exc := _refusal([row], target):
            raise CannotMove(f"the new database does not take {table} {row.pk}: {_said(exc)}") from exc


def _said(exc: Exception) -> str:
    return " ".join(str(exc).split())


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
