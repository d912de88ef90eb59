"""Dead letters: replayed through the door of every batch, exactly once, and purged by hand or by age."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
from django.db import connection
from django.db.models import Count, ProtectedError
from django.test.utils import CaptureQueriesContext

from lakehouse.catalog import tables
from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush import entries, history, letters, raw
from lakehouse.flush.flow import Flushed, Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import Source, accept
from lakehouse.models import Batch, BatchPayload, Child, DeadLetter, IcebergTable, Parent
from lakehouse.query import duck
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.errors import ProtocolError
from tests.builders import NOW_MS, entry, frame, parent, run, source, typed_frame
from tests.repetition import LONG

pytestmark = pytest.mark.django_db(transaction=True)

LATER_MS = NOW_MS + 3_600_000
MIB = 1024 * 1024
ALL = DeadLetter.objects.all


@pytest.fixture
def settings_here(tmp_path: Any) -> Settings:
    """A lake in a folder, and a fuse that never blows."""
    return Settings(data_dir=tmp_path, fuse_letters_in_row=10**9, fuse_share=1.0)


@pytest.fixture
def flusher(settings_here: Settings) -> Flusher:
    return worker(settings_here)


def worker(settings: Settings, owner: str = "worker-1", now_ms: int = NOW_MS) -> Flusher:
    return Flusher(owner, settings, chosen(settings), lambda: now_ms)


def flush(flusher: Flusher, shop: Source) -> Flushed:
    flushed = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert flushed is not None
    return flushed


def put(shop: Source, *batches: Any) -> None:
    verdicts, _ = accept([(shop, batch) for batch in batches], now_ms=NOW_MS)
    assert {str(verdict.status) for verdict in verdicts} <= {"ok", "buffered"}  # type: ignore[union-attr]


def not_json(sequence: int) -> RawEntry:
    return RawEntry(sequence, NOW_MS, 0, b"orders", b"r%d" % sequence, b"", b"{not json")


@contextmanager
def old_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Code that reads no entry at all."""
    with monkeypatch.context() as patch:
        patch.setattr(raw, "TIMESTAMP_MS_MAX", pa.scalar(0, pa.uint64()))
        yield


@contextmanager
def code_that_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(_: Any) -> Any:
        raise ProtocolError("payload is from the future")

    with monkeypatch.context() as patch:
        patch.setattr(entries, "_cut", refuse)
        yield


def lake(settings: Settings, columns: str = "_row_id", table: str = "orders") -> list[tuple[Any, ...]]:
    pointer = IcebergTable.objects.get(name=table)
    with duck.connect(settings) as connected:
        scanned = duck.scan(pointer.metadata_location)
        return sorted(connected.execute(f"SELECT {columns} FROM {scanned}").fetchall())


def states() -> dict[str, int]:
    return dict(DeadLetter.objects.values_list("state").annotate(Count("pk")).order_by())


def buffer() -> tuple[int, int, int]:
    home = Parent.objects.get()
    return home.pending_batches, home.pending_entries, home.pending_bytes


def test_a_replayed_letter_becomes_the_row_it_would_have_been(flusher, settings_here, monkeypatch) -> None:
    shop = source(parent(), epoch=5)
    Child.objects.update(shard="eu")
    put(shop, frame(1, run(1, 2)))
    flush(flusher, shop)
    put(shop, frame(2, run(3, 5)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    assert states() == {"waiting": 3}
    assert letters.replay(ALL(), now_ms=LATER_MS).letters == 3
    assert states() == {"replayed": 3}
    assert flush(worker(settings_here, now_ms=LATER_MS), shop).dead_letters == 0
    columns = "_row_id, _source, _shard, _epoch, _batch_seq, _seq, epoch_ms(_received_at), id"
    assert lake(settings_here, columns) == [
        (f"r{number}", "shop-1", "eu", 5, 1 if number < 3 else 2, number, NOW_MS, number) for number in range(1, 6)
    ]
    assert states() == {"committed": 3}
    assert set(ALL().values_list("replays", "replayed_ms")) == {(1, LATER_MS)}
    assert buffer() == (0, 0, 0)


def test_a_replay_disturbs_no_childs_sequence_and_no_dedup(flusher, settings_here, monkeypatch) -> None:
    shops = [source(parent(), epoch=5), source(Parent.objects.get(), "shop-2", epoch=None)]
    batches = [frame(1, run(1, 3)), frame(2, run(4, 6))]
    for shop in shops:
        put(shop, *batches)
    with old_code(monkeypatch):
        flush(flusher, shops[0])
    before = list(Child.objects.order_by("pk").values())
    letters.replay(ALL(), now_ms=NOW_MS)
    assert list(Child.objects.order_by("pk").values()) == before
    for shop in shops:
        verdicts, _ = accept([(shop, batch) for batch in batches], now_ms=NOW_MS)
        assert [str(verdict.status) for verdict in verdicts] == ["duplicate", "duplicate"]
    put(shops[0], frame(3, run(7, 7)))
    put(shops[1], frame(3, run(7, 7)))
    flush(flusher, shops[0])
    assert len(lake(settings_here)) == 14


def test_two_operators_who_replay_at_once_replay_once(flusher, settings_here, monkeypatch) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 40)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    together = threading.Barrier(2)

    def replay(_: int) -> int:
        together.wait(20)
        try:
            return letters.replay(ALL(), now_ms=LATER_MS).letters
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as operators:
        assert sum(operators.map(replay, range(2))) == 40
    assert letters.replay(ALL(), now_ms=LATER_MS).letters == 0
    assert Batch.objects.filter(epoch__lt=0).count() == 40
    flush(flusher, shop)
    assert len(lake(settings_here)) == 40


def test_a_letter_that_is_unreadable_again_waits_with_its_new_reason_and_a_count(flusher, monkeypatch) -> None:
    shop = source(parent())
    put(shop, frame(1, [not_json(1), not_json(2)]))
    with old_code(monkeypatch):
        flush(flusher, shop)
    assert set(ALL().values_list("reason", flat=True)) == {"its timestamp is over 0, the end of the year 9999"}
    for attempt in (1, 2):
        assert letters.replay(ALL(), now_ms=NOW_MS + attempt).letters == 2
        assert flush(flusher, shop).dead_letters == 2
        assert set(ALL().values_list("state", "replays", "replayed_ms")) == {("waiting", attempt, NOW_MS + attempt)}
        assert all(reason.startswith("not JSON: ") for reason in ALL().values_list("reason", flat=True))
    assert Batch.objects.filter(epoch=-2).count() == 2


def test_a_batch_that_could_not_be_cut_is_rows_and_letters_of_its_own_after_its_replay(
    flusher, settings_here, monkeypatch
) -> None:
    shop = source(parent())
    put(shop, frame(1, [entry(1), not_json(2), entry(3)]), frame(2, run(4, 5), encoding=Encoding.BINARY))
    with code_that_cuts_nothing(monkeypatch):
        assert flush(flusher, shop).dead_letters == 2
    assert set(ALL().values_list("entry_index", "reason")) == {(None, "payload is from the future")}
    letters.replay(ALL(), now_ms=NOW_MS)
    assert flush(flusher, shop).entries == 5
    assert lake(settings_here, "_batch_seq, _seq") == [(1, 1), (1, 3), (2, 4), (2, 5)]
    assert states() == {"committed": 2, "waiting": 1}
    new = DeadLetter.objects.get(state="waiting")
    assert (new.batch.sequence, new.batch.epoch, new.entry_index, new.replays) == (1, 1, 1, 0)
    letters.replay(ALL(), now_ms=NOW_MS)
    flush(flusher, shop)
    assert states() == {"committed": 2, "waiting": 1}


@pytest.mark.parametrize("garbage", [b"", b"\x01", b"\x03\x00\x00\x00" + b"\xff" * 200, b"\xff" * 300])
def test_a_payload_of_garbage_is_a_letter_whole_and_again_one_after_its_replay(flusher, garbage) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    announced = 3 if garbage.startswith(b"\x03") else 1
    BatchPayload.objects.update(payload=garbage)
    Batch.objects.update(entries=announced)
    Parent.objects.update(pending_entries=announced)
    for attempt in (0, 1):
        assert flush(flusher, shop).dead_letters == 1
        letter = DeadLetter.objects.get()
        assert (bytes(letter.payload), letter.entry_index, letter.replays) == (garbage, None, attempt)
        assert letters.replay(ALL(), now_ms=NOW_MS).letters == 1
    assert buffer() == (1, announced, len(garbage))


def test_a_letter_of_4_mib_is_replayed(flusher, settings_here, monkeypatch) -> None:
    shop = source(parent())
    put(shop, frame(1, [entry(1, after={"text": "x" * 4 * MIB})]))
    with old_code(monkeypatch):
        flush(flusher, shop)
    assert letters.replay(ALL(), now_ms=NOW_MS).letters == 1
    flush(flusher, shop)
    assert lake(settings_here, "length(text)") == [(4 * MIB,)]


def test_a_replay_holds_no_more_in_memory_than_a_group(flusher, monkeypatch) -> None:
    shop = source(parent())
    put(shop, *(frame(number, [entry(number, after={"text": "x" * 4 * MIB})]) for number in range(1, 13)))
    with old_code(monkeypatch):
        while flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL):
            pass
    tracemalloc.start()
    try:
        assert letters.replay(ALL(), now_ms=NOW_MS).letters == 12
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * letters.GROUP_BYTES < 12 * 4 * MIB


def flags(value: bool | None, rows: int = 1) -> Any:
    return pa.table({f"flag_{number:04}": pa.array([value] * rows, pa.bool_()) for number in range(999)})


def test_a_flush_of_many_wide_arrow_rows_that_are_no_rows_has_few_of_their_letters_in_memory(
    flusher, monkeypatch
) -> None:
    monkeypatch.setattr(letters, "GROUP_BYTES", MIB)
    shop = source(parent())
    with old_code(monkeypatch):
        put(shop, typed_frame(1, 1, pa.table({"a": [True]})))
        flush(flusher, shop)
        put(shop, typed_frame(2, 2, flags(True, rows=200)))
        tracemalloc.start()
        try:
            assert flush(flusher, shop).dead_letters == 200
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert sum(map(len, ALL().values_list("payload", flat=True))) > 18 * MIB > 2 * peak


def test_a_letter_of_a_row_with_few_values_in_many_arrow_columns_is_small_and_whole(
    flusher, settings_here, monkeypatch
) -> None:
    shop = source(parent())
    with old_code(monkeypatch):
        put(shop, typed_frame(1, 1, flags(None).append_column("id", [[7]])), typed_frame(2, 2, flags(None)))
        flush(flusher, shop)
    assert max(map(len, ALL().values_list("payload", flat=True))) < 1000
    assert letters.replay(ALL(), now_ms=NOW_MS).letters == 2
    assert flush(flusher, shop).dead_letters == 0
    assert lake(settings_here, "_row_id, id, _after") == [("r1", 7, None), ("r2", None, None)]


MANY = 10_000 if LONG else 3000


def test_thousands_of_letters_at_once_are_recorded_replayed_and_committed_in_few_queries(
    flusher, settings_here, monkeypatch
) -> None:
    shop = source(parent())
    put(shop, *(frame(number + 1, run(number * 1000 + 1, number * 1000 + 1000)) for number in range(MANY // 1000)))
    with old_code(monkeypatch), CaptureQueriesContext(connection) as recorded:
        flush(flusher, shop)
    with CaptureQueriesContext(connection) as replayed:
        assert letters.replay(ALL(), now_ms=NOW_MS).letters == MANY
    with CaptureQueriesContext(connection) as committed:
        assert flush(flusher, shop).batches == MANY
    assert max(len(recorded), len(replayed), len(committed)) < MANY / 10
    assert states() == {"committed": MANY}
    assert len(lake(settings_here)) == MANY
    assert buffer() == (0, 0, 0)


def test_thousands_of_letters_that_stay_unreadable_stay_as_many(flusher) -> None:
    shop = source(parent())
    put(
        shop,
        *(frame(number + 1, [not_json(number * 1000 + i) for i in range(1, 1001)]) for number in range(MANY // 1000)),
    )
    flush(flusher, shop)
    letters.replay(ALL(), now_ms=NOW_MS)
    assert flush(flusher, shop).dead_letters == MANY
    assert states() == {"waiting": MANY}


def test_a_replay_stops_when_the_buffer_is_full_and_goes_on_later(flusher, settings_here, monkeypatch) -> None:
    shop = source(parent(max_buffer_entries=4, flush_threshold_entries=2))
    put(shop, frame(1, run(1, 4)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    put(shop, frame(2, run(5, 7)))
    done = letters.replay(ALL(), now_ms=NOW_MS)
    assert (done.letters, done.full) == (1, {shop.parent_id})
    flush(flusher, shop)
    assert letters.replay(ALL(), now_ms=NOW_MS).letters == 3
    flush(flusher, shop)
    assert len(lake(settings_here)) == 7


def test_a_replay_while_a_flush_runs_is_taken_by_the_next_one(flusher, settings_here, monkeypatch) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    put(shop, frame(2, run(4, 5)))
    write = tables.write

    def replay_meanwhile(*args: Any, **kwargs: Any) -> Any:
        assert letters.replay(ALL(), now_ms=NOW_MS).letters == 3
        monkeypatch.setattr(tables, "write", write)
        return write(*args, **kwargs)

    monkeypatch.setattr(tables, "write", replay_meanwhile)
    assert flush(flusher, shop).entries == 2
    assert states() == {"replayed": 3}
    assert buffer()[:2] == (3, 3)
    flush(flusher, shop)
    assert len(lake(settings_here)) == 5


def test_a_flush_that_fails_leaves_the_replay_in_the_journal(flusher, settings_here, monkeypatch) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    letters.replay(ALL(), now_ms=NOW_MS)

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "swap", fail)
        with pytest.raises(ValueError, match="a mistake"):
            flush(flusher, shop)
    assert states() == {"replayed": 3}
    flush(flusher, shop)
    assert (states(), len(lake(settings_here))) == ({"committed": 3}, 3)


def test_a_letter_of_a_refused_table_comes_back_with_the_reason(flusher) -> None:
    shop = source(parent())
    put(shop, frame(1, [entry(1, table="../../etc")]))
    flush(flusher, shop)
    reason = DeadLetter.objects.get().reason
    letters.replay(ALL(), now_ms=NOW_MS)
    flush(flusher, shop)
    again = DeadLetter.objects.get()
    assert (again.state, again.replays, again.reason) == ("waiting", 1, reason)


def test_a_parent_cannot_go_while_its_letters_are_there_and_a_letter_gone_meanwhile_is_not_replayed(
    flusher, monkeypatch
) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    with pytest.raises(ProtectedError):
        Parent.objects.get().delete()
    ids = list(ALL().values_list("pk", flat=True))
    letters.purge(ALL().filter(pk=ids[0]))
    assert letters._put(shop.parent_id, ids, now_ms=NOW_MS).letters == 2


def test_the_journal_forgets_a_replay_but_neither_its_letter_nor_where_that_came_from(flusher, monkeypatch) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)), frame(2, run(4, 4)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    letters.replay(ALL(), now_ms=NOW_MS)
    flush(flusher, shop)
    history.forget(1, now_ms=NOW_MS + 30 * history.DAY_MS)
    assert not Batch.objects.filter(epoch__lt=0).exists()
    assert states() == {"committed": 4}
    assert set(ALL().values_list("replay", "batch__sequence")) == {(None, 1), (None, 2)}


def test_a_purge_leaves_what_is_in_the_journal(flusher, settings_here, monkeypatch) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with old_code(monkeypatch):
        flush(flusher, shop)
    first = ALL().order_by("pk").first()
    assert first is not None
    letters.replay(ALL().filter(pk=first.pk), now_ms=NOW_MS)
    assert letters.purge(ALL()) == 2
    flush(flusher, shop)
    assert lake(settings_here, "_epoch, _seq") == [(1, 1)]
    assert letters.purge(ALL()) == 1


def test_letters_are_forgotten_when_they_are_old_and_never_by_default(flusher) -> None:
    shop = source(parent())
    put(shop, frame(1, [not_json(1)]))
    flush(flusher, shop)
    much_later_ms = NOW_MS + 10 * history.DAY_MS
    assert letters.forget(Settings().dead_letter_days, now_ms=much_later_ms) == 0
    assert letters.forget(10, now_ms=much_later_ms) == 0
    assert letters.forget(10, now_ms=much_later_ms + 1) == 1


def test_two_parents_are_replayed_each_into_its_own_buffer_up_to_the_limit(flusher, monkeypatch) -> None:
    shops = [source(parent(name)) for name in ("a", "b")]
    for shop in shops:
        put(shop, frame(1, run(1, 3)))
        with old_code(monkeypatch):
            flush(flusher, shop)
    assert letters.replay(ALL(), now_ms=NOW_MS, limit=4).letters == 4
    assert list(Parent.objects.order_by("pk").values_list("pending_entries", flat=True)) == [3, 1]


def test_a_flush_of_replays_alone_keeps_to_the_limits_of_a_flush(settings_here, monkeypatch) -> None:
    small = worker(dataclasses.replace(settings_here, flush_entries_max=2))
    shop = source(parent())
    put(shop, frame(1, run(1, 5)))
    with old_code(monkeypatch):
        flush(small, shop)
    letters.replay(ALL(), now_ms=NOW_MS)
    assert [flush(small, shop).entries for _ in range(3)] == [2, 2, 1]
