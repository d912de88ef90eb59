"""Tables of now: of every row its last change, exactly, whatever comes in which order, and whoever dies."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from django.conf import settings as site
from django.core.management import call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, MapType, NestedField, StringType, StructType

from lakehouse import tasks
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.upkeep import compaction, expiry, lease, orphans, rounds
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.current import columns, pulling
from lakehouse.current import refresh as refreshing
from lakehouse.current.names import changes_of, current_of
from lakehouse.errors import CommitConflict, DamagedTable, ForbiddenQuery, TableRefused
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import (
    Batch,
    BatchPayload,
    Child,
    CurrentSource,
    CurrentTable,
    Flush,
    IcebergTable,
    Parent,
    TableSchema,
)
from lakehouse.models.parents import PastFlushes
from lakehouse.moving.house import Move, Plan
from lakehouse.moving.relocation import Relocation
from lakehouse.promotion import Promoter
from lakehouse.query import duck, lake_tables
from lakehouse.query.messages import Name
from rpc.entries import RawEntry
from tests.builders import NOW_MS, frame, parent, source
from tests.lakehouse import others_site as others
from tests.lakehouse.counted_s3 import Counting
from tests.lakehouse.outage_site import come_back, go_away
from tests.repetition import LONG

pytestmark = pytest.mark.django_db(transaction=True)

INSERT, UPDATE, DELETE = 0, 1, 2
HOUR_MS = 3_600_000


class Street:
    """One table, written by children whose batches come in any order."""

    def __init__(self, folder, **options):
        self.settings = Settings(data_dir=folder, **({"current_buckets": 3} | options))
        self.catalog = from_settings(self.settings)
        self.flusher = Flusher("worker-1", self.settings, chosen(self.settings), lambda: NOW_MS)
        self.home = parent(current_state=True)
        self.numbers: dict[tuple[str, int], int] = {}
        self.told: list[tuple[str, int, int, int, str, object]] = []

    def batch(self, child, epoch, *changes):
        """A batch that is made now and may come whenever: each change is sequence, operation, row and value."""
        number = self.numbers[child, epoch] = self.numbers.get((child, epoch), 0) + 1
        content = [
            RawEntry(
                sequence, NOW_MS, operation, b"orders", row.encode(),
                b'{"w": 0}' if operation != INSERT else b"",
                json.dumps({"v": value}).encode() if operation != DELETE else b"",
            )
            for sequence, operation, row, value in changes
        ]  # fmt: skip
        return child, epoch, frame(number, content, source=child), changes

    def send(self, *batches):
        for child, epoch, framed, changes in batches:
            accept([(source(self.home, child, epoch=epoch), framed)], now_ms=NOW_MS)
            self.told += [(child, epoch, *change) for change in changes]

    def write(self, child, *changes, epoch=1):
        self.send(self.batch(child, epoch, *changes))
        self.flush()

    def flush(self):
        while self.flusher.run(self.home.pk, trigger=FlushTrigger.MANUAL):
            pass

    def recover(self):
        Transfer(self.home.pk, "worker-1", self.settings, self.flusher.lake, lambda: NOW_MS).recover()

    def refresh(self):
        return refreshing.refresh(self.catalog, self.settings, "lake", "orders", now_ms=lambda: NOW_MS)

    def model(self):
        """What is there when all that was told is in its order."""
        state = {}
        for child, _, _, operation, row, value in sorted(self.told, key=lambda one: one[:3]):
            if operation == DELETE:
                state.pop((child, row), None)
            else:
                state[child, row] = value
        return state

    def now(self, columns="_source, _row_id, v"):
        place = IcebergTable.objects.get(namespace__name="current").metadata_location
        with duck.connect(self.settings) as reader:
            rows = reader.execute(f"SELECT {columns} FROM {duck.scan(place)}").fetchall()
        found = {row[:2]: row[2] for row in rows}
        assert len(found) == len(rows), "one row for each"
        return found


@pytest.fixture
def street(tmp_path):
    return Street(tmp_path)


@pytest.mark.both
def test_a_table_of_now_has_of_every_row_its_last_change(street):
    street.write("a", (1, INSERT, "x", 1), (2, INSERT, "y", 2), (3, UPDATE, "x", 3))
    street.write("b", (1, INSERT, "x", 10))
    assert street.refresh().buckets >= 1
    assert street.now() == {("a", "x"): 3, ("a", "y"): 2, ("b", "x"): 10}
    street.write("a", (4, DELETE, "x", None), (5, INSERT, "z", 5))
    street.refresh()
    assert street.now() == {("a", "y"): 2, ("b", "x"): 10, ("a", "z"): 5} == street.model()
    assert street.refresh() is None


def test_only_buckets_that_change_are_written_anew(street):
    street.write("a", *((number, INSERT, f"r{number}", number) for number in range(1, 60)))
    assert street.refresh().buckets == 3
    before = files(street)
    street.write("a", (60, UPDATE, "r7", 70))
    assert street.refresh().buckets == 1
    assert len(files(street) & before) == 2
    assert street.now() == street.model()


def test_a_table_with_a_column_called_source_is_not_written_anew_as_a_whole_with_every_change(street, caplog):
    def put(number, row):
        after = json.dumps(dict.fromkeys(("source", "key", "epoch", "seq", "last", "late"), number)).encode()
        content = [RawEntry(number, NOW_MS, INSERT, b"orders", row.encode(), b"", after)]
        accept([(source(street.home, "a", epoch=1), frame(number, content, source="a"))], now_ms=NOW_MS)
        street.flush()

    for number in range(1, 20):
        put(number, f"r{number}")
    assert street.refresh().buckets == 3
    put(20, "r7")
    assert street.refresh().buckets == 1
    assert street.now("_source, _row_id, source")["a", "r7"] == 20
    assert "is made anew" not in caplog.text


def test_a_key_that_became_a_column_is_one_in_the_table_of_now_too(street, monkeypatch):
    TableSchema.objects.create(parent=street.home, table="orders", mode="inbox", fields={"w": "long"})
    street.write("a", (1, INSERT, "x", 1), (2, INSERT, "y", 2))
    street.refresh()
    promoter = Promoter(street.catalog, street.settings, lambda: NOW_MS, lambda ms: None)
    promoter.promote(street.home, "orders", "v", "long")
    assert refreshing.wanted(NOW_MS) == [("lake", "orders")]
    street.refresh()
    assert street.now() == street.model() == {("a", "x"): 1, ("a", "y"): 2}
    assert set(street.now("_source, _row_id, _rest").values()) == {None}
    street.write("a", (3, UPDATE, "x", 3))
    street.refresh()
    assert street.now() == street.model()


def test_a_table_of_now_goes_on_where_its_lake_moved_to(street, tmp_path):
    street.write("a", *((number, INSERT, f"r{number}", number) for number in range(1, 60)))
    street.refresh()
    street.write("a", (60, UPDATE, "r7", 70), (61, DELETE, "r8", None))
    old, street.settings = street.settings, dataclasses.replace(street.settings, data_dir=tmp_path / "new")
    places = Relocation(old.resolved_warehouse, old.resolved_warehouse, street.settings.resolved_warehouse)
    Move(Plan("", places), street.settings, now_ms=now_ms(), say=lambda _: None).run()
    shutil.rmtree(old.resolved_warehouse)
    street.catalog = from_settings(street.settings)
    street.flusher = Flusher("worker-2", street.settings, chosen(street.settings), lambda: NOW_MS)
    assert street.refresh().buckets in {1, 2}
    assert street.now() == street.model()
    street.write("b", (1, INSERT, "r7", 1))
    assert street.refresh().buckets == 1
    assert street.now() == street.model()


def test_what_comes_late_changes_nothing_that_is_newer_and_brings_back_nothing_deleted(street):
    first = street.batch("a", 1, (1, INSERT, "x", 1), (2, INSERT, "y", 2), (3, INSERT, "z", 3))
    last = street.batch("a", 1, (4, DELETE, "x", None), (5, UPDATE, "y", 5))
    street.send(last)
    street.flush()
    street.refresh()
    assert street.now() == {("a", "y"): 5}
    street.send(first)
    street.flush()
    assert street.refresh().late == 3
    assert street.now() == {("a", "y"): 5, ("a", "z"): 3} == street.model()


def test_what_an_earlier_epoch_brings_late_is_older(street):
    early = street.batch("a", 1, (1, INSERT, "x", 1), (2, INSERT, "y", 2))
    street.send(early)
    street.flush()
    street.write("a", (1, INSERT, "x", 10), epoch=2)
    street.refresh()
    street.send(street.batch("a", 1, (3, UPDATE, "x", 3), (4, UPDATE, "y", 4)))
    street.flush()
    street.refresh()
    assert street.now() == {("a", "x"): 10, ("a", "y"): 4} == street.model()


@pytest.mark.both
def test_kept_rows_that_a_fresh_flush_overtook_are_late_and_find_their_place(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    street.send(street.batch("a", 1, (2, UPDATE, "x", 2), (3, INSERT, "y", 3)))
    go_away(NOW_MS)
    street.flush()
    come_back()
    street.write("a", (4, DELETE, "x", None))
    street.refresh()
    assert street.now() == {}
    street.recover()
    assert street.refresh().late == 2
    assert street.now() == {("a", "y"): 3} == street.model()


@pytest.mark.both
def test_of_two_refreshes_at_once_one_counts_and_nothing_of_the_other_stays(street, monkeypatch):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    street.write("a", (2, UPDATE, "x", 2))
    seen = refreshing.look("lake", "orders")
    street.refresh()
    monkeypatch.setattr(refreshing, "look", lambda *names: seen)
    with pytest.raises(CommitConflict):
        street.refresh()
    monkeypatch.undo()
    assert CurrentTable.objects.get().turn == 2
    assert street.now() == {("a", "x"): 2}


@pytest.mark.both
@pytest.mark.parametrize("is_overtaken", [False, True])
def test_what_is_left_of_a_table_that_was_not_made_is_swept_with_all_its_rows(street, monkeypatch, is_overtaken):
    street.write("a", (1, INSERT, "x", 1))

    def dies_or_is_overtaken(point):
        monkeypatch.setattr(refreshing, "reach", lambda point: None)
        if not is_overtaken:
            raise RuntimeError("dead")
        street.refresh()

    monkeypatch.setattr(refreshing, "reach", dies_or_is_overtaken)
    with pytest.raises(CommitConflict if is_overtaken else RuntimeError):
        street.refresh()
    street.refresh()
    row = IcebergTable.objects.get(namespace__name="current")
    with lease.kept(row, street.catalog, lease_ms=60_000, now_ms=lambda: NOW_MS) as keeper:
        swept = orphans.sweep(keeper, before_ms=2**62, is_dry_run=False)
    assert swept.stranger == ""
    assert swept.deleted == swept.found >= 2
    assert len(list((street.settings.data_dir / "lake").rglob("current/orders/metadata/*.metadata.json"))) == 1
    assert street.now() == {("a", "x"): 1}


@pytest.mark.both
def test_a_refresh_that_dies_before_its_commit_leaves_nothing_and_is_made_anew(street, monkeypatch):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    street.write("a", (2, UPDATE, "x", 2))

    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    before = list(CurrentTable.objects.values())
    with monkeypatch.context() as patched:
        patched.setattr(refreshing.pointers, "move", dies)
        with pytest.raises(KeyboardInterrupt):
            street.refresh()
    assert list(CurrentTable.objects.values()) == before
    assert CurrentSource.objects.get().seq == 1
    assert street.now() == {("a", "x"): 1}
    street.refresh()
    assert street.now() == {("a", "x"): 2}


@pytest.mark.both
def test_a_table_of_now_that_was_dropped_or_lost_its_place_is_made_anew(street):
    street.write("a", (1, INSERT, "x", 1), (2, INSERT, "y", 2))
    street.refresh()
    IcebergTable.objects.get(namespace__name="current").delete()
    street.write("a", (3, DELETE, "y", None))
    street.refresh()
    assert street.now() == {("a", "x"): 1}
    street.write("a", (4, INSERT, "z", 4))
    PastFlushes.objects.create(parent=street.home, commit_number=3)
    street.refresh()
    assert street.now() == {("a", "x"): 1, ("a", "z"): 4} == street.model()


def test_what_cannot_be_merged_with_what_is_there_is_made_anew(street, monkeypatch):
    street.write("a", (1, INSERT, "x", 1), (2, INSERT, "y", 2))
    street.refresh()
    street.write("a", (3, UPDATE, "x", 3))
    content = pulling.Pull.content

    def only_whole(pull, bucket):
        if pull._moment.flushes is not None:
            raise duckdb.BinderException("two columns that are none")
        return content(pull, bucket)

    monkeypatch.setattr(pulling.Pull, "content", only_whole)
    assert street.refresh().rows == 2
    assert street.now() == {("a", "x"): 3, ("a", "y"): 2}


def test_new_columns_come_along(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    entry = RawEntry(2, NOW_MS, INSERT, b"orders", b"y", b"", b'{"v": 2, "w": "new"}')
    accept([(source(street.home, "a"), frame(2, [entry], source="a"))], now_ms=NOW_MS)
    street.flush()
    street.refresh()
    assert street.now("_source, _row_id, w") == {("a", "x"): None, ("a", "y"): "new"}


def test_a_table_that_has_nothing_left_is_empty(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    street.write("a", (2, DELETE, "x", None))
    street.refresh()
    assert street.now() == {}


def test_what_was_deleted_is_in_no_file_once_its_snapshots_have_expired(street):
    street.write("a", (1, INSERT, "x", "secret-of-x"), (2, INSERT, "y", "kept"))
    street.refresh()
    street.write("a", (3, UPDATE, "x", "secret-of-x-too"))
    street.refresh()
    street.write("a", (4, DELETE, "x", None))
    street.refresh()
    assert holding(street, b"secret-of-x")
    row = IcebergTable.objects.select_related("namespace").get(namespace__name="current")
    ahead = NOW_MS * 2
    with lease.kept(row, street.catalog, lease_ms=60_000, now_ms=lambda: ahead) as keeper:
        rounds.keep(keeper, street.settings)
        expiry.delete(keeper, before_ms=ahead * 2)
    assert not holding(street, b"secret-of-x")
    assert holding(street, b"kept")
    assert street.now() == {("a", "y"): "kept"}


def test_merging_the_files_of_the_changes_changes_nothing(street):
    for number in range(1, 10):
        street.write("a", (number, UPDATE, f"r{number % 4}", number))
        if number == 5:
            street.refresh()
    row = IcebergTable.objects.select_related("namespace").get(namespace__name="lake")
    with lease.kept(row, street.catalog, lease_ms=60_000, now_ms=lambda: NOW_MS) as keeper:
        assert compaction.compact(keeper, dataclasses.replace(rounds.terms_of(street.settings), files_min=2)).old
    street.refresh()
    assert street.now() == street.model()


@pytest.mark.both
def test_the_beat_refreshes_where_a_parent_wants_it_and_nowhere_else(street, worker):
    site.EVODB = street.settings
    other = parent("eu")
    Parent.objects.filter(pk=other.pk).update(namespace="eu")
    accept([(source(other), frame(1, [RawEntry(1, NOW_MS, 0, b"orders", b"x", b"", b"{}")]))], now_ms=NOW_MS)
    street.flusher.run(other.pk, trigger=FlushTrigger.MANUAL)
    street.write("a", (1, INSERT, "x", 1))
    assert tasks.refresh_current() == 1
    assert tasks.refresh_current() == 0
    out = io.StringIO()
    call_command("query", "SELECT v FROM current.orders", "--format", "csv", stdout=out)
    assert out.getvalue().split() == ["v", "1"]
    assert [str(row) for row in IcebergTable.objects.order_by("pk")] == ["eu.orders", "lake.orders", "current.orders"]


def test_a_key_for_the_changes_reads_what_became_of_them_and_sees_how_far_it_is(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    street.write("a", (2, INSERT, "y", 1))
    names = [Name("current", "orders"), Name("current", "watermarks")]
    table, marks = lake_tables.places(names, allows=lambda namespace: namespace == "lake")
    assert table.metadata_location
    (mark,) = json.loads(marks.rows.json)
    assert (mark["parent"], mark["table_name"], mark["bookmark"], mark["newest"], mark["is_complete"]) == (
        "default", "orders", 1, 2, False,
    )  # fmt: skip
    with pytest.raises(ForbiddenQuery):
        lake_tables.places(names[:1], allows=lambda namespace: namespace == "eu")
    with pytest.raises(ForbiddenQuery):
        lake_tables.places(names[1:], allows=lambda namespace: namespace == "eu")


@pytest.mark.parametrize("namespace", ["lake", "eu", "eu.north"])
def test_each_namespace_has_one_for_its_tables_of_now(namespace):
    assert changes_of(current_of(namespace)) == namespace
    assert changes_of(namespace) is None


def files(street):
    table = street.catalog.load_table(("current", "orders"))
    return {task.file.file_path for task in table.scan().plan_files()}


def holding(street, text):
    """Files of the table of now with these bytes in them; Parquet keeps short texts as they are."""
    folder = Path(street.catalog.load_table(("current", "orders")).location())
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([INSERT, UPDATE, DELETE]),
        st.sampled_from(["r1", "r2", "r3", "r4"]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=16,
)


@settings(max_examples=200 if LONG else 6, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES, data=st.data())
def test_a_table_of_now_is_exact_after_any_changes_in_any_order(tmp_path_factory, changes, data):
    """Batches come in any order, in flushes of any size, with refreshes wherever; epochs change on the way."""
    with emptied():
        street = Street(tmp_path_factory.mktemp("current"), current_buckets=2)
        street.write("c", (1, INSERT, "first", 0))
        batches, sequences, epochs = [], {}, {"a": 1, "b": 1}
        for child, operation, row, value in changes:
            if data.draw(st.integers(0, 9), label="epoch") == 0:
                epochs[child] += 1
            at = sequences[child, epochs[child]] = sequences.get((child, epochs[child]), 0) + 1
            batches.append(street.batch(child, epochs[child], (at, operation, row, value)))
        for batch in data.draw(st.permutations(batches), label="order"):
            street.send(batch)
            step = data.draw(st.sampled_from(["wait", "flush", "refresh"]), label="step")
            if step != "wait":
                street.flush()
            if step == "refresh":
                street.refresh()
                assert street.now() == street.model()
        street.flush()
        street.refresh()
        assert street.now() == street.model()


@contextmanager
def emptied():
    """The database is as it was, for the next example."""
    try:
        yield
    finally:
        for model in (BatchPayload, Batch, Flush, CurrentTable, IcebergTable, Child, Parent):
            model.objects.all().delete()


def taken_away(street, column, kind):
    others.schema(street.settings, lambda update: update.delete_column(column))
    others.schema(street.settings, lambda update: update.add_column(column, kind))


def test_a_table_of_now_whose_order_somebody_took_away_says_so_and_keeps_no_other_waiting(street, worker, caplog):
    worker(current_buckets=3)
    street.write("a", (1, INSERT, "x", 1))
    taken_away(street, "_seq", StringType())
    with pytest.raises(DamagedTable, match="which change of a row is its last: _seq is VARCHAR, wanted BIGINT; drop"):
        street.refresh()
    street.write("a", (2, UPDATE, "x", 2))
    others.schema(street.settings, lambda update: update.delete_column("_seq"))
    street.recover()
    with pytest.raises(DamagedTable, match=r"1 rows that flushes wrote to lake\.orders have no value in .*_seq"):
        street.refresh()
    items = RawEntry(9, NOW_MS, INSERT, b"items", b"i", b"", b'{"v": 1}')
    accept([(source(street.home, "a"), frame(9, [items], source="a"))], now_ms=NOW_MS)
    street.flush()
    assert tasks.refresh_current() == 1
    assert IcebergTable.objects.get(namespace__name="current").name == "items"
    assert "the table of now of lake.orders is left for later: 1 rows that flushes wrote" in caplog.text


def test_what_breaks_the_refresh_of_one_table_keeps_no_other_waiting(street, worker, monkeypatch, caplog):
    worker(current_buckets=3)
    street.write("a", (1, INSERT, "x", 1))
    monkeypatch.setattr(refreshing, "refresh", lambda *args, **kwargs: 1 // 0)
    assert tasks.refresh_current() == 0
    assert "the table of now of lake.orders cannot be refreshed" in caplog.text


def test_rows_that_no_child_brought_are_in_no_table_of_now(street):
    street.write("a", (1, INSERT, "x", 1))
    table = others.table(street.settings)
    theirs = table.scan(selected_fields=("v",)).to_arrow()
    nothing = [pa.nulls(1, field.type) for field in table.schema().as_arrow()]
    names = table.schema().column_names
    table.append(
        pa.table([theirs["v"] if name == "v" else one for name, one in zip(names, nothing, strict=True)], names)
    )
    street.refresh()
    assert street.now() == {("a", "x"): 1}


def test_a_table_that_was_dropped_and_flushed_anew_has_a_table_of_now_of_its_new_rows(street):
    street.write("a", (1, INSERT, "x", 1), (2, INSERT, "y", 2))
    street.refresh()
    street.catalog.drop_table(("lake", "orders"))
    street.write("a", (3, INSERT, "z", 3))
    assert refreshing.wanted(NOW_MS) == [("lake", "orders")]
    street.refresh()
    assert street.now() == {("a", "z"): 3}


def test_columns_of_others_that_a_table_of_now_cannot_have_are_left_out(street):
    others_columns = {"tags": MapType(1, StringType(), 2, LongType()), "V": StringType(), "_SEQ": StringType()}
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    for name, kind in others_columns.items():
        others.schema(street.settings, lambda update, name=name, kind=kind: update.add_column(name, kind))
    street.write("a", (2, UPDATE, "x", 2), (3, INSERT, "y", 3))
    street.refresh()
    assert street.now() == {("a", "x"): 2, ("a", "y"): 3}
    assert not others_columns.keys() & set(others.table(street.settings, namespace="current").schema().column_names)


def test_a_struct_of_others_with_a_field_that_is_required_is_in_a_table_of_now(street):
    kind = StructType(NestedField(1, "a", LongType(), required=True))
    street.write("a", (1, INSERT, "x", 1))
    others.schema(street.settings, lambda update: update.add_column("theirs", kind))
    street.refresh()
    street.write("a", (2, INSERT, "y", 2))
    street.refresh()
    assert street.now() == {("a", "x"): 1, ("a", "y"): 2}


def test_a_column_that_somebody_made_anew_in_another_type_is_so_in_the_table_of_now(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    taken_away(street, "v", StringType())
    street.write("a", (2, INSERT, "y", "text"))
    street.refresh()
    assert street.now() == {("a", "x"): None, ("a", "y"): "text"}


def test_a_table_of_now_that_never_said_its_columns_is_made_anew_when_they_do_not_fit(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    with others.table(street.settings, namespace="current").transaction() as change:
        change.remove_properties(columns.COLUMNS)
    taken_away(street, "v", StringType())
    street.write("a", (2, INSERT, "y", "text"))
    street.refresh()
    assert street.now() == {("a", "x"): None, ("a", "y"): "text"}


@pytest.mark.parametrize("is_written", [True, False])
def test_a_column_that_somebody_renamed_has_its_old_values_under_the_new_name_only(street, is_written):
    street.write("a", (1, INSERT, "x", 1), (2, INSERT, "y", 2))
    street.refresh()
    others.schema(street.settings, lambda update: update.rename_column("v", "was"))
    if is_written:
        street.write("a", (3, UPDATE, "y", 3))
    street.refresh()
    assert street.now("_source, _row_id, was") == {("a", "x"): 1, ("a", "y"): None if is_written else 2}
    assert ("v" in others.table(street.settings, namespace="current").schema().column_names) == is_written
    if is_written:
        assert street.now() == {("a", "x"): None, ("a", "y"): 3}


def test_columns_of_which_two_changed_their_names_with_each_other_do_so_in_the_table_of_now(street):
    others_name = {"v": "other", "other": "v"}
    street.write("a", (1, INSERT, "x", 1))
    others.schema(street.settings, lambda update: update.add_column("other", LongType()))
    street.refresh()
    for one in ("v", "other"):
        others.schema(street.settings, lambda update, one=one: update.rename_column(one, f"{one}_"))
    for one in ("v", "other"):
        others.schema(street.settings, lambda update, one=one: update.rename_column(f"{one}_", others_name[one]))
    street.refresh()
    assert street.now("_source, _row_id, other") == {("a", "x"): 1}
    assert street.now() == {("a", "x"): None}


def test_new_columns_and_merged_files_make_no_table_of_now_anew(street):
    street.write("a", (1, INSERT, "x", 1), (2, INSERT, "y", 2), (3, INSERT, "z", 3))
    street.refresh()
    others.schema(street.settings, lambda update: update.add_column("other", LongType()))
    assert street.refresh() == refreshing.Refreshed(0, 0, 0)
    street.write("a", (4, UPDATE, "x", 4))
    assert street.refresh().buckets == 1


def test_a_table_that_was_dropped_for_the_type_of_a_column_has_a_table_of_now_with_the_new_one(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    street.catalog.drop_table(("lake", "orders"))
    street.write("a", (2, INSERT, "y", "text"))
    street.refresh()
    assert street.now() == {("a", "y"): "text"}


def test_a_table_that_somebody_made_for_himself_beside_those_of_children_is_none_of_now_and_warns_of_nothing(
    street, worker, caplog
):
    worker(current_buckets=3)
    street.write("a", (1, INSERT, "x", 1))
    street.catalog.create_table(("lake", "mine"), Schema(NestedField(1, "who", StringType(), required=False)))
    assert tasks.refresh_current() == 2
    assert refreshing.wanted(now_ms()) == []
    assert [one.name for one in IcebergTable.objects.filter(namespace__name="current")] == ["orders"]
    assert "mine is left" not in caplog.text


def test_a_table_that_duckdb_does_not_survive_is_told_of_and_ends_no_worker(street):
    street.write("a", (1, INSERT, "x", 1))
    others.metadata(street.settings, others.without_column("_ts"))
    street.write("a", (2, INSERT, "y", 2))
    with pytest.raises(DamagedTable, match=r"lake\.orders cannot be read: it has files in partitions by '_ts_day'"):
        street.refresh()


def test_a_table_of_now_that_takes_no_rows_says_so_and_is_made_anew_when_it_was_dropped(street):
    street.write("a", (1, INSERT, "x", 1))
    street.refresh()
    place = Path(IcebergTable.objects.get(namespace__name="current").metadata_location)
    place.write_text(place.read_text().replace('"format-version":2', '"format-version":3,"next-row-id":0'))
    street.write("a", (2, INSERT, "y", 2))
    street.catalog = from_settings(street.settings)  # of a process that did not write it
    with pytest.raises(TableRefused, match=r"current\.orders takes no rows .*version: 3\); undo .* or drop it"):
        street.refresh()
    street.catalog.drop_table(("current", "orders"))
    street.refresh()
    assert street.now() == {("a", "x"): 1, ("a", "y"): 2}


def test_buckets_are_written_into_an_object_store_side_by_side(s3: Counting, settings_of_s3: Settings) -> None:
    store = ("warehouse", "s3_endpoint", "s3_region", "s3_access_key_id", "s3_secret_access_key")
    street = Street(settings_of_s3.data_dir, **{name: getattr(settings_of_s3, name) for name in store})
    street.write("shop", *((number, INSERT, f"r{number}", number) for number in range(1, 20)))
    s3.together("PUT", ".parquet")
    done = street.refresh()
    assert (done.buckets, done.rows) == (3, 19)
    assert street.now() == street.model()
