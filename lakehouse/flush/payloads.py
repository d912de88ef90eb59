"""The bytes of batches that are rows now: deleted after the commit, but for what a subscription has not come to."""

from __future__ import annotations

from lakehouse.models import BatchPayload, BatchState
from lakehouse.subscriptions import holding

PER_DELETE = 1000


def forget(parent_id: int, *, held_bytes_max: int = 0) -> int:
    """Delete the bytes of batches that are rows now, also those an earlier flush did not come to; returns how many.

    So many of them are left for subscriptions that have not come to these batches.
    """
    deleted = 0
    states = [BatchState.PERSISTED, BatchState.FALLBACK]
    done = BatchPayload.objects.filter(batch__parent_id=parent_id, batch__state__in=states)
    done = done.exclude(holding.payloads(parent_id, bytes_max=held_bytes_max))
    while ids := list(done.values_list("pk", flat=True)[:PER_DELETE]):
        deleted += BatchPayload.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < PER_DELETE:
            break
    return deleted
