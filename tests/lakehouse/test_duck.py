"""DuckDB reads what a flush wrote, value for value, over a folder and over an object store."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from django.db import transaction

from lakehouse.catalog import tables
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings
from lakehouse.query import duck
from lakehouse.torture.process import environment
from tests.lakehouse.staging import stage_rows

MOMENT = datetime(2026, 11, 20, 23, 59, 59, 999999, tzinfo=UTC)
ROWS = pa.table(
    {
        "_ts": pa.array([MOMENT, datetime(2026, 11, 21, tzinfo=UTC), None], pa.timestamp("us", tz="UTC")),
        "_seq": pa.array([1, 2, 2**62]),
        "truth": [True, None, False],
        "price": [0.1, float("inf"), None],
        "city": ["Zürich ✈", "", None],
        "day": [date(2026, 2, 28), None, date(1969, 12, 31)],
        "_after": ['{"a": 1}', None, "[]"],
        "odd name.ä": ["x", None, "z"],
    }
)


@pytest.mark.django_db(transaction=True)
def test_duckdb_reads_the_rows_a_flush_wrote(lake_settings: Settings) -> None:
    catalog = from_settings(lake_settings)
    without_city = ROWS.slice(0, 1).drop_columns("city")
    for at, rows in enumerate([without_city, ROWS]):
        staged = stage_rows(catalog, "lake", "flights", rows, flush_id=at, parquet={})
        with transaction.atomic():
            tables.swap([staged])
    with duck.connect(lake_settings) as connection:
        found = connection.sql(f"FROM {duck.scan(staged.metadata_location)}").to_arrow_table()
    wanted = [*ROWS.to_pylist(), ROWS.to_pylist()[0] | {"city": None}]
    assert sorted(found.select(ROWS.column_names).to_pylist(), key=repr) == sorted(wanted, key=repr)


@pytest.mark.django_db(transaction=True)
def test_the_command_for_a_shell_shows_the_table_in_a_folder_and_in_a_bucket(lake_settings: Settings) -> None:
    settings = replace(lake_settings, data_dir=lake_settings.data_dir / "it's here")
    staged = stage_rows(from_settings(settings), "lake", "flights", ROWS, flush_id=1, parquet={})
    command = duck.shell_command(staged.metadata_location)
    store = ("warehouse", "s3_endpoint", "s3_region", "s3_access_key_id", "s3_secret_access_key")
    known = environment({name: getattr(settings, name) for name in store})
    shown = subprocess.run(["sh", "-c", command], env=known, capture_output=True, text=True, check=True)
    assert "Zürich ✈" in shown.stdout
    assert duck.scan(staged.metadata_location) in duck.shell_script(staged.metadata_location)


def test_extensions_come_from_the_packages_and_never_from_the_network() -> None:
    with duck.connect() as connection:
        loaded = connection.sql("SELECT extension_name FROM duckdb_extensions() WHERE loaded").fetchall()
        assert {(name,) for name in duck.EXTENSIONS} <= set(loaded)
        with pytest.raises(duckdb.Error, match="spatial"):
            connection.execute("LOAD spatial")
        assert connection.sql("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]


def test_a_missing_package_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duck, "EXTENSIONS", ("nothing",))
    with pytest.raises(ModuleNotFoundError, match=r"duckdb-extension-nothing.*evodb\[query\]"):
        duck.connect()


def test_code_that_nobody_signed_is_not_loaded_once_a_connection_has_its_extensions(tmp_path: Path) -> None:
    genuine = duck._extension("avro")
    changed, content = tmp_path / "changed.duckdb_extension", bytearray(genuine.read_bytes())
    content[1000] ^= 1
    changed.write_bytes(content)
    with duck.connect() as connection, pytest.raises(duckdb.Error, match="signature"):
        connection.execute(f"LOAD '{changed}'")


def test_no_connection_can_be_told_to_take_code_that_nobody_signed() -> None:
    with duck.connect() as connection:
        assert connection.sql("SELECT current_setting('allow_unsigned_extensions')").fetchall() == [(False,)]
        with pytest.raises(duckdb.Error, match="allow_unsigned_extensions"):
            connection.execute("SET allow_unsigned_extensions = true")


def test_a_location_cannot_leave_its_quotes() -> None:
    assert duck.scan("/a'); DROP TABLE x; --") == "iceberg_scan('/a''); DROP TABLE x; --')"


def test_keys_of_the_settings_are_a_secret_for_their_bucket() -> None:
    settings = Settings(
        warehouse="s3://b/x", s3_endpoint="https://host:9000", s3_access_key_id="k", s3_secret_access_key="it's"
    )
    with duck.connect(settings) as connection:
        ((name, scope, shown),) = connection.sql("SELECT name, scope, secret_string FROM duckdb_secrets()").fetchall()
    assert (name, scope) == ("lake", ["s3://b"])
    assert "endpoint=host:9000" in shown
    assert "it's" not in shown


def test_without_keys_the_environment_is_left_to_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    with duck.connect(Settings(warehouse="s3://b", s3_endpoint="http://host:9000")) as connection:
        assert connection.sql("FROM duckdb_secrets()").fetchall() == []
        values = dict(connection.sql("SELECT name, value FROM duckdb_settings() WHERE name LIKE 's3_%'").fetchall())
    found = [values[f"s3_{name}"] for name in ("access_key_id", "endpoint", "use_ssl", "url_style", "region")]
    assert found == ["from-environment", "host:9000", "false", "path", "auto"]
