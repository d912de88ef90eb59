"""Dropping a table, and what becomes of its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from celery import current_app
from pyiceberg.exceptions import BadRequestError

from lakehouse import tasks
from lakehouse.catalog.purge import purge
from lakehouse.catalog.storage import from_settings
from lakehouse.models import IcebergTable
from tests.lakehouse.rest_site import Site, site

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = pa.table({"id": [1, 2, 3]})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What workers were asked for."""
    found: list[Any] = []
    monkeypatch.setattr(current_app, "send_task", lambda name, args: found.append((name, *args)))
    return found


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        yield found


def files(folder: str) -> set[Path]:
    return {path for path in Path(folder).rglob("*") if path.is_file()}


def test_a_table_dropped_keeps_its_files_and_one_purged_loses_them_to_a_worker(lake: Site, asked: list[Any]) -> None:
    catalog, inside = lake.pyiceberg(), from_settings(lake.settings)
    catalog.create_namespace("lake")
    table = catalog.create_table("lake.t", ROWS.schema)
    for _ in range(2):
        table.append(ROWS)
    before = files(table.location())
    catalog.drop_table("lake.t")
    assert (files(table.location()), asked) == (before, [])
    location = table.metadata_location
    catalog.register_table("lake.t", location)
    catalog.purge_table("lake.t")
    assert not catalog.table_exists("lake.t")
    assert asked == [("lakehouse.tasks.purge_files", location)]
    assert tasks.purge_files(location) == len(before)
    assert files(table.location()) == set()
    assert purge(inside, location) == 0


def test_a_worker_that_cannot_be_asked_leaves_the_table_dropped_and_its_files(
    lake: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no broker")

    monkeypatch.setattr(current_app, "send_task", away)
    catalog = lake.pyiceberg()
    catalog.create_namespace("lake")
    table = catalog.create_table("lake.t", ROWS.schema)
    catalog.purge_table("lake.t")
    assert not catalog.table_exists("lake.t")
    assert Path(table.metadata_location).exists()
    assert "no worker could be asked" in caplog.text


def test_files_that_may_belong_to_others_are_not_purged(lake: Site, asked: list[Any]) -> None:
    catalog, inside = lake.pyiceberg(), from_settings(lake.settings)
    catalog.create_namespace("lake")
    table = catalog.create_table("lake.t", ROWS.schema, properties={"gc.enabled": "false"})
    with pytest.raises(BadRequestError, match=r"gc\.enabled"):
        catalog.purge_table("lake.t")
    assert catalog.table_exists("lake.t")
    IcebergTable.objects.filter(name="t").update(name="twin")
    assert purge(inside, table.metadata_location) == 0
    assert Path(table.metadata_location).exists()
    assert asked == []


def test_a_manifest_that_names_the_files_of_others_takes_none_of_them_along(lake: Site) -> None:
    catalog, inside = lake.pyiceberg(), from_settings(lake.settings)
    catalog.create_namespace("lake")
    victim = catalog.create_table("lake.victim", ROWS.schema)
    victim.append(ROWS)
    (task,) = victim.scan().plan_files()
    thief = catalog.create_table("lake.thief", ROWS.schema)
    thief.add_files([task.file.file_path])
    catalog.drop_table("lake.thief")
    purge(inside, thief.metadata_location)
    assert files(thief.location()) == set()
    assert catalog.load_table("lake.victim").scan().to_arrow().num_rows == 3
