"""What can be counted of the subscriptions of each parent, for /metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.db.models import Count, F, Max, Q, Sum
from django.db.models.functions import Greatest

from lakehouse.metrics import Sample
from lakehouse.subscriptions.models import Delivery, DeliveryState, Subscription, SubscriptionState


def samples(parents: Mapping[int, str]) -> Iterator[Sample]:
    """Of these parents, by their names."""
    active = Q(state=SubscriptionState.ACTIVE)
    behind = Max(Greatest(F("parent__commit_number") - F("commit_number"), 0), filter=active)
    counted = (
        Subscription.objects.order_by().values_list("parent").annotate(count=Count("pk", filter=active), lag=behind)
    )
    standing = {pk: (count, lag or 0) for pk, count, lag in counted}
    of_parent = Delivery.objects.order_by().values_list("subscription__parent")
    pending = dict(of_parent.filter(state=DeliveryState.PENDING).annotate(sum=Sum("event_count")))
    letters = dict(of_parent.filter(dead_ms__isnull=False).annotate(count=Count("pk")))
    for pk, name in parents.items():
        count, lag = standing.get(pk, (0, 0))
        yield Sample("dolake_subscriptions", (name,), count)
        yield Sample("dolake_subscription_lag_commits", (name,), lag)
        yield Sample("dolake_subscription_pending_events", (name,), pending.get(pk, 0))
        yield Sample("dolake_subscription_dead_letters", (name,), letters.get(pk, 0))
