"""Pointers of a lake that moves: those that were there, and none that came meanwhile is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db import DEFAULT_DB_ALIAS

from lakehouse.conf import Settings
from lakehouse.models import IcebergTable, Namespace
from lakehouse.moving import pointers
from lakehouse.moving.old_house import CannotMove
from lakehouse.moving.relocation import Relocation

pytestmark = pytest.mark.django_db
OLD, NEW = "/old/lake", "/new/lake"


def table(name: str, place: str) -> IcebergTable:
    namespace, _ = Namespace.objects.get_or_create(name="lake")
    location = f"{place}/{name}/metadata/1.metadata.json"
    return IcebergTable.objects.create(namespace=namespace, name=name, metadata_location=location)


def test_a_table_that_a_forgotten_worker_made_meanwhile_is_not_left_behind() -> None:
    orders, relocation = table("orders", OLD), Relocation(OLD, OLD, NEW)
    found = pointers.find(DEFAULT_DB_ALIAS, relocation)
    table("stock", OLD)
    with pytest.raises(CannotMove, match=r"lake\.stock was made meanwhile; stop all programs of this house"):
        pointers.point(DEFAULT_DB_ALIAS, found, {orders.pk: f"{NEW}/orders"}, relocation)


def test_tables_that_nobody_asked_to_bring_along_are_said(tmp_path: Path) -> None:
    new = Settings(data_dir=tmp_path)
    table("here", new.resolved_warehouse)
    assert pointers.elsewhere(DEFAULT_DB_ALIAS, new) == ""
    for name in ("orders", "stock", "visits"):
        table(name, OLD)
    assert pointers.elsewhere(DEFAULT_DB_ALIAS, new) == (
        "lake.orders (/old/lake/orders/metadata/1.metadata.json) and 2 more stay where they are; "
        "--from-warehouse would bring them along"
    )
