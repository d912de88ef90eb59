"""What a recovery leaves in the database: a flush of its own, rows that are kept no more, batches that are persisted.

No lease is held, so fresh flushes go on beside it. What makes it exactly once is that `finish` belongs to the
transaction that swaps the pointer, and that it deletes the very rows that were staged and counts them: of two
recoveries of the same rows, however late one wakes up, the second finds some gone and nothing of it stays.

Into a catalog that is not ours the rows move before that transaction (catalog.foreign). From the announcing on they are
bound to their recovery, and whoever finds them bound goes on with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db.models import F

from lakehouse.catalog.lake import Move
from lakehouse.catalog.tables import Staged
from lakehouse.errors import LeaseLost
from lakehouse.fallback.storage import WaitingRows
from lakehouse.flush import claim, letters
from lakehouse.flush.claim import by_thousands
from lakehouse.flush.unreadable import Unreadable
from lakehouse.models import Batch, BatchState, FallbackBatch, Flush, FlushState, Parent
from lakehouse.models.flushes import RECOVERY

DEAD_AFTER_MS = 600_000
"""A recovery that began so long ago came to no end."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Kept rows of one table on their way; `batches` are those of the journal they came in."""

    flush_id: int
    parent_id: int
    stamps: tuple[int, ...]
    batches: frozenset[int]
    kept_by: frozenset[int]
    """The flushes that kept them; what else these kept may be of the same batches."""
    lease_epoch: int
    is_resumed: bool = False

    def move(self, namespace: str) -> Move:
        return Move(self.flush_id, self.parent_id, namespace, self.lease_epoch, self.is_resumed, self.stamps)


def begin(parent_id: int, chunk: Sequence[WaitingRows], *, now_ms: int) -> Recovery:
    """Write down that these rows are on their way, which keeps nobody from trying the same."""
    abandon_dead(parent_id, now_ms=now_ms)
    flush = Flush.objects.create(
        parent_id=parent_id,
        trigger=RECOVERY,
        lease_epoch=Parent.objects.values_list("lease_epoch", flat=True).get(pk=parent_id),
        started_ms=now_ms,
        batches=len(frozenset(_ids(one.stored.batches for one in chunk))),
        entries=sum(one.stored.rows for one in chunk),
    )
    return _recovery(flush, chunk)


def begun(parent_id: int, stamp: int) -> tuple[int, frozenset[int]] | None:
    """The recovery that these rows are bound to, and the stamps of all that are; None when they are free."""
    bound = FallbackBatch.objects.filter(parent_id=parent_id, moving__state=FlushState.OPEN)
    flush_id = bound.filter(pk=stamp).values_list("moving_id", flat=True).first()
    if flush_id is None:
        return None
    return flush_id, frozenset(bound.filter(moving_id=flush_id).values_list("pk", flat=True))


def resume(flush_id: int, chunk: Sequence[WaitingRows]) -> Recovery:
    """Somebody announced it and did not finish."""
    return _recovery(Flush.objects.get(pk=flush_id), chunk, is_resumed=True)


def _recovery(flush: Flush, chunk: Sequence[WaitingRows], *, is_resumed: bool = False) -> Recovery:
    return Recovery(
        flush.pk,
        flush.parent_id,
        tuple(one.stamp for one in chunk),
        frozenset(_ids(one.stored.batches for one in chunk)),
        frozenset(one.stored.flush_id for one in chunk if one.stored.flush_id is not None),
        flush.lease_epoch,
        is_resumed,
    )


def finish(recovery: Recovery, staged: Sequence[Staged], unreadable: Sequence[Unreadable], *, now_ms: int) -> int:
    """The rows are in their table; returns the commit number. Within the transaction that swaps its pointer.

    Raises LeaseLost when somebody else brought them there: then nothing of the transaction may stay.
    """
    Parent.objects.filter(pk=recovery.parent_id).update(commit_number=F("commit_number") + 1)
    number = Parent.objects.values_list("commit_number", flat=True).get(pk=recovery.parent_id)
    gone = sum(FallbackBatch.objects.filter(pk__in=some).delete()[0] for some in by_thousands(recovery.stamps))
    closed = claim.close(recovery.flush_id, staged, unreadable, number=number, now_ms=now_ms)
    if gone != len(recovery.stamps) or not closed:
        raise LeaseLost(
            f"recovery {recovery.flush_id} found {gone} of {len(recovery.stamps)} pieces; somebody else was faster"
        )
    _mark(recovery)
    letters.settle(recovery.parent_id, unreadable, now_ms=now_ms)
    return number


def abandon(recovery: Recovery, *, error: str, now_ms: int) -> None:
    """It failed; its rows are kept as before. One that is in doubt stays open, and its rows stay bound to it."""
    found = Flush.objects.filter(pk=recovery.flush_id, state=FlushState.OPEN)
    if not found.exclude(foreign=None).update(error=error):
        found.update(state=FlushState.ABANDONED, finished_ms=now_ms, error=error)


def abandon_dead(parent_id: int, *, now_ms: int) -> None:
    """Recoveries nobody will finish any more; one that does after all finds its flush closed."""
    began = Flush.objects.filter(parent_id=parent_id, state=FlushState.OPEN, trigger=RECOVERY)
    began.filter(started_ms__lt=now_ms - DEAD_AFTER_MS, foreign=None).update(
        state=FlushState.ABANDONED, finished_ms=now_ms, error="its worker went silent"
    )


def _mark(recovery: Recovery) -> None:
    """All batches carry the latest commit that has rows of them; those that wait for no other table are persisted.

    The parent's row is locked by now, so nobody else takes rows of the same batches meanwhile.
    """
    left = FallbackBatch.objects.filter(parent_id=recovery.parent_id, flush_id__in=recovery.kept_by)
    waiting = set(_ids(bytes(found) for found in left.values_list("batches", flat=True)))
    for some in by_thousands(recovery.batches):
        Batch.objects.filter(pk__in=some, state=BatchState.FALLBACK).update(flush_id=recovery.flush_id)
    for some in by_thousands(recovery.batches - waiting):
        Batch.objects.filter(pk__in=some, state=BatchState.FALLBACK).update(state=BatchState.PERSISTED)


def _ids(packed: Iterable[bytes]) -> Iterable[int]:
    for ids in packed:
        yield from array("Q", ids)
