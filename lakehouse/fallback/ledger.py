"""How much the fallback keeps, and what became of what it kept; for who watches an outage."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Max, QuerySet, Sum
from django.db.models.functions import Length

from lakehouse.models import Batch, BatchState, FallbackBatch, Flush, FlushState, Parent
from lakehouse.models.flushes import RECOVERY


@dataclass(frozen=True, slots=True)
class Held:
    """All parents together, but for `fullest_bytes`, the most of one parent: each has the whole bound to itself."""

    size_bytes: int
    rows: int
    pieces: int
    batches: int
    fullest_bytes: int
    last_piece: int
    last_batch: int
    last_flush: int


def held() -> Held:
    kept = FallbackBatch.objects.filter(flush__isnull=False)
    found = kept.aggregate(rows=Sum("rows", default=0), last=Max("pk"))
    sizes = list(kept.values("parent").annotate(size=Sum(Length("payload"))).order_by().values_list("size", flat=True))
    batches = _waiting_batches()
    return Held(
        size_bytes=sum(sizes),
        rows=found["rows"],
        pieces=kept.count(),
        batches=batches.count(),
        fullest_bytes=max(sizes, default=0),
        last_piece=found["last"] or 0,
        last_batch=batches.aggregate(last=Max("pk"))["last"] or 0,
        last_flush=Flush.objects.aggregate(last=Max("pk"))["last"] or 0,
    )


@dataclass(frozen=True, slots=True)
class Left:
    """Of what was held at a moment: what is still kept, and what recoveries since then did."""

    pieces: int
    batches: int
    rows_in_tables: int
    dead_letters: int


def left_of(before: Held) -> Left:
    done = Flush.objects.filter(trigger=RECOVERY, state=FlushState.COMMITTED, pk__gt=before.last_flush)
    sums = done.aggregate(rows=Sum("rows", default=0), letters=Sum("dead_letters", default=0))
    return Left(
        pieces=FallbackBatch.objects.filter(flush__isnull=False, pk__lte=before.last_piece).count(),
        batches=_waiting_batches().filter(pk__lte=before.last_batch).count(),
        rows_in_tables=sums["rows"],
        dead_letters=sums["letters"],
    )


def _waiting_batches() -> QuerySet[Batch]:
    """By parent, for that is what the index begins with."""
    return Batch.objects.filter(parent__in=Parent.objects.values("pk"), state=BatchState.FALLBACK)


def verdict(before: Held, left: Left) -> tuple[bool, str]:
    """Whether everything that was held is where it belongs, in a sentence."""
    moved = left.rows_in_tables + left.dead_letters
    if left.pieces or left.batches:
        return False, f"NOT everything is in its tables: {left.pieces} pieces of {left.batches} batches are still kept"
    if moved < before.rows:
        return False, f"NOT everything is in its tables: {before.rows} rows were kept, {moved} were recovered"
    return True, (
        f"everything that was kept is in its tables: {left.rows_in_tables} rows, {left.dead_letters} dead letters, "
        f"{before.rows} were kept when the outage ended"
    )


def full_in_s(before_bytes: int, now_bytes: int, *, took_s: float, bytes_max: int) -> float | None:
    """Until the bound at this rate; None when it does not grow."""
    rate = (now_bytes - before_bytes) / took_s if took_s > 0 else 0.0
    return max(0.0, (bytes_max - now_bytes) / rate) if rate > 0 else None
