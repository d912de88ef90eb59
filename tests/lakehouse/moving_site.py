"""A house that is left: what is in the database of the run goes into another one, and that of the run is emptied."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from django.core.management.color import no_style
from django.db import connection

from lakehouse.moving import rows
from tests.services import SHARED

Leave = Callable[[], str]


@pytest.fixture
def leave(tmp_path: Path) -> Iterator[Leave]:
    """Gives the URL of the database that is left, the counters of the other one begin anew."""
    made = list[str]()

    def leave() -> str:
        url = _in_a_schema(made) if connection.vendor == "postgresql" else _in_a_file(tmp_path / "old.sqlite3")
        tables = [model._meta.db_table for model in rows.models() if model not in rows.MADE_BY_MIGRATE]
        flush = connection.ops.sql_flush(no_style(), tables, reset_sequences=True, allow_cascade=True)
        connection.ops.execute_sql_flush(flush)
        return url

    yield leave
    for name in made:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {name} CASCADE")


def _in_a_file(path: Path) -> str:
    with closing(sqlite3.connect(path)) as copy:
        connection.ensure_connection()
        connection.connection.backup(copy)
    return f"sqlite:///{path}"


def _in_a_schema(made: list[str]) -> str:
    """Another one of the same database: that PostgreSQL copies to nobody while threads of other tests are connected."""
    name = f"left_{uuid.uuid4().hex[:8]}"
    made.append(name)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {name}")
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'CREATE TABLE {name}."{table}" (LIKE public."{table}" INCLUDING ALL)')
            cursor.execute(f'INSERT INTO {name}."{table}" OVERRIDING SYSTEM VALUE SELECT * FROM public."{table}"')
        cursor.execute("SELECT sequencename, coalesce(last_value, 0) FROM pg_sequences WHERE schemaname = 'public'")
        for sequence, last in cursor.fetchall():
            cursor.execute("SELECT setval(%s, %s, %s)", [f'{name}."{sequence}"', last or 1, bool(last)])
    split = urlsplit(os.environ[SHARED])
    query = urlencode([*parse_qsl(split.query), ("options", f"-c search_path={name}")], quote_via=quote)
    return split._replace(path=f"/{connection.settings_dict['NAME']}", query=query).geturl()
