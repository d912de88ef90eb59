"""Which subscriptions a process serves: those with something to do that nobody else serves.

A lease saves work and keeps two from pulling the same; what makes a message exact is that its place is compared in the
transaction that writes it. A process that dies leaves its leases to run out, and nothing else: a message on its way is
a row that is pending, as before it was sent.
"""

from __future__ import annotations

from django.db.models import Exists, F, OuterRef, Q

from lakehouse.subscriptions.models import Delivery, DeliveryState, Subscription, SubscriptionState
from lakehouse.subscriptions.retries import MOST_MS

SERVED_MAX = 10_000
IDS_PER_QUERY = 500


def take(owner: str, *, now_ms: int, lease_ms: int) -> list[int]:
    """Take and renew; returns those that are ours and have something to do."""
    waiting = Delivery.objects.filter(due(now_ms), subscription=OuterRef("pk"), state=DeliveryState.PENDING)
    busy = Q(commit_number__lt=F("parent__commit_number")) | Exists(waiting)
    active = Subscription.objects.filter(state=SubscriptionState.ACTIVE)
    rows = active.filter(busy).filter(_is_free(now_ms, lease_ms) | Q(lease_owner=owner)).order_by("pk")
    found = list(rows.values_list("pk", "lease_owner", "lease_until_ms")[:SERVED_MAX])
    ours = [pk for pk, holder, until_ms in found if holder == owner and until_ms > now_ms + lease_ms // 2]
    wanted = sorted({pk for pk, *_ in found} - set(ours))
    for start in range(0, len(wanted), IDS_PER_QUERY):
        some = Subscription.objects.filter(pk__in=wanted[start : start + IDS_PER_QUERY])
        some.filter(_is_free(now_ms, lease_ms) | Q(lease_owner=owner)).update(
            lease_owner=owner, lease_until_ms=now_ms + lease_ms
        )
    if wanted:
        mine = active.filter(lease_owner=owner, lease_until_ms__gt=now_ms)
        held = set(mine.values_list("pk", flat=True))
        return sorted(pk for pk, *_ in found if pk in held)
    return sorted(ours)


def leave(owner: str) -> None:
    """A process that stops makes room at once."""
    Subscription.objects.filter(lease_owner=owner).update(lease_owner="", lease_until_ms=0)


def due(now_ms: int) -> Q:
    """Messages whose time has come, or would come so late that the clock of whoever set it was wrong."""
    return Q(next_attempt_ms__lte=now_ms) | Q(next_attempt_ms__gt=now_ms + 2 * MOST_MS)


def _is_free(now_ms: int, lease_ms: int) -> Q:
    """The lease has ended, or ends so late that the clock of whoever took it was wrong."""
    return Q(lease_until_ms__lte=now_ms) | Q(lease_until_ms__gt=now_ms + 2 * lease_ms)
