"""The tables of a query, from the catalog to their rows, in a folder and in an object store."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial

import orjson
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from lakehouse.catalog.storage import from_settings
from lakehouse.errors import ForbiddenQuery, InvalidQuery
from lakehouse.query import lake_tables
from lakehouse.query.engine import Engine, Query
from lakehouse.query.messages import Name
from tests.lakehouse.query_site import Lake, day

pytestmark = pytest.mark.django_db(transaction=True)


def everybody(_namespace):
    return True


async def ask(settings, *queries, allows=everybody):
    async def find(names):
        return await sync_to_async(partial(lake_tables.places, names, allows=allows))()

    async with contextlib.aclosing(_Closing(Engine(settings))) as closing:
        return [orjson.loads((await closing.engine.run(query, find=find)).body) for query in queries]


class _Closing:
    def __init__(self, engine):
        self.engine = engine

    async def aclose(self):
        await self.engine.close()


def test_tables_are_asked_where_they_lie_and_files_of_other_days_are_not_opened(lake_settings, monkeypatch):
    """With the keys of the settings, and with those of the environment."""
    lake = Lake(lake_settings)
    for number in range(3):
        lake.commit("lake", "orders", day(number))
    lake.commit("eu.north", "Orders", day(0))
    find = [
        Query(sql="SELECT count(*) FROM orders WHERE city = 'city-1'"),
        Query(sql='SELECT count(*) FROM "eu.north"."Orders"'),
        Query(sql="SELECT count(*) FROM eu.north.orders JOIN lake.orders o USING (_ts)"),
        Query(sql="SELECT count(*) FROM orders", namespace="eu.north"),
        Query(sql="EXPLAIN ANALYZE SELECT sum(_seq) FROM orders WHERE _ts >= '2026-01-02' AND _ts < '2026-01-03'"),
    ]
    *counts, ((_, plan),) = async_to_sync(ask)(lake_settings, *find)
    assert counts == [[[24]], [[24]], [[24]], [[24]]]
    assert "Total Files Read: 1" in " ".join(plan.replace("│", " ").split())
    if lake_settings.s3_access_key_id:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", lake_settings.s3_access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", lake_settings.s3_secret_access_key)
        without = dict.fromkeys(("s3_access_key_id", "s3_secret_access_key"), "")
        keyless = type(lake_settings)(**{name: getattr(lake_settings, name) for name in KEPT} | without)
        assert async_to_sync(ask)(keyless, find[0]) == [[[24]]]


KEPT = ("data_dir", "warehouse", "s3_endpoint", "s3_region")


def test_a_table_without_a_row_is_empty(lake_settings):
    catalog = from_settings(lake_settings)
    catalog.create_namespace("lake")
    catalog.create_table("lake.orders", day(0).schema)
    found = async_to_sync(ask)(lake_settings, Query(sql="SELECT count(*) FROM orders"), Query(sql="DESCRIBE orders"))
    assert [found[0], [row[0] for row in found[1]]] == [[[0]], ["_ts", "_seq", "city"]]


@pytest.fixture
def some_tables(tmp_path):
    from lakehouse.conf import Settings

    lake = Lake(Settings(data_dir=tmp_path))
    for table in ("orders", "items", "Twins", "twins"):
        lake.commit("lake", table, day(0))
    lake.commit("eu", "secret", day(0))
    return lake


def places(*names, allows=everybody):
    return lake_tables.places([Name(*name) for name in names], allows=allows)


def test_the_place_of_a_table_is_its_newest_metadata_file_under_the_name_that_was_asked(some_tables):
    (found,) = places(("LAKE", "Orders"))
    assert (found.namespace, found.table) == ("LAKE", "Orders")
    assert found.metadata_location == some_tables.places["lake", "orders"]


def test_case_counts_where_tables_differ_in_nothing_else(some_tables):
    found = places(("lake", "Twins"), ("lake", "twins"))
    assert [one.metadata_location for one in found] == [some_tables.places["lake", name] for name in ("Twins", "twins")]
    with pytest.raises(InvalidQuery, match="2 tables are called 'TWINS' but for case"):
        places(("lake", "TWINS"))


def test_tables_that_differ_in_case_only_are_read_in_one_query(some_tables):
    some_tables.commit("lake", "twins", day(1))
    sql = 'SELECT (SELECT count(*) FROM lake."Twins"), (SELECT count(*) FROM lake.twins), (FROM items SELECT count(*))'
    assert async_to_sync(ask)(some_tables.settings, Query(sql=sql)) == [[[24, 48, 24]]]


def test_an_unknown_table_is_answered_with_those_there_are(some_tables):
    with pytest.raises(InvalidQuery, match=r"no table lake\.ordrs; in lake there is Twins, items, orders, twins"):
        places(("lake", "ordrs"))
    with pytest.raises(InvalidQuery, match=r"in nowhere there is none"):
        places(("nowhere", "orders"))


@pytest.mark.parametrize("name", [("eu", "secret"), ("EU", "Secret"), ("eu", "nothing"), ("nowhere", "orders")])
def test_a_key_of_one_namespace_sees_no_other_nor_hears_what_is_there(some_tables, name):
    with pytest.raises(ForbiddenQuery) as found:
        places(name, allows=lambda namespace: namespace == "lake")
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("name", [("", "orders"), ("a/b", "../x"), ("lake", "%"), ("l_ke", "orders"), ("lake", "")])
def test_a_name_that_no_table_can_have_is_unknown(some_tables, name):
    with pytest.raises(InvalidQuery, match="there is no table"):
        places(name)


def test_tables_of_another_catalog_are_asked_there(settings):
    settings.EVODB = dataclasses.replace(settings.EVODB, catalog="glue")
    with pytest.raises(InvalidQuery, match="in the glue catalog of EVODB_CATALOG; ask that one"):
        lake_tables.places([Name("lake", "orders")], allows=everybody)
