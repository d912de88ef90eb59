"""The store is away: what was acked is kept, the buffer is free, and later it is in its tables, once."""

from __future__ import annotations

import dataclasses
import json

import pyarrow as pa
import pytest

from lakehouse.catalog import tables
from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.errors import LeaseLost, StoreUnavailable
from lakehouse.fallback import settle
from lakehouse.fallback.objects import TableName
from lakehouse.fallback.rows import DatabaseStorage
from lakehouse.fallback.storage import FallbackStorage
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush import breaker_row, fuse_box
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import samples
from lakehouse.http.totals import Totals
from lakehouse.journal.accept import Accepted, accept
from lakehouse.models import (
    Batch,
    BatchPayload,
    DeadLetter,
    FallbackBatch,
    Flush,
    FlushTable,
    IcebergTable,
    Parent,
    StoreBreaker,
)
from lakehouse.query import duck
from rpc import arrow_stream
from rpc.entries import RawEntry
from rpc.messages import AckStatus, NackReason
from tests.builders import NOW_MS, entry, frame, parent, run, source, typed_frame
from tests.lakehouse.outage_site import OPEN_MS, Clock, come_back, go_away
from tests.lakehouse.store_site import store

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def given(tmp_path):
    """A lake in a folder; away is what the breaker says."""
    return Settings(data_dir=tmp_path)


def worker(settings, clock, owner="worker-1"):
    return Flusher(owner, settings, chosen(settings), clock)


def recovery(settings, clock, parent_id, owner="worker-2"):
    return Transfer(parent_id, owner, settings, chosen(settings), clock)


def put(shop, *batches, now_ms=NOW_MS):
    verdicts, _ = accept([(shop, batch) for batch in batches], now_ms=now_ms)
    return [verdict.status if isinstance(verdict, Accepted) else verdict.reason for verdict in verdicts]


def flush(flusher, shop):
    return flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)


def lake(settings, table="orders"):
    pointer = IcebergTable.objects.get(name=table)
    with duck.connect(settings) as connection:
        found = connection.execute(f"SELECT _row_id, _seq FROM {duck.scan(pointer.metadata_location)}").fetchall()
    return sorted(found, key=lambda row: row[1])


def states():
    return sorted(set(Batch.objects.values_list("state", flat=True)))


def pending():
    return Parent.objects.values_list("pending_batches", "pending_entries", "pending_bytes").get()


def rows_named(first, last):
    return [(f"r{number}", number) for number in range(first, last + 1)]


def test_a_store_that_goes_and_comes_back_loses_and_doubles_nothing(tmp_path, clock, asked_twice):
    shop = source(parent())
    with store(tmp_path) as s3:
        settings = s3.settings(tmp_path)
        flusher = worker(settings, clock)
        put(shop, frame(1, run(1, 3)))
        assert flush(flusher, shop).commit_number == 1
        s3.go()
        put(shop, frame(2, run(4, 6)), frame(3, [entry(7, table="items")]))
        for failure in (1, 2, 3):
            with pytest.raises(StoreUnavailable):
                flush(flusher, shop)
            assert (pending()[0], breaker_row.read().failures) == (2, failure)
        kept = flush(flusher, shop)
        assert (kept.commit_number, kept.entries, pending()) == (None, 4, (0, 0, 0))
        assert (states(), BatchPayload.objects.count()) == (["fallback", "persisted"], 0)
        put(shop, frame(4, run(8, 9)))
        assert flush(flusher, shop).commit_number is None
        assert sorted(FallbackBatch.objects.values_list("table", "rows")) == [
            ("items", 1),
            ("orders", 2),
            ("orders", 3),
        ]

        moving = recovery(settings, clock, shop.parent_id)
        clock.ms += OPEN_MS
        assert moving.recover().later.keys() == {TableName("lake", "orders"), TableName("lake", "items")}
        assert breaker_row.read().state == "open"
        s3.come()
        clock.ms += OPEN_MS
        moving.recover()
        assert (moving.rows, FallbackBatch.objects.count(), breaker_row.read().state) == (6, 0, "closed")
        assert lake(settings) == [*rows_named(1, 6), *rows_named(8, 9)]
        assert lake(settings, "items") == [("r7", 7)]
    assert states() == ["persisted"]
    done = Flush.objects.filter(trigger="recovery", state="committed").order_by("pk")
    assert list(done.values_list("batches", "rows", "commit_number")) == [(2, 5, 2), (1, 1, 3)]
    assert Parent.objects.get().commit_number == 3
    assert set(Batch.objects.filter(sequence__in=[2, 3, 4]).values_list("flush__trigger", flat=True)) == {"recovery"}


def test_a_flush_whose_rows_are_kept_is_not_counted_as_abandoned(given, clock):
    shop = source(parent("eu"))
    put(shop, frame(1, run(1, 3)))
    go_away(clock())
    flush(worker(given, clock), shop)
    assert Flush.objects.get().state == "kept"
    found = samples.of_parents(Totals(), patterns=["*"], now_ms=clock())
    assert [one.value for one in found if one.name == "dolake_flushes_abandoned_total"] == [0]


def test_what_is_kept_becomes_the_rows_it_would_have_been(given, clock):
    after = {"id": 1, "name": "ü", "at": "2024-01-02T03:04:05Z", "deep": {"a": [1, 2.5]}}
    first = [
        entry(1, after=after),
        RawEntry(2, NOW_MS, 2, b"orders", b"r2", b'{"id":2}', b"", b'{"partition":"eu"}'),
        RawEntry(3, NOW_MS, 1, b"orders", b"r3", b'{"id":3}', b'{"id":"three"}'),
    ]
    at_once, kept = source(parent("at-once")), source(parent("kept"))
    Parent.objects.filter(name="kept").update(namespace="late")
    flusher = worker(given, clock)
    for shop in (at_once, kept):
        put(shop, frame(1, first))
        if shop is kept:
            go_away(clock())
        flush(flusher, shop)
    come_back()
    recovery(given, clock, kept.parent_id).recover()
    found = []
    for namespace in ("lake", "late"):
        pointer = IcebergTable.objects.get(name="orders", namespace__name=namespace)
        with duck.connect(given) as connection:
            rows = f"SELECT * EXCLUDE (_flush) FROM {duck.scan(pointer.metadata_location)} ORDER BY _seq"
            cursor = connection.execute(rows)
            found.append(([column[0] for column in cursor.description], cursor.fetchall()))
    assert found[0] == found[1]
    assert len(found[0][1]) == 3


def test_rows_get_the_types_their_table_has_when_the_store_is_back(given, clock):
    shop, other = source(parent()), source(parent("other"))
    flusher = worker(given, clock)
    put(shop, frame(1, [entry(1, after={"id": "one"})]))
    go_away(clock())
    flush(flusher, shop)
    come_back()
    put(other, frame(1, [entry(2, after={"id": 2})]))
    flush(flusher, other)
    recovery(given, clock, shop.parent_id).recover()
    location = IcebergTable.objects.get().metadata_location
    with duck.connect(given) as connection:
        rows = connection.execute(f"SELECT id, _rest FROM {duck.scan(location)} ORDER BY _seq").fetchall()
    assert rows == [(None, '{"id":"one"}'), (2, None)]


def test_kept_arrow_rows_that_are_too_much_together_come_back_in_several_commits(given, clock, monkeypatch):
    monkeypatch.setattr(arrow_stream, "CELLS_MAX", 30)
    shop, flusher = source(parent()), worker(given, clock)
    go_away(clock.ms)
    for number in range(5):
        put(shop, typed_frame(number + 1, 2 * number + 1, pa.table({name: [1, 2] for name in "abcdefghij"})))
        assert flush(flusher, shop).commit_number is None
    come_back()
    recovery(given, clock, shop.parent_id).recover()
    assert list(Flush.objects.filter(state="committed").order_by("pk").values_list("rows", flat=True)) == [6, 4]
    assert lake(given) == rows_named(1, 10)


def test_an_entry_that_turns_out_unreadable_later_is_a_dead_letter_of_its_batch_and_child(given, clock):
    shop = source(parent())
    broken = RawEntry(2, NOW_MS, 0, b"orders", b"r2", b"", b"{not json")
    misfit = RawEntry(4, NOW_MS, 0, b"../orders", b"r4", b"", b"{}")
    put(shop, frame(1, run(1, 1)), frame(2, [entry(3), broken, misfit]))
    go_away(clock())
    assert flush(worker(given, clock), shop).dead_letters == 1
    assert DeadLetter.objects.get().table == "../orders"
    come_back()
    recovery(given, clock, shop.parent_id).recover()
    letter = DeadLetter.objects.get(table="orders")
    assert (letter.batch.sequence, letter.entry_index, letter.child.name) == (2, 1, "shop-1")
    assert b"{not json" in bytes(letter.payload)
    assert lake(given) == [("r1", 1), ("r3", 3)]
    assert states() == ["persisted"]


def test_a_piece_of_which_nothing_is_readable_needs_no_file(given, clock):
    shop = source(parent())
    put(shop, frame(1, [RawEntry(1, NOW_MS, 0, b"orders", b"r1", b"", b"{not json")]))
    go_away(clock())
    flush(worker(given, clock), shop)
    come_back()
    recovery(given, clock, shop.parent_id).recover()
    assert (FallbackBatch.objects.count(), DeadLetter.objects.count(), states()) == (0, 1, ["persisted"])
    assert not IcebergTable.objects.exists()


def test_a_batch_of_which_nothing_can_be_kept_has_nothing_to_wait_for(given, clock):
    shop = source(parent())
    put(shop, frame(1, [RawEntry(1, NOW_MS, 0, b"../x", b"r1", b"", b"{}")]), frame(2, run(2, 2)))
    go_away(clock())
    flush(worker(given, clock), shop)
    assert dict(Batch.objects.values_list("sequence", "state")) == {1: "persisted", 2: "fallback"}


def test_a_full_fallback_leaves_batches_in_the_journal_until_it_is_full_too(given, clock):
    settings = dataclasses.replace(given, fallback_bytes_max=10)
    shop = source(parent(max_buffer_entries=6, flush_threshold_entries=3))
    put(shop, frame(1, run(1, 5)))
    go_away(clock())
    assert flush(worker(settings, clock), shop) is None
    assert (pending()[0], FallbackBatch.objects.count(), states()) == (1, 0, ["pending"])
    assert "beyond max_bytes (10)" in Flush.objects.get().error
    assert Parent.objects.get().lease_until_ms == 0
    assert put(shop, frame(2, run(6, 8))) == [NackReason.BUFFER_FULL]


def test_without_a_fallback_batches_wait_in_the_journal(given, clock):
    shop = source(parent())
    put(shop, frame(1, run(1, 5)))
    go_away(clock())
    assert flush(worker(dataclasses.replace(given, fallback_bytes_max=0), clock), shop) is None
    assert (pending()[1], FallbackBatch.objects.count()) == (5, 0)


def test_an_ack_says_fallback_while_the_store_is_away_and_ok_before_and_after(given, clock, settings):
    shop = source(parent())
    assert put(shop, frame(1, run(1, 1))) == [AckStatus.OK]
    go_away(clock())
    assert put(shop, frame(2, run(2, 2)), now_ms=NOW_MS + 999) == [AckStatus.OK]
    later = NOW_MS + 1000
    assert put(shop, frame(3, run(3, 3)), frame(2, run(2, 2)), now_ms=later) == [
        AckStatus.FALLBACK,
        AckStatus.DUPLICATE,
    ]
    settings.EVODB = dataclasses.replace(settings.EVODB, fallback_bytes_max=0)
    assert put(shop, frame(4, run(4, 4)), now_ms=later) == [AckStatus.OK]
    settings.EVODB = dataclasses.replace(settings.EVODB, fallback_bytes_max=1)
    come_back()
    assert put(shop, frame(5, run(5, 5)), now_ms=later + 1000) == [AckStatus.OK]


def test_a_batch_is_persisted_when_all_its_tables_have_it_and_one_that_fails_holds_up_no_other(
    given, clock, monkeypatch
):
    shop = source(parent())
    put(shop, frame(1, [entry(1), entry(2, table="items")]), frame(2, run(3, 3)))
    go_away(clock())
    flush(worker(given, clock), shop)
    come_back()
    write = tables.write

    def refuse_items(begun):
        if begun.name == "items":
            raise ValueError("items are cursed")
        return write(begun)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", refuse_items)
        done = recovery(given, clock, shop.parent_id).recover()
    assert (list(done.later), lake(given)) == ([TableName("lake", "items")], [("r1", 1), ("r3", 3)])
    assert dict(Batch.objects.values_list("sequence", "state")) == {1: "fallback", 2: "persisted"}
    assert FallbackBatch.objects.values_list("attempts", "last_error").get() == (1, "ValueError: items are cursed")
    clock.ms += given.lease_ms
    recovery(given, clock, shop.parent_id).recover()
    assert (states(), lake(given, "items")) == (["persisted"], [("r2", 2)])


def test_an_outage_costs_no_attempts_however_long_it_is(given, clock):
    shop = source(parent())
    put(shop, frame(1, run(1, 1)))
    go_away(clock())
    flush(worker(given, clock), shop)
    StoreBreaker.objects.update(outage_until_ms=clock() + 100 * OPEN_MS)
    for _ in range(30):
        clock.ms += OPEN_MS
        recovery(given, clock, shop.parent_id).recover()
    assert FallbackBatch.objects.get().attempts == 0
    assert breaker_row.read().state == "open"
    clock.ms += 100 * OPEN_MS
    recovery(given, clock, shop.parent_id).recover()
    assert (lake(given), breaker_row.read().state) == ([("r1", 1)], "closed")


def keep_two_pieces(given, clock):
    shop = source(parent())
    flusher = worker(given, clock)
    go_away(clock())
    for number in (1, 2):
        put(shop, frame(number, run(10 * number, 10 * number + 1)))
        flush(flusher, shop)
    come_back()
    return shop


def test_pieces_of_a_table_go_together_in_one_commit(given, clock):
    shop = keep_two_pieces(given, clock)
    recovery(given, clock, shop.parent_id).recover()
    assert [number for _, number in lake(given)] == [10, 11, 20, 21]
    assert FlushTable.objects.values_list("rows", "flush__commit_number").get() == (4, 1)


def test_pieces_go_in_order_and_no_more_at_once_than_a_flush_takes(given, clock):
    settings = dataclasses.replace(given, flush_entries_max=3)
    shop = keep_two_pieces(settings, clock)
    recovery(settings, clock, shop.parent_id).recover()
    assert list(FlushTable.objects.order_by("pk").values_list("rows", flat=True)) == [2, 2]
    assert [number for _, number in lake(given)] == [10, 11, 20, 21]


def test_a_fuse_that_blows_while_kept_rows_go_into_their_table_stops_them_and_costs_no_attempt(
    given, clock, monkeypatch
):
    settings = dataclasses.replace(given, flush_entries_max=3)
    shop = keep_two_pieces(settings, clock)
    write = tables.write

    def blow(*args, **kwargs):
        Parent.objects.update(fuse_blown_ms=clock(), fuse_reason="a flush found nothing it could read")
        return write(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", blow)
        done = recovery(settings, clock, shop.parent_id).recover()
    assert list(done.later) == [TableName("lake", "orders")]
    assert [number for _, number in lake(given)] == [10, 11]
    left = FallbackBatch.objects.get()
    assert (left.attempts, left.last_error.startswith("FuseBlown: the fuse of parent default is blown")) == (0, True)
    fuse_box.mend(["default"], accept=False)
    recovery(settings, clock, shop.parent_id).recover()
    assert [number for _, number in lake(given)] == [10, 11, 20, 21]


def test_kept_rows_that_a_bad_deploy_cannot_read_wait_instead_of_becoming_dead_letters(given, clock):
    settings = dataclasses.replace(given, fuse_letters_in_row=2)
    shop = source(parent())
    broken = [RawEntry(number, NOW_MS, 0, b"orders", b"r", b"", b"{not json") for number in (2, 3, 4)]
    put(shop, frame(1, [entry(1), *broken]), frame(2, [entry(5, table="items")]))
    go_away(clock())
    flush(worker(settings, clock), shop)
    come_back()
    done = recovery(settings, clock, shop.parent_id).recover()
    assert list(done.later) == [TableName("lake", "orders")]
    assert (DeadLetter.objects.count(), lake(given, "items")) == (0, [("r5", 5)])
    left = FallbackBatch.objects.get()
    assert (left.attempts, "3 entries in a row cannot become rows" in left.last_error) == (0, True)
    assert "recover_fallback --accept" in left.last_error
    accepting = recovery(settings, clock, shop.parent_id)
    accepting.accepts_letters = True
    accepting.recover()
    assert (DeadLetter.objects.count(), lake(given), states()) == (3, [("r1", 1)], ["persisted"])


def test_a_recovery_that_wakes_up_late_loses_and_every_row_is_there_once(given, clock, monkeypatch):
    shop = keep_two_pieces(given, clock)
    write, rescuer = tables.write, Clock(clock() + given.lease_ms)

    def sleep_through(*args, **kwargs):
        staged = write(*args, **kwargs)
        monkeypatch.setattr(tables, "write", write)
        recovery(given, rescuer, shop.parent_id, "rescuer").recover()
        return staged

    monkeypatch.setattr(tables, "write", sleep_through)
    late = recovery(given, clock, shop.parent_id)
    late.recover()
    assert late.rows == 0
    assert [number for _, number in lake(given)] == [10, 11, 20, 21]
    assert sorted(Flush.objects.filter(trigger="recovery").values_list("state", flat=True)) == [
        *("abandoned", "committed", "committed"),  # what failed before goes piece by piece
    ]
    assert (Parent.objects.get().commit_number, states()) == (2, ["persisted"])


def test_two_recoveries_of_the_same_rows_commit_once(given, clock):
    shop = keep_two_pieces(given, clock)
    storage = FallbackStorage(DatabaseStorage(shop.parent_id), now_ms=clock)
    chunk = list(storage.oldest_first(TableName("lake", "orders")))
    one, two = (settle.begin(shop.parent_id, chunk, now_ms=clock()) for _ in range(2))
    assert settle.finish(one, [], [], now_ms=clock()) == 1
    with pytest.raises(LeaseLost, match="found 0 of 2 pieces; somebody else was faster"):
        settle.finish(two, [], [], now_ms=clock())


def test_a_recovery_that_died_is_closed_by_a_later_one(given, clock):
    shop = keep_two_pieces(given, clock)
    storage = FallbackStorage(DatabaseStorage(shop.parent_id), now_ms=clock)
    dead = settle.begin(shop.parent_id, list(storage.oldest_first(TableName("lake", "orders"))), now_ms=clock())
    clock.ms += settle.DEAD_AFTER_MS + 1
    recovery(given, clock, shop.parent_id).recover()
    assert Flush.objects.get(pk=dead.flush_id).state == "abandoned"
    assert not FallbackBatch.objects.exists()


def test_a_fresh_flush_overtakes_what_is_kept_and_both_are_there_once(given, clock, monkeypatch):
    shop = keep_two_pieces(given, clock)
    put(shop, frame(3, run(30, 31)))
    write = tables.write

    def be_overtaken(*args, **kwargs):
        staged = write(*args, **kwargs)
        monkeypatch.setattr(tables, "write", write)
        assert flush(worker(given, clock, "fresh"), shop).entries == 2
        return staged

    monkeypatch.setattr(tables, "write", be_overtaken)
    recovery(given, clock, shop.parent_id).recover()
    assert [number for _, number in lake(given)] == [10, 11, 20, 21, 30, 31]
    assert (Parent.objects.get().commit_number, states()) == (2, ["persisted"])


def test_a_flush_that_lost_its_lease_keeps_nothing(given, clock, monkeypatch):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    go_away(clock())
    late = Clock(clock() + given.lease_ms)
    pack = FallbackStorage.pack

    def sleep_through(*args):
        monkeypatch.setattr(FallbackStorage, "pack", pack)
        Parent.objects.update(lease_epoch=99, lease_until_ms=0)
        return pack(*args)

    monkeypatch.setattr(FallbackStorage, "pack", sleep_through)
    with pytest.raises(LeaseLost):
        flush(worker(given, clock), shop)
    assert (FallbackBatch.objects.count(), states()) == (0, ["flushing"])
    go_away(late())
    assert flush(worker(given, late, "rescuer"), shop).entries == 3
    assert (FallbackBatch.objects.count(), states()) == (1, ["fallback"])


def test_rows_others_stored_by_hand_are_left_to_them(given, clock):
    home = parent()
    storage = FallbackStorage(DatabaseStorage(home.pk), now_ms=clock)
    storage.store("lake", "orders", pa.table({"id": [1]}))
    assert recovery(given, clock, home.pk).recover().batches == 0
    assert storage.has_data()


def test_a_retry_of_what_is_kept_is_told_duplicate(given, clock):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    go_away(clock())
    flush(worker(given, clock), shop)
    assert put(shop, frame(1, run(1, 3))) == [AckStatus.DUPLICATE]
    assert json.loads(json.dumps(pending())) == [0, 0, 0]
