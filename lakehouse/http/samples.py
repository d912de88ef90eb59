"""What the database says for GET /metrics: the rows of the parents that a key may see, as samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.db.models import Count, Min, QuerySet, Sum
from django.db.models.functions import Length

from lakehouse.http.totals import Total, Totals
from lakehouse.metrics import OTHER_TABLES, PARENTS_MAX, TABLES_MAX, Sample, histogram
from lakehouse.models import (
    Batch,
    BatchState,
    Child,
    DeadLetter,
    DeadLetterState,
    FallbackBatch,
    Flush,
    FlushState,
    Parent,
)
from lakehouse.parent import leases
from lakehouse.parent.grants import ANY, fits
from lakehouse.subscriptions import counts

COMMITTED = DeadLetterState.COMMITTED


def of_parents(
    totals: Totals, *, patterns: Iterable[str], namespaces: Iterable[str] = ANY, now_ms: int
) -> list[Sample]:
    every = list(Parent.objects.order_by("pk")[:PARENTS_MAX])
    parents = [one for one in every if fits(one.name, patterns) and fits(one.namespace, namespaces)]
    names = {parent.pk: parent.name for parent in parents}
    samples = [Sample("dolake_parents", (), Parent.objects.count())]
    samples += [sample for parent in parents for sample in _buffer(parent)]
    samples += [sample for row in _children(names, now_ms) for sample in row]
    samples += _ages(parents, now_ms)
    samples += _by_parent("dolake_dead_letters", DeadLetter.objects.exclude(state=COMMITTED), Count("pk"), names)
    samples += _by_parent("dolake_fallback_bytes", FallbackBatch.objects.all(), Sum(Length("payload")), names)
    abandoned = Flush.objects.filter(state=FlushState.ABANDONED)
    samples += _by_parent("dolake_flushes_abandoned_total", abandoned, Count("pk"), names)
    summed = {names[pk]: total for pk, total in totals.read(parents).items()}
    return [*samples, *counts.samples(names, now_ms=now_ms), *_flushes(summed), *_tables(summed)]


def _buffer(parent: Parent) -> Iterator[Sample]:
    config, labels = parent.settings, (parent.name,)
    utilization = max(
        parent.pending_entries / config.max_buffer_entries, parent.pending_bytes / config.max_buffer_bytes
    )
    yield Sample("dolake_buffer_events", labels, parent.pending_entries)
    yield Sample("dolake_buffer_bytes", labels, parent.pending_bytes)
    yield Sample("dolake_buffer_utilization", labels, round(utilization, 4))
    yield Sample("dolake_fuse_blown", labels, int(parent.fuse_blown_ms is not None))


def _children(names: dict[int, str], now_ms: int) -> Iterator[list[Sample]]:
    here = Count("pk", filter=leases.here(now_ms=now_ms))
    rows = Child.objects.values("parent").annotate(Sum("batches"), Sum("entries"), Sum("duplicates"), here=here)
    found = {row["parent"]: row for row in rows}
    for pk, name in names.items():
        row = found.get(pk, {"batches__sum": 0, "entries__sum": 0, "duplicates__sum": 0, "here": 0})
        yield [
            Sample("dolake_ingested_events_total", (name,), row["entries__sum"]),
            Sample("dolake_connected_sources", (name,), row["here"]),
            Sample("dolake_dedup_checks", (name,), row["batches__sum"] + row["duplicates__sum"]),
            Sample("dolake_dedup_duplicates", (name,), row["duplicates__sum"]),
        ]


def _ages(parents: list[Parent], now_ms: int) -> Iterator[Sample]:
    waiting = [parent.pk for parent in parents if parent.pending_batches]
    batches = Batch.objects.filter(parent__in=waiting, state__in=[BatchState.PENDING, BatchState.FLUSHING])
    oldest_ms = dict(batches.values_list("parent").annotate(Min("received_ms")).order_by())
    for parent in parents:
        age_ms = max(0, now_ms - oldest_ms.get(parent.pk, now_ms))
        yield Sample("dolake_journal_age_seconds", (parent.name,), age_ms / 1000)


def _by_parent(name: str, rows: QuerySet, what: Count | Sum, names: dict[int, str]) -> Iterator[Sample]:  # type: ignore[type-arg]
    found = dict(rows.values_list("parent").annotate(found=what).order_by())
    for pk, parent in names.items():
        yield Sample(name, (parent,), found.get(pk) or 0)


def _flushes(summed: dict[str, Total]) -> Iterator[Sample]:
    for parent, total in summed.items():
        yield from histogram("dolake_flush_seconds", (parent,), total.flushes, total.seconds)
        if total.freshness_s is not None:
            yield Sample("dolake_freshness_seconds", (parent,), total.freshness_s)


def _tables(summed: dict[str, Total]) -> Iterator[Sample]:
    """The first TABLES_MAX by name; the same ones at every scrape as long as none is made."""
    named = 0
    for parent, total in summed.items():
        rows: dict[str, int] = {}
        size_bytes: dict[str, int] = {}
        for table in sorted(total.rows):
            shown = table if named < TABLES_MAX else OTHER_TABLES
            named += 1
            rows[shown] = rows.get(shown, 0) + total.rows[table]
            size_bytes[shown] = size_bytes.get(shown, 0) + total.size_bytes[table]
        yield from (Sample("dolake_table_rows_total", (parent, table), count) for table, count in rows.items())
        yield from (Sample("dolake_table_bytes_total", (parent, table), count) for table, count in size_bytes.items())
