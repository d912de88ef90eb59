"""A claim that is too much at once: what its documents come to is known when they are cut, after the claim."""

from __future__ import annotations

from dataclasses import replace

from django.db import transaction
from django.db.models import Count, Sum

from lakehouse.errors import LeaseLost
from lakehouse.flush.claim import Claim
from lakehouse.models import Batch, BatchState, Flush, Parent


def shorten(claim: Claim, before: int) -> Claim:
    """The same claim without this batch and those behind it, which wait again. Raises LeaseLost."""
    with transaction.atomic():
        leased = Parent.objects.filter(pk=claim.parent_id, lease_epoch=claim.epoch)
        if leased.select_for_update().first() is None:
            raise LeaseLost(f"parent {claim.parent_id} is flushed by somebody else since flush {claim.flush_id} began")
        claimed = Batch.objects.filter(flush_id=claim.flush_id, state=BatchState.FLUSHING)
        claimed.filter(pk__gte=before).update(state=BatchState.PENDING, flush=None)
        left = claimed.aggregate(batches=Count("pk"), entries=Sum("entries"), size_bytes=Sum("size_bytes"))
        assert left["batches"], f"batch {before} is the first of flush {claim.flush_id}"
        Flush.objects.filter(pk=claim.flush_id).update(batches=left["batches"], entries=left["entries"])
    return replace(claim, **left)
