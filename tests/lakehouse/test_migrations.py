"""Migrations: they say what the models say, and they ran on the database of this test run."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

pytestmark = pytest.mark.django_db

APPS = ("lakehouse", "subscriptions")


def test_no_model_was_changed_without_a_migration() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_every_migration_ran_on_this_database() -> None:
    executor = MigrationExecutor(connection)
    assert {app for app, _ in executor.loader.applied_migrations} >= set(APPS)
    assert executor.migration_plan(executor.loader.graph.leaf_nodes()) == []


@pytest.mark.parametrize("app", APPS)
def test_every_model_has_its_table_and_columns(app: str) -> None:
    with connection.cursor() as cursor:
        for model in apps.get_app_config(app).get_models():
            found = {row.name for row in connection.introspection.get_table_description(cursor, model._meta.db_table)}
            assert found == {field.column for field in model._meta.concrete_fields}


@pytest.mark.parametrize("app", APPS)
def test_every_constraint_and_index_of_the_models_is_in_the_database(app: str) -> None:
    with connection.cursor() as cursor:
        for model in apps.get_app_config(app).get_models():
            found = connection.introspection.get_constraints(cursor, model._meta.db_table)
            named = [*model._meta.constraints, *model._meta.indexes]
            assert {row.name for row in named} - set(found) == set()


@pytest.mark.django_db(transaction=True)
def test_every_migration_can_be_undone_and_done_again() -> None:
    executor = MigrationExecutor(connection)
    leaves = [node for node in executor.loader.graph.leaf_nodes() if node[0] in APPS]
    executor.migrate([(app, None) for app in APPS])
    try:
        assert not any(
            name.startswith(("lakehouse_", "subscriptions_")) for name in connection.introspection.table_names()
        )
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(leaves)
