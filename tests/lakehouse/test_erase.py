"""`manage.py erase`: what is erased is in no file, what is left is as it was, and the sums agree."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from django.conf import settings as site
from django.core.management import CommandError, call_command
from pyiceberg.schema import Schema
from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyiceberg.types import NestedField, StringType

from lakehouse.catalog import pointers
from lakehouse.catalog.upkeep import expiry
from lakehouse.journal.accept import accept
from lakehouse.models import DeadLetter, DriftField, IcebergTable, TableSchema
from lakehouse.query import duck
from lakehouse.query import verify as verifying
from lakehouse.query.verify import Wanted
from lakehouse.subscriptions.models import Delivery, Subscription
from rpc.entries import RawEntry
from tests.builders import NOW_MS, frame, source
from tests.lakehouse.test_current import DELETE, INSERT, UPDATE, Street

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def street(tmp_path, monkeypatch):
    found = Street(tmp_path)
    monkeypatch.setattr(site, "EVODB", found.settings)
    found.write("a", (1, INSERT, "x", "secret-of-a-x"), (2, INSERT, "y", "kept-of-a-y"))
    found.write("b", (1, INSERT, "x", "secret-of-b-x"))
    found.refresh()
    found.write("a", (3, UPDATE, "x", "secret-of-a-x-too"), (4, INSERT, "z", "kept-of-a-z"))
    found.write("b", (2, DELETE, "x", None), (3, INSERT, "w", "kept-of-b-w"))
    found.refresh()
    return found


def erase(*args):
    out, err = io.StringIO(), io.StringIO()
    call_command("erase", *args, stdout=out, stderr=err)
    return out.getvalue().splitlines(), err.getvalue()


def changes(street):
    place = IcebergTable.objects.get(namespace__name="lake", name="orders").metadata_location
    with duck.connect(street.settings) as reader:
        return sorted(reader.execute(f"SELECT _source, _seq FROM {duck.scan(place)}").fetchall())


def holding(street, text):
    """Files of the lake with these bytes in them; Parquet keeps short texts as they are."""
    found = (street.settings.data_dir / "lake").rglob("*")
    return [path for path in found if path.is_file() and text in path.read_bytes()]


def send(street, number, *entries):
    accept([(source(street.home, "a"), frame(number, entries, source="a"))], now_ms=NOW_MS)
    street.flush()


def verdicts(street):
    return {report.child: report.verdict for report in verifying.verify(street.settings, Wanted())}


@pytest.mark.both
def test_a_row_that_is_erased_is_in_no_file_and_the_files_that_went_are_told(street):
    assert holding(street, b"secret-of-a-x")
    said, _ = erase("--table", "orders", "--row-id", "x", "--child", "a")
    assert not holding(street, b"secret-of-a-x")
    assert holding(street, b"secret-of-b-x")
    removed = [line.removeprefix("removed ") for line in said if line.startswith("removed ")]
    assert removed
    assert not any(Path(path.removeprefix("file://")).exists() for path in removed)
    assert said[-1] == f"3 rows erased, {len(removed)} files removed"
    assert changes(street) == [("a", 2), ("a", 4), ("b", 1), ("b", 2), ("b", 3)]
    assert street.now() == {("a", "y"): "kept-of-a-y", ("a", "z"): "kept-of-a-z", ("b", "w"): "kept-of-b-w"}
    assert verdicts(street) == {"a": "green", "b": "green"}


def test_a_row_id_without_a_child_means_all_children(street):
    erase("--table", "orders", "--row-id", "x")
    assert not holding(street, b"secret")
    assert changes(street) == [("a", 2), ("a", 4), ("b", 3)]
    assert verdicts(street) == {"a": "green", "b": "green"}


def test_rows_are_erased_from_files_of_an_earlier_partitioning_which_stay_in_it(street):
    with street.catalog.load_table(("lake", "orders")).update_spec() as spec:
        spec.add_field("_seq", BucketTransform(4), "bucket")
    street.write("a", (5, UPDATE, "x", "secret-of-a-x-again"), (6, INSERT, "v", "kept-of-a-v"))
    erase("--table", "orders", "--row-id", "x", "--child", "a")
    assert not holding(street, b"secret-of-a-x")
    assert changes(street) == [("a", 2), ("a", 4), ("a", 6), ("b", 1), ("b", 2), ("b", 3)]
    assert verdicts(street) == {"a": "green", "b": "green"}
    table = street.catalog.load_table(("lake", "orders"))
    assert sorted(table.scan().to_arrow()["_seq"].to_pylist()) == [1, 2, 2, 3, 4, 6]
    assert sorted({file["spec_id"] for file in table.inspect.files().to_pylist()}) == [0, 1]


def test_rows_in_partitions_by_a_column_that_was_dropped_are_refused_with_the_way_out(street):
    table = street.catalog.load_table(("lake", "orders"))
    with table.update_spec() as spec:
        spec.add_field("v", IdentityTransform(), "by_v")
    street.write("a", (5, UPDATE, "x", "secret-of-a-x-again"))
    table = street.catalog.load_table(("lake", "orders"))
    with table.update_spec() as spec:
        spec.remove_field("by_v")
    with table.update_schema() as update:
        update.delete_column("v")
    before = changes(street)
    with pytest.raises(CommandError, match=r"by a column that was dropped.* copy the rows that stay"):
        erase("--table", "orders", "--row-id", "x")
    assert changes(street) == before


def test_a_child_that_is_erased_is_gone_from_every_table_and_may_go_on(street):
    letter = RawEntry(5, NOW_MS, INSERT, b"items", b"i", b"", b"{nonsense")
    send(street, 3, letter, RawEntry(6, NOW_MS, INSERT, b"items", b"j", b"", b"{}"))
    said, _ = erase("--child", "a")
    assert "1 dead letters purged" in said
    assert (DeadLetter.objects.count(), holding(street, b"of-a-")) == (0, [])
    assert changes(street) == [("b", 1), ("b", 2), ("b", 3)]
    assert street.now() == {("b", "w"): "kept-of-b-w"}
    send(street, 4, RawEntry(7, NOW_MS, INSERT, b"orders", b"n", b"", b'{"v": "new"}'))
    street.refresh()
    assert street.now() == {("b", "w"): "kept-of-b-w", ("a", "n"): "new"}
    assert verdicts(street)["b"] == "green"


def test_a_child_is_erased_from_the_table_of_now_of_a_table_that_was_dropped(street):
    street.catalog.drop_table(("lake", "orders"))
    assert ("a", "y") in street.now()
    erase("--child", "a")
    assert street.now() == {("b", "w"): "kept-of-b-w"}


def test_tables_from_which_all_is_erased_are_kept_in_order_as_others_are(street):
    for child in ("a", "b"):
        erase("--child", child)
        street.write("c", (1 if child == "a" else 2, INSERT, child, 1))
        street.refresh()
        erase("--child", "c")
    out = io.StringIO()
    call_command("lake", "compact", "--all", stdout=out, stderr=out)
    assert "current.orders: 0 files became 0" in out.getvalue()
    street.write("c", (3, INSERT, "x", "seven"))
    street.refresh()
    assert street.now() == {("c", "x"): "seven"}


@pytest.mark.both
def test_a_child_that_is_erased_from_one_table_leaves_its_dead_letters_of_the_others(street):
    for number, table in ((5, b"orders"), (6, b"items")):
        bad = RawEntry(number, NOW_MS, INSERT, table, b"i", b"", b"{nonsense-of-a")
        send(street, number, bad, RawEntry(number + 10, NOW_MS, INSERT, table, b"j", b"", b"{}"))
    _, told = erase("--table", "orders", "--row-id", "x")
    assert "1 dead letters of orders may have the row and stay" in told
    said, _ = erase("--table", "orders", "--child", "a")
    assert "1 dead letters purged" in said
    assert [letter.table for letter in DeadLetter.objects.all()] == ["items"]


@pytest.mark.both
def test_what_is_erased_is_no_example_in_the_inbox_and_messages_that_may_have_it_are_told(street):
    schema = {"parent": street.home, "table": "orders", "mode": "inbox", "fields": {"v": "string"}}
    TableSchema.objects.create(**schema)
    send(street, 5, RawEntry(5, NOW_MS, INSERT, b"orders", b"x", b"", b'{"new": "secret-example"}'))
    assert "secret-example" in DriftField.objects.get().example
    to = Subscription.objects.create(parent=street.home, name="s", pattern="**", target_kind="celery", target="t")
    Delivery.objects.create(subscription=to, commit_number=1, events=b"[{}]")
    Delivery.objects.create(subscription=to, commit_number=1, events=b"", state="delivered")
    _, told = erase("--table", "orders", "--row-id", "x")
    assert DriftField.objects.get().example == ""
    assert "1 messages to subscribers may have such rows and stay" in told


@pytest.mark.both
@pytest.mark.parametrize("step", ["forget", "delete"])
def test_an_erasure_that_died_is_typed_again_and_ends(street, monkeypatch, step):
    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(expiry, step, dies)
        with pytest.raises(KeyboardInterrupt):
            erase("--table", "orders", "--row-id", "x")
    assert changes(street) == [("a", 2), ("a", 4), ("b", 3)]
    assert verdicts(street) == {"a": "green", "b": "green"}
    assert holding(street, b"secret")
    said, _ = erase("--table", "orders", "--row-id", "x")
    assert any(line.startswith("removed ") for line in said)
    assert not holding(street, b"secret")


@pytest.mark.both
def test_one_that_died_before_its_commit_has_erased_nothing_and_its_files_are_named_nowhere(street, monkeypatch):
    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    before = changes(street)
    with monkeypatch.context() as patched:
        patched.setattr(pointers, "move_row", dies)
        with pytest.raises(KeyboardInterrupt):
            erase("--table", "orders", "--row-id", "x")
    assert (changes(street), verdicts(street)) == (before, {"a": "green", "b": "green"})
    erase("--table", "orders", "--row-id", "x")
    assert verdicts(street) == {"a": "green", "b": "green"}


def test_what_a_tag_keeps_is_said_and_not_touched(street):
    table = street.catalog.load_table(("lake", "orders"))
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "audit").commit()
    _, said = erase("--table", "orders", "--row-id", "x")
    assert "lake.orders: the snapshot of audit is kept" in said
    assert holding(street, b"secret-of-a-x")
    assert changes(street) == [("a", 2), ("a", 4), ("b", 3)]


@pytest.mark.both
def test_a_refresh_that_read_before_brings_nothing_back(street, monkeypatch):
    from lakehouse.current import refresh as refreshing
    from lakehouse.errors import CommitConflict

    street.write("a", (5, UPDATE, "x", "secret-of-a-x-again"))
    seen = refreshing.look("lake", "orders")
    erase("--table", "orders", "--row-id", "x")
    monkeypatch.setattr(refreshing, "look", lambda *names: seen)
    with pytest.raises((CommitConflict, refreshing.StoreUnavailable)):
        street.refresh()
    monkeypatch.undo()
    street.refresh()
    assert ("a", "x") not in street.now()


def test_erasing_what_is_not_there_changes_nothing(street):
    before = changes(street)
    said, _ = erase("--table", "orders", "--row-id", "nobody")
    assert said[-1].startswith("0 rows erased")
    assert changes(street) == before
    assert verdicts(street) == {"a": "green", "b": "green"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "nothing says which rows"),
        (["--row-id", "x"], "type --table NAME"),
        (["--table", "ordrs", "--row-id", "x"], r"there is no table lake\.ordrs; there are orders"),
        (["--child", "a", "--namespace", "lakes"], "there are no tables in lakes; there are some in lake"),
        (["--child", "a", "--namespace", "a/b"], "there are no tables in a/b; there are some in lake"),
        (["--child", "a", "--namespace", ""], "argument --namespace: is '', wanted a name"),
        (["--child", ""], "argument --child: is '', wanted a name"),
        (["--child", "a", "--namespace", "current"], "current has the tables of now of lake; type --namespace lake"),
    ],
)
def test_what_cannot_be_meant_says_what_to_type(street, args, said):
    with pytest.raises(CommandError, match=said):
        erase(*args)


def test_a_child_whose_name_is_misspelt_costs_no_table_its_way_back(street):
    files = set((street.settings.data_dir / "lake").rglob("*"))
    with pytest.raises(CommandError, match="no child 'aa' ever came here; is its name spelled so"):
        erase("--child", "aa")
    assert set((street.settings.data_dir / "lake").rglob("*")) == files


def test_a_child_is_erased_from_every_table_but_those_that_cannot_let_go_of_it(street):
    items = RawEntry(5, NOW_MS, INSERT, b"archive", b"i", b"", b'{"v": "secret-of-a"}')
    send(street, 3, items, RawEntry(6, NOW_MS, INSERT, b"things", b"j", b"", b'{"v": "thing-of-a-"}'))
    with street.catalog.load_table(("lake", "archive")).transaction() as change:
        change.set_properties({"gc.enabled": "false"})
    street.catalog.create_table(("lake", "mine"), Schema(NestedField(1, "who", StringType(), required=False)))
    err = io.StringIO()
    with pytest.raises(CommandError, match="1 tables are not done, see above"):
        call_command("erase", "--child", "a", stdout=io.StringIO(), stderr=err)
    assert "files of lake.archive are not ours to delete (gc.enabled" in err.getvalue()
    assert "lake.mine is somebody's own" in err.getvalue()
    assert (changes(street), holding(street, b"thing-of-a-")) == ([("b", 1), ("b", 2), ("b", 3)], [])
    with street.catalog.load_table(("lake", "archive")).transaction() as change:
        change.remove_properties("gc.enabled")
    assert erase("--child", "a")[0][-1].startswith("1 rows erased")
    assert holding(street, b"of-a-") == []


@pytest.mark.both
def test_while_batches_wait_that_may_bring_such_rows_nothing_is_erased(street):
    before = changes(street)
    street.send(street.batch("a", 1, (5, UPDATE, "x", "secret-of-a-x-last")))
    for args in (["--child", "a"], ["--table", "orders", "--row-id", "x"]):
        with pytest.raises(CommandError, match="1 batches wait in the journal"):
            erase(*args)
    assert changes(street) == before
    assert json.dumps(erase("--child", "b")[0])


def test_files_that_may_be_of_a_table_nobody_knows_are_not_called_removed(street):
    row = IcebergTable.objects.get(namespace__name="lake", name="orders")
    metadata = json.loads(Path(row.metadata_location).read_text())
    stray = Path(row.metadata_location).with_name("00000-dropped.metadata.json")
    stray.write_text(json.dumps(metadata | {"table-uuid": "00000000-0000-0000-0000-000000000001"}))
    orphan = Path(row.metadata_location).parent.with_name("data") / "left.parquet"
    orphan.write_bytes(b"x")
    for path in (stray, orphan):
        os.utime(path, (0, 0))
    out, err = erase("--table", "orders", "--row-id", "x")
    assert f"2 files nobody names may have the rows and stay: {stray} is of a table that was dropped" in err
    assert not [line for line in out if "left.parquet" in line]
    assert orphan.exists()
