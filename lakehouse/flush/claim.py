"""Who may flush a parent, and with which batches: a lease with an epoch, and batches that carry the flush's id.

The lease saves work; it does not make a flush safe, since it can run out under a slow worker. What makes it safe is
that `finish` belongs to the transaction that swaps the table pointers, and that it compares the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import F, QuerySet

from lakehouse.catalog.tables import Staged
from lakehouse.errors import LeaseLost
from lakehouse.flush.policy import FlushTrigger
from lakehouse.flush.shred import StoredBatch, Unreadable
from lakehouse.models import Batch, BatchPayload, BatchState, DeadLetter, Flush, FlushState, FlushTable, Parent
from rpc.batch import Encoding

BATCHES_MAX = 20_000
"""Of one flush; marking more would hold SQLite's only writer for too long."""
PAYLOADS_PER_DELETE = 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to flush these batches until somebody holds a higher epoch."""

    flush_id: int
    parent_id: int
    namespace: str
    epoch: int
    batches: int
    entries: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Who asks, why, and how much at once."""

    owner: str
    trigger: FlushTrigger
    lease_ms: int
    entries_max: int
    bytes_max: int


def take(parent_id: int, terms: Terms, *, now_ms: int) -> Claim | None:
    """Take the lease and the oldest batches, at least one; None when nothing waits or somebody else is at it.

    Batches of a flush whose worker went silent are taken back first.
    """
    with transaction.atomic():
        taken = Parent.objects.filter(pk=parent_id, lease_until_ms__lte=now_ms).update(
            lease_owner=terms.owner, lease_epoch=F("lease_epoch") + 1, lease_until_ms=now_ms + terms.lease_ms
        )
        if not taken:
            return None
        parent = Parent.objects.get(pk=parent_id)
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
    return Claim(flush.pk, parent_id, parent.namespace, parent.lease_epoch, batches, entries, size_bytes)


def read(claim: Claim) -> list[StoredBatch]:
    """The claimed batches with their bytes, oldest first."""
    rows = (
        Batch.objects.filter(flush_id=claim.flush_id)
        .order_by("pk")
        .values_list(
            "pk", "child__name", "child__shard", "epoch", "sequence", "received_ms", "encoding", "stored__payload"
        )
    )
    batches = [
        StoredBatch(pk, source, shard, epoch, sequence, received_ms, Encoding(encoding), bytes(payload))
        for pk, source, shard, epoch, sequence, received_ms, encoding, payload in rows.iterator(1000)
    ]
    if len(batches) != claim.batches:
        raise LeaseLost(f"flush {claim.flush_id} holds {len(batches)} batches of the {claim.batches} it claimed")
    return batches


def renew(claim: Claim, *, now_ms: int, lease_ms: int) -> None:
    """Keep the lease for a while longer, unless it was given back. Raises LeaseLost."""
    if not _leased(claim).filter(lease_until_ms__gt=0).update(lease_until_ms=now_ms + lease_ms):
        raise _lost(claim)


def finish(claim: Claim, staged: Sequence[Staged], unreadable: Sequence[Unreadable], *, now_ms: int) -> int:
    """Mark everything done; returns the commit number. Within the transaction that swaps the pointers.

    Raises LeaseLost when somebody else took over: then nothing of the transaction may stay.
    """
    freed = _leased(claim).update(
        commit_number=F("commit_number") + 1,
        pending_batches=F("pending_batches") - claim.batches,
        pending_entries=F("pending_entries") - claim.entries,
        pending_bytes=F("pending_bytes") - claim.size_bytes,
        last_flush_ms=now_ms,
        lease_until_ms=0,
    )
    if not freed:
        raise _lost(claim)
    number = Parent.objects.values_list("commit_number", flat=True).get(pk=claim.parent_id)
    marked = Batch.objects.filter(flush_id=claim.flush_id, state=BatchState.FLUSHING).update(state=BatchState.PERSISTED)
    assert marked == claim.batches, f"flush {claim.flush_id} marked {marked} of {claim.batches} batches"
    closed = Flush.objects.filter(pk=claim.flush_id, state=FlushState.OPEN).update(
        state=FlushState.COMMITTED,
        finished_ms=now_ms,
        rows=sum(table.rows for table in staged),
        size_bytes=sum(table.size_bytes for table in staged),
        dead_letters=len(unreadable),
        commit_number=number,
    )
    assert closed == 1, f"flush {claim.flush_id} was not open any more"
    _record_tables(claim, staged)
    _record_dead_letters(claim, unreadable, now_ms=now_ms)
    return number


def give_back(claim: Claim, *, error: str, now_ms: int) -> None:
    """The flush failed: its batches wait again and the lease is free. Does nothing if somebody else took over."""
    with transaction.atomic():
        if _leased(claim).update(lease_until_ms=0):
            _release(claim.parent_id, now_ms=now_ms, error=error)


def forget_payloads(parent_id: int) -> int:
    """Delete the bytes of persisted batches, also those an earlier flush did not come to; returns how many."""
    deleted = 0
    done = BatchPayload.objects.filter(batch__parent_id=parent_id, batch__state=BatchState.PERSISTED)
    while ids := list(done.values_list("pk", flat=True)[:PAYLOADS_PER_DELETE]):
        deleted += BatchPayload.objects.filter(pk__in=ids).delete()[0]
    return deleted


def _pending(parent_id: int) -> QuerySet[Batch]:
    return Batch.objects.filter(parent_id=parent_id, state=BatchState.PENDING)


def _leased(claim: Claim) -> QuerySet[Parent]:
    return Parent.objects.filter(pk=claim.parent_id, lease_epoch=claim.epoch)


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"parent {claim.parent_id} is flushed by somebody else since flush {claim.flush_id} began")


def _oldest(parent_id: int, terms: Terms) -> tuple[int, int, int, int]:
    """Count, entries, bytes and last id of the batches to take."""
    batches = entries = size_bytes = last = 0
    rows = _pending(parent_id).order_by("pk").values_list("pk", "entries", "size_bytes")[:BATCHES_MAX]
    for pk, more_entries, more_bytes in rows:
        if batches and (entries + more_entries > terms.entries_max or size_bytes + more_bytes > terms.bytes_max):
            break
        batches, entries, size_bytes, last = batches + 1, entries + more_entries, size_bytes + more_bytes, pk
    return batches, entries, size_bytes, last


def _release(parent_id: int, *, now_ms: int, error: str) -> None:
    """Whatever a flush of this parent left behind waits again."""
    Batch.objects.filter(parent_id=parent_id, state=BatchState.FLUSHING).update(state=BatchState.PENDING, flush=None)
    Flush.objects.filter(parent_id=parent_id, state=FlushState.OPEN).update(
        state=FlushState.ABANDONED, finished_ms=now_ms, error=error
    )


def _record_tables(claim: Claim, staged: Sequence[Staged]) -> None:
    FlushTable.objects.bulk_create(
        FlushTable(
            flush_id=claim.flush_id,
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


def _record_dead_letters(claim: Claim, unreadable: Sequence[Unreadable], *, now_ms: int) -> None:
    if not unreadable:
        return
    children = dict(Batch.objects.filter(flush_id=claim.flush_id).values_list("pk", "child_id"))
    DeadLetter.objects.bulk_create(
        (
            DeadLetter(
                parent_id=claim.parent_id,
                child_id=children[letter.batch_id],
                batch_id=letter.batch_id,
                entry_index=letter.entry_index,
                table=letter.table[:500],
                encoding=letter.encoding.value,
                payload=letter.payload,
                reason=letter.reason,
                created_ms=now_ms,
            )
            for letter in unreadable
        ),
        batch_size=500,
    )
