"""The fuses of the parents: blown by a flush, mended by an operator. Columns of the parent's row.

`Parent.fuse_blown_ms` keeps everybody from claiming; it is set under the lease, so a worker that lost its lease blows
nothing. The flush then fails, and what it claimed waits again. Dying between the two leaves an open flush, which the
first claim after mending takes back. Children go on: while there is room their batches are stored, then they are told
to come back. `fuse_accepted` lets one flush through; it is taken away in the transaction that commits that flush.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from django.db.models import QuerySet

from lakehouse.conf import Settings
from lakehouse.errors import LeaseLost
from lakehouse.flush import fuse
from lakehouse.flush.fuse import Counted, FuseBlown
from lakehouse.models import Batch, Parent

if TYPE_CHECKING:
    from lakehouse.flush.claim import Claim
    from lakehouse.flush.unreadable import Unreadable

NAMED_MAX = 20


def check(
    claim: Claim,
    batches: Sequence[Counted],
    unreadable: Sequence[Unreadable],
    settings: Settings,
    *,
    now_ms: int,
) -> None:
    """Before anything is staged. Raises FuseBlown, or LeaseLost when that is somebody else's to say."""
    if not unreadable:
        return
    replays = set(Batch.objects.filter(flush_id=claim.flush_id, epoch__lt=0).values_list("pk", flat=True))
    reason = fuse.complaint(batches, unreadable, settings, replays=replays)
    if reason is None:
        return
    held = Parent.objects.filter(pk=claim.parent_id, lease_epoch=claim.epoch)
    if held.filter(fuse_accepted=False).update(fuse_blown_ms=now_ms, fuse_reason=reason):
        parent = held.values_list("name", flat=True).first() or str(claim.parent_id)
        first = next(letter for letter in unreadable if letter.batch_id not in replays)
        raise FuseBlown(
            f"the fuse of parent {parent} is blown: {reason} (the first: {first.reason}); {fuse.remedy(parent)}"
        )
    if not held.exists():
        raise LeaseLost(f"parent {claim.parent_id} is flushed by somebody else since flush {claim.flush_id} began")


def ask(parent_id: int) -> None:
    """Raises FuseBlown while the fuse of this parent is blown."""
    for name in blown().filter(pk=parent_id).values_list("name", flat=True):
        raise FuseBlown(fuse.notice(name))


def blow(claim: Claim, reason: str, *, now_ms: int) -> None:
    """Nobody flushes this parent until an operator has looked; says nothing when it is somebody else's by now."""
    held = Parent.objects.filter(pk=claim.parent_id, lease_epoch=claim.epoch)
    held.update(fuse_blown_ms=now_ms, fuse_reason=reason)


def blown() -> QuerySet[Parent]:
    return Parent.objects.filter(fuse_blown_ms__isnull=False).order_by("name")


def mend(names: Iterable[str], *, accept: bool) -> list[str]:
    """Let these parents be flushed again, with `accept` whatever their next flush finds. Returns those blown before."""
    mended = []
    for name in names:
        found = Parent.objects.filter(name=name, fuse_blown_ms__isnull=False)
        if found.update(fuse_blown_ms=None, fuse_reason="", fuse_accepted=accept):
            mended.append(name)
    return mended


def look() -> None:
    """For GET /ready. Raises FuseBlown with the name and the reason of those that are blown."""
    found = list(blown().values_list("name", "fuse_reason")[: NAMED_MAX + 1])
    if found:
        named = "; ".join(f"the fuse of parent {name} is blown: {reason}" for name, reason in found[:NAMED_MAX])
        raise FuseBlown(named + ("; and of others" if len(found) > NAMED_MAX else ""))
