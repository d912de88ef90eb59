"""What waits for its tables, as the journal tells it."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Max, Min, QuerySet

from lakehouse.flush.policy import FlushTrigger, Waiting, due
from lakehouse.models import Batch, BatchPayload, BatchState, Parent
from rpc import columns, entries
from rpc.batch import Encoding
from rpc.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Horizon:
    """Everything of a parent up to a batch; what "all that is durable now" means a moment later."""

    parent_id: int
    batch_id_max: int


def due_of(parent_id: int, *, now_ms: int) -> FlushTrigger | None:
    """Why this parent's batches should be flushed now, or None."""
    parent = Parent.objects.get(pk=parent_id)
    oldest_ms = _waiting(parent_id).aggregate(oldest=Min("received_ms"))["oldest"]
    if oldest_ms is None:
        return None
    waiting = Waiting(parent.pending_entries, parent.pending_bytes, oldest_ms, parent.last_flush_ms)
    return due(waiting, parent.settings, now_ms=now_ms)


def fullness() -> float:
    """Of the fullest buffer of all parents, 1 is full."""
    waiting = Parent.objects.filter(pending_batches__gt=0)
    return max(map(_fullness, waiting), default=0.0)


def horizon(parent_id: int) -> Horizon:
    return Horizon(parent_id, Batch.objects.filter(parent=parent_id).aggregate(last=Max("pk"))["last"] or 0)


def is_reached(goal: Horizon) -> bool:
    """Everything up to the horizon is in its tables."""
    return not _waiting(goal.parent_id).filter(pk__lte=goal.batch_id_max).exists()


def is_kept(parent_id: int) -> bool:
    """Something of this parent waits in the fallback, for the object store."""
    return Batch.objects.filter(parent=parent_id, state=BatchState.FALLBACK).exists()


def holds(parent_id: int, table: str) -> bool:
    """Whether a change of this table waits. Looks into the payloads, batch by batch."""
    payloads = BatchPayload.objects.filter(batch__in=_waiting(parent_id)).values_list("batch__encoding", "payload")
    return any(
        table.encode() in _tables(Encoding(encoding), bytes(payload)) for encoding, payload in payloads.iterator()
    )


def _fullness(parent: Parent) -> float:
    config = parent.settings
    return max(parent.pending_bytes / config.max_buffer_bytes, parent.pending_entries / config.max_buffer_entries)


def _waiting(parent_id: int) -> QuerySet[Batch]:
    return Batch.objects.filter(parent=parent_id, state__in=[BatchState.PENDING, BatchState.FLUSHING])


def _tables(encoding: Encoding, payload: bytes) -> set[bytes]:
    try:
        if encoding is Encoding.COLUMNS:
            return set(columns.decode(payload).tables)
        return entries.scan(payload, with_metadata=encoding is Encoding.BINARY_METADATA).tables
    except ProtocolError:
        return set()
