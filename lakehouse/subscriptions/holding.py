"""What of the journal has to stay because a subscription has not come to it, and for how long at most.

Payloads stay for active subscriptions, up to so many bytes of a parent; what is freed before is read from the lake.
History (which batch came with which commit) stays for paused ones as well, up to so many days: without it a place
means nothing. Nobody who looks for repeats, acks or flushes is any wiser.
"""

from __future__ import annotations

from django.db.models import Max, Min, Q, Sum

from lakehouse.models import BatchPayload, BatchState, Flush, FlushState
from lakehouse.subscriptions.models import Subscription, SubscriptionState

NOTHING = Q(pk__in=())


def payloads(parent_id: int, *, bytes_max: int) -> Q:
    """Which payloads of this parent stay although their batches are rows, the newest first."""
    last = _slowest(parent_id, [SubscriptionState.ACTIVE])
    if last is None or not bytes_max:
        return NOTHING
    wanted = Q(batch__flush__commit_number__gt=last) | Q(batch__state=BatchState.FALLBACK)
    held = BatchPayload.objects.filter(wanted, batch__parent_id=parent_id)
    if (held.aggregate(total=Sum("batch__size_bytes"))["total"] or 0) <= bytes_max:
        return wanted
    size_bytes, oldest = 0, None
    for pk, more in held.order_by("-pk").values_list("pk", "batch__size_bytes").iterator(1000):
        size_bytes += more
        if size_bytes > bytes_max:
            break
        oldest = pk
    return NOTHING if oldest is None else wanted & Q(pk__gte=oldest)


def commits_after(parent_id: int, *, finished_before_ms: int) -> int | None:
    """The last commit that no subscription needs; None when there is none to wait for. What is older is not held."""
    last = _slowest(parent_id, [SubscriptionState.ACTIVE, SubscriptionState.PAUSED])
    if last is None:
        return None
    old = Flush.objects.filter(parent_id=parent_id, state=FlushState.COMMITTED, finished_ms__lt=finished_before_ms)
    return max(last, old.aggregate(number=Max("commit_number"))["number"] or 0)


def _slowest(parent_id: int, states: list[SubscriptionState]) -> int | None:
    living = Subscription.objects.filter(parent_id=parent_id, state__in=states)
    found: int | None = living.aggregate(last=Min("commit_number"))["last"]
    return found
