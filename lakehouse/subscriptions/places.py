"""Where a subscription may begin: now, at a moment, or behind a snapshot of a table.

From there it walks the same way as all others, so it comes from what is long in the tables to what is being committed
without a seam. The way back is as long as the history of the journal; who asks for more hears how far it reaches.
"""

from __future__ import annotations

from typing import NamedTuple

from django.db.models import Min, Sum

from lakehouse.flush.history import DAY_MS
from lakehouse.models import Batch, Flush, FlushState, FlushTable, Parent
from lakehouse.models.flushes import RECOVERY
from lakehouse.subscriptions.events import moment
from lakehouse.subscriptions.stream import Place

CLOCKS_MS = 60_000
"""Clocks of workers differ by less; what was received is compared exactly."""


class NoSuchPlace(ValueError):
    """Nobody remembers how to go on from there."""


class Start(NamedTuple):
    place: Place
    from_ms: int = 0


def at_moment(parent: Parent, moment_ms: int, *, history_days: int, now_ms: int) -> Start:
    """Everything received since. Raises NoSuchPlace."""
    kept_ms = max(history_days * DAY_MS, parent.settings.deduplication_window_ms)
    earliest_ms = now_ms - kept_ms + 2 * CLOCKS_MS
    if moment_ms < earliest_ms and parent.created_ms < earliest_ms:
        raise NoSuchPlace(
            f"the history of parent {parent.name!r} reaches back to {moment(earliest_ms)} (EVODB_HISTORY_DAYS), wanted "
            f"{moment(moment_ms)}; older rows are in the tables, ask POST /query for them"
        )
    later = Flush.objects.filter(parent=parent, state=FlushState.COMMITTED, finished_ms__gte=moment_ms - CLOCKS_MS)
    first: int | None = later.aggregate(first=Min("commit_number"))["first"]
    return Start(Place(parent.commit_number if first is None else first - 1), moment_ms)


def behind_snapshot(parent: Parent, snapshot_id: int) -> Start:
    """Everything committed after the commit that made this snapshot. Raises NoSuchPlace."""
    made = FlushTable.objects.filter(flush__parent=parent, flush__commit_number__isnull=False, snapshot_id=snapshot_id)
    number = made.values_list("flush__commit_number", flat=True).first()
    if number is None:
        raise NoSuchPlace(
            f"no commit of parent {parent.name!r} that is remembered made the snapshot {snapshot_id}; give a moment"
        )
    if _is_missing_some(parent, number):
        raise NoSuchPlace(f"not all that came after the snapshot {snapshot_id} is remembered; give a moment")
    return Start(Place(number))


def _is_missing_some(parent: Parent, number: int) -> bool:
    """Whether batches of later commits are forgotten already: they are by when they came, which may be long before."""
    later = Flush.objects.filter(parent=parent, commit_number__gt=number).exclude(trigger=RECOVERY)
    wanted = later.aggregate(batches=Sum("batches"))["batches"] or 0
    return bool(wanted != Batch.objects.filter(flush__in=later).count())
