"""`manage.py verify`: the lake is what the journal says, or it is told which entries are not."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import replace

import pyarrow as pa
import pytest
from django.core.management import CommandError, call_command

from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush import letters
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, Child, ChildTable, DeadLetter, IcebergTable
from lakehouse.query import verify as verifying
from lakehouse.query.ranges import Kind, Range
from lakehouse.query.verify import Verdict, Wanted
from rpc import batch as wire
from rpc import columns, entry_digest
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.negotiation import PayloadEncoding
from rpc.shapes import shape_of
from tests.builders import NOW_MS, entry, frame, parent, run, source
from tests.lakehouse.outage_site import come_back, go_away
from tests.services import free_port

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake_settings(tmp_path):
    return Settings(data_dir=tmp_path)


@pytest.fixture
def flush(lake_settings):
    flusher = Flusher("worker-1", lake_settings, chosen(lake_settings), lambda: NOW_MS)

    def work(shop, *batches):
        if batches:
            accept([(shop, one) for one in batches], now_ms=NOW_MS)
        return flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)

    return work


def reports(settings, **wanted):
    return list(verifying.verify(settings, Wanted(**wanted)))


def only(settings, **wanted):
    (report,) = reports(settings, **wanted)
    return report


def verdicts(report):
    return {one.table: one.verdict for one in report.tables}


def rewrite(settings, change, table="lake.orders"):
    """Another writer puts other rows in the place of those of a table."""
    opened = from_settings(settings).load_table(table)
    opened.overwrite(change(opened.scan().to_arrow()))


def without(rows, *sequences):
    return rows.filter(pa.array([sequence.as_py() not in sequences for sequence in rows["_seq"]]))


def doubled(rows, *sequences):
    return pa.concat_tables([rows, rows.filter(pa.array([one.as_py() in sequences for one in rows["_seq"]]))])


def changed(rows, name, value, at=0):
    values = rows[name].to_pylist()
    values[at] = value
    return rows.set_column(rows.column_names.index(name), rows.schema.field(name), pa.array(values, rows[name].type))


def of_encoding(number, content, encoding):
    """A batch as it is behind the parent's door, whatever it travelled as."""
    if encoding in (Encoding.BINARY, Encoding.COLUMNS):
        return frame(number, content, encoding=encoding)
    made = shape_of(PayloadEncoding(encoding))(columns.encode(content))
    layout = wire.Layout.MSGPACK if encoding == "msgpack" else Encoding.COLUMNS
    framed = wire.encode(
        made.payload,
        encoding=layout,
        entry_count=len(content),
        source="shop-1",
        sequence=number,
        timestamp_ms=NOW_MS,
    )
    return wire.read(framed, documents=True)


@pytest.mark.parametrize("encoding", [Encoding.COLUMNS, Encoding.BINARY, "msgpack"])
def test_what_was_flushed_is_green_whatever_payload_brought_it(flush, lake_settings, encoding):
    report = flushed_as(flush, lake_settings, encoding)
    assert verdicts(report) == {"orders": "green", "items": "green"}
    assert {one.typed for one in report.tables} == {0}


def test_what_came_as_typed_columns_is_counted_and_never_green(flush, lake_settings):
    report = flushed_as(flush, lake_settings, "arrow")
    assert verdicts(report) == {"orders": "counted", "items": "counted"}
    assert {one.table: one.typed for one in report.tables} == {"orders": 11, "items": 1}
    assert report.tables[0].why[0].endswith("what their columns hold was not compared")
    assert report.verdict is Verdict.COUNTED


def test_a_change_that_says_nothing_but_its_row_is_green(flush, lake_settings):
    flush(source(parent()), frame(1, [entry(1), RawEntry(2, NOW_MS, 2, b"orders", b"r1", b"", b"")]))
    assert verdicts(only(lake_settings)) == {"orders": "green"}


def flushed_as(flush, lake_settings, encoding):
    shop = source(parent())
    update = RawEntry(4, NOW_MS, 1, b"orders", b"r4", b'{"id": 4, "x": 1.50}', b'{"id": 4, "x": "\xc3\xa4"}')
    delete = RawEntry(5, NOW_MS, 2, b"items", b"", b'{"id": 5}', b"")
    flush(shop, of_encoding(1, [*run(1, 3), update, delete], encoding), of_encoding(2, run(6, 9), encoding))
    flush(shop, of_encoding(3, run(10, 12), encoding))
    report = only(lake_settings)
    assert {one.table: one.lake.entries for one in report.tables} == {"orders": 11, "items": 1}
    assert report.ranges == []
    return report


def test_a_row_that_was_deleted_from_the_lake_is_named(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 5)), frame(2, run(6, 9)))
    rewrite(lake_settings, lambda rows: without(rows, 3, 5, 6))
    report = only(lake_settings)
    assert verdicts(report) == {"orders": "red"}
    assert report.ranges == [Range(Kind.MISSING, 1, 3, 3, 1), Range(Kind.MISSING, 1, 5, 6, 2)]


def test_a_row_that_is_there_twice_is_named(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 5)))
    rewrite(lake_settings, lambda rows: doubled(rows, 2, 3))
    report = only(lake_settings)
    assert (verdicts(report), report.ranges) == ({"orders": "red"}, [Range(Kind.DOUBLE, 1, 2, 3, 2)])


@pytest.mark.parametrize(
    ("name", "value"), [("_after", '{"id": 2}'), ("_row_id", "r2"), ("_op", "UPDATE"), ("_op", "?"), ("_before", "{}")]
)
def test_a_row_whose_content_was_changed_is_red_though_no_sequence_is_missing(flush, lake_settings, name, value):
    flush(source(parent()), frame(1, run(1, 5)))
    rewrite(lake_settings, lambda rows: changed(rows, name, value))
    report = only(lake_settings)
    assert (verdicts(report), report.ranges) == ({"orders": "red"}, [])
    assert report.tables[0].why == [
        "the rows have the sequences they should have, and something else in them was changed"
    ]


def test_one_row_missing_and_another_one_double_do_not_make_up_for_each_other(flush, lake_settings):
    flush(source(parent()), frame(1, run(1, 5)))
    rewrite(lake_settings, lambda rows: doubled(without(rows, 4), 1))
    report = only(lake_settings)
    assert report.is_red
    assert report.ranges == [Range(Kind.DOUBLE, 1, 1, 1, 1), Range(Kind.MISSING, 1, 4, 4, 1)]


def test_a_whole_batch_that_is_missing_is_named_with_its_sequences(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 5)), frame(2, run(6, 9)), frame(3, [entry(10), entry(11, table="items")]))
    rewrite(lake_settings, lambda rows: without(rows, 6, 7, 8, 9))
    report = only(lake_settings)
    assert verdicts(report) == {"orders": "red", "items": "green"}
    assert report.ranges == [Range(Kind.MISSING, 1, 6, 9, 4)]


def test_of_many_children_only_the_one_that_lost_something_is_red(flush, lake_settings):
    home = parent()
    for number in range(5):
        flush(source(home, f"shop-{number}"), frame(1, run(1, 20), source=f"shop-{number}"))
    rewrite(
        lake_settings,
        lambda rows: rows.filter(
            pa.array(
                [
                    row != ("shop-3", 7)
                    for row in zip(rows["_source"].to_pylist(), rows["_seq"].to_pylist(), strict=True)
                ]
            )
        ),
    )
    found = reports(lake_settings)
    assert [one.child for one in found if one.is_red] == ["shop-3"]
    assert [one.child for one in found] == [f"shop-{number}" for number in range(5)]
    assert only(lake_settings, child="shop-3").ranges == [Range(Kind.MISSING, 1, 7, 7, 1)]
    assert not only(lake_settings, child="shop-2").is_red


def test_a_repeat_is_counted_once(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 3)), frame(1, run(1, 3)))
    flush(shop, frame(1, run(1, 3)), frame(2, run(4, 4)))
    assert verdicts(only(lake_settings)) == {"orders": "green"}
    assert ChildTable.objects.get().entries == 4


def test_a_child_that_keeps_no_epoch_is_one_row_however_often_it_connects(flush, lake_settings):
    home = parent()
    for number in range(3):
        flush(source(home, epoch=None), frame(1, run(number * 10, number * 10 + 4)))
    row = ChildTable.objects.get()
    assert (row.epoch, row.entries) == (0, 15)
    assert verdicts(only(lake_settings)) == {"orders": "green"}


def test_dead_letters_are_counted_apart_and_explain_what_is_no_row(flush, lake_settings):
    shop = source(parent())
    broken = RawEntry(2, NOW_MS, 0, b"orders", b"r2", b"", b"{not json")
    flush(shop, frame(1, [entry(1), broken, entry(3)]))
    report = only(lake_settings)
    assert (verdicts(report), report.tables[0].unreadable, report.ranges) == ({"orders": "green"}, 1, [])
    rewrite(lake_settings, lambda rows: without(rows, 3))
    assert only(lake_settings).ranges == [Range(Kind.MISSING, 1, 3, 3, 1)]


def test_an_entry_with_a_sequence_beyond_the_database_is_a_dead_letter_and_stops_no_flush(flush, lake_settings):
    flush(source(parent(), epoch=None), frame(1, [entry(2**63 - 1), entry(1)]))
    assert verdicts(only(lake_settings)) == {"orders": "green"}


def test_what_waits_for_a_flush_is_told_and_not_red(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 3)))
    accept([(shop, frame(2, run(4, 9)))], now_ms=NOW_MS)
    report = only(lake_settings)
    assert (verdicts(report), report.waiting, report.older) == ({"orders": "green"}, 6, 0)


def test_entries_from_before_there_were_sums_are_explained_and_not_red(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 3)))
    ChildTable.objects.all().delete()
    flush(shop, frame(2, run(4, 5)))
    report = only(lake_settings)
    assert (verdicts(report), report.older) == ({"orders": Verdict.EXPLAINED}, 3)
    assert "committed before there were sums" in report.tables[0].why[0]
    rewrite(lake_settings, lambda rows: without(rows, 2))
    report = only(lake_settings)
    assert (verdicts(report), report.ranges) == ({"orders": "red"}, [Range(Kind.MISSING, 1, 2, 2, 1)])


def test_where_the_journal_has_forgotten_its_batches_a_gap_is_told(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 3)), frame(2, run(4, 6)), frame(3, run(7, 9)))
    Batch.objects.all().delete()
    rewrite(lake_settings, lambda rows: without(rows, 2, 4, 5, 6))
    report = only(lake_settings)
    assert report.is_red
    assert report.ranges == [Range(Kind.GAP, 1, 2, 2, 1), Range(Kind.GAP, 1, 4, 6, 3)]


def test_a_batch_whose_sequences_have_holes_is_told_as_so_many_of_them(flush, lake_settings):
    flush(source(parent(), epoch=None), frame(1, [entry(1), entry(5), entry(9)]))
    rewrite(lake_settings, lambda rows: without(rows, 5))
    assert [(one.first, one.last, one.entries) for one in only(lake_settings).ranges] == [(1, 9, 1)]


def test_two_parents_of_one_namespace_may_have_children_of_one_name(flush, lake_settings):
    for home in (parent("a"), parent("b")):
        flush(source(home), frame(1, run(1, 3)))
    report = only(lake_settings)
    assert (report.tables[0].journal.entries, verdicts(report)) == (6, {"orders": "green"})
    assert verdicts(only(lake_settings, parent="a")) == {"orders": "green"}


def test_rows_of_a_child_nobody_knows_are_red(flush, lake_settings):
    flush(source(parent()), frame(1, run(1, 3)))
    rewrite(lake_settings, lambda rows: changed(rows, "_source", "stranger"))
    found = {one.child: one.is_red for one in reports(lake_settings)}
    assert found == {"shop-1": True, "stranger": True}


def test_a_flush_that_is_taken_back_counts_nothing(flush, lake_settings, monkeypatch):
    from lakehouse.catalog import tables

    shop = source(parent())
    with monkeypatch.context() as patch:
        patch.setattr(tables, "swap", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            flush(shop, frame(1, run(1, 3)))
    assert not ChildTable.objects.exists()
    flush(shop)
    assert verdicts(only(lake_settings)) == {"orders": "green"}


def test_rows_that_wait_for_the_object_store_are_told_as_waiting_and_counted_when_they_are_there(flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 3)))
    go_away(NOW_MS, open_ms=1)
    broken = RawEntry(6, NOW_MS, 0, b"orders", b"r6", b"", b"{not json")
    flush(shop, frame(2, [entry(4), entry(5), broken]))
    report = only(lake_settings)
    assert (verdicts(report), report.fallback, report.tables[0].lake.entries) == ({"orders": "green"}, 3, 3)
    come_back()
    Transfer(shop.parent_id, "worker-2", lake_settings, chosen(lake_settings), lambda: NOW_MS).recover()
    report = only(lake_settings)
    assert (verdicts(report), report.fallback, report.tables[0].lake.entries) == ({"orders": "green"}, 0, 5)
    assert report.tables[0].unreadable == 1


def test_a_dead_letter_that_is_tried_again_is_counted_by_what_it_becomes(flush, lake_settings, monkeypatch):
    shop = source(parent())
    broken = RawEntry(2, NOW_MS, 0, b"orders", b"r2", b"", b"{not json")
    flush(shop, frame(1, [entry(1), broken]))
    before = ChildTable.objects.values().get()
    for mended in (False, True):
        if mended:
            text = columns.encode([entry(2)])
            DeadLetter.objects.update(payload=text)
            sums = entry_digest.of_entries([entry(2)], epoch=1)["orders"]
            ChildTable.objects.update(unreadable_digest=sums.hex)
        letters.replay(DeadLetter.objects.all(), now_ms=NOW_MS)
        flush(shop)
        report = only(lake_settings)
        assert (verdicts(report), report.older) == ({"orders": "green"}, 0)
        if not mended:
            assert ChildTable.objects.values().get() == before
    row = ChildTable.objects.get()
    assert (row.entries, row.unreadable, row.unreadable_digest) == (2, 0, "0" * 16)


@pytest.fixture
def command(lake_settings, settings):
    settings.EVODB = lake_settings
    return verified


def verified(*arguments):
    """The exit code of the command, what it said, and its error."""
    out = io.StringIO()
    try:
        call_command("verify", *arguments, stdout=out)
    except CommandError as exc:
        return exc.returncode, out.getvalue(), str(exc)
    return 0, out.getvalue(), ""


def test_the_command_says_green_and_ends_with_0(flush, command):
    flush(source(parent()), frame(1, run(1, 3)))
    code, out, _ = command()
    assert code == 0
    assert out == "lake.orders shop-1: green, 3 entries in the lake\ngreen: 1 sums of children and tables agree\n"


def test_the_command_says_what_it_did_not_compare(flush, command):
    flush(source(parent()), of_encoding(1, run(1, 3), "arrow"))
    code, out, _ = command()
    assert code == 0
    assert "lake.orders shop-1: counted, 3 entries in the lake\n  3 of its rows came as typed columns" in out
    assert out.endswith("green: 1 sums of children and tables agree; of 1 only which entries there are was compared\n")


def test_the_command_names_what_is_missing_and_ends_with_1(flush, command, lake_settings):
    flush(source(parent()), frame(1, run(1, 3)))
    rewrite(lake_settings, lambda rows: without(rows, 2))
    code, out, error = command()
    assert code == 1
    assert "lake.orders shop-1: red, 2 entries in the lake" in out
    assert "  missing: epoch 1, sequence 2 (1)\n" in out
    assert error == "red: 1 of the children have not in the lake what the journal says"


def test_the_command_tells_programs_in_json(flush, command, lake_settings):
    flush(source(parent()), frame(1, run(1, 3)))
    rewrite(lake_settings, lambda rows: doubled(rows, 2))
    code, out, _ = command("--json", "--table", "orders", "--child", "shop-1", "--parent", "default")
    table, found, child = map(json.loads, out.splitlines())
    assert code == 1
    assert (table["verdict"], table["lake"]["entries"], table["journal"]["entries"]) == ("red", 4, 3)
    assert found == {
        "event": "range",
        "child": "shop-1",
        "kind": "double",
        "epoch": 1,
        "first": 2,
        "last": 2,
        "entries": 1,
    }
    assert (child["verdict"], child["waiting"]) == ("red", 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--parent", "eu"), "no parent 'eu'"),
        (("--child", "x"), "child 'x'"),
        (("--table", "ordrs"), "nothing of table 'ordrs' is committed"),
        (("--child", "shop-1", "--table", "ordrs"), "nothing of child 'shop-1' in table 'ordrs'"),
    ],
)
def test_a_name_nobody_has_is_said_so_and_not_green(flush, command, arguments, said):
    flush(source(parent()), frame(1, run(1, 3)))
    code, _, error = command(*arguments)
    assert code == 1
    assert said in error


@pytest.fixture
def in_s3(rclone_store, settings, tmp_path):
    """A house whose lake is in a bucket, with one flush; gives what its settings are."""
    place = f"s3://{rclone_store.bucket}/{uuid.uuid4().hex}"
    settings.EVODB = Settings(data_dir=tmp_path, warehouse=place, **rclone_store.settings)
    shop = source(parent())
    accept([(shop, frame(1, run(1, 3)))], now_ms=NOW_MS)
    Flusher("worker-1", settings.EVODB, chosen(settings.EVODB), lambda: NOW_MS).run(
        shop.parent_id, trigger=FlushTrigger.MANUAL
    )
    return settings.EVODB


def test_while_the_object_store_is_away_nothing_is_called_missing(in_s3, settings):
    settings.EVODB = replace(in_s3, s3_endpoint=f"http://127.0.0.1:{free_port()}")
    code, out, error = verified()
    assert (code, out) == (1, "")
    assert error.startswith("the object store is away, so nothing more can be said of the lake")


def test_a_table_whose_file_is_gone_from_the_bucket_is_red_and_no_traceback(in_s3):
    from_settings(in_s3).load_table("lake.orders").io.delete(IcebergTable.objects.get().metadata_location)
    code, out, error = verified()
    assert (code, "red: 1 of the children" in error) == (1, True)
    assert "  it cannot be read: " in out
    assert "404" in out


def test_nothing_was_flushed_and_nothing_is_wrong(command):
    assert command()[0] == 0
    assert not Child.objects.exists()
    assert not DeadLetter.objects.exists()
