"""Services that tests ask for by name, which tests a run has and in what order, and how a test leaves the database.

The settings of a run come from tests.environment.
"""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from django.db import DEFAULT_DB_ALIAS, connection, connections
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
OF_FILES = {
    "test_azure_and_gcs.py",
    "test_current.py",
    "test_duck.py",
    "test_engine.py",
    "test_engine_as_of.py",
    "test_engine_attacks.py",
    "test_engine_tables.py",
    "test_erase.py",
    "test_foreign_rest.py",
    "test_http_query.py",
    "test_moving_tables.py",
    "test_other_writers.py",
    "test_promotion.py",
    "test_query_command.py",
    "test_rest_clients.py",
    "test_rest_clients_s3.py",
    "test_rest_updates.py",
    "test_schema_promises.py",
    "test_strange_properties.py",
    "test_travel.py",
    "test_upkeep_compaction.py",
}
"""Who reads files of the lake, or makes fewer of them, looks into the database for where they lie and no further.

How pointers move is tried on both, in test_tables.py, test_flow.py and tests/contracts; so is what in these files is
marked `both`. In all others a test that could not go otherwise on the other database, for it is about the words of a
request or of a page, is marked `once`. On both runs whatever has to do with locks, transactions, leases or who comes
first: journal, flush, catalog, repeats, kept rows, deliveries.
"""
SLOW_FILES = {"test_machine.py", "test_moody_store.py"}
"""The one takes 20 s of CPU, the other waits for a minute."""
LEFT_OUT = pytest.StashKey[Counter[str]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL what is about the database, for all else has run on SQLite; and houses first, then what is slow.

    A file of them takes up to a minute. One that began last would be waited for by the other process.
    """
    left_out = config.stash[LEFT_OUT] = Counter()
    if os.environ.get("EVODB_TEST_DATABASE") == "postgresql":
        reasons = [once_is_enough(item) for item in items]
        left_out.update(filter(None, reasons))
        config.hook.pytest_deselected(items=[item for item, why in zip(items, reasons, strict=True) if why])
        items[:] = [item for item, why in zip(items, reasons, strict=True) if not why]
    items.sort(key=lambda item: (HOUSES not in item.path.parents, item.path.name not in SLOW_FILES))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is loaded by now stays, and nobody looks for garbage in it again (see tests.environment)."""
    gc.freeze()
    gc.enable()


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return [f"left to SQLite: {count} {why}" for why, count in config.stash.get(LEFT_OUT, Counter()).items()]


def once_is_enough(item: pytest.Item) -> str:
    """Why a test that runs on SQLite need not run on PostgreSQL; nothing, if it has to."""
    if HOUSES in item.path.parents:
        return ""  # see its conftest.py
    fixtures = set(getattr(item, "fixturenames", ()))
    if not (item.get_closest_marker("django_db") or {"db", "transactional_db"} & fixtures):
        return "ask for no database"
    if item.get_closest_marker("once"):
        return "are marked `once`"
    of_files = item.path.name in OF_FILES and not item.get_closest_marker("both")
    return "are about files of the lake" if of_files else ""


MADE_BY_MIGRATE = {"auth_permission", "django_content_type"}


@cache
def to_be_empty() -> frozenset[str]:
    """Tables of the database of the run. Who asks PostgreSQL after each test asks two thousand times, 5 ms each."""
    return frozenset(connection.introspection.django_table_names(only_existing=True, include_views=False))


def empty_what_was_written(self: TransactionTestCase) -> None:
    """After a test that commits. Django empties every table and makes all permissions anew.

    That takes 23 ms on SQLite and 77 ms on PostgreSQL, this 0.7 and 3 ms (2 slow cores), a thousand times in a run.
    """
    for name in self._databases_names(include_mirrors=False):
        database = connections[name]
        quoted = database.ops.quote_name
        if name == DEFAULT_DB_ALIAS:
            tables = to_be_empty()
        else:
            tables = frozenset(database.introspection.django_table_names(only_existing=True, include_views=False))
        asked = [f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {quoted(table)})" for table in tables - MADE_BY_MIGRATE]
        with database.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(asked))
            written = [table for (table,) in cursor.fetchall()]
        database.ops.execute_sql_flush([f"DELETE FROM {quoted(table)}" for table in written])


TransactionTestCase._fixture_teardown = empty_what_was_written
