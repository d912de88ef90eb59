"""Flushes that are forgotten, and what must not change by it."""

from __future__ import annotations

import threading

import pytest
from pytest_django import DjangoAssertNumQueries

from lakehouse import metrics
from lakehouse.flush import history
from lakehouse.flush.history import DAY_MS
from lakehouse.http import rows, samples
from lakehouse.http.past import LongTotals
from lakehouse.http.totals import Totals
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, BatchPayload, FallbackBatch, Flush, FlushTable, Parent
from lakehouse.models.parents import PastFlushes
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.test_http_metrics import read

pytestmark = pytest.mark.django_db


def committed(home: Parent, *, age_days: float, took_ms: int = 300, **tables: int) -> Flush:
    home.refresh_from_db()
    finished_ms = round(NOW_MS - age_days * DAY_MS)
    flush = Flush.objects.create(
        parent=home,
        trigger="age",
        lease_epoch=1,
        state="committed",
        started_ms=finished_ms - took_ms,
        finished_ms=finished_ms,
        commit_number=home.commit_number + 1,
        rows=sum(tables.values()),
    )
    for name, count in tables.items():
        FlushTable.objects.create(
            flush=flush, namespace="lake", table=name, snapshot_id=1, rows=count, files=1, size_bytes=10 * count
        )
    Parent.objects.filter(pk=home.pk).update(commit_number=home.commit_number + 1)
    return flush


def kept(home: Parent) -> list[int]:
    found = Flush.objects.filter(parent=home, state="committed").order_by("commit_number")
    return [number for number in found.values_list("commit_number", flat=True) if number is not None]


def forget(days: int = 7) -> None:
    history.forget(days, now_ms=NOW_MS)


def counters(totals: Totals) -> dict[object, float]:
    said = read(metrics.text(samples.of_parents(totals, patterns=["*"], now_ms=NOW_MS)))
    return {
        name: round(value, 6) for name, value in said.items() if name[0].startswith(("dolake_flush", "dolake_table"))
    }


@pytest.mark.both
def test_of_thousands_of_parents_those_with_nothing_old_are_not_asked(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    homes = [parent(f"tenant-{number}") for number in range(20)]
    for home in homes:
        committed(home, age_days=1)
        committed(home, age_days=1)
    with django_assert_num_queries(1):
        forget()
    assert [kept(home) for home in homes] == [[1, 2]] * 20


def test_flushes_were_never_forgotten() -> None:
    home, other = parent(), parent("other")
    for age_days in (30, 20, 8, 6, 1):
        committed(home, age_days=age_days, orders=2)
    committed(other, age_days=1)
    forget()
    assert (kept(home), kept(other)) == ([4, 5], [1])
    assert FlushTable.objects.count() == 2
    committed(home, age_days=0)
    assert kept(home) == [4, 5, 6]


def test_without_a_history_batches_stay_as_long_as_repeats_are_looked_for() -> None:
    home, patient = source(parent()), source(parent("patient", deduplication_window_ms=DAY_MS))
    for shop in (home, patient):
        for sequence, age_ms in ((1, 400_000), (2, 200_000), (3, 0)):
            accept([(shop, frame(sequence, run(sequence, sequence)))], now_ms=NOW_MS - age_ms)
    Batch.objects.update(state="persisted")
    BatchPayload.objects.all().delete()
    forget(0)
    assert list(Batch.objects.filter(parent=home.parent_id).values_list("sequence", flat=True)) == [2, 3]
    assert Batch.objects.filter(parent=patient.parent_id).count() == 3


def test_no_counter_falls_when_flushes_are_forgotten() -> None:
    home = parent()
    for number in range(1, 6):
        committed(home, age_days=20 - number, took_ms=100 * 3**number, orders=number, items=1)
    running, before = LongTotals(), counters(LongTotals())
    assert counters(running) == before
    forget(17)
    assert kept(home) == [3, 4, 5]
    assert counters(LongTotals()) == counters(running) == before
    forget()
    assert kept(home) == [5]
    assert counters(LongTotals()) == counters(running) == before
    committed(home, age_days=0, orders=9)
    assert counters(LongTotals()) == counters(running)
    found = counters(running)["dolake_table_rows_total", ("parent", "default"), ("table", "orders")]
    assert found == sum(range(1, 6)) + 9


def test_who_last_looked_before_all_that_was_forgotten_counts_it_too() -> None:
    home = parent()
    committed(home, age_days=20, orders=1)
    late = LongTotals()
    counters(late)
    for age_days in (19, 18, 0):
        committed(home, age_days=age_days, orders=1)
    before = counters(LongTotals())
    forget()
    assert counters(late) == counters(LongTotals()) == before


def test_what_is_forgotten_while_it_is_read_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    home = parent()
    for age_days in (20, 19, 18, 0):
        committed(home, age_days=age_days, orders=1)
    before, slow, plain = counters(LongTotals()), LongTotals(), Totals.read
    once = threading.Event()

    def read_late(totals: Totals, parents: list[Parent]) -> object:
        if totals is slow and not once.is_set():
            once.set()
            forget()
        return plain(totals, parents)

    monkeypatch.setattr(Totals, "read", read_late)
    assert counters(slow) == before
    assert kept(home) == [4]


def test_the_last_flush_is_shown_however_old_it_is() -> None:
    home = parent()
    for age_days in (400, 399):
        committed(home, age_days=age_days)
    forget()
    seen = rows.picture("default", default="default", sources_max=1, now_ms=NOW_MS)
    assert seen is not None
    assert seen.last_flush is not None
    assert seen.last_flush.commit_number == 2


def test_rows_that_wait_for_the_store_keep_their_flush_and_those_behind_it() -> None:
    home = parent()
    flushes = [committed(home, age_days=age_days) for age_days in (30, 20, 10, 1)]
    FallbackBatch.objects.create(parent=home, table="orders", rows=1, payload=b"x", created_ms=NOW_MS, flush=flushes[1])
    forget()
    assert kept(home) == [2, 3, 4]
    FallbackBatch.objects.all().delete()
    forget()
    assert kept(home) == [4]


def test_a_batch_that_stays_forgets_only_which_flush_it_was() -> None:
    shop = source(parent())
    accept([(shop, frame(1, run(1, 3)))], now_ms=NOW_MS - 30 * DAY_MS)
    home = Parent.objects.get()
    first = committed(home, age_days=30)
    committed(home, age_days=0)
    Batch.objects.update(state="persisted", flush=first)
    Batch.objects.get().stored.delete()
    forget()
    assert kept(home) == [2]
    assert Batch.objects.get().flush is None


def test_a_batch_that_waits_again_keeps_its_flush() -> None:
    shop = source(parent())
    accept([(shop, frame(1, run(1, 3)))], now_ms=NOW_MS - 30 * DAY_MS)
    home = Parent.objects.get()
    Batch.objects.update(state="fallback", flush=committed(home, age_days=30))
    committed(home, age_days=0)
    forget()
    assert kept(home) == [1, 2]


def test_more_flushes_than_one_delete_takes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "FLUSHES_PER_DELETE", 2)
    home = parent()
    for _ in range(6):
        committed(home, age_days=10, orders=1)
    before = counters(LongTotals())
    forget()
    assert kept(home) == [6]
    assert PastFlushes.objects.get().commit_number == 5
    assert counters(LongTotals()) == before


def test_a_parent_that_never_flushed_has_no_history_to_forget() -> None:
    parent()
    forget()
    assert not PastFlushes.objects.exists()
