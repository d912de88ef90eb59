"""Services that tests ask for by name, which tests a run has and in what order, and how a test leaves the database.

The settings of a run come from tests.environment.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection, connections
from django.test import TransactionTestCase
from pytest_django import DjangoDbBlocker

from tests.services import (
    azure_address,
    google_address,
    lake_settings,
    moto_store,
    postgres_url,
    rclone_store,
    redis_url,
)

__all__ = [
    "azure_address",
    "google_address",
    "lake_settings",
    "moto_store",
    "postgres_url",
    "rclone_store",
    "redis_url",
]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """PostgreSQL drops no database somebody is connected to; a thread that a test let go keeps its connection."""
    yield
    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


HOUSES = Path(__file__).with_name("acceptance")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL what asks for a database, for all else has run on SQLite; and houses first.

    A file of them takes up to a minute. One that began last would be waited for by the other process.
    """
    if os.environ.get("EVODB_TEST_DATABASE") == "postgresql":
        config.hook.pytest_deselected(items=[item for item in items if not asks_for_a_database(item)])
        items[:] = filter(asks_for_a_database, items)
    items.sort(key=lambda item: HOUSES not in item.path.parents)


def asks_for_a_database(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return bool(item.get_closest_marker("django_db") or {"db", "transactional_db"} & fixtures) or (
        HOUSES in item.path.parents
    )


MADE_BY_MIGRATE = {"auth_permission", "django_content_type"}


def empty_what_was_written(self: TransactionTestCase) -> None:
    """After a test that commits. Django empties every table and makes all permissions anew.

    That takes 23 ms on SQLite and 77 ms on PostgreSQL, this 0.7 and 3 ms (2 slow cores), a thousand times in a run.
    """
    for name in self._databases_names(include_mirrors=False):
        database = connections[name]
        quoted = database.ops.quote_name
        tables = set(database.introspection.django_table_names(only_existing=True, include_views=False))
        asked = [f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {quoted(table)})" for table in tables - MADE_BY_MIGRATE]
        with database.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(asked))
            written = [table for (table,) in cursor.fetchall()]
        database.ops.execute_sql_flush([f"DELETE FROM {quoted(table)}" for table in written])


TransactionTestCase._fixture_teardown = empty_what_was_written
