"""Services that tests ask for by name. The settings of a run come from tests.environment."""

from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from tests.services import lake_settings, moto_store, postgres_url, rclone_store, redis_url

__all__ = ["lake_settings", "moto_store", "postgres_url", "rclone_store", "redis_url"]


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
