"""The buffer of a parent of one's own, against a list that knows no bounds and no hurry."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.buffer_manager import Added, CDCBufferManager
from rpc.buffers import FlushTrigger
from rpc.config import ParentConfig
from rpc.deduplication import DedupConfig
from rpc.errors import BufferOverflowError
from rpc.messages import UNSET, WalEntry, WalOperation

NOW = 1_000_000
CONFIG = ParentConfig(
    flush_threshold_entries=4,
    flush_threshold_bytes=100,
    flush_threshold_ms=60_000,
    flush_interval_ms=30_000,
    max_buffer_entries=8,
    max_buffer_bytes=200,
)


def entry(number: int) -> WalEntry:
    return WalEntry(
        sequence=number, timestamp=NOW, operation=WalOperation.INSERT, table="t", row_id=str(number), after={}
    )


def manager(**options) -> CDCBufferManager:
    return CDCBufferManager(CONFIG, **options)


def add(held, number, *, source="a", size=10, now=NOW):
    return held.add_batch(source, number, [entry(number)], size, now)


def sequences(batches):
    return [batch.sequence_number for batch in batches]


def test_a_batch_that_comes_again_under_a_new_number_is_a_duplicate():
    held = manager()
    assert held.add_batch("a", 1, [entry(1)], 10, NOW) is Added.ACCEPTED
    assert held.add_batch("a", 2, [entry(1)], 10, NOW + 300_000) is Added.DUPLICATE
    assert held.add_batch("b", 1, [entry(1)], 10, NOW) is Added.ACCEPTED
    assert held.add_batch("a", 3, [entry(1)], 10, NOW + 300_001) is Added.ACCEPTED
    assert held.get_stats().batch_count == 3


def test_a_child_that_begins_again_at_one_with_new_entries_loses_nothing():
    held = manager()
    assert held.add_batch("a", 1, [entry(1)], 10, NOW) is Added.ACCEPTED
    assert held.add_batch("a", 1, [entry(2)], 10, NOW) is Added.ACCEPTED
    ids = [batch.batch_id for batch in held.take_for_flush()]
    assert len(set(ids)) == 2


def test_without_deduplication_everything_is_kept():
    held = manager(dedup=None)
    assert [add(held, 1), add(held, 1)] == [Added.ACCEPTED, Added.ACCEPTED]


def test_a_buffer_may_be_exactly_full_and_not_fuller():
    held = manager()
    add(held, 1, size=200)
    with pytest.raises(BufferOverflowError, match=r"holds 200 bytes, 1 more are beyond max_buffer_bytes \(200\)"):
        add(held, 2, size=1)
    assert held.get_stats().utilization == 1.0
    held.mark_persisted([batch.batch_id for batch in held.take_for_flush()], now_ms=NOW)
    assert add(held, 2, size=1) is Added.ACCEPTED, "what was refused is not remembered as seen"


def test_what_is_being_written_still_takes_room():
    held = manager()
    held.add_batch("a", 1, [entry(number) for number in range(8)], 10, NOW)
    assert sequences(held.take_for_flush()) == [1]
    with pytest.raises(BufferOverflowError, match="max_buffer_entries"):
        add(held, 2)
    assert held.get_stats().entry_count == 8


@pytest.mark.parametrize(("entries", "size"), [([], 10), ([entry(1)], -1)])
def test_what_cannot_be_a_batch_leaves_no_trace(entries, size):
    held = manager()
    with pytest.raises(ValueError, match=r"batch 1 of 'a' has \d entries and -?\d+ bytes, wanted at least 1 entry"):
        held.add_batch("a", 1, entries, size, NOW)
    assert held.get_snapshot().children == {}
    assert held.get_stats().oldest_batch_time is UNSET


@pytest.mark.parametrize(
    ("entries", "size", "later_ms", "trigger"),
    [
        (3, 99, 29_999, None),
        (4, 10, 0, FlushTrigger.ENTRIES),
        (1, 100, 0, FlushTrigger.BYTES),
        (1, 10, 30_000, FlushTrigger.INTERVAL),
        (1, 10, 60_000, FlushTrigger.AGE),
    ],
)
def test_thresholds_fire_when_they_are_reached(entries, size, later_ms, trigger):
    held = manager()
    held.add_batch("a", 1, [entry(number) for number in range(entries)], size, NOW)
    assert held.due(now_ms=NOW + later_ms) is trigger


def test_what_was_taken_makes_no_further_flush_due():
    held = manager()
    add(held, 1, size=100)
    held.take_for_flush()
    assert held.due(now_ms=NOW + 60_000) is None
    add(held, 2)
    assert held.due(now_ms=NOW) is None


def test_the_interval_counts_from_the_last_flush():
    held = manager()
    add(held, 1)
    held.mark_persisted([batch.batch_id for batch in held.take_for_flush()], now_ms=NOW + 20_000)
    add(held, 2)
    assert held.due(now_ms=NOW + 49_999) is None
    assert held.due(now_ms=NOW + 50_000) is FlushTrigger.INTERVAL


def test_two_failed_flushes_come_back_in_the_order_of_arrival():
    held = manager()
    add(held, 1)
    first = held.take_for_flush()
    add(held, 2)
    second = held.take_for_flush()
    add(held, 3)
    held.restore(first)
    held.restore(second)
    assert sequences(held.take_for_flush()) == [1, 2, 3]


def test_only_what_is_out_for_a_flush_can_be_restored():
    held = manager()
    add(held, 1)
    taken = held.take_for_flush()
    stranger = replace(taken[0], batch_id="x")
    with pytest.raises(ValueError, match="batch 'x' is not out for a flush"):
        held.restore([*taken, stranger])
    assert held.take_for_flush() == ()
    held.mark_persisted([taken[0].batch_id], now_ms=NOW)
    with pytest.raises(ValueError, match="is not out for a flush"):
        held.restore(taken)


def test_a_flush_that_got_through_after_all_may_be_marked_late_and_twice():
    held = manager()
    add(held, 1)
    taken = held.take_for_flush()
    held.restore(taken)
    assert held.mark_persisted([taken[0].batch_id], now_ms=NOW) == 1
    assert held.mark_persisted([taken[0].batch_id, "x"], now_ms=NOW) == 0
    assert held.take_for_flush() == ()


def test_a_snapshot_shows_batches_and_children():
    held = manager()
    held.connected("a", now_ms=NOW, shard="eu")
    add(held, 1, now=NOW + 5)
    add(held, 1, now=NOW + 6)
    shown = held.get_snapshot()
    child = shown.children["a"]
    assert (child.source_shard_name, child.connected_ms, child.last_activity_ms) == ("eu", NOW, NOW + 6)
    assert (child.batches_received, child.entries_received, child.last_ack_sequence) == (1, 1, 1)
    assert (sequences(shown.batches), shown.batches[0].source_shard_name) == ([1], "eu")
    assert (shown.stats.entry_count, shown.stats.oldest_batch_time) == (1, NOW + 5)
    held.left("a")
    assert held.get_snapshot().children == {}
    assert held.get_stats().batch_count == 1


def test_children_and_contents_are_bounded():
    held = manager(dedup=DedupConfig(max_sources=2, max_entries_per_source=2), max_children=2)
    for name in "abc":
        add(held, 1, source=name)
    assert list(held.get_snapshot().children) == ["b", "c"]
    assert add(held, 1, source="a") is Added.ACCEPTED, "forgotten for want of room"
    with pytest.raises(ValueError, match="max_children is 0, wanted at least 1"):
        manager(max_children=0)


STEP = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("ab"), st.integers(1, 6), st.integers(1, 3), st.integers(0, 120)),
    st.tuples(st.just("take")),
    st.tuples(st.just("mark"), st.integers(0, 3)),
    st.tuples(st.just("restore"), st.integers(0, 3)),
)


@given(st.lists(STEP, max_size=40))
def test_it_behaves_like_a_plain_list(steps):
    held, seen = manager(), set()
    waiting, flushes = [], []  # of (arrival, source, number, entries, size)
    for arrival, (what, *asked) in enumerate(steps):
        if what == "add":
            source, number, count, size = asked
            entries = [entry(number * 10 + more) for more in range(count)]
            everything = waiting + [one for flush, _ in flushes for one in flush]
            fits = sum(one[3] for one in everything) + count <= 8 and sum(one[4] for one in everything) + size <= 200
            if (source, number, count) in seen:
                assert held.add_batch(source, arrival, entries, size, NOW) is Added.DUPLICATE
            elif not fits:
                with pytest.raises(BufferOverflowError):
                    held.add_batch(source, arrival, entries, size, NOW)
            else:
                assert held.add_batch(source, arrival, entries, size, NOW) is Added.ACCEPTED
                seen.add((source, number, count))
                waiting.append((arrival, source, number, count, size))
        elif what == "take":
            taken = held.take_for_flush()
            assert sequences(taken) == [one[0] for one in waiting]
            flushes.append((waiting, taken))
            waiting = []
        elif flushes:
            flush, taken = flushes.pop(asked[0] % len(flushes))
            if what == "mark":
                assert held.mark_persisted([one.batch_id for one in taken], now_ms=NOW) == len(flush)
            else:
                held.restore(taken)
                waiting = sorted(waiting + flush)
        everything = sorted(waiting + [one for flush, _ in flushes for one in flush])
        shown = held.get_snapshot()
        assert sequences(shown.batches) == [one[0] for one in everything]
        assert shown.stats.entry_count == sum(one[3] for one in everything) <= 8
        assert shown.stats.total_size_bytes == sum(one[4] for one in everything) <= 200
        is_due = sum(one[3] for one in waiting) >= 4 or sum(one[4] for one in waiting) >= 100
        assert (held.due(now_ms=NOW) is not None) is is_due
