"""What the deliveries of a parent added up to, counted in the transaction that settles them.

Messages and attempts are forgotten in the course of time and go with their subscription; what they added up to stays,
so that no counter of the metrics ever falls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from lakehouse.metrics import DELIVERY_SECONDS
from lakehouse.subscriptions.models import DeliveryTotal

BOUNDS_MS = [round(seconds * 1000) for seconds in DELIVERY_SECONDS]


@dataclass(slots=True)
class Sums:
    """Of one parent, since somebody began to count."""

    delivered_events: int = 0
    dead_events: int = 0
    failed_attempts: int = 0
    took_ms: list[int] = field(default_factory=list)
    """From the making of a message to its delivery, for each that was delivered."""


def add(sums: Mapping[int, Sums]) -> None:
    """By the id of the parent, in the caller's transaction. Whoever else does this waits for the row."""
    for parent_id, more in sorted(sums.items()):
        DeliveryTotal.objects.get_or_create(parent_id=parent_id)
        total = DeliveryTotal.objects.select_for_update().get(parent_id=parent_id)
        total.delivered_events += more.delivered_events
        total.dead_events += more.dead_events
        total.failed_attempts += more.failed_attempts
        total.durations = total.durations or [0] * (len(BOUNDS_MS) + 1)
        for took_ms in more.took_ms:
            total.durations[bisect_left(BOUNDS_MS, took_ms)] += 1
        total.took_ms += sum(more.took_ms)
        total.save()
