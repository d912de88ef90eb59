"""Rows of a house that moves: all of them, under the numbers they had, and no number is given twice."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import DEFAULT_DB_ALIAS, OperationalError, transaction
from django.db.models import Model

from lakehouse.models import ChildTable, IcebergTable, Namespace, Parent
from lakehouse.models.parents import Holder
from lakehouse.moving import old_house, portions, rows
from lakehouse.moving.old_house import CannotMove
from tests.lakehouse.moving_site import Leave, leave
from tests.lakehouse.test_admin import everything

__all__ = ["leave"]
pytestmark = pytest.mark.django_db(transaction=True)


def copied(url: str) -> int:
    with old_house.opened(url) as alias, transaction.atomic():
        count = rows.copy(alias, DEFAULT_DB_ALIAS)
        rows.copy_counters(alias, DEFAULT_DB_ALIAS)
    return count


def content(model: type[Model]) -> list[dict[str, Any]]:
    found = list(model._base_manager.order_by("pk").values())
    return [{name: bytes(v) if isinstance(v, memoryview) else v for name, v in row.items()} for row in found]


def test_every_row_of_every_model_is_there_as_it_was(leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "BYTES_AT_ONCE", 50)
    for number in range(3):
        everything(number, payload=bytes(range(40)))
    user = get_user_model().objects.create_user("ann", password="secret")
    user.user_permissions.add(Permission.objects.get(codename="view_child"))
    wanted = {model: content(model) for model in rows.models() if model is not Holder}
    assert copied(leave()) == sum(map(len, wanted.values()))
    for model, found in wanted.items():
        assert content(model) == found, model
    assert not Holder.objects.exists()
    assert get_user_model().objects.get(username="ann").has_perm("lakehouse.view_child")


def test_a_number_that_was_given_in_the_old_house_is_never_given_again(leave: Leave) -> None:
    namespace = Namespace.objects.create(name="lake")
    tables = [
        IcebergTable.objects.create(namespace=namespace, name=name, metadata_location=name) for name in ("a", "b")
    ]
    given = [table.pk for table in tables]
    tables[-1].delete()
    gone = Parent.objects.create(name="gone").pk
    Parent.objects.all().delete()
    copied(leave())
    assert Namespace.objects.create(name="next").pk == namespace.pk + 1
    assert IcebergTable.objects.create(namespace=namespace, name="c", metadata_location="c").pk == given[-1] + 1
    assert Parent.objects.create(name="first").pk == gone + 1


def test_a_row_that_the_new_database_cannot_keep_is_named_and_nothing_is_copied(leave: Leave) -> None:
    made = everything(1)
    url = leave()
    everything_there = Parent.objects.create(pk=made[Parent].pk, name="in the way")
    with pytest.raises(CannotMove, match=r"does not take lakehouse_parent \d+: "):
        copied(url)
    assert list(Parent.objects.all()) == [everything_there]
    assert not ChildTable.objects.exists()


def test_a_new_database_that_goes_away_is_no_rows_fault(leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(1)
    url = leave()

    def gone(*_: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(rows, "load", gone)
    with pytest.raises(CannotMove, match=r"the new database went away, or its disk is full, at \w+: server closed"):
        copied(url)


def test_a_row_of_the_old_database_that_cannot_be_read_names_its_table(
    leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(1)
    url = leave()

    def torn(*_: object) -> None:
        raise OperationalError("database disk image is malformed")

    monkeypatch.setattr(portions, "of", torn)
    with pytest.raises(CannotMove, match=r"^\w+ of the old database cannot be read: database disk image is malformed"):
        copied(url)


def test_a_database_on_which_something_was_started_is_told_from_an_empty_one(leave: Leave) -> None:
    rows.check_is_empty(DEFAULT_DB_ALIAS)
    everything(1)
    with pytest.raises(CannotMove, match=r"found 1 rows of .* in the new database, wanted an empty one"):
        rows.check_is_empty(DEFAULT_DB_ALIAS)
    leave()
    rows.check_is_empty(DEFAULT_DB_ALIAS)
