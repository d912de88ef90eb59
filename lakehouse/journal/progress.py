"""How complete the tables are, as the journal tells it: for each child and table, up to where everything is there.

What was acknowledged and is in no table yet (waiting, in the fallback, a dead letter) holds back the mark of its child,
and so does a gap in its sequences. A dead letter holds back its own table only; what else waits holds back all tables
of the child, for nobody has looked which it is of. Read within one transaction with the pointers of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from django.conf import settings as site
from django.db.models import Count, F, Min, QuerySet, Sum

from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.models import (
    Batch,
    BatchState,
    Child,
    ChildTable,
    CurrentTable,
    DeadLetter,
    DeadLetterState,
    Flush,
    FlushState,
    IcebergTable,
    Parent,
)

COMMITS_MAX = 100_000
"""The newest of a namespace; the others are as old as the history."""


class Watermark(NamedTuple):
    """Every entry of the child up to (epoch, seq), and all that was received before, is in this table."""

    parent: str
    child: str
    table_name: str | None
    """None: the child has rows in no table."""
    epoch: int
    seq: int
    received_before_ms: int | None
    is_complete: bool
    """Nothing that was acknowledged is missing."""
    waiting: int
    in_fallback: int
    dead_letters: int
    """Of this table; a batch that is unreadable as a whole counts once, for all tables."""


class Commit(NamedTuple):
    """A bookmark: what a flush brought, and all before it."""

    parent: str
    bookmark: int
    flush: int
    committed_ms: int
    rows: int


class Currency(NamedTuple):
    """A table of now has all commits of the parent up to this one."""

    parent: str
    table_name: str
    bookmark: int
    newest: int
    is_complete: bool
    refreshed_ms: int


class _Hold(NamedTuple):
    """Where something begins that is not in its table."""

    epoch: int
    first: int
    received_ms: int


@dataclass(slots=True)
class _Standing:
    """A child by its journal."""

    parent: str
    name: str
    epoch: int
    seq: int
    received_ms: int | None = None
    has_gap: bool = False
    is_by_batch: bool = False
    """Its highest entry says nothing: there is a gap before it, or it is of another epoch that the parent counted."""
    tables: set[str] = field(default_factory=set)
    holds: list[_Hold] = field(default_factory=list)
    letters: dict[str, list[_Hold]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    in_fallback: int = 0

    def named(self) -> Iterator[str | None]:
        yield from sorted(self.tables)
        if not self.tables:
            yield None

    def watermark(self, table: str | None) -> Watermark:
        holds = [*self.holds, *self.letters.get("", ()), *self.letters.get(table or "", ())]
        before = min(((one.epoch, one.first - 1) for one in holds), default=(self.epoch, self.seq))
        epoch, seq = min(before, (self.epoch, self.seq))
        times = [one.received_ms for one in holds] + ([] if self.received_ms is None else [self.received_ms])
        return Watermark(
            self.parent,
            self.name,
            table,
            epoch,
            seq,
            min(times, default=None),
            not holds and not self.has_gap,
            self.waiting,
            self.in_fallback,
            self.counts.get("", 0) + (self.counts.get(table, 0) if table else 0),
        )


def watermarks(namespace: str) -> list[Watermark]:
    """Of every child that writes into this namespace, by parent, child and table."""
    standings = _children(namespace)
    _mark_reached(namespace, standings)
    _hold_batches(namespace, standings)
    _hold_letters(namespace, standings)
    for child_id, table in _tables(namespace):
        if child_id in standings:
            standings[child_id].tables.add(table)
    found = [one.watermark(table) for one in standings.values() for table in one.named()]
    return sorted(found, key=lambda one: (one.parent, one.child, one.table_name or ""))


def commits(namespace: str) -> list[Commit]:
    """The commits of the parents of this namespace that are remembered, the newest first."""
    fields = ("parent__name", "commit_number", "pk", "finished_ms", "rows")
    return [Commit._make(row) for row in _newest(namespace).values_list(*fields)[:COMMITS_MAX]]


def tells_all_after(parent: Parent, bookmark: int) -> bool:
    """Whether `commits` has every commit of the namespace that came behind this one of the parent."""
    untold = _newest(parent.namespace).values_list("finished_ms", "pk")[COMMITS_MAX : COMMITS_MAX + 1].first()
    if untold is None:
        return True
    # The next one does as well: what lies between them may be counted to either.
    own = Flush.objects.filter(parent=parent, commit_number__in=(bookmark, bookmark + 1))
    return any(place > untold for place in own.values_list("finished_ms", "pk"))


def currencies(namespace: str) -> list[Currency]:
    """Of the tables of now of this namespace, by table and parent."""
    parents = dict(Parent.objects.filter(namespace=namespace).values_list("pk", "name"))
    newest = dict(Parent.objects.filter(namespace=namespace).values_list("pk", "commit_number"))
    key = namespace.replace(".", SEPARATOR)
    marks = {table.name: table.mark for table in IcebergTable.objects.filter(namespace__name=key)}
    rows = CurrentTable.objects.filter(namespace=namespace).order_by("table")
    found = []
    for table, positions, version, refreshed_ms in rows.values_list("table", "positions", "version", "refreshed_ms"):
        for pk, name in sorted(parents.items(), key=lambda one: one[1]):
            # What no commit has touched since is complete, wherever its position is.
            bookmark = newest[pk] if version == marks.get(table) else positions.get(str(pk), 0)
            found.append(Currency(name, table, bookmark, newest[pk], bookmark == newest[pk], refreshed_ms))
    return found


def _newest(namespace: str) -> QuerySet[Flush]:
    done = Flush.objects.filter(parent__namespace=namespace, state=FlushState.COMMITTED, commit_number__isnull=False)
    return done.order_by("-finished_ms", "-pk")


def _children(namespace: str) -> dict[int, _Standing]:
    rows = Child.objects.filter(parent__namespace=namespace)
    fields = ("pk", "parent__name", "name", "epoch", "epoch_is_own", "entry_sequence_max", "islands")
    found = {}
    for pk, parent, name, epoch, is_own, last, islands in rows.values_list(*fields):
        is_by_batch = bool(islands) or not is_own
        seq = -1 if is_by_batch else last
        found[pk] = _Standing(parent, name, epoch, seq, has_gap=bool(islands), is_by_batch=is_by_batch)
    return found


def _mark_reached(namespace: str, standings: dict[int, _Standing]) -> None:
    """The last batch without a gap before it. It is never forgotten while its child is in that epoch."""
    reached = Batch.objects.filter(
        child__parent__namespace=namespace, epoch=F("child__epoch"), sequence=F("child__sequence")
    )
    for child_id, last, received_ms in reached.values_list("child_id", "entry_sequence_last", "received_ms"):
        if (found := standings.get(child_id)) is not None:
            found.received_ms = received_ms
            found.seq = last if found.is_by_batch else found.seq


def _hold_batches(namespace: str, standings: dict[int, _Standing]) -> None:
    left = Batch.objects.exclude(state=BatchState.PERSISTED).filter(
        child__parent__namespace=namespace, replayed_letter=None
    )
    held = left.values_list("child_id", "epoch", "state").annotate(
        Min("entry_sequence_first"), Min("received_ms"), Sum("entries")
    )
    for child_id, epoch, state, first, received_ms, entries in held.order_by():
        if (found := standings.get(child_id)) is not None:
            found.holds.append(_Hold(epoch, first, received_ms))
            found.in_fallback += entries if state == BatchState.FALLBACK else 0
            found.waiting += entries if state != BatchState.FALLBACK else 0


def _hold_letters(namespace: str, standings: dict[int, _Standing]) -> None:
    left = DeadLetter.objects.exclude(state=DeadLetterState.COMMITTED).filter(child__parent__namespace=namespace)
    held = left.values_list("child_id", "table", "batch__epoch").annotate(
        Min("batch__entry_sequence_first"), Min("batch__received_ms"), Count("pk")
    )
    for child_id, table, epoch, first, received_ms, count in held.order_by():
        if (found := standings.get(child_id)) is not None:
            found.letters.setdefault(table, []).append(_Hold(epoch, first, received_ms))
            found.counts[table] = found.counts.get(table, 0) + count


def _tables(namespace: str) -> Iterator[tuple[int, str]]:
    rows = ChildTable.objects.filter(child__parent__namespace=namespace, entries__gt=0)
    if not site.EVODB.catalog:  # Else nobody knows here which were dropped.
        there = IcebergTable.objects.filter(namespace__name=namespace.replace(".", "\x1f"))
        rows = rows.filter(table__in=there.values("name"))
    return rows.values_list("child_id", "table").distinct().iterator(1000)
