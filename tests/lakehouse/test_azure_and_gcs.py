"""A lake in Azure and one in Google's store, on emulators, and what PyArrow is told of either."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError

import duckdb
import pytest
from pyarrow.fs import AzureFileSystem, GcsFileSystem

from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.retention import HOUR_MS, Retention
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.store_properties import properties
from lakehouse.catalog.upkeep import compaction, expiry, orphans
from lakehouse.clock import now_ms
from lakehouse.conf import SettingError, Settings, load
from lakehouse.current import refresh as refreshing
from lakehouse.errors import ForbiddenQuery
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import checks
from lakehouse.journal.accept import accept
from lakehouse.models import IcebergTable
from lakehouse.moving.house import Move, Plan
from lakehouse.moving.relocation import Relocation, plain_place
from lakehouse.query import duck, verify
from lakehouse.query.engine import Engine
from lakehouse.query.verify import Verdict, Wanted
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse import query_site
from tests.lakehouse.test_intake import in_thread
from tests.lakehouse.upkeep_site import Lake
from tests.services import AZURITE_ACCOUNT, AZURITE_KEY, BUCKET, free_port


@pytest.fixture
def azure(azure_address: str, tmp_path: Path) -> Settings:
    place = f"abfss://{BUCKET}@{AZURITE_ACCOUNT}.dfs.core.windows.net/{uuid.uuid4().hex}"
    return Settings(data_dir=tmp_path, warehouse=place, azure_account_key=AZURITE_KEY, azure_endpoint=azure_address)


@pytest.fixture
def google(google_address: str, tmp_path: Path) -> Settings:
    token = {"gcs_token": "any", "gcs_token_expires_ms": now_ms() + HOUR_MS}
    place = f"gs://{BUCKET}/{uuid.uuid4().hex}"
    return Settings(data_dir=tmp_path, warehouse=place, gcs_endpoint=google_address, **token)


@pytest.fixture(params=["azure", "google"])
def store(request: pytest.FixtureRequest) -> Settings:
    found: Settings = request.getfixturevalue(request.param)
    return found


@pytest.mark.django_db(transaction=True)
def test_a_lake_moves_there_and_back(store: Settings, tmp_path: Path) -> None:
    small, back = (dataclasses.replace(store, data_dir=tmp_path / name, warehouse="") for name in ("small", "back"))
    flusher, shop = Flusher("worker-1", small, chosen(small), lambda: NOW_MS), source(parent())
    for number in range(1, 10, 3):
        accept([(shop, frame(number, run(number, number + 2)))], now_ms=NOW_MS)
        flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    for left, found in ((small, store), (store, back)):
        relocation = Relocation(plain_place(left.resolved_warehouse), left.resolved_warehouse, found.resolved_warehouse)
        ahead = Move(Plan("", relocation), found, now_ms=now_ms(), say=lambda _: None)
        ahead.ahead()
        ahead.run()
        shutil.rmtree(small.data_dir, ignore_errors=True)
        table = Lake(found).table("orders")
        assert table.location().startswith(found.resolved_warehouse)
        assert sorted(table.scan().to_arrow()["_seq"].to_pylist()) == list(range(1, 10))


@pytest.mark.django_db(transaction=True)
def test_a_lake_is_flushed_read_and_kept_in_order(store: Settings) -> None:
    flusher = Flusher("worker-1", store, chosen(store), lambda: NOW_MS)
    shop = source(parent())
    for number in range(1, 10, 3):
        accept([(shop, frame(number, run(number, number + 2)))], now_ms=NOW_MS)
        flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    lake = Lake(store)
    table = lake.table("orders")
    assert table.location().startswith(store.warehouse)
    assert sorted(table.scan().to_arrow()["_seq"].to_pylist()) == list(range(1, 10))
    orphan = f"{table.location()}/data/nobodys.parquet"
    table.io.new_output(orphan).create().close()
    with lake.keeper(name="orders") as keeper:
        terms = compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False)
        assert compaction.compact(keeper, terms).rows == 9
        expiry.forget(keeper, Retention(age_ms=0, newest=1, most=1))
        assert expiry.delete(keeper, before_ms=2**62).deleted > 3
        assert orphans.sweep(keeper, before_ms=2**62, is_dry_run=False).named == [orphan]
    assert lake.files("orders") == lake.reached("orders")
    assert sorted(lake.table("orders").scan().to_arrow()["_seq"].to_pylist()) == list(range(1, 10))


def test_an_object_is_deleted_once_and_that_is_no_error_later(store: Settings) -> None:
    io = DurableFileIO(properties(store))
    place = f"{store.warehouse}/a/b.txt"
    with io.new_output(place).create() as file:
        file.write(b"x")
    io.settle()
    assert io.new_input(place).exists()
    io.delete(place)
    io.delete(place)
    assert not io.new_input(place).exists()


def test_a_store_that_answers_is_there_whatever_it_thinks_of_who_asks(store: Settings) -> None:
    checks.object_store(store)
    nobody = f"http://127.0.0.1:{free_port()}"
    for away in (
        Settings(warehouse="abfss://lake@account.dfs.core.windows.net/x", azure_endpoint=nobody),
        Settings(warehouse="gs://lake/x", gcs_endpoint=nobody),
    ):
        with pytest.raises(URLError):
            checks.object_store(away)


def test_azure_is_reached_as_the_settings_say() -> None:
    found = properties(Settings(warehouse="abfss://lake/x", azure_account_name="a", azure_sas_token="s"))
    assert found["warehouse"] == "abfss://lake/x"
    assert {name: value for name, value in found.items() if name.startswith("adls")} == {
        "adls.account-name": "a",
        "adls.sas-token": "s",
    }
    ids = {"azure_tenant_id": "t", "azure_client_id": "c", "azure_client_secret": "s"}
    found = properties(Settings(warehouse="abfss://lake@a.dfs.core.windows.net", **ids))
    assert {"adls.tenant-id": "t", "adls.client-id": "c", "adls.client-secret": "s"}.items() <= found.items()


def test_the_account_is_in_the_location_as_spark_writes_it() -> None:
    io = DurableFileIO({"adls.account-key": AZURITE_KEY})
    scheme, netloc, path = io.parse_location("abfss://lake@account.dfs.core.windows.net/x/y.parquet")
    assert (scheme, path) == ("abfss", "lake/x/y.parquet")
    filesystem = io.fs_by_scheme(scheme, netloc)
    assert isinstance(filesystem, AzureFileSystem)
    assert filesystem.__reduce__()[1][0]["account_name"] == "account"


def test_google_is_reached_as_the_settings_say() -> None:
    found = properties(
        Settings(warehouse="gs://b/x", gcs_endpoint="http://e:1", gcs_token="t", gcs_token_expires_ms=10**12)
    )
    filesystem = DurableFileIO(found).fs_by_scheme("gs", "b")
    assert isinstance(filesystem, GcsFileSystem)
    [options] = filesystem.__reduce__()[1]
    assert {"scheme": "http", "endpoint_override": "e:1", "access_token": "t"}.items() <= options.items()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"EVODB_WAREHOUSE": "hdfs://host/lake"}, "wanted a folder, or a URL beginning with s3:// or gs://"),
        ({"EVODB_WAREHOUSE": "abfss://lake/x"}, "names no account"),
        ({"EVODB_AZURE_TENANT_ID": "t"}, "wanted together"),
        ({"EVODB_AZURE_ACCOUNT_KEY": "k", "EVODB_AZURE_SAS_TOKEN": "s"}, "more than one"),
        ({"EVODB_GCS_TOKEN": "t"}, "EVODB_GCS_TOKEN_EXPIRES_MS are wanted together"),
    ],
)
def test_what_cannot_be_reached_stops_the_start(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        load(environ)


@pytest.mark.parametrize("place", ["gs://bucket/lake", "abfss://lake@account.dfs.core.windows.net/x"])
def test_a_warehouse_in_google_or_azure_is_accepted(place: str) -> None:
    assert load({"EVODB_WAREHOUSE": f"{place}/"}).resolved_warehouse == place


def test_nothing_is_written_where_nobody_says_that_it_lasts() -> None:
    io = DurableFileIO()
    with pytest.raises(OSError, match="nobody says when a file is durable, wanted one of file, s3"):
        io.new_output("hdfs://host/lake/x.parquet")
    assert not io.written


@pytest.mark.django_db(transaction=True)
async def test_sql_reads_the_lake_there_also_as_it_was(store: Settings) -> None:
    lake = query_site.Lake(store)
    for number in range(2):
        await in_thread(lambda number=number: lake.commit("lake", "orders", query_site.day(number)))
    table = await in_thread(lambda: Lake(store).table("orders"))
    first, last = table.metadata.snapshots
    engine = Engine(store)
    asked = query_site.Asked(engine, lake)
    try:
        assert await asked.rows("SELECT city, count(*) FROM orders GROUP BY city ORDER BY city") == [
            ["city-0", 24],
            ["city-1", 24],
        ]
        wanted = "SELECT sum(_seq)::BIGINT FROM orders {} WHERE _ts >= '2026-01-01 12:00:00+00'"
        assert await asked.value(wanted.format("")) == sum(range(12, 24)) + sum(range(24))
        assert await asked.value(wanted.format(f"AT (VERSION => {first.snapshot_id})")) == sum(range(12, 24))
        moment = datetime.fromtimestamp(last.timestamp_ms / 1000, UTC).isoformat()
        assert await asked.value(f"SELECT count(*) FROM orders AS OF '{moment}'") == 48
        assert await asked.value("SELECT count(*) FROM orders", as_of=str(first.snapshot_id)) == 24
        with pytest.raises(ForbiddenQuery):
            await asked.rows(f"SELECT * FROM read_parquet('{store.warehouse}/lake/items/data/x.parquet')")
    finally:
        await engine.close()


@pytest.mark.django_db(transaction=True)
def test_tables_of_now_and_sums_are_read_there(store: Settings) -> None:
    flusher = Flusher("worker-1", store, chosen(store), lambda: NOW_MS)
    shop = source(parent(current_state=True))
    for number in (1, 4):
        accept([(shop, frame(number, run(number, number + 2)))], now_ms=NOW_MS)
        flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
        assert refreshing.refresh(from_settings(store), store, "lake", "orders", now_ms=lambda: NOW_MS) is not None
    place = IcebergTable.objects.get(namespace__name="current").metadata_location
    with duck.connect(store) as reader:
        assert reader.execute(f"SELECT count(*) FROM {duck.scan(place)}").fetchall() == [(6,)]
    [report] = verify.verify(store, Wanted())
    assert [one.verdict for one in report.tables] == [Verdict.GREEN]


def test_a_query_writes_no_file_there_and_hears_of_no_key(tmp_path: Path) -> None:
    store = Settings(warehouse="gs://bucket/lake", gcs_token="hush-hush", gcs_token_expires_ms=10**13)
    with duck.connect(store) as reader:
        with pytest.raises(duckdb.Error, match="files are only read here"):
            reader.execute("COPY (SELECT 1) TO 'gs://bucket/lake/x.parquet'")
        said = str(reader.execute("SELECT * FROM duckdb_settings()").fetchall())
        assert "hush-hush" not in said + str(reader.execute("SELECT * FROM duckdb_secrets()").fetchall())
