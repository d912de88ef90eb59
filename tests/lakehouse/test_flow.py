import contextlib
import dataclasses
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from django.db import connection
from pyiceberg.types import ListType, LongType, MapType, NestedField, StringType, StructType, UUIDType

from lakehouse.catalog import pointers, tables, text_bounds
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.storage import from_settings
from lakehouse.errors import CommitConflict, LeaseLost
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush import claim, crowd
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, BatchPayload, DeadLetter, FallbackBatch, Flush, FlushTable, IcebergTable, Parent
from lakehouse.query import duck
from rpc import arrow_stream
from rpc.entries import RawEntry
from tests.builders import NOW_MS, entry, frame, parent, run, source, typed_frame

pytestmark = pytest.mark.django_db(transaction=True)

HOUR_MS = 3_600_000


@pytest.fixture
def flusher(lake_settings):
    return worker(lake_settings, "worker-1")


def worker(settings, owner, now_ms=NOW_MS):
    return Flusher(owner, settings, chosen(settings), lambda: now_ms)


def put(shop, *batches):
    accept([(shop, batch) for batch in batches], now_ms=NOW_MS)


def lake(settings, table="orders"):
    """(row id, sequence) of every row, as an engine that did not write them reads them."""
    pointer = IcebergTable.objects.get(name=table)
    with duck.connect(settings) as connection:
        return connection.execute(f"SELECT _row_id, _seq FROM {duck.scan(pointer.metadata_location)}").fetchall()


def test_what_was_journalled_is_in_the_table_and_the_buffer_is_empty(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)), frame(2, run(4, 5)))
    flushed = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert (flushed.commit_number, flushed.batches, flushed.entries, flushed.dead_letters) == (1, 2, 5, 0)
    assert sorted(lake(lake_settings)) == [(f"r{number}", number) for number in range(1, 6)]
    home = Parent.objects.get()
    assert (home.pending_batches, home.pending_entries, home.pending_bytes) == (0, 0, 0)
    assert (home.commit_number, home.last_flush_ms, home.lease_until_ms) == (1, NOW_MS, 0)
    assert set(Batch.objects.values_list("state", flat=True)) == {"persisted"}
    assert not BatchPayload.objects.exists()
    assert FlushTable.objects.get().rows == 5
    assert Flush.objects.get().state == "committed"


@pytest.mark.parametrize("text", ["\ud7ff" * 20, "a" * 15 + "\ud7ff!", "\U0010ffff" * 20])
def test_a_text_whose_next_one_is_half_a_character_holds_up_no_flush(flusher, lake_settings, text):
    """Of long texts a file keeps a bound above them, which is a text, too."""
    shop = source(parent())
    content = RawEntry(1, NOW_MS, 0, b"orders", text.encode(), b"", json.dumps({"name": text}).encode())
    put(shop, frame(1, [content]))
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).entries == 1
    location = IcebergTable.objects.get().metadata_location
    with duck.connect(lake_settings) as connection:
        sql = f"SELECT _row_id FROM {duck.scan(location)} WHERE name = ? AND _row_id >= ?"
        assert connection.execute(sql, [text, text]).fetchall() == [(text,)]


def test_pyiceberg_still_bounds_a_text_with_half_a_character():
    """When this fails, lakehouse.catalog.text_bounds is not needed any more."""
    assert text_bounds.original("\ud7ff" * 20, 16) == "\ud7ff" * 15 + "\ud800"


def test_arrow_batches_that_are_too_much_together_become_one_flush_after_the_other(flusher, lake_settings, monkeypatch):
    """A boolean is a bit on its way, and with its key in `_rest` a hundred of them."""
    monkeypatch.setattr(arrow_stream, "CELLS_MAX", 30)
    rows = pa.table({name: [True, False] for name in "abcdefghij"})
    shop = source(parent())
    put(shop, *(typed_frame(number + 1, 2 * number + 1, rows) for number in range(7)))
    sizes = [flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).entries for _ in range(3)]
    assert (sizes, flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)) == ([6, 6, 2], None)
    assert list(Flush.objects.order_by("pk").values_list("batches", "entries")) == [(3, 6), (3, 6), (1, 2)]
    assert sorted(number for _, number in lake(lake_settings)) == list(range(1, 15))
    home = Parent.objects.get()
    assert (home.pending_batches, home.pending_entries, home.pending_bytes) == (0, 0, 0)


def test_a_worker_that_lost_its_lease_gives_no_batch_of_its_claim_back(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, run(1, 2)), frame(2, run(3, 4)))
    terms = {"lease_ms": 1000, "entries_max": 100, "bytes_max": 100_000, "trigger": FlushTrigger.MANUAL}
    late = claim.take(shop.parent_id, claim.Terms(owner="late", **terms), now_ms=NOW_MS)
    held = claim.take(shop.parent_id, claim.Terms(owner="quick", **terms), now_ms=NOW_MS + 1001)
    with pytest.raises(LeaseLost):
        crowd.shorten(late, Batch.objects.latest("pk").pk)
    assert Batch.objects.filter(flush_id=held.flush_id, state="flushing").count() == 2


def test_frames_that_come_twice_and_in_any_order_are_each_there_once(flusher, lake_settings):
    shop = source(parent())
    one, two, three = (frame(number, run(3 * number - 2, 3 * number)) for number in (1, 2, 3))
    put(shop, three, one, three)
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    put(shop, one, two)
    put(source(Parent.objects.get()), three, two)
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert sorted(number for _, number in lake(lake_settings)) == list(range(1, 10))


def test_nothing_waits_and_nothing_is_written(flusher):
    home = parent()
    assert flusher.run(home.pk, trigger=FlushTrigger.MANUAL) is None
    assert not Flush.objects.exists()
    assert Parent.objects.get().lease_until_ms == 0


def test_new_columns_appear_with_the_flush_that_brings_them(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, [entry(1, after={"id": 1, "name": "a"})]))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    put(shop, frame(2, [entry(2, after={"id": 2, "price": 2.5})]))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    location = IcebergTable.objects.get().metadata_location
    with duck.connect(lake_settings) as connection:
        rows = connection.execute(f"SELECT id, name, price FROM {duck.scan(location)} ORDER BY id").fetchall()
    assert rows == [(1, "a", None), (2, None, 2.5)]


def test_all_tables_of_a_flush_appear_together(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, [entry(1, table="orders"), entry(2, table="items"), entry(3, table="orders")]))
    flushed = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert sorted((one.table, one.rows) for one in flushed.staged) == [("items", 1), ("orders", 2)]
    assert lake(lake_settings, "items") == [("r2", 2)]


def test_an_entry_nobody_can_read_becomes_a_dead_letter_and_blocks_nobody(flusher, lake_settings):
    shop = source(parent())
    broken = RawEntry(2, NOW_MS, 0, b"orders", b"r2", b"", b"{not json")
    put(shop, frame(1, [entry(1), broken, entry(3)]))
    flushed = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert (flushed.entries, flushed.dead_letters) == (3, 1)
    assert sorted(lake(lake_settings)) == [("r1", 1), ("r3", 3)]
    letter = DeadLetter.objects.get()
    assert (letter.batch.sequence, letter.table) == (1, "orders")
    assert b"{not json" in bytes(letter.payload)


def test_a_table_name_with_a_nul_is_a_dead_letter_and_stops_no_flush(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, [entry(1), entry(2, table="or\0ders"), entry(3)]))
    flushed = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert (flushed.entries, flushed.dead_letters) == (3, 1)
    assert sorted(lake(lake_settings)) == [("r1", 1), ("r3", 3)]
    letter = DeadLetter.objects.get()
    assert letter.table == "or\ufffdders"
    assert "wanted 1 to 255 letters" in letter.reason
    assert b"or\0ders" in bytes(letter.payload)


def changed_by_others(settings, change, table="orders"):
    with from_settings(settings).load_table(("lake", table)).update_schema(allow_incompatible_changes=True) as update:
        change(update)


def reasons():
    return sorted(DeadLetter.objects.values_list("reason", flat=True))


def test_a_row_without_a_value_that_others_made_required_is_a_dead_letter_and_the_others_go_on(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, [entry(1, after={"id": 1, "name": "a"}), entry(2, table="items")]))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    changed_by_others(lake_settings, lambda update: update.update_column("name", required=True))
    put(shop, frame(2, [entry(3), entry(4, after={"name": "b"}), entry(5, table="items")]))
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).dead_letters == 1
    assert sorted(lake(lake_settings)) == [("r1", 1), ("r4", 4)]
    assert sorted(lake(lake_settings, "items")) == [("r2", 2), ("r5", 5)]
    assert reasons() == ["column 'name' is required by its table, and this row has no value for it"]


def test_a_column_of_ours_that_others_made_anew_in_another_type_takes_no_row_and_stops_no_flush(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, [entry(1), entry(2, table="items")]))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    changed_by_others(lake_settings, lambda update: update.delete_column("_seq"))
    changed_by_others(lake_settings, lambda update: update.add_column("_seq", StringType()))
    changed_by_others(lake_settings, lambda update: update.add_column("_partition", LongType()), "items")
    put(
        shop,
        frame(2, [entry(3), entry(4, table="items"), entry(5, table="items")._replace(metadata=b'{"partition": "p"}')]),
    )
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).dead_letters == 1
    assert sorted(lake(lake_settings, "items")) == [("r2", 2), ("r4", 4)]
    assert reasons() == ["column '_partition' of its table is int64, wanted string"]
    assert [(one.table, one.rows) for one in FallbackBatch.objects.all()] == [("orders", 1)]
    changed_by_others(lake_settings, lambda update: update.delete_column("_seq"))
    Transfer(shop.parent_id, "worker-1", lake_settings, flusher.lake, lambda: NOW_MS).recover()
    assert sorted(lake(lake_settings), key=str) == [("r1", None), ("r3", 3)]


@pytest.mark.parametrize(
    "kind",
    [
        StructType(NestedField(1, "a", MapType(2, StringType(), 3, StringType()), required=False)),
        StructType(NestedField(1, "a", UUIDType(), required=False)),
        ListType(1, LongType(), element_required=True),
    ],
    ids=["map", "uuid", "elements"],
)
def test_what_a_struct_of_others_cannot_take_stays_in_the_rest(flusher, lake_settings, kind):
    shop = source(parent())
    put(shop, frame(1, [entry(1)]))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    changed_by_others(lake_settings, lambda update: update.add_column("theirs", kind))
    values = [{"b": 1}, {"a": {"x": "y"}}, [None], {"a": "x"}, 1]
    put(shop, frame(2, [entry(2 + at, after={"id": at, "theirs": value}) for at, value in enumerate(values)]))
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).dead_letters == 0
    location = IcebergTable.objects.get().metadata_location
    with duck.connect(lake_settings) as connection:
        found = connection.execute(f"SELECT _rest FROM {duck.scan(location)} WHERE _seq > 1 ORDER BY _seq").fetchall()
    assert [json.loads(rest) for (rest,) in found] == [{"theirs": value} for value in values]


def test_two_columns_of_others_that_differ_only_in_case_stop_no_flush(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, [entry(1, after={"name": "a"})]))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    changed_by_others(lake_settings, lambda update: update.add_column("Name", StringType()))
    put(shop, frame(2, [entry(2, after={"name": "b", "Name": "c"})]))
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).dead_letters == 0
    rows = (
        from_settings(lake_settings).load_table(("lake", "orders")).scan(row_filter="_seq = 2").to_arrow().to_pylist()
    )
    assert [(row["name"], row["Name"], row["_rest"]) for row in rows] == [("b", None, '{"Name":"c"}')]


def test_a_flush_that_fails_gives_its_batches_back(flusher, monkeypatch):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))

    def fail(*_, **__):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert Batch.objects.get().state == "pending"
    assert (Flush.objects.get().state, Flush.objects.get().error) == ("abandoned", "OSError: the disk is gone")
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).entries == 3


def test_only_one_worker_flushes_a_parent_at_a_time(flusher, lake_settings, monkeypatch):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    other = worker(lake_settings, "worker-2")
    write = tables.write
    seen = []

    def stage_and_look(*args, **kwargs):
        seen.append(other.run(shop.parent_id, trigger=FlushTrigger.MANUAL))
        return write(*args, **kwargs)

    monkeypatch.setattr(tables, "write", stage_and_look)
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).entries == 3
    assert seen == [None]


def test_a_worker_that_wakes_up_after_its_lease_loses_and_every_row_is_there_once(flusher, lake_settings, monkeypatch):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    late = NOW_MS + lake_settings.lease_ms
    rescuer = worker(lake_settings, "worker-2", now_ms=late)
    write = tables.write

    def sleep_through_the_lease(*args, **kwargs):
        staged = write(*args, **kwargs)
        monkeypatch.setattr(tables, "write", write)
        assert rescuer.run(shop.parent_id, trigger=FlushTrigger.AGE).entries == 3
        return staged

    monkeypatch.setattr(tables, "write", sleep_through_the_lease)
    with pytest.raises(LeaseLost, match="flushed by somebody else"):
        flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert sorted(lake(lake_settings)) == [("r1", 1), ("r2", 2), ("r3", 3)]
    assert Parent.objects.get().commit_number == 1
    assert Counter(Flush.objects.values_list("state", flat=True)) == {"abandoned": 1, "committed": 1}


@pytest.mark.parametrize("shift_ms", [HOUR_MS, -HOUR_MS])
def test_a_worker_whose_clock_is_an_hour_off_and_dies_in_a_flush_holds_nobody_up(lake_settings, shift_ms):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    terms = claim.Terms(
        owner="dead", trigger=FlushTrigger.AGE, lease_ms=lake_settings.lease_ms, entries_max=100, bytes_max=10**6
    )
    assert claim.take(shop.parent_id, terms, now_ms=NOW_MS + shift_ms) is not None
    alive = worker(lake_settings, "worker-2", now_ms=NOW_MS + lake_settings.lease_ms)
    assert alive.run(shop.parent_id, trigger=FlushTrigger.AGE).entries == 3
    assert sorted(lake(lake_settings)) == [("r1", 1), ("r2", 2), ("r3", 3)]


def test_a_lease_of_a_clock_that_is_a_little_ahead_counts(lake_settings):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    lease_ms = lake_settings.lease_ms
    terms = claim.Terms(owner="w", trigger=FlushTrigger.AGE, lease_ms=lease_ms, entries_max=100, bytes_max=10**6)
    assert claim.take(shop.parent_id, terms, now_ms=NOW_MS + lease_ms) is not None
    assert worker(lake_settings, "worker-2").run(shop.parent_id, trigger=FlushTrigger.AGE) is None


def test_a_table_that_somebody_else_moved_is_staged_anew(flusher, lake_settings, monkeypatch):
    shop, rival = source(parent()), source(parent("rival"))
    put(shop, frame(1, run(1, 3)))
    put(rival, frame(1, run(11, 12)))
    other = worker(lake_settings, "worker-2")
    write = tables.write

    def be_overtaken(*args, **kwargs):
        staged = write(*args, **kwargs)
        monkeypatch.setattr(tables, "write", write)
        assert other.run(rival.parent_id, trigger=FlushTrigger.MANUAL).entries == 2
        return staged

    monkeypatch.setattr(tables, "write", be_overtaken)
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).entries == 3
    assert sorted(number for _, number in lake(lake_settings)) == [1, 2, 3, 11, 12]


def test_a_table_that_is_overtaken_every_time_ends_in_an_error_and_its_batches_wait(lake_settings, monkeypatch):
    settings = dataclasses.replace(lake_settings, commit_attempts_max=2)
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))

    def never(_):
        raise CommitConflict("somebody else is always faster")

    monkeypatch.setattr(tables, "swap", never)
    with pytest.raises(CommitConflict):
        worker(settings, "worker-1").run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert Batch.objects.get().state == "pending"
    assert not IcebergTable.objects.exists()


def test_a_flush_takes_no_more_than_its_limits_and_leaves_the_rest(lake_settings):
    settings = dataclasses.replace(lake_settings, flush_entries_max=4)
    shop = source(parent())
    put(shop, frame(1, run(1, 3)), frame(2, run(4, 4)), frame(3, run(5, 6)))
    flusher = worker(settings, "worker-1")
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).batches == 2
    assert Parent.objects.get().pending_entries == 2
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).batches == 1


def test_a_batch_larger_than_the_limit_is_flushed_alone(lake_settings):
    settings = dataclasses.replace(lake_settings, flush_entries_max=1)
    shop = source(parent())
    put(shop, frame(1, run(1, 3)), frame(2, run(4, 4)))
    assert worker(settings, "worker-1").run(shop.parent_id, trigger=FlushTrigger.MANUAL).entries == 3


def test_payloads_an_earlier_flush_did_not_come_to_are_deleted_by_the_next(flusher):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    BatchPayload.objects.create(batch=Batch.objects.get(), payload=b"left behind")
    put(shop, frame(2, run(4, 4)))
    flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert not BatchPayload.objects.exists()


def test_the_lease_is_renewed_only_by_its_holder(lake_settings):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    terms = claim.Terms(owner="worker-1", trigger=FlushTrigger.MANUAL, lease_ms=1000, entries_max=100, bytes_max=10**6)
    claimed = claim.take(shop.parent_id, terms, now_ms=NOW_MS)
    claim.renew(claimed, now_ms=NOW_MS + 900, lease_ms=1000)
    assert claim.take(shop.parent_id, terms, now_ms=NOW_MS + 1500) is None
    assert claim.take(shop.parent_id, terms, now_ms=NOW_MS + 1900).epoch == claimed.epoch + 1
    with pytest.raises(LeaseLost):
        claim.renew(claimed, now_ms=NOW_MS + 1900, lease_ms=1000)
    claim.give_back(claimed, error="too late", now_ms=NOW_MS + 1900)
    assert Batch.objects.get().state == "flushing"


def test_two_flushes_that_move_one_table_and_create_others_do_not_block_each_other(flusher, lake_settings, monkeypatch):
    one, two = source(parent("one")), source(parent("two"))
    put(one, frame(1, [entry(1, table="m")]))
    flusher.run(one.parent_id, trigger=FlushTrigger.MANUAL)
    put(one, frame(2, [entry(2, table="m"), entry(3, table="z")]))
    put(two, frame(1, [entry(11, table="a"), entry(12, table="m")]))
    both_moved_one = threading.Barrier(2, timeout=0.5)

    def meet_after(moving):
        def move_and_meet(*args, **kwargs):
            moved = moving(*args, **kwargs)
            with contextlib.suppress(threading.BrokenBarrierError):  # the other waits for our lock, as it should
                both_moved_one.wait()
            return moved

        return move_and_meet

    monkeypatch.setattr(pointers, "move", meet_after(pointers.move))
    monkeypatch.setattr(pointers, "insert", meet_after(pointers.insert))

    def run(parent_id):
        try:
            return worker(lake_settings, str(parent_id)).run(parent_id, trigger=FlushTrigger.MANUAL).entries
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, (one.parent_id, two.parent_id))) == [2, 2]
    assert sorted(number for _, number in lake(lake_settings, "m")) == [1, 2, 12]


def test_keys_that_differ_only_as_unicode_folds_case_block_nobody(flusher, lake_settings):
    shop = source(parent())
    put(shop, frame(1, [entry(1, after={"straße": 1, "strasse": 2}), entry(2, after={"ς": 1, "σ": 2})]))
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).dead_letters == 0
    assert sorted(lake(lake_settings)) == [("r1", 1), ("r2", 2)]


def test_a_flush_longer_than_its_lease_keeps_it(lake_settings, monkeypatch):
    settings = dataclasses.replace(lake_settings, lease_ms=1000)
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    write, renewals = tables.write, []
    renew = claim.renew

    def count(*args, **kwargs):
        renew(*args, **kwargs)
        renewals.append(kwargs["now_ms"])

    def stage_for_long(*args, **kwargs):
        while len(renewals) < 2:
            time.sleep(0.01)
        return write(*args, **kwargs)

    monkeypatch.setattr(claim, "renew", count)
    monkeypatch.setattr(tables, "write", stage_for_long)
    assert worker(settings, "worker-1").run(shop.parent_id, trigger=FlushTrigger.MANUAL).entries == 3
