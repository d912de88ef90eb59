"""Clients nobody here wrote, over the real server: pyiceberg's REST catalog, DuckDB and Polars."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from django.core.management import call_command
from django.template.defaultfilters import filesizeformat
from django.test import override_settings
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    BadRequestError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType, TimestamptzType

from lakehouse.catalog.storage import from_settings
from tests.lakehouse.rest_site import Site, site

pytestmark = pytest.mark.django_db(transaction=True)

SCHEMA = Schema(NestedField(1, "id", LongType(), required=False), NestedField(2, "city", StringType(), required=False))
BY_CITY = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "city"))
ROWS = pa.table({"id": [1, 2, 3], "city": ["Rome", "Oslo", None]})


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        yield found


@pytest.fixture
def catalog(lake: Site) -> RestCatalog:
    catalog = lake.pyiceberg()
    catalog.create_namespace("lake")
    return catalog


# pyiceberg.


def test_levels_of_a_namespace_may_hold_dots_and_spaces(catalog: RestCatalog) -> None:
    catalog.create_namespace(("a", "b.c", "d e"), {"owner": "me"})
    assert catalog.list_namespaces(("a", "b.c")) == [("a", "b.c", "d e")]
    summary = catalog.update_namespace_properties(("a", "b.c", "d e"), {"owner", "z"}, {"x": "1"})
    assert (summary.removed, summary.updated, summary.missing) == (["owner"], ["x"], ["z"])
    assert catalog.load_namespace_properties(("a", "b.c", "d e")) == {"x": "1"}
    assert catalog.create_table(("a", "t"), SCHEMA).name() == ("a", "t")
    catalog.drop_namespace(("a", "b.c", "d e"))
    assert catalog.list_namespaces() == [("a",), ("lake",)]


def test_what_is_not_there_is_said_to_be_missing(catalog: RestCatalog) -> None:
    for ask in (catalog.load_namespace_properties, catalog.drop_namespace, catalog.list_tables):
        with pytest.raises(NoSuchNamespaceError):
            ask("nowhere")
    with pytest.raises(NoSuchNamespaceError):
        catalog.create_table("nowhere.t", SCHEMA)
    for ask_table in (catalog.load_table, catalog.drop_table, catalog.purge_table):
        with pytest.raises(NoSuchTableError):
            ask_table("lake.nothing")
    assert not catalog.table_exists("lake.nothing")
    assert not catalog.view_exists("lake.nothing")
    assert catalog.list_views("lake") == []


def test_a_table_of_any_name_is_made_written_read_and_renamed(catalog: RestCatalog) -> None:
    catalog.create_namespace(("other", "ns"))
    for name in ("with.dot", "Zürich ✈", "a b", "50% off?#1", "x" * 300, "u\u0308"):
        made = catalog.create_table(
            ("lake", name), SCHEMA, partition_spec=BY_CITY, sort_order=SortOrder(SortField(1)), properties={"a": "b"}
        )
        made.append(ROWS)
        found = catalog.load_table(("lake", name))
        assert sorted(found.scan().to_arrow()["id"].to_pylist()) == [1, 2, 3], name
        assert (found.properties["a"], found.spec().fields[0].name) == ("b", "city")
        assert found.sort_order().fields[0].source_id == 1
        assert catalog.list_tables("lake") == [("lake", name)]
        renamed = catalog.rename_table(("lake", name), ("other", "ns", name))
        assert len(renamed.scan().to_arrow()) == 3
        assert catalog.list_tables("lake") == []


def test_two_tables_never_share_a_folder(catalog: RestCatalog) -> None:
    first = catalog.create_table("lake.t", SCHEMA)
    catalog.rename_table("lake.t", "lake.old")
    second = catalog.create_table("lake.t", SCHEMA)
    assert first.location() != second.location()
    assert catalog.create_table("lake.u", SCHEMA).location() == first.location().removesuffix("t") + "u"


def test_schema_partitioning_and_properties_evolve(catalog: RestCatalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    table.append(ROWS)
    with table.update_schema() as schema:
        schema.add_column("at", TimestamptzType())
        schema.rename_column("city", "town")
    with table.update_spec() as spec:
        spec.add_field("at", DayTransform(), "day")
    with table.transaction() as change:
        change.set_properties(owner="you", gone="soon")
        change.remove_properties("gone")
    found = catalog.load_table("lake.t")
    assert found.schema().column_names == ["id", "town", "at"]
    assert (found.spec().fields[0].name, found.properties) == ("day", {"owner": "you"})
    with found.update_schema() as schema:
        schema.delete_column("town")
    with found.update_schema() as schema:
        schema.add_column("town", StringType())
    found.append(pa.table({"id": [4], "at": [datetime(2026, 11, 21, tzinfo=UTC)], "town": ["Bern"]}))
    assert catalog.load_table("lake.t").scan().to_arrow().num_rows == 4
    ids = [schema.schema_id for schema in catalog.load_table("lake.t").metadata.schemas]
    assert len(ids) == len(set(ids))


def test_rows_are_deleted_overwritten_and_read_as_they_were(catalog: RestCatalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    table.append(ROWS)
    before = table.current_snapshot()
    table.delete("id = 2")
    table.overwrite(pa.table({"id": [9], "city": ["Bern"]}))
    table.manage_snapshots().create_tag(before.snapshot_id, "first").create_branch(before.snapshot_id, "b").commit()
    found = catalog.load_table("lake.t")
    assert found.scan().to_arrow()["id"].to_pylist() == [9]
    assert found.scan(snapshot_id=found.snapshot_by_name("first").snapshot_id).to_arrow().num_rows == 3
    found.append(ROWS, branch="b")
    assert catalog.load_table("lake.t").scan(snapshot_id=found.refs()["b"].snapshot_id).to_arrow().num_rows == 6
    found.maintenance.expire_snapshots().by_id(before.parent_snapshot_id or found.snapshots()[1].snapshot_id).commit()
    assert len(catalog.load_table("lake.t").snapshots()) == len(found.snapshots())


def test_lists_come_in_pages(lake: Site, catalog: RestCatalog) -> None:
    for number in range(7):
        catalog.create_table(f"lake.t{number}", SCHEMA)
        catalog.create_namespace(("n", f"x{number}"))
    paged = lake.pyiceberg(**{"rest-page-size": "3"})
    assert paged.list_tables("lake") == [("lake", f"t{number}") for number in range(7)]
    assert paged.list_namespaces("n") == [("n", f"x{number}") for number in range(7)]


def test_a_table_can_be_registered_where_it_is_dropped_or_shall_be_another(catalog: RestCatalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    table.append(ROWS)
    table.append(ROWS)
    first = table.metadata.metadata_log[-1].metadata_file
    with pytest.raises(TableAlreadyExistsError):
        catalog.register_table("lake.t", first)
    assert catalog.register_table("lake.t", first, overwrite=True).scan().to_arrow().num_rows == 3
    catalog.drop_table("lake.t")
    assert catalog.register_table("lake.back", table.metadata_location).scan().to_arrow().num_rows == 6


def test_snapshots_nobody_names_may_be_left_out(lake: Site, catalog: RestCatalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    table.append(ROWS)
    table.append(ROWS)
    brief = lake.pyiceberg(**{"snapshot-loading-mode": "refs"}).load_table("lake.t")
    assert (len(brief.snapshots()), len(catalog.load_table("lake.t").snapshots())) == (1, 2)
    assert brief.scan().to_arrow().num_rows == 6


# DuckDB.


def test_duckdb_reads_and_writes_and_both_see_the_same(lake: Site, catalog: RestCatalog) -> None:
    catalog.create_table("lake.t", SCHEMA).append(ROWS)
    with lake.duckdb() as duck:
        assert duck.sql("SELECT count(*), max(id) FROM lake.lake.t").fetchall() == [(3, 3)]
        duck.execute("CREATE TABLE lake.lake.u AS SELECT range AS n FROM range(1000)")
        duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern'), (5, NULL)")
        duck.execute("DELETE FROM lake.lake.t WHERE id = 1")
        assert duck.sql("SELECT sum(id) FROM lake.lake.t").fetchall() == [(14,)]
        assert duck.sql("SELECT sum(n) FROM lake.lake.u").fetchall() == [(499_500,)]
    assert sorted(catalog.load_table("lake.t").scan().to_arrow()["id"].to_pylist()) == [2, 3, 4, 5]
    assert catalog.load_table("lake.u").scan().to_arrow().num_rows == 1000


def test_lake_stats_tell_the_size_of_a_table_that_duckdb_wrote_to_last(lake: Site, catalog: RestCatalog) -> None:
    catalog.create_table("lake.t", SCHEMA).append(ROWS)
    with lake.duckdb() as duck:
        duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern')")
    out = io.StringIO()
    with override_settings(EVODB=lake.settings):
        call_command("lake", "stats", stdout=out)
    sizes = sum(file["file_size_in_bytes"] for file in catalog.load_table("lake.t").inspect.files().to_pylist())
    assert f"2 files, {filesizeformat(sizes)}".replace("\xa0", " ") in out.getvalue()


def test_a_transaction_of_duckdb_commits_its_tables_together(lake: Site, catalog: RestCatalog) -> None:
    catalog.create_table("lake.t", SCHEMA).append(ROWS)
    with lake.duckdb() as duck:
        duck.execute("BEGIN")
        duck.execute("CREATE TABLE lake.lake.u (n INTEGER)")
        duck.execute("INSERT INTO lake.lake.u VALUES (1)")
        duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern')")
        assert not catalog.table_exists("lake.u")
        duck.execute("COMMIT")
        assert catalog.load_table("lake.u").scan().to_arrow().num_rows == 1
        duck.execute("BEGIN")
        duck.execute("INSERT INTO lake.lake.u VALUES (2)")
        duck.execute("INSERT INTO lake.lake.t VALUES (5, 'Genf')")
        catalog.load_table("lake.t").append(ROWS)
        with pytest.raises(duckdb.Error):
            duck.execute("COMMIT")
    assert catalog.load_table("lake.u").scan().to_arrow().num_rows == 1
    assert catalog.load_table("lake.t").scan().to_arrow().num_rows == 7


def test_duckdb_makes_and_drops_what_it_names(lake: Site, catalog: RestCatalog) -> None:
    with lake.duckdb() as duck:
        duck.execute("CREATE SCHEMA lake.fresh")
        duck.execute("CREATE TABLE lake.fresh.t (a INTEGER, b VARCHAR)")
        shown = duck.sql("SELECT database, schema, name FROM (SHOW ALL TABLES) ORDER BY ALL").fetchall()
        assert shown == [("lake", "fresh", "t")]
        assert catalog.list_tables("fresh") == [("fresh", "t")]
        duck.execute("DROP TABLE lake.fresh.t")
        duck.execute("DROP SCHEMA lake.fresh")
    assert not catalog.namespace_exists("fresh")


# Polars.


def test_polars_reads_what_others_wrote(lake: Site, catalog: RestCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    catalog.create_table("lake.t", SCHEMA, partition_spec=BY_CITY).append(ROWS)
    with lake.duckdb() as duck:
        duck.execute("INSERT INTO lake.lake.t VALUES (4, 'Bern')")
    frame = pl.scan_iceberg(catalog.load_table("lake.t"))
    assert frame.select(pl.col("id").sum()).collect().item() == 10
    assert frame.filter(pl.col("city") == "Bern").collect()["id"].to_list() == [4]


# The catalog inside.


def test_flushes_and_clients_see_the_same_tables(lake: Site, catalog: RestCatalog) -> None:
    inside = from_settings(lake.settings)
    inside.create_table("lake.t", SCHEMA).append(ROWS)
    catalog.load_table("lake.t").append(ROWS)
    assert inside.load_table("lake.t").scan().to_arrow().num_rows == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda update: update.delete_column("_seq"),
            "the column '_seq' says with _source, _row_id, _op, _epoch, _seq",
        ),
        (lambda update: update.rename_column("_row_id", "row"), "the column '_row_id' says with"),
    ],
    ids=["dropped", "renamed"],
)
def test_a_client_is_told_that_the_columns_by_which_changes_have_their_order_stay(
    catalog: RestCatalog, change: Callable[[UpdateSchema], object], said: str
) -> None:
    ours = ("_source", "_row_id", "_op")
    names = pa.schema([(name, pa.string()) for name in ours] + [("_epoch", pa.int64()), ("_seq", pa.int64())])
    columns = [*names, pa.field("_ts", pa.timestamp("us", tz="UTC")), pa.field("city", pa.string())]
    table = catalog.create_table("lake.orders", pa.schema(columns))
    with table.update_spec() as spec:
        spec.add_field("_ts", DayTransform(), "_ts_day")
    before = catalog.load_table("lake.orders").metadata
    update = catalog.load_table("lake.orders").update_schema(allow_incompatible_changes=True)
    change(update)
    with pytest.raises(BadRequestError, match=said):
        update.commit()
    assert catalog.load_table("lake.orders").metadata == before
    with catalog.load_table("lake.orders").update_schema() as others:
        others.delete_column("city").add_column("town", StringType()).move_first("_seq")
    assert "town" in catalog.load_table("lake.orders").schema().column_names


def test_a_column_that_a_partition_is_made_of_is_not_dropped_by_any_client(lake: Site, catalog: RestCatalog) -> None:
    catalog.create_table("lake.t", SCHEMA, partition_spec=BY_CITY)
    schema = {"type": "struct", "schema-id": 1, "fields": [{"id": 1, "name": "id", "required": False, "type": "long"}]}
    drop = [{"action": "add-schema", "schema": schema}, {"action": "set-current-schema", "schema-id": -1}]
    heard = lake.ask("POST", "namespaces/lake/tables/t", {"requirements": [], "updates": drop})
    assert (heard.status, b"partition" in heard.body) == (400, True)
    assert catalog.load_table("lake.t").schema().column_names == ["id", "city"]
