"""How long the journal remembers what is long in a table."""

from __future__ import annotations

from django.db.models import F, Q

from lakehouse.models import Batch, BatchState

DAY_MS = 24 * 3600 * 1000
BATCHES_PER_DELETE = 1000


def forget(history_days: int, *, now_ms: int) -> int:
    """Delete persisted batches received longer ago; returns how many.

    A child with an epoch is still recognised: its watermark stays. What a dead letter came from stays as well.
    """
    compared = Q(epoch=F("child__epoch"), sequence__gte=F("child__sequence"))
    old = Batch.objects.exclude(compared).filter(
        state=BatchState.PERSISTED, received_ms__lt=now_ms - history_days * DAY_MS, stored=None, dead_letters=None
    )
    forgotten = 0
    while ids := list(old.values_list("pk", flat=True)[:BATCHES_PER_DELETE]):
        forgotten += Batch.objects.filter(pk__in=ids).delete()[0]
    return forgotten
