"""What can be counted of the subscriptions of each parent, for /metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.db.models import Count, F, Max, Min, Q, QuerySet, Sum
from django.db.models.functions import Greatest

from lakehouse.metrics import DELIVERY_SECONDS, Sample, histogram
from lakehouse.subscriptions.models import Delivery, DeliveryState, DeliveryTotal, Subscription, SubscriptionState


def samples(parents: Mapping[int, str], *, now_ms: int) -> Iterator[Sample]:
    """Of these parents, by their names."""
    yield from _standing(parents)
    yield from _on_their_way(parents, now_ms)
    yield from _added_up(parents)


def _standing(parents: Mapping[int, str]) -> Iterator[Sample]:
    active = Q(state=SubscriptionState.ACTIVE)
    behind = Max(Greatest(F("parent__commit_number") - F("commit_number"), 0), filter=active)
    counted = (
        Subscription.objects.order_by().values_list("parent").annotate(count=Count("pk", filter=active), lag=behind)
    )
    standing = {pk: (count, lag or 0) for pk, count, lag in counted}
    letters = dict(_of_parent().filter(dead_ms__isnull=False).annotate(count=Count("pk")))
    for pk, name in parents.items():
        count, lag = standing.get(pk, (0, 0))
        yield Sample("dolake_subscriptions", (name,), count)
        yield Sample("dolake_subscription_lag_commits", (name,), lag)
        yield Sample("dolake_subscription_dead_letters", (name,), letters.get(pk, 0))


def _on_their_way(parents: Mapping[int, str], now_ms: int) -> Iterator[Sample]:
    """What waits for a subscription that is paused grows old without anybody having to look."""
    oldest = Min("created_ms", filter=Q(subscription__state=SubscriptionState.ACTIVE))
    pending = _of_parent().filter(state=DeliveryState.PENDING).annotate(events=Sum("event_count"), oldest=oldest)
    found = {pk: (events, oldest_ms) for pk, events, oldest_ms in pending}
    for pk, name in parents.items():
        events, oldest_ms = found.get(pk, (0, None))
        age_ms = 0 if oldest_ms is None else max(0, now_ms - oldest_ms)
        yield Sample("dolake_subscription_pending_events", (name,), events)
        yield Sample("dolake_subscription_pending_age_seconds", (name,), age_ms / 1000)


def _added_up(parents: Mapping[int, str]) -> Iterator[Sample]:
    kept = {total.pk: total for total in DeliveryTotal.objects.all()}
    for pk, name in parents.items():
        total = kept.get(pk) or DeliveryTotal()
        durations = total.durations or [0] * (len(DELIVERY_SECONDS) + 1)
        yield Sample("dolake_subscription_delivered_events_total", (name,), total.delivered_events)
        yield Sample("dolake_subscription_dead_events_total", (name,), total.dead_events)
        yield Sample("dolake_subscription_failed_attempts_total", (name,), total.failed_attempts)
        yield from histogram(
            *("dolake_subscription_delivery_seconds", (name,), durations, total.took_ms / 1000), bounds=DELIVERY_SECONDS
        )


def _of_parent() -> QuerySet[Delivery, Any]:
    return Delivery.objects.order_by().values_list("subscription__parent")
