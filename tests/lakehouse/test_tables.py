"""Stage writes and shows nothing, swap shows everything or nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.db import connection, transaction
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField, StructType

from lakehouse.catalog import parts, tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.finding import known_schemas
from lakehouse.catalog.own import room_of
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.tables import Staged
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, StoreUnavailable, TableRefused
from lakehouse.flush import documents
from lakehouse.flush.rules import Rules
from lakehouse.models import IcebergTable
from tests.lakehouse.staging import stage_rows

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
PARQUET = {"write.parquet.compression-codec": "snappy", "write.parquet.row-group-limit": "100000"}
EVERY_TYPE: dict[str, tuple[pa.DataType, Any]] = {
    "truth": (pa.bool_(), True),
    "small": (pa.int32(), -7),
    "large": (pa.int64(), 2**62),
    "single": (pa.float32(), 0.5),
    "double": (pa.float64(), 0.1),
    "text": (pa.string(), "Zürich ✈"),
    "bytes": (pa.binary(), b"\x00\xff"),
    "day": (pa.date32(), date(2026, 2, 28)),
    "local": (pa.timestamp("us"), datetime(2026, 1, 1, 1, 2, 3, 4)),  # noqa: DTZ001 - a time without a zone
    "moment": (pa.timestamp("us", tz="UTC"), datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC)),
}


@pytest.fixture
def catalog(tmp_path: Path) -> DjangoCatalog:
    return from_settings(Settings(data_dir=tmp_path))


def rows(number: int = 1, *, days: int = 1, **columns: Any) -> pa.Table:
    times = [NOON + timedelta(days=at % days, microseconds=at) for at in range(number)]
    sequence = pa.array(range(number), pa.int64())
    return pa.table({"_ts": pa.array(times, pa.timestamp("us", tz="UTC")), "_seq": sequence, **columns})


def stage(catalog: DjangoCatalog, found: pa.Table, name: str = "flights", *, flush_id: int = 7) -> Staged:
    return stage_rows(catalog, "lake", name, found, flush_id=flush_id, parquet=PARQUET)


def commit(*staged: Staged) -> None:
    with transaction.atomic():
        tables.swap(staged)


def read(catalog: DjangoCatalog, name: str = "flights") -> pa.Table:
    return catalog.load_table(("lake", name)).scan().to_arrow().sort_by("_seq")


def test_a_staged_table_is_seen_by_nobody_before_the_swap(catalog: DjangoCatalog) -> None:
    staged = stage(catalog, rows(3))
    assert not catalog.table_exists("lake.flights")
    assert not catalog.namespace_exists("lake")
    commit(staged)
    assert read(catalog)["_seq"].to_pylist() == [0, 1, 2]
    again = stage(catalog, rows(2))
    assert len(read(catalog)) == 3
    commit(again)
    assert len(read(catalog)) == 5


def test_only_the_first_half_of_a_stage_asks_the_database(catalog: DjangoCatalog) -> None:
    """The other half runs in threads, each of which would open a connection of its own."""

    def nobody(*asked: Any) -> Any:
        raise AssertionError(f"asked {asked[1]}")

    for number in (1, 2):
        begun = tables.begin(catalog, "lake", "flights", rows(number), flush_id=number, parquet=PARQUET)
        with connection.execute_wrapper(nobody):
            staged = tables.write(begun)
        commit(staged)
    assert len(read(catalog)) == 3


def test_what_was_staged_is_described_as_it_was_written(catalog: DjangoCatalog) -> None:
    first = stage(catalog, rows(10, days=3))
    commit(first)
    second = stage(catalog, rows(2), flush_id=8)
    commit(second)
    table = catalog.load_table("lake.flights")
    assert (first.expected_location, second.expected_location) == (None, first.metadata_location)
    assert table.metadata_location == second.metadata_location
    assert (first.rows, first.files, second.rows, second.files) == (10, 3, 2, 1)
    assert [s.snapshot_id for s in table.snapshots()] == [first.snapshot_id, second.snapshot_id]
    summaries = [snapshot.summary for snapshot in table.snapshots() if snapshot.summary]
    assert [summary["evodb.flush-id"] for summary in summaries] == ["7", "8"]
    assert [int(summary["added-files-size"]) for summary in summaries] == [first.size_bytes, second.size_bytes]


def test_a_new_table_is_made_for_many_commits(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows()))
    table = catalog.load_table("lake.flights")
    assert table.format_version == 2
    assert str(table.spec().fields[0]) == "1000: _ts_day: day(1)"
    assert table.properties["commit.retry.num-retries"] == "0"
    assert all(not field.required for field in table.schema().fields)


def test_a_schema_change_and_its_rows_are_one_metadata_file(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows(1, a=pa.array(["x"]))))
    commit(stage(catalog, rows(1, b=pa.array([1.5]), c=pa.array([True]))))
    folder = Path(catalog.load_table("lake.flights").location()) / "metadata"
    assert len(list(folder.glob("*.metadata.json"))) == 2
    found = read(catalog)
    assert found.column_names == ["_ts", "_seq", "a", "b", "c"]
    assert sorted(found["a"].to_pylist(), key=str) == [None, "x"]
    assert sorted(found["b"].to_pylist(), key=str) == [1.5, None]


def test_every_type_comes_back_as_it_went(catalog: DjangoCatalog) -> None:
    columns = {name: pa.array([value, None], type_) for name, (type_, value) in EVERY_TYPE.items()}
    commit(stage(catalog, rows(2, **columns)))
    schema, refused = known_schemas(catalog, "lake", ["flights", "nothing"])
    assert (schema, refused) == ({"flights": rows(2, **columns).schema}, [])
    found = read(catalog).cast(schema["flights"])
    for name, (_, value) in EVERY_TYPE.items():
        assert found[name].to_pylist() == [value, None]


def test_names_of_columns_may_be_anything(catalog: DjangoCatalog) -> None:
    names = ["a.b", "a b", "ä", "1st", "select", "_x20", "a", "b'\"", "element"]
    commit(stage(catalog, rows(1)))
    commit(stage(catalog, rows(1, **{name: pa.array([name]) for name in names})))
    table = catalog.load_table("lake.flights")
    assert table.schema().column_names[2:] == names
    for name in names:
        assert sorted(read(catalog)[name].to_pylist(), key=str) == sorted([name, None], key=str)


def test_a_child_whose_keys_have_one_name_in_files_stops_no_flush(catalog: DjangoCatalog) -> None:
    texts = pa.array(['{"a b":1,"a_x20b":2,"s":{"1":1,"_1":2}}', '{"a_x20b":3,"s":{"1":3}}'])
    read_as = documents.read(texts, None, Rules(is_nested=True))
    commit(stage(catalog, rows(2, _rest=read_as.rest, **read_as.columns)))
    found = read(catalog)
    assert found["a b"].to_pylist() == [1, None]
    assert found["s"].to_pylist() == [None, {"1": 3}]
    kept = [json.loads(text) for text in found["_rest"].to_pylist()]
    assert kept == [{"a_x20b": 2, "s": {"1": 1, "_1": 2}}, {"a_x20b": 3}]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"_seq": pa.array(["1"])}, "column '_seq' is string, its table has long"),
        ({"_seq": pa.array([1.0])}, "column '_seq' is double, its table has long"),
        ({"_SEQ": pa.array([1])}, "too close to '_seq'"),
        ({"_ts_day": pa.array([1])}, "too close to '_ts_day'"),
        ({"": pa.array([1])}, "no name"),
        ({"x": pa.nulls(1)}, "column 'x' is null"),
        ({"x": pa.array([1], pa.uint32())}, "column 'x' is uint32"),
        ({"x": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))}, "column 'x' is map"),
        ({"x": pa.array([[1]], pa.list_(pa.uint32()))}, "column 'x' is uint32"),
        ({"x": pa.array([{}], pa.struct([]))}, "column 'x' is struct"),
        ({"x": pa.array([1], pa.timestamp("ns", tz="UTC"))}, "column 'x' is timestamp"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_written(
    catalog: DjangoCatalog, column: dict[str, pa.Array], said: str
) -> None:
    commit(stage(catalog, rows()))
    folder = Path(catalog.load_table("lake.flights").location())
    before = sorted(folder.rglob("*"))
    found = rows()
    for name, values in column.items():
        found = found.set_column(1, name, values) if name == "_seq" else found.append_column(name, values)
    with pytest.raises(TableRefused, match=said):
        stage(catalog, found)
    assert sorted(folder.rglob("*")) == before


def test_two_columns_of_one_name_are_refused(catalog: DjangoCatalog) -> None:
    with pytest.raises(TableRefused, match="too close"):
        stage(catalog, rows().append_column("_seq", pa.array([1])))


def test_a_new_table_needs_the_time_it_is_partitioned_by(catalog: DjangoCatalog) -> None:
    with pytest.raises(TableRefused, match="'_ts'"):
        stage(catalog, rows().drop_columns("_ts"))


def test_a_required_column_is_never_left_empty(catalog: DjangoCatalog) -> None:
    catalog.create_namespace("lake")
    deep = StructType(NestedField(3, "x", LongType()))
    schema = Schema(NestedField(1, "_seq", LongType(), required=True), NestedField(2, "deep", deep))
    catalog.create_table("lake.flights", schema)
    with pytest.raises(TableRefused, match="'_seq' is required"):
        stage(catalog, pa.table({"other": [1]}))
    commit(stage(catalog, pa.table({"_seq": [1]})))
    assert read(catalog)["_seq"].to_pylist() == [1]


def test_write_settings_hold_for_the_files_of_this_flush(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows(10)))
    settings = {"write.parquet.compression-codec": "zstd", "write.parquet.row-group-limit": "4"}
    commit(stage_rows(catalog, "lake", "flights", rows(10), flush_id=8, parquet=settings))
    table = catalog.load_table("lake.flights")
    written = [pq.ParquetFile(path).metadata for path in table.inspect.files()["file_path"].to_pylist()]
    found = {(one.row_group(0).column(0).compression, one.num_row_groups) for one in written}
    assert found == {("SNAPPY", 1), ("ZSTD", 3)}
    assert table.properties["write.parquet.compression-codec"] == "snappy"


def test_large_rows_are_fewer_in_a_row_group_than_asked_for(
    catalog: DjangoCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 100_000)
    commit(stage(catalog, rows(10, text=pa.array(["x" * 50_000] * 10))))
    [path] = catalog.load_table("lake.flights").inspect.files()["file_path"].to_pylist()
    assert pq.ParquetFile(path).metadata.num_row_groups == 10
    assert read(catalog)["text"].to_pylist() == ["x" * 50_000] * 10


def test_rows_of_a_day_lie_in_its_folder(catalog: DjangoCatalog) -> None:
    missing = rows(1).set_column(0, "_ts", pa.nulls(1, pa.timestamp("us", tz="UTC")))
    commit(stage(catalog, pa.concat_tables([rows(9, days=3), missing])))
    files = catalog.load_table("lake.flights").inspect.files().to_pylist()
    assert {(file["partition"]["_ts_day"], file["record_count"]) for file in files} == {
        (date(2026, 11, 20), 3),
        (date(2026, 11, 21), 3),
        (date(2026, 11, 22), 3),
        (None, 1),
    }
    assert len(read(catalog)) == 10


def test_of_two_stages_of_one_table_the_second_swap_is_refused(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows(1)))
    first, second = stage(catalog, rows(2)), stage(catalog, rows(4))
    commit(first)
    with pytest.raises(CommitConflict, match=r"lake\.flights"):
        commit(second)
    with pytest.raises(CommitConflict):
        commit(first)
    assert len(read(catalog)) == 3


def test_of_two_stages_that_create_a_table_the_second_swap_is_refused_and_the_transaction_lives(
    catalog: DjangoCatalog,
) -> None:
    first, second = stage(catalog, rows(1)), stage(catalog, rows(2))
    commit(first)
    with transaction.atomic():
        with pytest.raises(CommitConflict, match="another writer committed first"):
            tables.swap([second])
        assert IcebergTable.objects.count() == 1
    assert len(read(catalog)) == 1


def test_a_swap_of_many_tables_moves_all_or_none(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows(1), "b"))
    staged = [stage(catalog, rows(1), name) for name in ("c", "b", "a")]
    commit(stage(catalog, rows(1), "b"))
    with pytest.raises(CommitConflict, match=r"lake\.b"):
        commit(*staged)
    assert catalog.list_tables("lake") == [("lake", "b")]
    commit(*(one for one in staged if one.table != "b"))
    assert catalog.list_tables("lake") == [("lake", "a"), ("lake", "b"), ("lake", "c")]


def test_a_swap_after_the_table_was_dropped_is_refused(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows(1)))
    staged = stage(catalog, rows(1))
    catalog.drop_table("lake.flights")
    with pytest.raises(CommitConflict):
        commit(staged)
    with pytest.raises(NoSuchTableError):
        read(catalog)


def test_a_rolled_back_swap_leaves_everything_as_it_was(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows(1)))
    staged = [stage(catalog, rows(1)), stage(catalog, rows(1), "other")]
    with transaction.atomic():
        tables.swap(staged)
        transaction.set_rollback(True)
    assert catalog.list_tables("lake") == [("lake", "flights")]
    commit(*staged)
    assert len(read(catalog)) == 2


@pytest.mark.parametrize("known", [True, False])
def test_of_swaps_at_the_same_moment_one_wins(catalog: DjangoCatalog, known: bool) -> None:
    if known:
        commit(stage(catalog, rows(1)))
    for _ in range(5):
        name = "flights" if known else f"new{IcebergTable.objects.count()}"
        staged = [stage(catalog, rows(1), name) for _ in range(3)]
        before = len(read(catalog, name)) if known else 0
        outcomes = at_once([lambda one=one: commit(one) for one in staged])
        assert sorted(map(type, outcomes), key=str) == sorted([type(None), CommitConflict, CommitConflict], key=str)
        assert len(read(catalog, name)) == before + 1


def at_once(calls: list[Callable[[], None]]) -> list[Exception | None]:
    """What each call raised, all made at the same moment in threads of their own."""
    start, outcomes = threading.Barrier(len(calls)), list[Exception | None]()

    def run(call: Callable[[], None]) -> None:
        try:
            start.wait()
            call()
            outcomes.append(None)
        except Exception as exc:
            outcomes.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_a_swap_outside_a_transaction_is_a_mistake(catalog: DjangoCatalog) -> None:
    with pytest.raises(AssertionError, match="transaction"):
        tables.swap([stage(catalog, rows())])


def test_obsolete_metadata_is_deleted_only_by_tidy(catalog: DjangoCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables.TABLE_DEFAULTS, "write.metadata.previous-versions-max", "2")
    staged = []
    for _ in range(5):
        staged.append(stage(catalog, rows()))
        commit(staged[-1])
    files = Path(catalog.load_table("lake.flights").location(), "metadata")
    assert len(list(files.glob("*.metadata.json"))) == 5
    tables.tidy(catalog, staged)
    left = {str(path) for path in files.glob("*.metadata.json")}
    assert left == {one.metadata_location for one in staged[-3:]}
    assert len(read(catalog)) == 5


def test_a_commit_that_rolls_back_keeps_the_metadata_it_would_have_deleted(catalog: DjangoCatalog) -> None:
    catalog.create_namespace("lake")
    properties = {"write.metadata.delete-after-commit.enabled": "true", "write.metadata.previous-versions-max": "1"}
    table = catalog.create_table("lake.flights", rows().schema, properties=properties)
    table.append(rows())
    with transaction.atomic():
        table.append(rows())
        transaction.set_rollback(True)
    again = catalog.load_table("lake.flights")
    assert all(again.io.new_input(entry.metadata_file).exists() for entry in again.metadata.metadata_log)
    assert len(read(catalog)) == 1


@pytest.mark.once
def test_history_stays_short_in_manifests(catalog: DjangoCatalog) -> None:
    for at in range(45):
        commit(stage(catalog, rows(), flush_id=at))
    table = catalog.load_table("lake.flights")
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert len(snapshot.manifests(table.io)) < 25
    assert len(read(catalog)) == 45


def test_a_warehouse_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where the folder should be")
    with pytest.raises(StoreUnavailable, match="warehouse"):
        stage(from_settings(Settings(data_dir=tmp_path)), rows())


def test_a_store_that_does_not_answer_is_unavailable(asked_twice: None) -> None:
    gone = Settings(
        warehouse="s3://lake/x", s3_endpoint="http://127.0.0.1:1", s3_access_key_id="k", s3_secret_access_key="s"
    )
    with pytest.raises(StoreUnavailable, match="warehouse"):
        stage(from_settings(gone), rows())


def test_the_files_behind_a_pointer_are_on_the_disk(catalog: DjangoCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    monkeypatch.setattr("lakehouse.catalog.files.sync", lambda path: synced.add(str(path)))
    staged = stage(catalog, rows(3, days=3))
    written = {str(path) for path in Path(staged.metadata_location).parent.parent.rglob("*")}
    assert len([path for path in written if path.endswith(".parquet")]) == 3
    assert written <= synced


def test_a_namespace_may_have_levels(catalog: DjangoCatalog) -> None:
    commit(stage_rows(catalog, "raw.eu", "a.b", rows(), flush_id=1, parquet=PARQUET))
    assert catalog.list_tables("raw.eu") == [("raw", "eu", "a.b")]
    assert list(known_schemas(catalog, "raw.eu", ["a.b"])[0]) == ["a.b"]


def test_staged_is_plain_data(catalog: DjangoCatalog) -> None:
    staged = stage(catalog, rows())
    with pytest.raises(CommitConflict):
        commit(replace(staged, expected_location="elsewhere"))


def test_of_wide_tables_and_of_many_rows_fewer_are_written_at_a_time(catalog: DjangoCatalog) -> None:
    def taken(**columns: pa.Array) -> int:
        terms: Any = {"flush_id": 1, "parquet": {}}
        return room_of(tables.begin(catalog, "lake", "flights", rows(**columns), **terms))

    wide = {f"c{number}": pa.array([1]) for number in range(1000)}
    deep = pa.array([dict.fromkeys(wide, 1)])
    assert [taken(), taken(**wide), taken(deep=deep), taken(text=pa.array(["x" * 5 * 2**20]))] == [1, 8, 8, 2]
