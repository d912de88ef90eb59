"""What the beat asks of workers for subscriptions. Delivering is a process of its own (`deliverer`)."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from lakehouse.clock import now_ms
from lakehouse.subscriptions import forgetting


@shared_task
def forget_messages() -> int:
    """Delete what is remembered long enough. Returns how many messages."""
    return forgetting.forget(settings.EVODB, now_ms=now_ms())


@shared_task
def free_payloads() -> int:
    """Delete payloads that no subscription waits for any more. Returns how many."""
    return forgetting.free_payloads(settings.EVODB)
