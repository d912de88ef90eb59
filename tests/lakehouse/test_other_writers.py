"""Whatever others do to a table: flushes go on, what they bring is there or waits, and it is said what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyiceberg.transforms import IdentityTransform, VoidTransform
from pyiceberg.types import DecimalType, LongType, NestedField, StringType, StructType

from lakehouse.catalog import avro_names, parts, pointers
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.upkeep import compaction, lease
from lakehouse.conf import Settings
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, DeadLetter, FallbackBatch, IcebergTable, Parent
from lakehouse.query import duck, unreadable
from lakehouse.query.verify import Verdict, Wanted, verify
from tests.builders import NOW_MS, entry, frame, parent, run, source
from tests.lakehouse import others_site as others

pytestmark = pytest.mark.django_db(transaction=True)


class Street:
    """Two tables of one parent, `orders` and `items`, the first of which is somebody else's to play with."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.settings = Settings(data_dir=folder, **options)
        self.flusher = self.another_worker()
        self.home = parent()
        self.batches = 0
        self.write(1, {"id": 1, "name": "a"})

    def another_worker(self):
        """Who wrote these tables knows them, and would not read what somebody spoils."""
        return Flusher("worker-1", self.settings, chosen(self.settings), lambda: NOW_MS)

    def write(self, first, *documents, table="orders"):
        """These rows, and one of the other table."""
        self.batches += 1
        self.flusher = self.another_worker()
        content = [entry(first + number, after=one, table=table) for number, one in enumerate(documents)]
        accept([(source(self.home), frame(self.batches, [*content, entry(first + 500, table="items")]))], now_ms=NOW_MS)
        return self.flusher.run(self.home.pk, trigger=FlushTrigger.MANUAL)

    def recover(self):
        Transfer(self.home.pk, "worker-1", self.settings, self.flusher.lake, lambda: NOW_MS).recover()

    def rows(self, table="orders", columns="_seq"):
        with duck.connect(self.settings) as connection:
            scan = duck.scan(pointers.find("lake", table))
            return sorted(connection.execute(f"SELECT {columns} FROM {scan}").fetchall(), key=str)

    def compact(self):
        row = IcebergTable.objects.select_related("namespace").get(name="orders")
        with lease.kept(row, self.flusher.lake.catalog, lease_ms=60_000, now_ms=lambda: NOW_MS) as keeper:
            terms = compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False)
            return compaction.compact(keeper, terms)

    def verdicts(self):
        (report,) = verify(self.settings, Wanted())
        return {one.table: (one.verdict, " ".join(one.why)) for one in report.tables}


@pytest.fixture
def street(tmp_path):
    return Street(tmp_path)


def gone(settings):
    Path(pointers.find("lake", "orders")).unlink()


def torn(settings):
    Path(pointers.find("lake", "orders")).write_text("{")


REFUSALS = {
    "version 3": lambda settings: others.metadata(settings, others.version_3),
    "zorder": lambda settings: others.metadata(settings, others.partitioned_by_nobody_knows_what),
    "gone": gone,
    "JSON": torn,
    "required": lambda settings: others.schema(
        settings, lambda update: update.add_column("region", StringType(), required=True)
    ),
}


@pytest.mark.both
@pytest.mark.parametrize("how", REFUSALS)
def test_rows_of_a_table_that_takes_none_wait_until_it_does_and_the_others_are_in_theirs(street, how, caplog):
    before = pointers.find("lake", "orders")
    kept = Path(before).read_text()
    REFUSALS[how](street.settings)
    flushed = street.write(2, {"id": 2}, {"id": 3})
    assert (flushed.entries, flushed.dead_letters, [one.table for one in flushed.staged]) == (3, 0, ["items"])
    assert street.rows("items") == [(501,), (502,)]
    assert [(one.table, one.rows) for one in FallbackBatch.objects.all()] == [("orders", 2)]
    assert {one.state for one in Batch.objects.all()} == {"persisted", "fallback"}
    assert "lake.orders takes no rows" in caplog.text
    assert how in caplog.text
    street.recover()
    assert "lake.orders takes no rows" in FallbackBatch.objects.get().last_error
    Path(before).write_text(kept)
    IcebergTable.objects.filter(name="orders").update(metadata_location=before)
    assert street.write(4, {"id": 4}).dead_letters == 0
    street.recover()
    assert street.rows() == [(1,), (2,), (3,), (4,)]
    assert set(Batch.objects.values_list("state", flat=True)) == {"persisted"}
    assert {verdict for verdict, _ in street.verdicts().values()} == {Verdict.GREEN}


@pytest.mark.parametrize("how", ["gone", "JSON"])
def test_metadata_that_somebody_spoils_is_made_anew_by_the_worker_who_wrote_it(street, how):
    worker, street.another_worker = street.flusher, lambda: worker
    REFUSALS[how](street.settings)
    assert sorted(one.table for one in street.write(2, {"id": 2}).staged) == ["items", "orders"]
    assert street.rows() == [(1,), (2,)]
    assert {verdict for verdict, _ in street.verdicts().values()} == {Verdict.GREEN}


def test_no_file_of_the_other_tables_is_left_behind_by_one_that_takes_no_rows(street):
    others.metadata(street.settings, others.partitioned_by_nobody_knows_what)
    street.write(2, {"id": 2})
    named = {Path(one) for one in others.table(street.settings, "items").inspect.files()["file_path"].to_pylist()}
    assert {*(street.settings.data_dir / "lake" / "lake" / "items").rglob("*.parquet")} == named


@pytest.mark.both
def test_a_required_column_that_many_rows_lack_blows_no_fuse_and_they_wait_until_it_is_optional(street, caplog):
    """They are readable, and the rows of other tables have nothing to do with it."""
    others.schema(street.settings, lambda update: update.update_column("name", required=True))
    lacking = [{"id": number} for number in range(101)]
    flushed = street.write(2, {"id": 7, "name": "b"}, *lacking)
    assert (flushed.dead_letters, [one.table for one in flushed.staged]) == (0, ["items"])
    assert not Parent.objects.get().fuse_blown_ms
    assert "'name' is required by its table, and this row has no value for it (101 entries in a row" in caplog.text
    assert street.write(200, {"id": 8}, {"id": 9, "name": "c"}).dead_letters == 1
    street.recover()
    assert "such as by making it optional" in FallbackBatch.objects.get().last_error
    others.schema(street.settings, lambda update: update.update_column("name", required=False))
    street.recover()
    assert len(street.rows()) == 104
    assert not FallbackBatch.objects.exists()


@pytest.mark.both
def test_rows_that_lack_a_required_column_become_dead_letters_when_an_operator_says_so(street):
    others.schema(street.settings, lambda update: update.update_column("name", required=True))
    street.write(2, {"id": 7, "name": "b"}, *({"id": number} for number in range(101)))
    moving = Transfer(street.home.pk, "w", street.settings, street.flusher.lake, lambda: NOW_MS, accepts_letters=True)
    moving.recover()
    assert (DeadLetter.objects.count(), FallbackBatch.objects.count()) == (101, 0)


@pytest.mark.both
def test_without_a_fallback_rows_of_a_table_that_takes_none_are_dead_letters(tmp_path):
    street = Street(tmp_path, fallback_bytes_max=0)
    others.metadata(street.settings, others.version_3)
    assert street.write(2, {"id": 2}, {"id": 3}).dead_letters == 2
    assert street.rows("items") == [(501,), (502,)]
    (said,) = {one.reason for one in DeadLetter.objects.all()}
    assert said.startswith("lake.orders takes no rows: its format is version 3, wanted at most 2; rename or drop it")


@pytest.mark.both
def test_a_flood_of_rows_for_a_table_that_takes_none_blows_no_fuse(street):
    others.metadata(street.settings, others.version_3)
    accept([(source(street.home), frame(9, run(2, 300)))], now_ms=NOW_MS)
    assert street.flusher.run(street.home.pk, trigger=FlushTrigger.MANUAL).entries == 299
    assert Parent.objects.get().fuse_blown_ms is None


@pytest.mark.parametrize(
    "kind",
    [
        StructType(NestedField(1, "a", LongType(), required=True), NestedField(2, "b", StringType(), required=False)),
        StructType(
            NestedField(1, "a", StructType(NestedField(2, "x", StringType(), required=True)), required=True),
        ),
    ],
    ids=["field", "struct"],
)
def test_a_struct_of_others_with_a_field_that_is_required_stops_neither_flushes_nor_compaction(street, kind):
    others.schema(street.settings, lambda update: update.add_column("theirs", kind))
    street.write(2, {"id": 2, "theirs": {"a": 1}})
    street.write(3, {"id": 3})
    expected = [(1, None, None), (2, None, '{"theirs":{"a": 1}}'), (3, None, None)]
    assert street.rows(columns="_seq, theirs, _rest") == expected
    assert street.compact().old == 3
    assert street.rows(columns="_seq, theirs, _rest") == expected
    assert others.table(street.settings).scan().to_arrow()["theirs"].null_count == 3


def test_a_table_whose_partition_column_somebody_dropped_is_flushed_without_it(street):
    others.metadata(street.settings, others.without_column("_ts"))
    street.write(2, {"id": 2})
    street.write(3, {"id": 3})
    table = others.table(street.settings)
    assert [spec.fields for spec in table.specs().values()][1:] == [()]
    assert sorted(table.scan().to_arrow()["_seq"].to_pylist()) == [1, 2, 3]


def test_a_column_dropped_after_its_partition_field_stops_no_flush_and_no_merging_of_manifests(street):
    others.partitions(street.settings, lambda spec: spec.add_field("name", IdentityTransform(), "by_name"))
    for number in range(2, 5):
        street.write(number, {"id": number, "name": "b"})
    others.partitions(street.settings, lambda spec: spec.remove_field("by_name"))
    others.schema(street.settings, lambda update: update.delete_column("name"))
    with others.table(street.settings).transaction() as change:
        change.set_properties({"commit.manifest.min-count-to-merge": "2"})
    for number in range(5, 9):
        street.write(number, {"id": number})
    assert street.rows() == [(number,) for number in range(1, 9)]
    row = IcebergTable.objects.select_related("namespace").get(name="orders")
    with lease.kept(row, street.flusher.lake.catalog, lease_ms=60_000, now_ms=lambda: NOW_MS) as keeper:
        compaction.merge_manifests(keeper)
    assert street.rows() == [(number,) for number in range(1, 9)]
    assert {verdict for verdict, _ in street.verdicts().values()} == {Verdict.GREEN}


def test_a_key_called_as_a_partition_is_stays_in_the_rest(street):
    others.partitions(street.settings, lambda spec: spec.add_field("name", VoidTransform(), "v"))
    street.write(2, {"id": 2, "v": 7})
    assert street.rows(columns="_seq, _rest") == [(1, None), (2, '{"v":7}')]


def test_rows_of_more_partitions_than_a_flush_writes_files_wait_until_there_are_fewer(street, monkeypatch):
    monkeypatch.setattr(parts, "PARTITIONS_MAX", 3)
    others.partitions(street.settings, lambda spec: spec.add_field("_row_id", IdentityTransform(), "row"))
    street.write(2, {"id": 2}, {"id": 3}, {"id": 4})
    street.write(5, *({"id": number} for number in range(5, 9)))
    assert street.rows() == [(1,), (2,), (3,), (4,)]
    street.recover()
    assert (
        "4 rows lie in 4 of its partitions by _ts_day (day), row (identity)" in FallbackBatch.objects.get().last_error
    )
    others.partitions(street.settings, lambda spec: spec.remove_field("row"))
    street.recover()
    assert street.rows() == [(number,) for number in range(1, 9)]


@pytest.mark.parametrize("name", ["Straße", "Ärger/x y", "1a", "名"])
def test_a_partition_of_any_name_is_read_by_whoever_reads_avro(street, name):
    others.partitions(street.settings, lambda spec: spec.add_field("name", IdentityTransform(), name))
    street.write(2, {"id": 2, "name": "b"})
    assert street.rows() == [(1,), (2,)]
    assert street.compact().old == 0
    assert {one[name] for one in others.table(street.settings).inspect.files()["partition"].to_pylist()} == {None, "b"}


def dropped_partition(street, monkeypatch):
    others.metadata(street.settings, others.without_column("_ts"))
    street.write(2, {"id": 2})


def ill_named_partition(street, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(avro_names.schema_conversion, "make_compatible_name", avro_names.original)
        patched.setattr(avro_names.AvroSchemaConversion, "iceberg_to_avro", avro_names.original_schema)
        others.partitions(street.settings, lambda spec: spec.add_field("name", IdentityTransform(), "Straße"))
        street.write(2, {"id": 2, "name": "b"})


def types_of_one_name(street, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(avro_names.AvroSchemaConversion, "iceberg_to_avro", avro_names.original_schema)
        prices(street)


def prices(street):
    def add(update):
        update.add_column("low", DecimalType(9, 2)).add_column("high", DecimalType(9, 2))

    others.schema(street.settings, add)
    for name in ("low", "high"):
        others.partitions(street.settings, lambda spec, name=name: spec.add_field(name, IdentityTransform(), name))
    street.write(2, {"id": 2, "low": "1.50", "high": "2.50"})


def test_a_table_in_partitions_by_two_columns_of_one_type_is_read_by_whoever_reads_avro(street):
    prices(street)
    assert street.rows(columns="_seq, high - low") == [(1, None), (2, 1)]
    assert street.compact().old == 0


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (types_of_one_name, "two types in its manifests are called 'decimal_9_2'"),
        (dropped_partition, "it has files in partitions by '_ts_day', whose column was dropped"),
        (ill_named_partition, "its partition 'Straße' is no name in Avro"),
    ],
)
def test_a_table_over_which_duckdb_ends_its_process_is_not_asked_for_and_it_is_said_why(
    street, monkeypatch, made, said
):
    made(street, monkeypatch)
    location = pointers.find("lake", "orders")
    with duck.connect(street.settings) as connection:
        assert said in unreadable.complaint(connection, unreadable.metadata_of(connection, location))
        assert street.rows("items") == [(501,), (502,)]
    verdict, why = street.verdicts()["orders"]
    assert (verdict, said in why) == (Verdict.RED, True)
    assert street.verdicts()["items"] == (Verdict.GREEN, "")


@pytest.mark.parametrize("made", [dropped_partition, ill_named_partition, types_of_one_name])
def test_duckdb_still_ends_its_process_over_a_table_that_pyiceberg_reads(street, monkeypatch, made):
    """When this fails, a part of lakehouse.query.unreadable is not needed any more."""
    made(street, monkeypatch)
    assert len(others.table(street.settings).scan().to_arrow()) == 2
    sql = f"SELECT count(*) FROM {duck.scan(pointers.find('lake', 'orders'))}"
    program = f"from lakehouse.query import duck; duck.connect().execute({sql!r})"
    assert subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False).returncode < 0


def test_a_table_that_cannot_be_compared_is_red_with_the_reason_and_the_others_are_looked_at(street):
    others.schema(street.settings, lambda update: update.delete_column("_seq"))
    others.schema(street.settings, lambda update: update.add_column("_seq", StringType()))
    assert street.verdicts() == {
        "orders": (
            Verdict.RED,
            "the columns by which rows are compared are not what flushes write: '_seq' (VARCHAR, wanted BIGINT)",
        ),
        "items": (Verdict.GREEN, ""),
    }
    for file in others.table(street.settings).inspect.files()["file_path"].to_pylist():
        Path(file).unlink()
    others.schema(street.settings, lambda update: update.delete_column("_seq"))
    others.schema(street.settings, lambda update: update.add_column("_seq", LongType()))
    verdict, why = street.verdicts()["orders"]
    assert (verdict, why.startswith("it cannot be read: IO Error")) == (Verdict.RED, True)
