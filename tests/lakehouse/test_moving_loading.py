"""Rows go in as they are, and what is in their way is the database's word."""

from __future__ import annotations

import pytest
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connection, transaction

from lakehouse.models import AccessKey, Namespace
from lakehouse.moving.loading import load

pytestmark = pytest.mark.django_db(transaction=True)


def test_signs_that_postgresql_does_not_take_do_not_keep_a_house_where_it_is() -> None:
    owner = {"own\0er": "half \ud83d"} if connection.vendor == "postgresql" else {"own\0er": "ann"}
    with transaction.atomic():
        load([Namespace(pk=7, name="a\tb\\N\n", properties=owner)], DEFAULT_DB_ALIAS)
    kept = {"own\ufffder": "half \ufffd"} if connection.vendor == "postgresql" else owner
    assert list(Namespace.objects.values_list("pk", "name", "properties")) == [(7, "a\tb\\N\n", kept)]


def test_a_row_that_is_refused_is_an_error_of_the_database_and_none_of_its_neighbours_is_in() -> None:
    two = [AccessKey(pk=pk, name="ann", digest="the same") for pk in (1, 2)]
    with pytest.raises(DatabaseError), transaction.atomic():
        load(two, DEFAULT_DB_ALIAS)
    assert not AccessKey.objects.exists()
