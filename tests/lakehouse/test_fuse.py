"""The fuse: so much unreadable that it must be our mistake leaves a queue, and an operator decides."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.errors import LeaseLost
from lakehouse.flush import claim, fuse, fuse_box, letters, raw, shred
from lakehouse.flush.entries import StoredBatch
from lakehouse.flush.flow import Flusher
from lakehouse.flush.fuse import FuseBlown
from lakehouse.flush.policy import FlushTrigger
from lakehouse.flush.unreadable import Unreadable
from lakehouse.journal.accept import Refused, accept
from lakehouse.models import Batch, DeadLetter, Flush, Parent
from rpc.batch import Encoding
from rpc.entries import RawEntry, payload_of
from rpc.messages import NackReason
from tests.builders import NOW_MS, entry, frame, parent, run, source
from tests.lakehouse.http_site import ask, home

LIMITS = Settings(fuse_letters_in_row=3, fuse_share=0.5, fuse_window_entries=8)


def stored(batch_id: int, entries: int) -> StoredBatch:
    payload = payload_of(run(1, entries))[0] if entries else b""
    return StoredBatch(batch_id, "shop-1", "", 1, batch_id, NOW_MS, Encoding.BINARY, payload)


def letter(batch_id: int, index: int | None) -> Unreadable:
    return Unreadable(batch_id, index, "orders", Encoding.COLUMNS, b"", "not JSON")


def found(batches: list[int], bad: dict[int, list[int | None]], *, replays: set[int] | None = None) -> str | None:
    unreadable = [letter(batch_id, index) for batch_id, indexes in bad.items() for index in indexes]
    held = [stored(number + 1, entries) for number, entries in enumerate(batches)]
    return fuse.complaint(fuse.counted(held), unreadable, LIMITS, replays=replays or set())


@pytest.mark.parametrize(
    ("batches", "bad", "in_row"),
    [
        ([7], {1: [0, 1, 2]}, None),
        ([7], {1: [3, 4, 5, 6]}, 4),
        ([7], {1: [6, 4, 3, 5]}, 4),
        ([7], {1: [0, 1, 3, 4, 6]}, None),
        ([2, 2], {1: [0, 1], 2: [0, 1]}, 4),
        ([3, 3], {1: [1, 2], 2: [0, 1]}, 4),
        ([3, 3], {1: [0, 1], 2: [0, 1]}, None),
        ([3, 1, 3], {1: [1, 2], 2: [0], 3: [0]}, 4),
        ([3, 1, 2], {1: [1, 2], 3: [0, 1]}, None),
        ([5], {1: [None]}, 5),
        ([3], {1: [None]}, None),
        ([2, 2], {1: [None], 2: [0, 1]}, 4),
        ([0, 0, 0], {1: [None], 2: [None], 3: [None]}, None),
        ([0, 0, 0, 0], {1: [None], 2: [None], 3: [None], 4: [None]}, 4),
    ],
)
def test_entries_in_a_row_are_counted_across_batches(
    batches: list[int], bad: dict[int, list[int | None]], in_row: int | None
) -> None:
    said = None if in_row is None else f"{in_row} entries in a row cannot become rows, at most 3 may"
    assert found(batches, bad) == said


@pytest.mark.parametrize(
    ("entries", "bad", "blows"),
    [(7, [0, 1, 3, 4, 6], False), (8, [0, 2, 4, 6], False), (8, [0, 1, 3, 4, 6], True)],
)
def test_a_share_counts_only_of_enough_entries_and_only_above_it(entries: int, bad: list[Any], blows: bool) -> None:
    assert (
        found([entries], {1: bad}) == f"{len(bad)} of {entries} entries cannot become rows, at most 50% may"
    ) == blows


def test_what_an_operator_replays_blows_nothing_and_ends_no_row() -> None:
    assert found([4, 4], {1: [0, 1, 2, 3], 2: [0]}, replays={1}) is None
    assert found([2, 4, 2], {1: [0, 1], 2: [0], 3: [0, 1]}, replays={2}) is not None


def not_json(first: int, last: int) -> list[RawEntry]:
    return [
        RawEntry(number, NOW_MS, 0, b"orders", b"r%d" % number, b"", b"{not json") for number in range(first, last + 1)
    ]


def worker(tmp_path: Any, owner: str = "worker-1", now_ms: int = NOW_MS, **limits: Any) -> Flusher:
    settings = dataclasses.replace(LIMITS, data_dir=tmp_path, **limits)
    return Flusher(owner, settings, chosen(settings), lambda: now_ms)


def flush(flusher: Flusher, parent_id: int) -> Any:
    return flusher.run(parent_id, trigger=FlushTrigger.MANUAL)


@pytest.fixture
def blown(tmp_path: Any, transactional_db: None) -> tuple[Any, Flusher]:
    """A parent whose fuse is blown by the first of two batches, and a worker."""
    shop = source(parent("shop", max_buffer_entries=10, flush_threshold_entries=5))
    accept([(shop, frame(1, not_json(1, 5))), (shop, frame(2, run(6, 7)))], now_ms=NOW_MS)
    flusher = worker(tmp_path)
    with pytest.raises(FuseBlown, match=r"the fuse of parent shop is blown: 5 entries in a row .*the first: not JSON"):
        flush(flusher, shop.parent_id)
    return shop, flusher


def test_a_blown_fuse_records_nothing_and_everything_waits(blown: tuple[Any, Flusher]) -> None:
    shop, flusher = blown
    home_row = Parent.objects.get()
    assert (home_row.fuse_blown_ms, home_row.lease_until_ms, home_row.pending_entries) == (NOW_MS, 0, 7)
    assert home_row.fuse_reason == "5 entries in a row cannot become rows, at most 3 may"
    assert set(Batch.objects.values_list("state", flat=True)) == {"pending"}
    assert not DeadLetter.objects.exists()
    assert Flush.objects.get().state == "abandoned"
    assert "FuseBlown: the fuse of parent shop" in Flush.objects.get().error
    assert flush(flusher, shop.parent_id) is None
    assert Flush.objects.count() == 1


def test_batches_are_stored_while_there_is_room_and_then_told_of_the_fuse(blown: tuple[Any, Flusher]) -> None:
    shop, _ = blown
    verdicts, buffers = accept([(shop, frame(3, run(8, 10))), (shop, frame(4, run(11, 11)))], now_ms=NOW_MS)
    refused = verdicts[1]
    assert not isinstance(verdicts[0], Refused)
    assert isinstance(refused, Refused)
    assert refused.reason is NackReason.BUFFER_FULL
    assert "the fuse of parent shop is blown" in refused.message
    assert "type `manage.py fuse --parent shop --reset`" in refused.message
    assert buffers[shop.parent_id].blown == "shop"


def test_a_buffer_that_is_full_by_itself_says_nothing_of_a_fuse(transactional_db: None) -> None:
    shop = source(parent("shop", max_buffer_entries=4, flush_threshold_entries=2))
    verdicts, buffers = accept([(shop, frame(1, run(1, 4))), (shop, frame(2, run(5, 5)))], now_ms=NOW_MS)
    assert isinstance(verdicts[1], Refused)
    assert "fuse" not in verdicts[1].message
    assert buffers[shop.parent_id].blown == ""


def test_after_a_reset_code_that_is_still_bad_blows_again_and_code_that_is_mended_reads_everything(
    tmp_path: Any, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, flusher = source(parent("shop")), worker(tmp_path)
    accept([(shop, frame(1, run(1, 5)))], now_ms=NOW_MS)
    with monkeypatch.context() as bad_deploy:
        bad_deploy.setattr(raw, "TIMESTAMP_MS_MAX", pa.scalar(0, pa.uint64()))
        with pytest.raises(FuseBlown):
            flush(flusher, shop.parent_id)
        assert fuse_box.mend(["shop", "nobody"], accept=False) == ["shop"]
        with pytest.raises(FuseBlown):
            flush(flusher, shop.parent_id)
    assert fuse_box.mend(["shop"], accept=False) == ["shop"]
    assert fuse_box.mend(["shop"], accept=True) == []
    flushed = flush(flusher, shop.parent_id)
    assert (flushed.entries, flushed.dead_letters) == (5, 0)


def test_accepted_letters_are_recorded_once_and_the_next_ones_blow_again(blown: tuple[Any, Flusher]) -> None:
    shop, flusher = blown
    fuse_box.mend(["shop"], accept=True)
    flushed = flush(flusher, shop.parent_id)
    assert (flushed.entries, flushed.dead_letters) == (7, 5)
    assert DeadLetter.objects.count() == 5
    assert not Parent.objects.get().fuse_accepted
    accept([(shop, frame(3, not_json(8, 12)))], now_ms=NOW_MS)
    with pytest.raises(FuseBlown):
        flush(flusher, shop.parent_id)


def test_what_was_accepted_stays_accepted_when_that_flush_fails(
    blown: tuple[Any, Flusher], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, flusher = blown
    fuse_box.mend(["shop"], accept=True)

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(claim, "finish", fail)
        with pytest.raises(ValueError, match="a mistake"):
            flush(flusher, shop.parent_id)
    assert flush(flusher, shop.parent_id).dead_letters == 5


def test_letters_that_stay_unreadable_are_replayed_without_blowing_the_fuse(blown: tuple[Any, Flusher]) -> None:
    shop, flusher = blown
    fuse_box.mend(["shop"], accept=True)
    flush(flusher, shop.parent_id)
    assert letters.replay(DeadLetter.objects.all(), now_ms=NOW_MS).letters == 5
    assert flush(flusher, shop.parent_id).dead_letters == 5
    assert set(DeadLetter.objects.values_list("state", "replays")) == {("waiting", 1)}


def test_a_worker_that_lost_its_lease_blows_nobodys_fuse(
    tmp_path: Any, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = source(parent("shop"))
    accept([(shop, frame(1, not_json(1, 5)))], now_ms=NOW_MS)
    slow, late_ms = worker(tmp_path), NOW_MS + LIMITS.lease_ms
    rescuer = worker(tmp_path, "worker-2", late_ms, fuse_letters_in_row=100)
    check = fuse_box.check

    def sleep_through_the_lease(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(fuse_box, "check", check)
        assert flush(rescuer, shop.parent_id).dead_letters == 5
        check(*args, **kwargs)

    monkeypatch.setattr(fuse_box, "check", sleep_through_the_lease)
    with pytest.raises(LeaseLost):
        flush(slow, shop.parent_id)
    assert Parent.objects.get().fuse_blown_ms is None
    assert DeadLetter.objects.count() == 5


def test_two_workers_at_a_bad_parent_blow_its_fuse_once(
    tmp_path: Any, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = source(parent("shop"))
    accept([(shop, frame(1, not_json(1, 5)))], now_ms=NOW_MS)
    first, second = worker(tmp_path), worker(tmp_path, "worker-2")
    check, seen = fuse_box.check, []

    def look_aside(*args: Any, **kwargs: Any) -> None:
        seen.append(flush(second, shop.parent_id))
        check(*args, **kwargs)

    monkeypatch.setattr(fuse_box, "check", look_aside)
    with pytest.raises(FuseBlown):
        flush(first, shop.parent_id)
    assert (seen, flush(second, shop.parent_id)) == ([None], None)
    assert Flush.objects.count() == 1


def test_a_worker_that_died_with_the_fuse_blown_leaves_its_batches_to_the_flush_after_mending(
    blown: tuple[Any, Flusher], tmp_path: Any
) -> None:
    shop, _ = blown
    fuse_box.mend(["shop"], accept=False)
    terms = claim.Terms(owner="dead", trigger=FlushTrigger.MANUAL, lease_ms=1000, entries_max=100, bytes_max=10**6)
    claimed = claim.take(shop.parent_id, terms, now_ms=NOW_MS)
    assert claimed is not None
    held = claim.read(claimed)
    with pytest.raises(FuseBlown):
        fuse_box.check(claimed, fuse.counted(held), shred.shred(held, {}).unreadable, LIMITS, now_ms=NOW_MS)
    late = worker(tmp_path, "worker-2", NOW_MS + 1000)
    assert flush(late, shop.parent_id) is None
    fuse_box.mend(["shop"], accept=True)
    assert flush(late, shop.parent_id).entries == 7


def test_other_parents_are_flushed_as_ever(blown: tuple[Any, Flusher]) -> None:
    _, flusher = blown
    other = source(parent("other"))
    accept([(other, frame(1, [entry(1)]))], now_ms=NOW_MS)
    assert flush(flusher, other.parent_id).entries == 1


async def test_ready_names_the_parent_and_why_and_metrics_count_it(blown: tuple[Any, Flusher]) -> None:
    async with home():
        ready = await ask("GET", "/ready")
        metrics = await ask("GET", "/metrics")
    assert ready.status == 503
    assert ready.json["checks"]["fuses"]["error"] == (
        "the fuse of parent shop is blown: 5 entries in a row cannot become rows, at most 3 may"
    )
    assert 'dolake_fuse_blown{parent="shop"} 1' in metrics.body.decode()
    await sync_to_async(fuse_box.mend)(["shop"], accept=False)
    async with home():
        metrics = await ask("GET", "/metrics")
    assert 'dolake_fuse_blown{parent="shop"} 0' in metrics.body.decode()


def test_the_command_shows_resets_and_accepts(blown: tuple[Any, Flusher], capsys: pytest.CaptureFixture[str]) -> None:
    call_command("fuse")
    shown = capsys.readouterr().out
    assert "shop: blown 2023-11-14 22:13:20 UTC" in shown
    assert "5 entries in a row cannot become rows" in shown
    assert "7 entries wait; look with `manage.py fuse --parent shop`" in shown
    call_command("fuse", "--parent", "shop", "--accept")
    assert Parent.objects.values_list("fuse_blown_ms", "fuse_reason", "fuse_accepted").get() == (None, "", True)
    capsys.readouterr()
    call_command("fuse", "--reset")
    assert capsys.readouterr().out == "No fuse is blown; nothing was changed.\n"
    with pytest.raises(CommandError, match="there is no parent 'x'; known are: shop"):
        call_command("fuse", "--parent", "x", "--reset")
