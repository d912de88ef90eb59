"""What is deleted in the course of time: delivered messages with their log, old dead letters, payloads nobody needs."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from lakehouse.conf import Settings
from lakehouse.flush import payloads
from lakehouse.flush.history import DAY_MS
from lakehouse.models import BatchState, Parent
from lakehouse.subscriptions.models import Delivery, DeliveryState, SubscriptionState

ROWS_PER_DELETE = 500


def forget(settings: Settings, *, now_ms: int) -> int:
    """Returns how many messages. What is on its way to a disabled subscription stays as long as a letter does."""
    log_ms = now_ms - settings.subscription_log_days * DAY_MS
    letter_ms = now_ms - settings.subscription_letter_days * DAY_MS
    disabled = Q(subscription__state=SubscriptionState.DISABLED)
    old = (
        Q(state=DeliveryState.DELIVERED, finished_ms__lt=log_ms),
        Q(state=DeliveryState.DEAD, dead_ms__lt=letter_ms),
        Q(disabled, state=DeliveryState.PENDING, created_ms__lt=letter_ms, next_attempt_ms__lt=letter_ms),
    )
    return sum(_delete(Delivery.objects.filter(which)) for which in old)


def free_payloads(settings: Settings) -> int:
    """Those that were kept for subscriptions which have come further since; returns how many."""
    held = Parent.objects.filter(
        batches__state__in=[BatchState.PERSISTED, BatchState.FALLBACK], batches__stored__isnull=False
    )
    most = settings.subscription_backlog_bytes_max
    return sum(payloads.forget(pk, held_bytes_max=most) for pk in held.values_list("pk", flat=True).distinct())


def _delete(which: QuerySet[Delivery]) -> int:
    """In short transactions; the attempts go with their messages."""
    deleted = 0
    while ids := list(which.values_list("pk", flat=True)[:ROWS_PER_DELETE]):
        Delivery.objects.filter(pk__in=ids).delete()
        deleted += len(ids)
    return deleted
