"""What flushes added up to, as the journal tells it: read once, then only what was committed since.

A parent's commits are numbered without gaps in the transaction that makes them visible, so nothing up to a number can
appear later. Whichever process is asked, it arrives at the same sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from django.db.models import Count, F, Min, Q, QuerySet, Sum

from lakehouse.metrics import FLUSH_SECONDS
from lakehouse.models import Batch, Flush, FlushState, FlushTable, Parent


@dataclass(slots=True)
class Total:
    """Of one parent up to a commit number."""

    commit_number: int = 0
    flushes: list[int] = field(default_factory=lambda: [0] * (len(FLUSH_SECONDS) + 1))
    """By how long they took, in the buckets of FLUSH_SECONDS."""
    seconds: float = 0.0
    freshness_s: float | None = None
    rows: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    size_bytes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class Totals:
    """For one process. `read` asks the database and may be called in any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._totals: dict[int, Total] = {}

    def read(self, parents: Iterable[Parent]) -> dict[int, Total]:
        with self._lock:
            for parent in parents:
                total = self._totals.setdefault(parent.pk, Total())
                if parent.commit_number > total.commit_number:
                    _add(total, parent)
            return {parent.pk: self._totals[parent.pk] for parent in parents}


def _add(total: Total, parent: Parent) -> None:
    done = Flush.objects.filter(
        parent=parent.pk,
        state=FlushState.COMMITTED,
        commit_number__gt=total.commit_number,
        commit_number__lte=parent.commit_number,
    )
    for bucket, count in enumerate(_by_duration(done)):
        total.flushes[bucket] += count
    took = done.aggregate(ms=Sum(F("finished_ms") - F("started_ms")))
    total.seconds += (took["ms"] or 0) / 1000
    for row in FlushTable.objects.filter(flush__in=done).values("table").annotate(Sum("rows"), Sum("size_bytes")):
        total.rows[row["table"]] += row["rows__sum"]
        total.size_bytes[row["table"]] += row["size_bytes__sum"]
    total.freshness_s = _freshness_s(parent)
    total.commit_number = parent.commit_number


def _by_duration(done: QuerySet[Flush]) -> list[int]:
    bounds = [round(seconds * 1000) for seconds in FLUSH_SECONDS]
    within = {f"within_{bound}": Count("pk", filter=Q(finished_ms__lte=F("started_ms") + bound)) for bound in bounds}
    found = done.aggregate(every=Count("pk"), **within)
    up_to = [*(found[name] for name in within), found["every"]]
    return [count - before for count, before in zip(up_to, [0, *up_to], strict=False)]


def _freshness_s(parent: Parent) -> float | None:
    """None when the history of the newest flush is forgotten already."""
    newest = Flush.objects.filter(parent=parent.pk, commit_number=parent.commit_number).first()
    if newest is None or newest.finished_ms is None:
        return None
    oldest_ms: int | None = Batch.objects.filter(flush=newest).aggregate(oldest=Min("received_ms"))["oldest"]
    return None if oldest_ms is None else max(0, newest.finished_ms - oldest_ms) / 1000
