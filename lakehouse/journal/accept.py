"""A group of batches becomes journal rows and verdicts, in one transaction.

The rules are those of docs/protocol.md section 4: a repeat is answered, never stored; the same sequence with other
content is refused; a batch that was cut anew gives up the entries that are stored already; full means no.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from lakehouse.flush import fuse
from lakehouse.flush.breaker_row import word
from lakehouse.journal import once, registry, store, strict
from lakehouse.journal.dedup import (
    REQUESTS,
    Content,
    content,
    digest_of,
    digests_in,
    entry_digests,
    indices_in,
    rest_of,
    whole,
)
from lakehouse.journal.store import Buffer, ChildRow, NewBatch
from lakehouse.journal.watermark import ISLANDS_MAX
from rpc.batch import BatchFrame
from rpc.messages import AckStatus, NackReason

BUFFERED_ABOVE = 0.8
COMPARED_BATCHES_MAX = 1000
"""Of a child at once; the rows of more would hold up everybody else's batches."""


class NotComparable(Exception):
    """Whether these entries are stored already cannot be told, so they must not be taken for repeats."""


@dataclass(slots=True)
class Source:
    """One connection of a child. `epoch` is its own, or None until the parent counts one for it."""

    parent_id: int
    child_id: int
    epoch: int | None
    own_epoch: bool
    schema_version: int | None = None  # of the schemas that were asked before


class Accepted(NamedTuple):
    """Durable, now or before. `utilization` of the parent's buffer, 0 to 1."""

    status: AckStatus
    entries: int
    utilization: float


@dataclass(frozen=True, slots=True)
class Refused:
    """Not stored, and why. Whether and when trying again helps is known of the reason (`rpc.dolake.refusals`)."""

    reason: NackReason
    message: str
    max_size: int | None = None
    """The bound in bytes that was in the way."""
    ends_connection: bool = False
    """Trying again helps only on a new connection."""


Verdict = Accepted | Refused

FORGOTTEN = Refused(
    NackReason.INTERNAL_ERROR,
    "this child or its parent was deleted here while it was connected; a new connection begins anew",
    ends_connection=True,
)
"""Its batch may come again: to call it refused for good would make the child throw it away."""

SCHEMAS_CHANGED = Refused(NackReason.INTERNAL_ERROR, "the schemas of these events changed; ask them anew")


@dataclass(slots=True)
class Group:
    """The rows a group reads, changes and writes."""

    buffers: dict[int, Buffer]
    children: dict[int, ChildRow]
    new: list[NewBatch]
    now_ms: int


def accept(offers: Sequence[tuple[Source, BatchFrame]], *, now_ms: int) -> tuple[list[Verdict], dict[int, Buffer]]:
    """Store what is new and say what became of each batch, plus the buffers afterwards. Durable when it returns."""
    word.refresh(now_ms)
    with transaction.atomic():
        group = Group(
            store.buffers({source.parent_id for source, _ in offers}),
            store.children({source.child_id for source, _ in offers}),
            [],
            now_ms,
        )
        verdicts = [_judge(group, source, frame) for source, frame in offers]
        store.insert(group.new, now_ms=now_ms)
        store.update_children(group.children.values())
        store.update_buffers(group.buffers.values())
    return verdicts, group.buffers


def _judge(group: Group, source: Source, frame: BatchFrame) -> Verdict:
    if source.child_id not in group.children or source.parent_id not in group.buffers:
        return FORGOTTEN
    child, buffer = group.children[source.child_id], group.buffers[source.parent_id]
    child.last_seen_ms = group.now_ms
    if source.own_epoch and not frame.sequence:
        return Refused(NackReason.INVALID_FORMAT, "batch has sequence 0; those of an epoch begin at 1")
    epoch = _epoch(child, source, group.now_ms)
    if source.own_epoch and child.has_forgotten(epoch):
        return _forgotten_epoch(epoch, child.epoch)
    if not frame.entries:
        _mark(child, source, epoch, frame.sequence)
        return _accepted(AckStatus.OK, frame, buffer)
    if (repeat := _repeat(group, source, epoch, frame)) is not None:
        child.duplicates += 1
        return _accepted(AckStatus.DUPLICATE, frame, buffer) if repeat else _other_content(frame)
    if not buffer.has_room(entries=frame.entries, size_bytes=len(frame.payload)):
        return _full(frame, buffer)
    if source.schema_version not in (None, buffer.schema_version):
        return SCHEMAS_CHANGED
    if frame.once and (misfit := _misfit(frame, None, buffer)):
        return misfit  # before its ids are noted as if it were stored
    try:
        fresh = _fresh(group, source, epoch, frame)
    except NotComparable as exc:
        return Refused(NackReason.INVALID_SEQUENCE, str(exc))
    if fresh is None:
        child.duplicates += 1
        _mark(child, source, epoch, frame.sequence)
        return _accepted(AckStatus.DUPLICATE, frame, buffer)
    if not frame.once and (misfit := _misfit(frame, fresh, buffer)):
        return misfit
    _take(group, source, epoch, frame.sequence, fresh)
    return _accepted(AckStatus.OK, frame, buffer)


def _epoch(child: ChildRow, source: Source, now_ms: int) -> int:
    if source.epoch is None:
        source.epoch = max(child.epoch + 1, now_ms)
    if source.epoch > child.epoch:
        child.begin(source.epoch, own=source.own_epoch)
    return source.epoch


def _repeat(group: Group, source: Source, epoch: int, frame: BatchFrame) -> bool | None:
    """None: this sequence is new. True: it is durable with this content. False: with other content."""
    child = group.children[source.child_id]
    remembered = False
    if source.own_epoch:
        watermark = child.watermark_of(epoch)
        remembered = frame.sequence in watermark
        # With all islands in use a higher one may be forgotten; the journal still has its batches.
        if not remembered and len(watermark.islands) < ISLANDS_MAX:
            return None
    elif epoch == child.epoch and frame.sequence > child.watermark.sequence:
        return None
    digest = next((c.digest for e, s, c in child.fresh if (e, s) == (epoch, frame.sequence)), None)
    digest = digest or store.digest_of(child.child_id, epoch, frame.sequence)
    if digest is None:
        # Durable once and no longer remembered, or emptied of repeats; a child without an epoch proves nothing by it.
        return False if remembered else None
    if digest == digest_of(frame):
        return True
    if epoch == REQUESTS:
        return False
    return not source.own_epoch and rest_of(frame, _known(group, source, epoch, frame), own_epoch=False) is None


def _fresh(group: Group, source: Source, epoch: int, frame: BatchFrame) -> Content | None:
    """The content to store, or None when every entry is stored already. Raises NotComparable."""
    if epoch == REQUESTS:
        return once.rest_of(source.parent_id, frame, now_ms=group.now_ms) if frame.once else whole(frame)
    child, own = group.children[source.child_id], source.own_epoch
    is_current = own == child.is_own_epoch and (not own or epoch == child.epoch)
    if is_current and min(frame.entry_sequences) > child.entry_sequence_max:
        return content(frame, own_epoch=own)
    return rest_of(frame, _known(group, source, epoch, frame), own_epoch=own)


def _known(group: Group, source: Source, epoch: int, frame: BatchFrame) -> set[int]:
    """Digests of the entries stored of this child that the frame may repeat. Raises NotComparable."""
    child, own = group.children[source.child_id], source.own_epoch
    window_ms = group.buffers[source.parent_id].config.deduplication_window_ms
    known: set[int] = set()
    for e, _, earlier in child.fresh:
        if e == epoch or not own:
            digests = digests_in(earlier.remembered.entry_digests)
            known.update(digests or entry_digests(earlier.encoding, earlier.payload))
    stored = store.overlapping(
        child.child_id,
        first=min(frame.entry_sequences),
        last=max(frame.entry_sequences),
        epoch=epoch if own else None,
        since_ms=group.now_ms - window_ms,
        limit=COMPARED_BATCHES_MAX,
    )
    if own and len(stored) == COMPARED_BATCHES_MAX:
        raise NotComparable(f"batch {frame.sequence} meets the entries of {len(stored)} stored batches or more")
    for overlap in stored:
        if overlap.entry_digests:
            known.update(digests_in(overlap.entry_digests))
        elif overlap.payload is not None:
            known.update(entry_digests(overlap.encoding, overlap.payload))
        elif own:
            raise NotComparable(
                f"batch {frame.sequence} has entry sequences of this epoch that are in a table already under another "
                "batch; begin a new epoch to send these entries"
            )
    return known


def _misfit(frame: BatchFrame, fresh: Content | None, buffer: Buffer) -> Refused | None:
    """What a strict schema has against the entries that would be stored; `fresh` None means all."""
    of = None if fresh is None or fresh.entries == frame.entries else lambda: indices_in(frame, fresh)
    schemas = registry.strict(buffer.parent_id, buffer.schema_version) if buffer.schema_version else {}
    said = strict.complaint(frame, schemas, of=of) if schemas else None
    return Refused(NackReason.INVALID_FORMAT, said) if said else None


def _take(group: Group, source: Source, epoch: int, sequence: int, fresh: Content) -> None:
    child, buffer = group.children[source.child_id], group.buffers[source.parent_id]
    group.new.append(NewBatch(buffer.parent_id, child.child_id, epoch, sequence, fresh))
    child.fresh.append((epoch, sequence, fresh))
    child.batches += 1
    child.entries += fresh.entries
    if epoch == child.epoch or not source.own_epoch:
        child.entry_sequence_max = max(child.entry_sequence_max, fresh.remembered.entry_sequence_last)
    buffer.batches += 1
    buffer.entries += fresh.entries
    buffer.size_bytes += len(fresh.payload)
    _mark(child, source, epoch, sequence)


def _mark(child: ChildRow, source: Source, epoch: int, sequence: int) -> None:
    """Remember that this sequence is durable."""
    if source.own_epoch:
        watermark = child.watermark_of(epoch)
        watermark.add(sequence)
        child.keep(epoch, watermark)
    elif epoch == child.epoch:
        child.watermark.sequence = max(child.watermark.sequence, sequence)


def _accepted(status: AckStatus, frame: BatchFrame, buffer: Buffer) -> Accepted:
    """What is accepted is OK; a buffer that fills up is worth saying first, then that the lake is away."""
    utilization = buffer.utilization
    if status is AckStatus.OK and utilization > BUFFERED_ABOVE:
        status = AckStatus.BUFFERED
    elif status is AckStatus.OK and word.is_away and settings.EVODB.fallback_bytes_max:
        status = AckStatus.FALLBACK
    return Accepted(status, frame.entries, utilization)


def _other_content(frame: BatchFrame) -> Refused:
    return Refused(
        NackReason.INVALID_SEQUENCE,
        f"batch {frame.sequence} is stored already with other content; send this one under a sequence of its own",
    )


def _forgotten_epoch(epoch: int, newest: int) -> Refused:
    """What is durable of it is not known any more, so it can neither be called a repeat nor be stored once."""
    return Refused(
        NackReason.INVALID_SEQUENCE,
        f"epoch {epoch} is none of the {store.PAST_EPOCHS_MAX} of this child that are remembered before {newest}; "
        f"begin one above {newest} to send these entries",
    )


def _full(frame: BatchFrame, buffer: Buffer) -> Refused:
    config = buffer.config
    if frame.entries > config.max_buffer_entries or len(frame.payload) > config.max_buffer_bytes:
        return Refused(
            NackReason.INVALID_FORMAT,
            f"batch has {frame.entries} entries of {len(frame.payload)} bytes; this parent never takes more than "
            f"{config.max_buffer_entries} entries or {config.max_buffer_bytes} bytes at once, send smaller ones",
        )
    text = (
        f"buffer holds {buffer.entries} of {config.max_buffer_entries} entries and {buffer.size_bytes} of "
        f"{config.max_buffer_bytes} bytes; {frame.entries} entries of {len(frame.payload)} bytes do not fit"
    )
    return Refused(
        NackReason.BUFFER_FULL,
        f"{text}; {fuse.notice(buffer.blown)}" if buffer.blown else text,
        max_size=config.max_buffer_bytes,
    )
