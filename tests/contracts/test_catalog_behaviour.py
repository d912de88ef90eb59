"""One exam for a catalog, sat over a folder and over an object store: what pyiceberg's own catalogs promise."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings

pytestmark = pytest.mark.django_db(transaction=True)

SCHEMA = Schema(NestedField(1, "id", LongType(), required=False), NestedField(2, "city", StringType(), required=False))
BY_CITY = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "city"))
ROWS = pa.table({"id": [1, 2, 3], "city": ["Rome", "Oslo", None]})


@pytest.fixture
def catalog(lake_settings: Settings) -> Catalog:
    catalog = from_settings(lake_settings)
    catalog.create_namespace("lake")
    return catalog


def test_a_namespace_is_created_with_its_properties(catalog: Catalog) -> None:
    catalog.create_namespace(("a", "b"), {"owner": "me"})
    assert catalog.load_namespace_properties("a.b") == {"owner": "me"}
    assert catalog.list_namespaces() == [("a",), ("lake",)]
    assert catalog.list_namespaces("a") == [("a", "b")]
    assert catalog.namespace_exists("a")
    assert not catalog.namespace_exists("b")


def test_a_prefix_of_a_name_is_not_a_level_above_it(catalog: Catalog) -> None:
    catalog.create_namespace("lakehouse.x")
    assert catalog.list_namespaces("lake") == []
    assert not catalog.namespace_exists("lakeh")
    assert not catalog.namespace_exists("LAKE")


def test_a_namespace_is_created_once(catalog: Catalog) -> None:
    with pytest.raises(NamespaceAlreadyExistsError):
        catalog.create_namespace("lake")
    catalog.create_namespace_if_not_exists("lake")


@pytest.mark.parametrize("name", ["", ("a", ""), ("..",), ("a/b",), ("a\x1fb",)])
def test_a_namespace_that_cannot_be_a_folder_is_refused(catalog: Catalog, name: str | tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="wanted one or more levels"):
        catalog.create_namespace(name)


def test_properties_of_a_namespace_are_changed_and_removed(catalog: Catalog) -> None:
    catalog.update_namespace_properties("lake", updates={"a": "1", "b": "2"})
    summary = catalog.update_namespace_properties("lake", removals={"a", "z"}, updates={"b": "3"})
    assert (summary.removed, summary.updated, summary.missing) == (["a"], ["b"], ["z"])
    assert catalog.load_namespace_properties("lake") == {"b": "3"}
    with pytest.raises(ValueError, match="overlap"):
        catalog.update_namespace_properties("lake", removals={"b"}, updates={"b": "4"})


def test_what_does_not_exist_is_said_to_be_missing(catalog: Catalog) -> None:
    for ask in (
        catalog.load_namespace_properties,
        catalog.drop_namespace,
        catalog.list_tables,
        catalog.list_namespaces,
        catalog.update_namespace_properties,
    ):
        with pytest.raises(NoSuchNamespaceError):
            ask("nowhere")
    with pytest.raises(NoSuchNamespaceError):
        catalog.create_table("nowhere.t", SCHEMA)
    for ask in (catalog.load_table, catalog.drop_table, catalog.purge_table):
        with pytest.raises(NoSuchTableError):
            ask("lake.nothing")
    with pytest.raises(NoSuchTableError):
        catalog.rename_table("lake.nothing", "lake.other")
    with pytest.raises(NoSuchTableError):
        catalog.load_table("alone")
    assert not catalog.table_exists("lake.nothing")


def test_only_an_empty_namespace_is_dropped(catalog: Catalog) -> None:
    catalog.create_namespace("a.b")
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("a")
    catalog.create_table("a.b.t", SCHEMA)
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("a.b")
    catalog.drop_table("a.b.t")
    catalog.drop_namespace("a.b")
    assert catalog.list_namespaces() == [("lake",)]


def test_a_table_is_created_as_asked_and_loaded_as_created(catalog: Catalog) -> None:
    created = catalog.create_table("lake.t", SCHEMA, partition_spec=BY_CITY, properties={"owner": "me"})
    table = catalog.load_table(("lake", "t"))
    assert table.metadata == created.metadata
    assert table.schema().as_struct() == SCHEMA.as_struct()
    assert table.spec().fields[0].name == "city"
    assert table.properties["owner"] == "me"
    assert table.location() == f"{catalog.properties['warehouse']}/lake/t"
    assert catalog.list_tables("lake") == [("lake", "t")]
    assert catalog.table_exists("lake.t")


def test_a_table_lies_where_it_or_its_namespace_says(catalog: Catalog) -> None:
    warehouse = catalog.properties["warehouse"]
    catalog.create_namespace("placed", {"location": f"{warehouse}/elsewhere/"})
    assert catalog.create_table("placed.t", SCHEMA).location() == f"{warehouse}/elsewhere/t"
    assert catalog.create_table("placed.u", SCHEMA, location=f"{warehouse}/u/").location() == f"{warehouse}/u"


@pytest.mark.parametrize("name", ["..", "a/b", " "])
def test_a_table_that_cannot_be_a_folder_is_refused(catalog: Catalog, name: str) -> None:
    catalog.create_table("lake.t", SCHEMA)
    with pytest.raises(ValueError, match="wanted one that can name a folder"):
        catalog.create_table(("lake", name), SCHEMA)
    with pytest.raises(ValueError, match="wanted one that can name a folder"):
        catalog.rename_table("lake.t", ("lake", name))


def test_a_table_is_created_once(catalog: Catalog) -> None:
    catalog.create_table("lake.t", SCHEMA)
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table("lake.t", SCHEMA)
    assert catalog.create_table_if_not_exists("lake.t", SCHEMA).name() == ("lake", "t")


def test_rows_come_back_as_written(catalog: Catalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA, partition_spec=BY_CITY)
    table.append(ROWS)
    table.append(ROWS)
    found = catalog.load_table("lake.t").scan().to_arrow().sort_by("id")
    assert found.to_pydict() == {"id": [1, 1, 2, 2, 3, 3], "city": ["Rome", "Rome", "Oslo", "Oslo", None, None]}


def test_a_table_made_in_a_transaction_appears_with_its_rows(catalog: Catalog) -> None:
    with catalog.create_table_transaction("lake.t", SCHEMA) as change:
        change.append(ROWS)
        assert not catalog.table_exists("lake.t")
    assert len(catalog.load_table("lake.t").scan().to_arrow()) == 3


def test_a_table_made_in_a_transaction_loses_to_one_made_before(catalog: Catalog) -> None:
    change = catalog.create_table_transaction("lake.t", SCHEMA)
    catalog.create_table("lake.t", SCHEMA)
    with pytest.raises(CommitFailedException):
        change.commit_transaction()


def test_a_stale_commit_is_refused_and_nothing_of_it_is_seen(catalog: Catalog) -> None:
    catalog.create_table("lake.t", SCHEMA, properties={"commit.retry.num-retries": "0"})
    first, second = catalog.load_table("lake.t"), catalog.load_table("lake.t")
    first.append(ROWS)
    with pytest.raises(CommitFailedException):
        second.append(ROWS)
    assert len(catalog.load_table("lake.t").scan().to_arrow()) == 3


def test_schema_and_properties_change_in_one_commit(catalog: Catalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    with table.transaction() as change:
        with change.update_schema() as update:
            update.add_column("zip", StringType())
        change.set_properties(owner="you")
    found = catalog.load_table("lake.t")
    assert (found.schema().column_names, found.properties["owner"]) == (["id", "city", "zip"], "you")
    assert len(found.metadata.metadata_log) == 1


def test_a_renamed_table_keeps_its_rows(catalog: Catalog) -> None:
    catalog.create_namespace("other")
    catalog.create_table("lake.t", SCHEMA).append(ROWS)
    assert len(catalog.rename_table("lake.t", "other.u").scan().to_arrow()) == 3
    assert not catalog.table_exists("lake.t")
    catalog.create_table("lake.t", SCHEMA)
    with pytest.raises(TableAlreadyExistsError):
        catalog.rename_table("lake.t", "other.u")
    with pytest.raises(NoSuchNamespaceError):
        catalog.rename_table("lake.t", "nowhere.t")


def test_a_dropped_table_can_be_registered_again(catalog: Catalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    table.append(ROWS)
    catalog.drop_table("lake.t")
    assert len(catalog.register_table("lake.u", table.metadata_location).scan().to_arrow()) == 3
    with pytest.raises(TableAlreadyExistsError):
        catalog.register_table("lake.u", table.metadata_location)
    with pytest.raises(NoSuchNamespaceError):
        catalog.register_table("nowhere.u", table.metadata_location)


def test_a_purged_table_leaves_no_file(catalog: Catalog) -> None:
    table = catalog.create_table("lake.t", SCHEMA)
    table.append(ROWS)
    table.append(ROWS)
    paths = [*table.inspect.all_files()["file_path"].to_pylist(), table.metadata_location]
    paths += [snapshot.manifest_list for snapshot in table.snapshots()]
    assert all(table.io.new_input(path).exists() for path in paths)
    catalog.purge_table("lake.t")
    assert not any(table.io.new_input(path).exists() for path in paths)
    assert not catalog.table_exists("lake.t")


def test_a_table_may_live_several_levels_down(catalog: Catalog) -> None:
    catalog.create_namespace("a.b.c")
    table = catalog.create_table("a.b.c.t", SCHEMA)
    table.append(ROWS)
    assert table.location().endswith("/a/b/c/t")
    assert catalog.list_tables("a.b.c") == [("a", "b", "c", "t")]


def test_a_name_may_hold_dots(catalog: Catalog) -> None:
    catalog.create_table(("lake", "v1.t"), SCHEMA).append(ROWS)
    assert catalog.list_tables("lake") == [("lake", "v1.t")]
    assert len(catalog.load_table(("lake", "v1.t")).scan().to_arrow()) == 3


def test_views_are_not_kept(catalog: Catalog) -> None:
    for ask in (catalog.list_views, catalog.load_view, catalog.view_exists, catalog.drop_view):
        with pytest.raises(NotImplementedError, match="keeps no views"):
            ask("lake")
    with pytest.raises(NotImplementedError, match="keeps no views"):
        catalog.register_view("lake.v", "somewhere")
