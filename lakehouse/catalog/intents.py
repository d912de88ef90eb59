"""The journal's side of a commit in a foreign catalog: what was announced, and what is known of it since.

Announcing compares who may: the epoch of a flush's lease, or that nobody else has the pieces of a recovery. From then
on the flush is in doubt until `forget`, in the transaction that marks it. Nothing here asks a catalog.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction
from django.db.models import F, Q, QuerySet

from lakehouse.catalog.lake import Move
from lakehouse.errors import LeaseLost
from lakehouse.flush.outcome import Announced, SeenTable
from lakehouse.models import FallbackBatch, Flush, FlushState, ForeignCommit, Installation, Parent

PIECES_PER_QUERY = 1000


def marker(parent_id: int, *, is_recovery: bool) -> str:
    """The name of the property, and of the entry of a summary, that our stamps stand under in every table."""
    return f"evodb.{'recovery' if is_recovery else 'flush'}.{installation()}.{parent_id}"


def installation() -> str:
    """Who we are; made when it is asked for first."""
    row, _ = Installation.objects.get_or_create(pk=1)
    return row.key


def begin_anew() -> str:
    """Another name for this installation: markers of the old one are somebody else's from now on."""
    Installation.objects.filter(pk=1).delete()
    return installation()


def of(move: Move) -> dict[str, ForeignCommit]:
    """What was announced, by the name of the table."""
    return {one.table: one for one in ForeignCommit.objects.filter(flush=move.flush_id)}


def announce(move: Move, commits: Sequence[ForeignCommit]) -> None:
    """Raises LeaseLost when it is somebody else's to do; then nothing was announced."""
    with transaction.atomic():
        # Locks the parent's row: whoever takes the lease waits, and sees what was announced.
        held = Parent.objects.filter(pk=move.parent_id).update(lease_epoch=F("lease_epoch"))
        if not held or not is_open(move):
            raise _lost(move)
        if not move.is_recovery:
            if not Parent.objects.filter(pk=move.parent_id, lease_epoch=move.epoch).exists():
                raise _lost(move)
        else:
            _bind(move, [one.table for one in commits])
        ForeignCommit.objects.bulk_create(commits)


def check_open(move: Move) -> None:
    """Asked after a table was loaded and before it is appended to. Raises LeaseLost."""
    if not is_open(move):
        raise _lost(move)


def is_open(move: Move) -> bool:
    """Whether this flush is still to be finished, and by us."""
    return Flush.objects.filter(pk=move.flush_id, state=FlushState.OPEN, lease_epoch=move.epoch).exists()


def note_landed(commit: ForeignCommit) -> None:
    """Its rows are in the table; nobody has to look again."""
    commit.is_landed = True
    ForeignCommit.objects.filter(pk=commit.pk).update(
        is_landed=True,
        question="",
        snapshot_id=commit.snapshot_id,
        metadata_location=commit.metadata_location,
        files=commit.files,
        size_bytes=commit.size_bytes,
    )


def ask(commit: ForeignCommit, why: str) -> None:
    """Only an operator can tell."""
    ForeignCommit.objects.filter(pk=commit.pk).update(question=why)


def rebase(commit: ForeignCommit, seen: SeenTable) -> None:
    """It is not in its table, says an operator: announced anew from what the table is now."""
    commit.table_uuid, commit.base_snapshot_id = seen.table_uuid, seen.main_snapshot_id
    commit.marker_before, commit.question = seen.marker, ""
    commit.save(update_fields=["table_uuid", "base_snapshot_id", "marker_before", "question"])


def forget(move: Move) -> None:
    """Within the transaction that marks it: there is no doubt any more."""
    assert transaction.get_connection().in_atomic_block, "forget belongs into the transaction that marks the batches"
    ForeignCommit.objects.filter(flush=move.flush_id).delete()


def announced_of(commit: ForeignCommit) -> Announced:
    return Announced(commit.stamp, commit.table_uuid, commit.base_snapshot_id, commit.marker_before)


def in_doubt() -> QuerySet[Flush]:
    """Flushes and recoveries that were announced and are not marked, oldest first."""
    announced = ForeignCommit.objects.values("flush")
    return Flush.objects.filter(state=FlushState.OPEN, pk__in=announced).order_by("pk")


def _bind(move: Move, tables: Sequence[str]) -> None:
    """The pieces belong to this recovery from now on, and no other one is on its way into the same table."""
    others = ForeignCommit.objects.filter(flush__parent=move.parent_id, flush__state=FlushState.OPEN)
    in_the_way = others.exclude(flush=move.flush_id).filter(
        namespace=move.namespace, table__in=tables, flush__moved__isnull=False
    )
    if in_the_way.exists():
        raise LeaseLost(f"another recovery is on its way into {', '.join(tables)}; recovery {move.flush_id} waits")
    pieces, bound = move.pieces or (), 0
    for start in range(0, len(pieces), PIECES_PER_QUERY):
        some = FallbackBatch.objects.filter(pk__in=pieces[start : start + PIECES_PER_QUERY])
        bound += some.filter(Q(moving=None) | Q(moving=move.flush_id)).update(moving=move.flush_id)
    if bound != len(pieces):
        raise LeaseLost(f"recovery {move.flush_id} found {bound} of {len(pieces)} pieces; somebody else was faster")


def _lost(move: Move) -> LeaseLost:
    return LeaseLost(f"flush {move.flush_id} of parent {move.parent_id} is somebody else's, or finished, by now")
