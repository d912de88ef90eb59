"""How a namespace stands: what came, what waits, how late it is, and what an operator should look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from django.db.models import F, Max, Q, Sum
from django.db.models.functions import Greatest

from lakehouse.dashboard.drawing import MINUTE_MS
from lakehouse.events.namespaces import PARENT_PREFIX
from lakehouse.models import (
    Batch,
    BatchState,
    Child,
    ConnectionState,
    DeadLetter,
    FallbackBatch,
    Flush,
    FlushTable,
    Parent,
    StoreBreaker,
)
from lakehouse.models.flushes import FlushState
from lakehouse.models.waiting import DeadLetterState
from lakehouse.parent import leases
from lakehouse.subscriptions.models import Delivery, Subscription, SubscriptionState

FLUSHES_MAX = 20_000
"""So many of the newest are looked at; an hour has 720 of a parent that flushes every 5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    accepted: int
    """Entries and events, ever."""
    waiting: int
    """Of them in the journal, for the next flush."""
    oldest_ms: int | None
    """When the first of them was received."""
    last_flush_ms: int | None
    commits: int
    children: int
    """Those with a socket; what brings events is none."""
    connected: int
    subscriptions: int
    behind: int
    """Commits, of the subscription that is furthest behind."""
    given_up: int
    """Messages that no target took."""
    unreadable: int
    """Entries that could be no row."""
    in_fallback: int
    fuses: list[str]
    """Parents whose fuse is blown."""
    is_store_away: bool

    @property
    def is_empty(self) -> bool:
        return not (self.accepted or self.commits)


def of(namespace: str, *, now_ms: int) -> Standing:
    parents = list(Parent.objects.filter(namespace=namespace))
    ids = [one.pk for one in parents]
    writers = Child.objects.filter(parent__namespace=namespace)
    children = writers.exclude(parent__name__startswith=PARENT_PREFIX)
    letters = DeadLetter.objects.filter(parent__namespace=namespace, state=DeadLetterState.WAITING)
    given_up = Delivery.objects.filter(subscription__parent__namespace=namespace, dead_ms__isnull=False)
    active = Subscription.objects.filter(parent__namespace=namespace, state=SubscriptionState.ACTIVE)
    fallback = FallbackBatch.objects.filter(parent__namespace=namespace).aggregate(rows=Sum("rows"))
    breaker = StoreBreaker.objects.first()
    connected = children.annotate(now=leases.state(now_ms=now_ms)).filter(~Q(now=ConnectionState.GONE))
    return Standing(
        accepted=writers.aggregate(sum=Sum("entries"))["sum"] or 0,
        waiting=sum(one.pending_entries for one in parents),
        oldest_ms=min((found for pk in ids if (found := _oldest_ms(pk)) is not None), default=None),
        last_flush_ms=max((one.last_flush_ms for one in parents), default=0) or None,
        commits=sum(one.commit_number for one in parents),
        children=children.count(),
        connected=connected.count(),
        subscriptions=active.count(),
        behind=active.aggregate(most=Max(Greatest(F("parent__commit_number") - F("commit_number"), 0)))["most"] or 0,
        given_up=given_up.count(),
        unreadable=letters.count(),
        in_fallback=fallback["rows"] or 0,
        fuses=[one.name for one in parents if one.fuse_blown_ms is not None],
        is_store_away=breaker is not None and breaker.state != "closed",
    )


def rows_by_minute(namespace: str, *, since_ms: int) -> Counter[tuple[int, str]]:
    """How many rows came into which table, by the minute of their commit."""
    newest = Flush.objects.aggregate(most=Max("pk"))["most"] or 0
    found = FlushTable.objects.filter(
        namespace=namespace,
        flush_id__gt=newest - FLUSHES_MAX,
        flush__state=FlushState.COMMITTED,
        flush__finished_ms__gte=since_ms,
    ).values_list("flush__finished_ms", "table", "rows")
    counts: Counter[tuple[int, str]] = Counter()
    for finished_ms, table, rows in found:
        counts[(finished_ms or 0) // MINUTE_MS * MINUTE_MS, table] += rows
    return counts


def _oldest_ms(parent_id: int) -> int | None:
    waiting = Batch.objects.filter(parent=parent_id, state__in=(BatchState.PENDING, BatchState.FLUSHING))
    return waiting.order_by("pk").values_list("received_ms", flat=True).first()
