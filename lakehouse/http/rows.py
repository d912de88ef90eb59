"""What the database says about one parent for GET /status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Min, QuerySet, Sum
from django.db.models.functions import Length

from lakehouse.flush import breaker_row
from lakehouse.flush.policy import Waiting, due_at_ms
from lakehouse.models import Child, FallbackBatch, Flush, FlushState, Parent
from lakehouse.parent import arrivals, leases
from lakehouse.parent.arrivals import Held
from rpc.messages import ParentState

NOTHING = Held(0, 0, 0, None, None, 0.0, 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """One moment of a parent. What `counts` and `fallback` hold is named after its fields."""

    parent: Parent
    held: Held
    sources: list[Child]
    counts: dict[str, int]
    fallback: dict[str, Any]
    last_flush: Flush | None
    is_flushing: bool
    breaker: str
    """Of the object store: closed, open or half_open."""

    @property
    def state(self) -> ParentState:
        if self.fallback["batches"]:
            return ParentState.RECOVERING
        if self.is_flushing:
            return ParentState.FLUSHING
        return ParentState.RECEIVING if self.held.batches else ParentState.IDLE

    @property
    def next_flush_ms(self) -> int | None:
        """When time alone makes a flush due; None when nothing waits."""
        held = self.held
        if held.oldest_ms is None:
            return None
        waiting = Waiting(held.entries, held.size_bytes, held.oldest_ms, held.last_flush_ms)
        return due_at_ms(waiting, self.parent.settings)


def find(name: str, *, default: str) -> Parent | None:
    """The parent of this name; the default one is there before the first child names it, and empty.

    What is no name is not asked for: PostgreSQL takes no NUL.
    """
    if arrivals.PARENT.match(name) is None:
        return None
    found = Parent.objects.filter(name=name).first()
    return Parent(name=name) if found is None and name == default else found


def picture(name: str, *, default: str, sources_max: int, now_ms: int) -> Picture | None:
    """None when there is no such parent."""
    parent = find(name, default=default)
    if parent is None:
        return None
    children = Child.objects.filter(parent=parent.pk)
    flushes = Flush.objects.filter(parent=parent.pk)
    return Picture(
        parent,
        NOTHING if parent.pk is None else arrivals.held(parent.pk, now_ms=now_ms),
        _shown(children.order_by("-last_seen_ms", "-pk")[:sources_max], now_ms),
        children.aggregate(
            sources=Count("pk"),
            connected=Count("pk", filter=leases.here(now_ms=now_ms)),
            batches=Sum("batches", default=0),
            duplicates=Sum("duplicates", default=0),
        ),
        _fallback(parent),
        flushes.filter(state=FlushState.COMMITTED, commit_number=parent.commit_number).first(),
        parent.lease_until_ms > now_ms and flushes.filter(state=FlushState.OPEN).exists(),
        breaker_row.read().state,
    )


def _shown(children: QuerySet[Child], now_ms: int) -> list[Child]:
    """With the state that counts: what a process said that was killed does not."""
    found: list[Any] = list(children.annotate(state_now=leases.state(now_ms=now_ms)))
    for child in found:
        child.state = child.state_now
    return found


def _fallback(parent: Parent) -> dict[str, Any]:
    waiting = FallbackBatch.objects.filter(parent=parent.pk)
    found = waiting.aggregate(
        batches=Count("pk"),
        rows=Sum("rows", default=0),
        bytes=Sum(Length("payload"), default=0),
        oldest_time=Min("created_ms"),
    )
    newest = waiting.order_by("-pk").values_list("last_error", flat=True).first()
    return found | {"last_error": newest or None}
