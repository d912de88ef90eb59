"""A house that is left: what is in the database of the run goes into another one, and that of the run is emptied."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from django.core.management.color import no_style
from django.db import connection, connections

from lakehouse.moving import rows
from tests.services import SHARED

Leave = Callable[[], str]


@pytest.fixture
def leave(tmp_path: Path) -> Iterator[Leave]:
    """Gives the URL of the database that is left, the counters of the other one begin anew."""
    made = list[str]()

    def leave() -> str:
        url = _on_postgresql(made) if connection.vendor == "postgresql" else _in_a_file(tmp_path / "old.sqlite3")
        tables = [model._meta.db_table for model in rows.models() if model not in rows.MADE_BY_MIGRATE]
        flush = connection.ops.sql_flush(no_style(), tables, reset_sequences=True, allow_cascade=True)
        connection.ops.execute_sql_flush(flush)
        return url

    yield leave
    for name in made:
        with psycopg.connect(os.environ[SHARED], autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _in_a_file(path: Path) -> str:
    with closing(sqlite3.connect(path)) as copy:
        connection.ensure_connection()
        connection.connection.backup(copy)
    return f"sqlite:///{path}"


def _on_postgresql(made: list[str]) -> str:
    """It copies no database somebody is connected to; a thread that a test let go keeps its connection."""
    name = f"left_{uuid.uuid4().hex[:8]}"
    connections.close_all()
    with psycopg.connect(os.environ[SHARED], autocommit=True) as server:
        ours = connection.settings_dict["NAME"]
        server.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{ours}'")
        server.execute(f"CREATE DATABASE {name} TEMPLATE {ours}")
    made.append(name)
    return urlsplit(os.environ[SHARED])._replace(path=f"/{name}").geturl()
