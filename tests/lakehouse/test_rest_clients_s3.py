"""Clients nobody here wrote, over a warehouse in a bucket: pyiceberg, DuckDB and Polars.

They know no key to the store but those the catalog lends, or have one of their own and are lent none. rclone's store
answers 400 UnsupportedAlgorithm to whoever signs nothing; moto's is asked by more than one at a time, and by Polars'
own reader, which rclone's does not suit (docs/object-stores.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import boto3
import polars as pl
import pyarrow as pa
import pytest
from celery import current_app
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DoubleType, LongType, NestedField, StringType

from lakehouse.catalog.purge import purge
from lakehouse.catalog.storage import from_settings
from tests.lakehouse.rest_site import Site, site
from tests.services import ObjectStore

pytestmark = pytest.mark.django_db(transaction=True)

SCHEMA = Schema(NestedField(1, "id", LongType(), required=False), NestedField(2, "city", StringType(), required=False))
BY_CITY = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "city"))
ROWS = pa.table({"id": [1, 2, 3], "city": ["Rome", "Oslo", None]})
ASKED = {"X_Iceberg_Access_Delegation": "vended-credentials"}
Opened = Callable[..., AbstractContextManager[Site]]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A house over a store, which lends everybody its keys or nobody any."""
    for variable in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        monkeypatch.setenv(variable, "when_required")
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")

    def start(store: ObjectStore, *, lends: bool = True, **more: str) -> AbstractContextManager[Site]:
        keys = {"writer_s3_access_key_id": store.key, "writer_s3_secret_access_key": store.secret}
        warehouse = f"s3://{store.bucket}/{tmp_path.name}"
        return site(tmp_path, **store.settings | (keys if lends else {}) | {"warehouse": warehouse} | more)

    return start


@pytest.fixture
def lake(opened: Opened, rclone_store: ObjectStore) -> Iterator[Site]:
    with opened(rclone_store) as found:
        yield found


@pytest.fixture
def catalog(lake: Site) -> RestCatalog:
    return with_namespace(lake)


def with_namespace(lake: Site, **properties: str) -> RestCatalog:
    catalog = lake.pyiceberg(**properties)
    catalog.create_namespace("lake")
    return catalog


def ids(catalog: RestCatalog, name: str = "lake.t") -> list[int]:
    return sorted(catalog.load_table(name).scan().to_arrow()["id"].to_pylist())


def store_of(table: Table) -> dict[str, str]:
    """What pyiceberg was told of the store, for Polars, which does not ask it."""
    return {name: value for name, value in table.io.properties.items() if name.startswith("s3.")}


def objects(store: ObjectStore, place: str) -> list[str]:
    """Below a place of the bucket, asked by a client that is none of the lake's."""
    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=store.region,
        aws_access_key_id=store.key,
        aws_secret_access_key=store.secret,
    )
    prefix = place.removeprefix(f"s3://{store.bucket}/") + "/"
    found = client.list_objects_v2(Bucket=store.bucket, Prefix=prefix).get("Contents", [])
    return [one["Key"] for one in found]


# pyiceberg.


def test_pyiceberg_makes_fills_changes_and_drops_a_table_with_the_keys_it_was_lent(
    lake: Site, catalog: RestCatalog, rclone_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(current_app, "send_task", lambda name, args: asked.extend(args))
    catalog.create_table("lake.t", SCHEMA, partition_spec=BY_CITY).append(ROWS)
    table = catalog.load_table("lake.t")
    with table.update_schema() as schema:
        schema.add_column("n", DoubleType())
    table.append(pa.table({"id": [4], "city": ["Bern"], "n": [1.5]}))
    table.delete("id = 2")
    catalog.rename_table("lake.t", "lake.u")
    assert ids(catalog, "lake.u") == [1, 3, 4]
    assert objects(rclone_store, table.location())
    catalog.purge_table("lake.u")
    assert purge(from_settings(lake.settings), *asked) > 0
    assert objects(rclone_store, table.location()) == []


def test_a_table_that_pyiceberg_makes_and_fills_in_one_transaction_is_no_400_of_the_store(catalog: RestCatalog) -> None:
    with catalog.create_table_transaction("lake.t", SCHEMA) as transaction:
        transaction.append(ROWS)
    assert ids(catalog) == [1, 2, 3]


def test_a_pyiceberg_that_looks_for_keys_in_the_configuration_only_finds_them_there(
    lake: Site, catalog: RestCatalog, rclone_store: ObjectStore
) -> None:
    """As all before 0.12 do."""
    catalog.create_table("lake.t", SCHEMA)
    loaded = lake.ask("GET", "namespaces/lake/tables/t", **ASKED).json
    assert loaded["config"] == loaded["storage-credentials"][0]["config"]
    assert loaded["config"]["s3.secret-access-key"] == rclone_store.secret
    assert "s3.secret-access-key" not in lake.ask("GET", "namespaces/lake/tables/t").json["config"]


def test_lent_keys_are_fetched_again_for_a_table(catalog: RestCatalog, rclone_store: ObjectStore) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    for place in (table.location(), table.metadata_location):
        assert catalog.load_credentials("lake.t", place)["s3.access-key-id"] == rclone_store.key


def test_files_outside_of_the_folder_of_their_table_are_reached_with_the_lent_keys(
    lake: Site, catalog: RestCatalog
) -> None:
    elsewhere = f"{lake.settings.resolved_warehouse}/elsewhere"
    apart = {"write.metadata.path": f"{elsewhere}/metadata", "write.data.path": f"{elsewhere}/data"}
    catalog.create_table("lake.t", SCHEMA, properties=apart).append(ROWS)
    catalog.create_table("lake.u", SCHEMA).append(ROWS)
    move = {"requirements": [], "updates": [{"action": "set-location", "location": f"{elsewhere}/u"}]}
    moved = lake.ask("POST", "namespaces/lake/tables/u", move)
    assert moved.status == 200
    catalog.load_table("lake.u").append(ROWS)
    # DuckDB ends its whole process, by an error in a thread, where one of these files is not covered.
    covered = lake.ask("GET", "namespaces/lake/tables/u", **ASKED).json["storage-credentials"]
    assert [one["prefix"] for one in covered] == [f"{elsewhere}/u", f"{lake.settings.resolved_warehouse}/"]
    with lake.duckdb(bare=True) as duck:
        duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern')")
        assert duck.sql("SELECT sum(id) FROM lake.lake.t").fetchall() == [(10,)]
        assert duck.sql("SELECT sum(id) FROM lake.lake.u").fetchall() == [(12,)]
    assert ids(catalog) == [1, 2, 3, 4]


def test_several_who_write_a_table_in_a_bucket_at_once_all_get_their_rows_in(
    opened: Opened, moto_store: ObjectStore
) -> None:
    with opened(moto_store) as lake:
        catalog = with_namespace(lake)
        # Nobody loses more often than there are others.
        catalog.create_table("lake.t", SCHEMA, properties={"commit.retry.num-retries": "6"})

        def write(number: int) -> None:
            lake.pyiceberg().load_table("lake.t").append(pa.table({"id": [number], "city": ["Rome"]}))

        with ThreadPoolExecutor(3) as writers:
            list(writers.map(write, range(6)))
        assert ids(catalog) == [0, 1, 2, 3, 4, 5]


# DuckDB.


def test_duckdb_makes_fills_changes_and_drops_tables_with_the_keys_it_was_lent(
    lake: Site, catalog: RestCatalog
) -> None:
    with lake.duckdb(bare=True) as duck:
        duck.execute("CREATE TABLE lake.lake.t (id BIGINT, city VARCHAR) PARTITIONED BY (city)")
        duck.execute("INSERT INTO lake.lake.t VALUES (1, 'Rome'), (2, 'Oslo'), (3, NULL)")
        duck.execute("CREATE TABLE lake.lake.u AS SELECT range AS id FROM range(10)")
        duck.execute("ALTER TABLE lake.lake.u ADD COLUMN n DOUBLE")
        duck.execute("UPDATE lake.lake.u SET n = 0.5 WHERE id = 1")
        duck.execute("DELETE FROM lake.lake.u WHERE id > 3")
        duck.execute("BEGIN")
        duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern')")
        duck.execute("INSERT INTO lake.lake.u VALUES (5, 1.5)")
        duck.execute("CREATE TABLE lake.lake.v AS SELECT 7 AS id")
        assert (ids(catalog), catalog.table_exists("lake.v")) == ([1, 2, 3], False)
        duck.execute("COMMIT")
        assert duck.sql("SELECT count(*), sum(n) FROM lake.lake.u").fetchall() == [(5, 2.0)]
        duck.execute("DROP TABLE lake.lake.v")
    assert (ids(catalog), ids(catalog, "lake.u")) == ([1, 2, 3, 4], [0, 1, 2, 3, 5])
    assert catalog.list_tables("lake") == [("lake", "t"), ("lake", "u")]


# Who has keys of their own, and who sees the store elsewhere.


def test_a_house_that_lends_nothing_is_read_and_written_with_own_keys(
    opened: Opened, rclone_store: ObjectStore
) -> None:
    own = {"s3.access-key-id": rclone_store.key, "s3.secret-access-key": rclone_store.secret}
    with opened(rclone_store, lends=False, s3_region="auto") as lake:
        catalog = with_namespace(lake, **own)
        catalog.create_table("lake.t", SCHEMA).append(ROWS)
        with lake.duckdb(delegation="none") as duck:
            duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern')")
            assert duck.sql("SELECT sum(id) FROM lake.lake.t").fetchall() == [(10,)]
        assert ids(catalog) == [1, 2, 3, 4]


def test_clients_that_reach_the_store_at_another_address_are_told_that_one(
    opened: Opened, rclone_store: ObjectStore
) -> None:
    """They would be sent to the house's address whatever they had set themselves."""
    outside = rclone_store.endpoint.replace("127.0.0.1", "localhost")
    with opened(rclone_store, clients_s3_endpoint=outside, s3_region="auto") as lake:
        catalog = with_namespace(lake, **{"s3.endpoint": "http://127.0.0.1:1"})
        table = catalog.create_table("lake.t", SCHEMA)
        assert table.io.properties["s3.endpoint"] == outside
        table.append(ROWS)
        with lake.duckdb(bare=True) as duck:
            duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern')")
            secrets = duck.sql("SELECT secret_string FROM duckdb_secrets() WHERE type = 's3'").fetchall()
        assert {outside.removeprefix("http://") in text for (text,) in secrets} == {True}
        assert ids(catalog) == [1, 2, 3, 4]


# Polars.


def test_polars_reads_and_writes_with_the_keys_that_pyiceberg_was_lent(opened: Opened, moto_store: ObjectStore) -> None:
    with opened(moto_store) as lake:
        catalog = with_namespace(lake)
        table = catalog.create_table("lake.t", SCHEMA)
        table.append(ROWS)
        frame = pl.scan_iceberg(table, storage_options=store_of(table))
        assert frame.filter(pl.col("city") == "Oslo").collect()["id"].to_list() == [2]
        pl.DataFrame({"id": [4], "city": ["Bern"]}).write_iceberg(table, mode="append")
        assert pl.scan_iceberg(catalog.load_table("lake.t"), storage_options=store_of(table)).collect().height == 4


def test_rows_that_polars_wrote_with_a_checksum_are_read_by_the_house(
    lake: Site, catalog: RestCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone answers for a part of a file with the checksum of all of it: Response checksums mismatch."""
    table = catalog.create_table("lake.t", SCHEMA)
    rows = pl.LazyFrame({"id": [4], "city": ["Bern"]})
    rows.sink_iceberg(table, mode="append", storage_options=store_of(table))
    monkeypatch.delenv("AWS_RESPONSE_CHECKSUM_VALIDATION")
    inside = from_settings(lake.settings)
    assert inside.load_table("lake.t").scan().to_arrow()["id"].to_pylist() == [4]
