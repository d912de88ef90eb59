"""The rows behind a connection: the parent it reached, the child it is, and how much of that child is durable."""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Max, Min

from lakehouse.journal.accept import Source
from lakehouse.models import Batch, BatchState, Child, ConnectionState, Parent
from lakehouse.models.parents import PARENT_NAME
from lakehouse.parent import access
from rpc.names import is_name

PARENT = re.compile(rf"{PARENT_NAME}\Z")


@dataclass(frozen=True, slots=True)
class Knock:
    """What a handshake says: which parent, as whom, with which key."""

    parent: str
    token: str
    child: str | None
    shard: str | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A handshake that was let in. `key_id` None means that the house is open."""

    parent_id: int
    key_id: int | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A child that is known now. The sequences are None for a child that keeps no epoch."""

    source: Source
    resume_sequence: int | None = None
    """Every batch up to it is durable."""
    highest_sequence: int | None = None
    """The highest batch known to be durable; forgotten islands may lie above it."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a parent holds that is in no table yet; the moments are None when nothing waits."""

    batches: int
    entries: int
    size_bytes: int
    oldest_ms: int | None
    newest_ms: int | None
    utilization: float
    last_flush_ms: int


def admit(knock: Knock, *, is_open: bool, now_ms: int) -> Admitted | None:
    """Let a handshake in, or say None. A parent nobody named before begins to exist here."""
    if PARENT.match(knock.parent) is None or not all(is_name(name) for name in (knock.child, knock.shard) if name):
        return None
    key = None
    if not is_open:
        key = access.find(knock.token, now_ms=now_ms) if knock.token else None
        if key is None or "ingest" not in key.scopes:
            return None
        if knock.child is not None and not access.allows(key, scope="ingest", source=knock.child):
            return None
    parent, _ = Parent.objects.get_or_create(name=knock.parent, defaults={"created_ms": now_ms})
    return Admitted(parent.pk, None if key is None else key.pk)


def arrive(admitted: Admitted, name: str, *, shard: str | None, epoch: int | None, now_ms: int) -> Arrival | None:
    """The child behind a connection; None when its key may not write as this child."""
    if not may_write(admitted, name, now_ms=now_ms):
        return None
    with transaction.atomic():
        child, _ = Child.objects.get_or_create(parent_id=admitted.parent_id, name=name)
        changes = {"state": ConnectionState.AWAKE, "last_seen_ms": now_ms} | ({"shard": shard} if shard else {})
        Child.objects.filter(pk=child.pk).update(**changes)
    source = Source(admitted.parent_id, child.pk, epoch, own_epoch=epoch is not None)
    return Arrival(source) if epoch is None else Arrival(source, *_sequences(child, epoch))


def may_write(admitted: Admitted, name: str, *, now_ms: int) -> bool:
    """Whether the key of this handshake is still good, and good for this child."""
    if admitted.key_id is None:
        return True
    key = access.by_id(admitted.key_id, now_ms=now_ms)
    return key is not None and access.allows(key, scope="ingest", source=name)


def leave(child_id: int, *, now_ms: int) -> None:
    Child.objects.filter(pk=child_id).update(state=ConnectionState.GONE, last_seen_ms=now_ms)


def held(parent_id: int) -> Held:
    parent = Parent.objects.get(pk=parent_id)
    waiting = Batch.objects.filter(parent=parent_id, state__in=[BatchState.PENDING, BatchState.FLUSHING])
    moments = waiting.aggregate(oldest=Min("received_ms"), newest=Max("received_ms"))
    config = parent.settings
    return Held(
        parent.pending_batches,
        parent.pending_entries,
        parent.pending_bytes,
        moments["oldest"],
        moments["newest"],
        max(parent.pending_entries / config.max_buffer_entries, parent.pending_bytes / config.max_buffer_bytes),
        parent.last_flush_ms,
    )


def _sequences(child: Child, epoch: int) -> tuple[int, int]:
    """The highest sequence of this epoch below which nothing is missing, and the highest of all."""
    sequence, islands = child.past_epochs.get(str(epoch), (0, []))
    if child.epoch_is_own and child.epoch == epoch:
        sequence, islands = child.sequence, child.islands
    return sequence, islands[-1][1] if islands else sequence
