"""Who may flush a parent, and with which batches: a lease with an epoch, and batches that carry the flush's id.

The lease saves work; it does not make a flush safe, since it can run out under a slow worker. What makes it safe is
that `finish` belongs to the transaction that swaps the table pointers, and that it compares the epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce

from lakehouse.catalog.lake import Move
from lakehouse.catalog.tables import Staged
from lakehouse.errors import LeaseLost
from lakehouse.flush import letters
from lakehouse.flush.policy import FlushTrigger
from lakehouse.flush.shred import StoredBatch
from lakehouse.flush.unreadable import Unreadable
from lakehouse.models import (
    Batch,
    BatchState,
    Flush,
    FlushState,
    FlushTable,
    ForeignCommit,
    Parent,
)
from lakehouse.models.flushes import RECOVERY
from rpc.batch import Encoding

BATCHES_MAX = 20_000
"""Of one flush; marking more would hold SQLite's only writer for too long."""
Letters = Sequence[Unreadable]
IDS_PER_QUERY = 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to flush these batches until somebody holds a higher epoch."""

    flush_id: int
    parent: Parent
    """As it was when it was claimed."""
    namespace: str
    epoch: int
    batches: int
    entries: int
    size_bytes: int
    is_resumed: bool = False
    """It was announced to a foreign catalog by somebody who did not finish it."""

    @property
    def parent_id(self) -> int:
        return self.parent.pk

    @property
    def move(self) -> Move:
        return Move(self.flush_id, self.parent_id, self.namespace, self.epoch, self.is_resumed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Who asks, why, and how much at once."""

    owner: str
    trigger: FlushTrigger
    lease_ms: int
    entries_max: int
    bytes_max: int


def take(parent_id: int, terms: Terms, *, now_ms: int) -> Claim | None:
    """Take the lease and the oldest batches, at least one; None when nothing waits or may, or somebody else is at it.

    Batches of a flush whose worker went silent are taken back first; but one that is in doubt is what is taken.
    """
    with transaction.atomic():
        taken = Parent.objects.filter(_is_free(terms, now_ms=now_ms), pk=parent_id, fuse_blown_ms=None).update(
            lease_owner=terms.owner, lease_epoch=F("lease_epoch") + 1, lease_until_ms=now_ms + terms.lease_ms
        )
        if not taken:
            return None
        parent = Parent.objects.get(pk=parent_id)
        if _left_open(parent_id).exists():
            unfinished = _in_doubt(parent_id).first()
            if unfinished is not None:
                return _resume(unfinished, parent)
            _release(parent_id, now_ms=now_ms, error="its worker went silent and lost the lease")
        batches, entries, size_bytes, last = _oldest(parent_id, terms)
        if not batches:
            Parent.objects.filter(pk=parent_id).update(lease_until_ms=0)
            return None
        flush = Flush.objects.create(
            parent=parent,
            trigger=terms.trigger,
            lease_epoch=parent.lease_epoch,
            started_ms=now_ms,
            batches=batches,
            entries=entries,
        )
        # The parent's row is locked, so no batch of it can appear between the look and the update.
        claimed = _pending(parent_id).filter(pk__lte=last).update(state=BatchState.FLUSHING, flush=flush)
        assert claimed == batches, f"claimed {claimed} batches of parent {parent_id}, saw {batches}"
    return Claim(flush.pk, parent, parent.namespace, parent.lease_epoch, batches, entries, size_bytes)


def read(claim: Claim) -> list[StoredBatch]:
    """The claimed batches with their bytes, oldest first. A replay tells of the batch its dead letter came from."""
    rows = (
        Batch.objects.filter(flush_id=claim.flush_id)
        .order_by("pk")
        .values_list("pk", "child__name", "child__shard", *_ORIGINAL, "encoding", "stored__payload")
    )
    batches = [
        StoredBatch(pk, source, shard, epoch, sequence, received_ms, Encoding(encoding), bytes(payload))
        for pk, source, shard, epoch, sequence, received_ms, encoding, payload in rows.iterator(1000)
    ]
    if len(batches) != claim.batches:
        raise LeaseLost(f"flush {claim.flush_id} holds {len(batches)} batches of the {claim.batches} it claimed")
    return batches


_ORIGINAL = [Coalesce(f"replayed_letter__batch__{name}", name) for name in ("epoch", "sequence", "received_ms")]


def renew(claim: Claim, *, now_ms: int, lease_ms: int) -> None:
    """Keep the lease for a while longer, unless it was given back. Raises LeaseLost."""
    if not _leased(claim).filter(lease_until_ms__gt=0).update(lease_until_ms=now_ms + lease_ms):
        raise _lost(claim)


def finish(
    claim: Claim, staged: Sequence[Staged], unreadable: Letters, *, now_ms: int, kept: Collection[int] = ()
) -> int:
    """Mark everything done; returns the commit number. Within the transaction that swaps the pointers.

    Of the batches `kept` rows wait elsewhere, for a table that takes none now.
    Raises LeaseLost when somebody else took over: then nothing of the transaction may stay.
    """
    _free(claim, now_ms=now_ms, commit_number=F("commit_number") + 1)
    number = Parent.objects.values_list("commit_number", flat=True).get(pk=claim.parent_id)
    _mark(claim, kept)
    closed = close(claim.flush_id, staged, unreadable, number=number, now_ms=now_ms)
    assert closed, f"flush {claim.flush_id} was not open any more"
    letters.settle(claim.parent_id, unreadable, now_ms=now_ms)
    return number


def finish_in_fallback(claim: Claim, kept: Collection[int], unreadable: Letters, *, error: str, now_ms: int) -> None:
    """The rows of the batches `kept` wait elsewhere; the buffer is free. Within the transaction that keeps them.

    A batch of which nothing is kept has nothing to wait for. Raises LeaseLost as `finish` does.
    """
    _free(claim, now_ms=now_ms)
    _mark(claim, kept)
    closed = Flush.objects.filter(pk=claim.flush_id, state=FlushState.OPEN).update(
        state=FlushState.KEPT, finished_ms=now_ms, dead_letters=len(unreadable), error=error
    )
    assert closed == 1, f"flush {claim.flush_id} was not open any more"
    letters.settle(claim.parent_id, unreadable, now_ms=now_ms)


def _mark(claim: Claim, kept: Collection[int]) -> None:
    claimed = Batch.objects.filter(flush_id=claim.flush_id, state=BatchState.FLUSHING)
    marked = sum(claimed.filter(pk__in=some).update(state=BatchState.FALLBACK) for some in by_thousands(kept))
    marked += claimed.update(state=BatchState.PERSISTED)
    assert marked == claim.batches, f"flush {claim.flush_id} marked {marked} of {claim.batches} batches"


def give_back(claim: Claim, *, error: str, now_ms: int) -> None:
    """The flush failed: its batches wait again and the lease is free. Does nothing if somebody else took over.

    One that is in doubt keeps its batches, and the error is what can be seen of it.
    """
    with transaction.atomic():
        if _leased(claim).update(lease_until_ms=0):
            _release(claim.parent_id, now_ms=now_ms, error=error)


def by_thousands(batch_ids: Iterable[int]) -> Iterator[list[int]]:
    """As many as one query may name."""
    ids = sorted(batch_ids)
    yield from (ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY))


def _pending(parent_id: int) -> QuerySet[Batch]:
    return Batch.objects.filter(parent_id=parent_id, state=BatchState.PENDING)


def _leased(claim: Claim) -> QuerySet[Parent]:
    return Parent.objects.filter(pk=claim.parent_id, lease_epoch=claim.epoch)


def _free(claim: Claim, *, now_ms: int, **more: Combinable) -> None:
    """Its batches do not wait any more, and the lease is free. Raises LeaseLost."""
    freed = _leased(claim).update(
        pending_batches=F("pending_batches") - claim.batches,
        pending_entries=F("pending_entries") - claim.entries,
        pending_bytes=F("pending_bytes") - claim.size_bytes,
        last_flush_ms=now_ms,
        lease_until_ms=0,
        fuse_accepted=False,
        **more,
    )
    if not freed:
        raise _lost(claim)


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"parent {claim.parent_id} is flushed by somebody else since flush {claim.flush_id} began")


def _is_free(terms: Terms, *, now_ms: int) -> Q:
    """The lease has ended, or ends so late that the clock of whoever took it was wrong. Nobody waits hours for that."""
    return Q(lease_until_ms__lte=now_ms) | Q(lease_until_ms__gt=now_ms + 2 * terms.lease_ms)


def _oldest(parent_id: int, terms: Terms) -> tuple[int, int, int, int]:
    """Count, entries, bytes and last id of the batches to take."""
    batches = entries = size_bytes = last = 0
    rows = _pending(parent_id).order_by("pk").values_list("pk", "entries", "size_bytes")[:BATCHES_MAX]
    for pk, more_entries, more_bytes in rows:
        if batches and (entries + more_entries > terms.entries_max or size_bytes + more_bytes > terms.bytes_max):
            break
        batches, entries, size_bytes, last = batches + 1, entries + more_entries, size_bytes + more_bytes, pk
    return batches, entries, size_bytes, last


def _left_open(parent_id: int) -> QuerySet[Flush]:
    """The flush whose worker went silent: as long as it has batches, it is open."""
    return Flush.objects.filter(parent_id=parent_id, state=FlushState.OPEN).exclude(trigger=RECOVERY)


def _in_doubt(parent_id: int) -> QuerySet[Flush]:
    """The flush that was announced to a foreign catalog and is not marked."""
    announced = ForeignCommit.objects.filter(flush__parent=parent_id).values("flush")
    open_ones = Flush.objects.filter(parent_id=parent_id, state=FlushState.OPEN, pk__in=announced)
    return open_ones.exclude(trigger=RECOVERY)


def _resume(flush: Flush, parent: Parent) -> Claim:
    """The right to finish it, with the batches and in the namespace it was announced with."""
    Flush.objects.filter(pk=flush.pk).update(lease_epoch=parent.lease_epoch, error="")
    namespace = ForeignCommit.objects.filter(flush=flush).values_list("namespace", flat=True)[0]
    size_bytes = Batch.objects.filter(flush=flush).aggregate(total=Sum("size_bytes"))["total"] or 0
    counts = (flush.batches, flush.entries, size_bytes)
    return Claim(flush.pk, parent, namespace, parent.lease_epoch, *counts, is_resumed=True)


def _release(parent_id: int, *, now_ms: int, error: str) -> None:
    """Whatever a flush of this parent left behind waits again, unless it is in doubt."""
    if _in_doubt(parent_id).update(error=error):
        return
    Batch.objects.filter(parent_id=parent_id, state=BatchState.FLUSHING).update(state=BatchState.PENDING, flush=None)
    _left_open(parent_id).update(state=FlushState.ABANDONED, finished_ms=now_ms, error=error)


def close(flush_id: int, staged: Sequence[Staged], unreadable: Letters, *, number: int, now_ms: int) -> bool:
    """Write down what a flush did, if it is open still. Within the transaction that swaps its tables' pointers."""
    closed = Flush.objects.filter(pk=flush_id, state=FlushState.OPEN).update(
        state=FlushState.COMMITTED,
        finished_ms=now_ms,
        rows=sum(table.rows for table in staged),
        size_bytes=sum(table.size_bytes for table in staged),
        dead_letters=len(unreadable),
        commit_number=number,
    )
    if closed:
        _record_tables(flush_id, staged)
    return bool(closed)


def _record_tables(flush_id: int, staged: Sequence[Staged]) -> None:
    FlushTable.objects.bulk_create(
        FlushTable(
            flush_id=flush_id,
            namespace=table.namespace,
            table=table.table,
            snapshot_id=table.snapshot_id,
            metadata_location=table.metadata_location,
            rows=table.rows,
            files=table.files,
            size_bytes=table.size_bytes,
        )
        for table in staged
    )
