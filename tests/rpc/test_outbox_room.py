from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpc import outbox_room
from rpc.entries import RawEntry
from rpc.errors import BufferOverflowError, LakehouseRpcError
from rpc.outbox import Outbox, OutboxFull, OutboxTooSmallError
from rpc.outbox_room import SAID_AGAIN_MS, Room
from rpc.outbox_rows import Row
from rpc.shapes import Shape, Shaped
from tests.rpc.test_outbox import MIB, NOW_MS, cut, entries, entry, row_ids

PATIENCE_S = 30
ROOM_BYTES = 1000
"""For 20 entries of the smallest kind."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


class Waiting(Outbox):
    """Tells when an append found no room."""

    found_full = threading.Event()

    def _append(self, given: list[RawEntry], size_bytes: int) -> int:
        try:
            return super()._append(given, size_bytes)
        except BufferOverflowError:
            self.found_full.set()
            raise


@pytest.fixture
def waiting(path: Path) -> Iterator[Waiting]:
    with Waiting(path, bytes_max=ROOM_BYTES, when_full=OutboxFull.WAIT) as opened:
        opened.found_full = threading.Event()
        yield opened


def in_a_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """What the call returns, or raises, in a thread of its own."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(call())
        except Exception as exc:
            ended.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE_S)
        assert ended, "it still waits"
        return ended[0]

    return result


def only_when_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_room, "LOOK_AGAIN_S", 2 * PATIENCE_S)


def ack_all(outbox: Outbox) -> None:
    outbox.ack(cut(outbox).sequence)


@pytest.mark.parametrize("make_room", [Outbox.ack, Outbox.ack_through])
def test_a_full_outbox_waits_for_the_next_ack(
    waiting: Waiting, make_room: Callable[[Outbox, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_when_woken(monkeypatch)
    waiting.append(entries(20))
    cut(waiting)
    result = in_a_thread(lambda: waiting.append(entries(15, start=20)))
    assert waiting.found_full.wait(PATIENCE_S)
    make_room(waiting, 1)
    assert result() == 15
    assert row_ids(cut(waiting)) == list(range(20, 35))


def test_dropping_a_dead_letter_makes_room_too(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    only_when_woken(monkeypatch)
    waiting.append(entries(20))
    waiting.reject(cut(waiting).sequence, "no")
    result = in_a_thread(lambda: waiting.append(entries(15)))
    assert waiting.found_full.wait(PATIENCE_S)
    waiting.drop_dead_letter(1)
    assert result() == 15


def test_who_waits_looks_only_when_there_may_be_room(monkeypatch: pytest.MonkeyPatch) -> None:
    only_when_woken(monkeypatch)
    room, looked, free = Room(), threading.Semaphore(0), threading.Event()
    looks = 0

    def enter() -> str:
        nonlocal looks
        looks += 1
        is_free = free.is_set()
        looked.release()
        if not is_free:
            raise BufferOverflowError("full")
        return "in"

    result = in_a_thread(lambda: room.when_there_is(enter, wait_s=None))
    for _ in range(3):
        assert looked.acquire(timeout=PATIENCE_S)
        room.made()
    assert looked.acquire(timeout=PATIENCE_S)
    free.set()
    room.made()
    assert result() == "in"
    assert looks == 5


def test_a_cut_that_makes_entries_smaller_wakes_who_waits(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    only_when_woken(monkeypatch)
    waiting.append(entries(20))
    result = in_a_thread(lambda: waiting.append(entries(4, start=20)))
    assert waiting.found_full.wait(PATIENCE_S)
    held = waiting.pending_bytes
    cut(waiting)
    assert waiting.pending_bytes < held
    assert result() == 4


def test_room_that_another_process_makes_is_noticed(
    waiting: Waiting, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_room, "LOOK_AGAIN_S", 0.01)
    waiting.append(entries(20))
    result = in_a_thread(lambda: waiting.append(entries(15)))
    assert waiting.found_full.wait(PATIENCE_S)
    with Outbox(path) as other:
        ack_all(other)
        assert result() == 15


def test_others_go_on_while_one_waits(waiting: Waiting, path: Path) -> None:
    waiting.append(entries(15))
    result = in_a_thread(lambda: waiting.append(entries(20, start=100)))
    assert waiting.found_full.wait(PATIENCE_S)
    assert waiting.append([entry(15)]) == 1
    with Outbox(path) as other:
        assert other.append([entry(16)]) == 1
    assert row_ids(cut(waiting)) == list(range(17))
    waiting.ack(1)
    assert result() == 20


def test_everybody_who_waits_is_served(waiting: Waiting) -> None:
    results = [in_a_thread(lambda: waiting.append(entries(10))) for _ in range(8)]
    drained = 0
    while drained < 80:
        if batch := waiting.cut(entries_max=100, bytes_max=MIB):
            drained += batch.entries
            waiting.ack(batch.sequence)
    assert [result() for result in results] == [10] * 8


def test_a_wait_that_is_over_says_so_and_keeps_nothing(waiting: Waiting) -> None:
    waiting.append(entries(20))
    with pytest.raises(BufferOverflowError, match=r"no room within 0.01 s: .* holds \d+ bytes") as caught:
        waiting.append(entries(15), wait_s=0.01)
    assert caught.value.retryable
    assert waiting.uncut_entries() == 20


def test_a_wait_of_no_time_is_a_try(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Condition, "wait_for", None)
    waiting.append(entries(20))
    with pytest.raises(BufferOverflowError, match="no room within 0 s"):
        waiting.append(entries(15), wait_s=0)


def test_closing_wakes_who_waits_with_an_error(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    only_when_woken(monkeypatch)
    waiting.append(entries(20))
    result = in_a_thread(lambda: waiting.append(entries(15)))
    assert waiting.found_full.wait(PATIENCE_S)
    waiting.close()
    error = result()
    assert isinstance(error, LakehouseRpcError)
    assert "closed" in str(error)


def test_a_wait_ends_at_its_time_however_often_room_is_made_for_others() -> None:
    now_s = 100.0
    room = Room(monotonic_s=lambda: now_s)
    tries = 0

    def enter() -> None:
        nonlocal now_s, tries
        tries += 1
        now_s += 1
        room.made()  # somebody else takes it
        raise BufferOverflowError("full")

    with pytest.raises(BufferOverflowError, match="no room within 5 s: full"):
        room.when_there_is(enter, wait_s=5)
    assert tries == 5


@pytest.mark.parametrize("when_full", list(OutboxFull))
def test_entries_larger_than_an_outbox_are_refused_at_once(path: Path, when_full: OutboxFull) -> None:
    with Outbox(path, bytes_max=ROOM_BYTES, when_full=when_full) as outbox:
        outbox.append(entries(10))
        with pytest.raises(OutboxTooSmallError, match=r"bytes_max is 1000.*Append fewer entries") as caught:
            outbox.append(entries(50))
        assert not caught.value.retryable
        assert (outbox.uncut_entries(), outbox.dropped_entries) == (10, 0)


def test_what_to_do_when_full_may_be_given_by_its_name(path: Path) -> None:
    with Outbox(path, when_full="drop_oldest") as outbox:  # type: ignore[arg-type]
        assert outbox.when_full is OutboxFull.DROP_OLDEST
    with pytest.raises(ValueError, match="cry"):
        Outbox(path, when_full="cry")  # type: ignore[arg-type]


# Dropping


def dropping(path: Path, *, now_ms: Callable[[], int] = lambda: NOW_MS) -> Outbox:
    return Outbox(path, bytes_max=ROOM_BYTES, when_full=OutboxFull.DROP_OLDEST, now_ms=now_ms)


def test_the_oldest_entries_give_way_and_are_counted_also_after_a_restart(path: Path) -> None:
    with dropping(path) as outbox:
        outbox.append(entries(20))
        assert outbox.append(entries(5, start=20)) == 5
        dropped = outbox.dropped_entries
        assert 0 < dropped <= 5
        assert outbox.uncut_entries() == 25 - dropped
        assert outbox.pending_bytes <= ROOM_BYTES
    with dropping(path) as outbox:
        assert outbox.dropped_entries == dropped
        assert row_ids(cut(outbox)) == list(range(dropped, 25))


def test_no_more_is_dropped_than_has_to_be(path: Path) -> None:
    with dropping(path) as outbox:
        outbox.append(entries(20))
        outbox.append([entry(20)])
        outbox.append([entry(21)])
        free = ROOM_BYTES - outbox.pending_bytes
        one = outbox.pending_bytes // outbox.uncut_entries()
        assert 0 <= free <= one


def test_an_entry_in_a_batch_never_gives_way(path: Path) -> None:
    with dropping(path) as outbox:
        outbox.append(entries(15))
        batch = cut(outbox, entries_max=12)
        outbox.append(entries(5, start=15))
        outbox.append(entries(5, start=20))
        assert outbox.unacked() == [batch]
        with pytest.raises(BufferOverflowError, match="what may be dropped is too little") as caught:
            outbox.append(entries(15))
        assert caught.value.retryable
        kept = outbox.uncut_entries()
        assert outbox.dropped_entries == 13 - kept
        outbox.ack(batch.sequence)
        assert row_ids(cut(outbox)) == list(range(25 - kept, 25))


def test_a_dead_letter_never_gives_way(path: Path) -> None:
    with dropping(path) as outbox:
        outbox.append(entries(18))
        outbox.reject(cut(outbox).sequence, "no")
        outbox.append(entries(5))
        with pytest.raises(BufferOverflowError, match="drop dead letters"):
            outbox.append(entries(20))
        assert outbox.dead_letters()[0].entries == 18


def test_drops_of_a_new_epoch_take_entries_of_former_batches(path: Path) -> None:
    with dropping(path) as outbox:
        outbox.append(entries(20))
        cut(outbox, entries_max=5)
        cut(outbox, entries_max=5)
        outbox.ack(2)
        outbox.renew_epoch()
        outbox.append(entries(15, start=20))
        dropped = outbox.dropped_entries
        assert dropped > 5, "more than lay before the gap"
        assert outbox.uncut_entries() == 30 - dropped
        assert row_ids(cut(outbox)) == [*range(5), *range(10, 35)][dropped:]
        assert outbox.uncut_entries() == 0


def test_drops_are_said_once_a_minute_with_their_sum(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_ms = NOW_MS
    with dropping(path, now_ms=lambda: now_ms) as outbox, caplog.at_level(logging.WARNING):
        outbox.append(entries(20))
        for step in range(3):
            outbox.append(entries(20, start=step))
        assert len(caplog.messages) == 1
        assert f"{path} is full: its 20 oldest entries were dropped" in caplog.text
        now_ms += SAID_AGAIN_MS
        outbox.append(entries(20))
        assert len(caplog.messages) == 2
        assert "its 60 oldest entries" in caplog.messages[1]


def test_a_failed_append_drops_nothing(path: Path) -> None:
    class Failing(Outbox):
        def _insert(self, connection: Any, entries: Iterable[RawEntry]) -> None:
            super()._insert(connection, entries)
            raise RuntimeError("died")

    with dropping(path) as outbox:
        outbox.append(entries(20))
        held = outbox.pending_bytes
    with (
        Failing(path, bytes_max=ROOM_BYTES, when_full=OutboxFull.DROP_OLDEST) as failing,
        pytest.raises(RuntimeError, match="died"),
    ):
        failing.append(entries(5))
    with dropping(path) as outbox:
        assert (outbox.uncut_entries(), outbox.pending_bytes, outbox.dropped_entries) == (20, held, 0)


def test_what_another_process_drops_while_a_batch_is_made_is_not_in_it(path: Path) -> None:
    class Interrupted(Outbox):
        def _shaped(self, rows: list[Row], shape: Shape | None) -> Shaped:
            if not other.dropped_entries:
                other.append(entries(10, start=20))
            return super()._shaped(rows, shape)

    with dropping(path) as other, Interrupted(path) as drainer:
        other.append(entries(20))
        batch = cut(drainer)
        assert row_ids(batch) == list(range(other.dropped_entries, 30))
        assert drainer.unacked() == [batch]
        assert drainer.uncut_entries() == other.uncut_entries() == 0


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_dropped_cut_and_acknowledged_the_numbers_agree_with_a_fresh_look(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    appended = acked = 0
    with dropping(path) as one, dropping(path) as two:
        for _ in range(150):
            writer = rng.choice([one, two])
            count = rng.randint(1, 8)
            try:
                appended += writer.append(entries(count, start=appended))
            except BufferOverflowError:
                assert one.pending_batches
            if rng.random() < 0.4 and (batch := one.cut(entries_max=rng.randint(1, 9), bytes_max=MIB)):
                assert batch.entries
            if rng.random() < 0.4 and (batches := one.unacked(limit=3)):
                batch = rng.choice(batches)
                one.ack(batch.sequence)
                acked += batch.entries
            with Outbox(path) as fresh:
                assert one.pending_bytes == two.pending_bytes == fresh.pending_bytes
            assert appended == acked + one.pending_entries + two.dropped_entries
    assert acked
    with Outbox(path) as fresh:
        assert fresh.dropped_entries
