"""Events that are durable and in no table yet: read from the journal, so that who asks sees what was acknowledged."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lakehouse.events import event
from lakehouse.events.namespaces import TABLE
from lakehouse.events.wanted import Found, Question, Wanted
from lakehouse.models import Batch, BatchState
from rpc import columns
from rpc.batch import Encoding

WAITS = (BatchState.PENDING, BatchState.FLUSHING, BatchState.FALLBACK)
BATCHES_AT_ONCE, BYTES_AT_ONCE = 100, 4 * 1024 * 1024
"""Of a live tail; of the bytes a single batch may have more."""
PAYLOADS_AT_ONCE = 10
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Step:
    """The events of one batch, as a live tail tells them. `is_gone`: they are in the table already."""

    batch_id: int
    events: list[Found]
    is_gone: bool


@dataclass(frozen=True, slots=True)
class Kinds:
    """How many of them there are, by minute (in ms) and type. `is_whole`: none was left out."""

    counts: Counter[tuple[int, str]]
    is_whole: bool


def newest(parent_id: int, wanted: Wanted) -> list[Found]:
    """The first of them by time, as many as a page and one more."""
    take = heapq.nsmallest if wanted.is_backward else heapq.nlargest
    return take(wanted.limit + 1, fitting(parent_id, wanted), key=lambda one: one.place)


def kinds(parent_id: int, *, first_ms: int, last_ms: int, bytes_max: int) -> Kinds:
    """Of the newest batches, up to so many bytes of them; each is 4 us of work an event."""
    counts: Counter[tuple[int, str]] = Counter()
    wanted, left = Wanted(first_ms=first_ms, last_ms=last_ms), bytes_max
    rows = Batch.objects.filter(parent=parent_id, state__in=WAITS, stored__isnull=False).order_by("-pk")
    for encoding, payload in rows.values_list("encoding", "stored__payload").iterator(PAYLOADS_AT_ONCE):
        if (left := left - len(payload)) < 0 and counts:
            return Kinds(counts, is_whole=False)
        for one in _events(encoding, payload, wanted):
            counts[one.moment_ms // MINUTE_MS * MINUTE_MS, event.type_of(one.body)] += 1
    return Kinds(counts, is_whole=True)


def last_batch(parent_id: int) -> int:
    found = Batch.objects.filter(parent=parent_id).order_by("-pk").values_list("pk", flat=True).first()
    return found or 0


def is_known(parent_id: int | None, batch_id: int) -> bool:
    """Whether this batch is remembered, and so all behind it."""
    return Batch.objects.filter(parent=parent_id, pk=batch_id).exists()


def steps(parent_id: int, wanted: Wanted, *, after: int) -> list[Step]:
    """The batches behind this one, the oldest first."""
    behind = Batch.objects.filter(parent=parent_id, pk__gt=after).order_by("pk")
    last = _end(behind.values_list("pk", "size_bytes")[:BATCHES_AT_ONCE])
    found = behind.filter(pk__lte=last).values_list("pk", "encoding", "stored__payload")
    return [
        Step(pk, [] if payload is None else list(_events(encoding, payload, wanted)), payload is None)
        for pk, encoding, payload in found
    ]


def _end(batches: Iterable[tuple[int, int]]) -> int:
    """The last of them that is taken at once."""
    last, left = 0, BYTES_AT_ONCE
    for pk, size_bytes in batches:
        if (left := left - size_bytes) < 0 and last:
            break
        last = pk
    return last


def fitting(parent_id: int, wanted: Question) -> Iterator[Found]:
    """All of them, by batch."""
    rows = Batch.objects.filter(parent=parent_id, state__in=WAITS, stored__isnull=False).order_by("pk")
    for encoding, payload in rows.values_list("encoding", "stored__payload").iterator(PAYLOADS_AT_ONCE):
        yield from _events(encoding, payload, wanted)


def _events(encoding: str, payload: bytes | memoryview, wanted: Question) -> Iterator[Found]:
    if encoding != Encoding.COLUMNS:
        return
    whole = columns.decode(bytes(payload))
    if not any(map(wanted.is_near, whole.timestamps_ms)):
        return
    for entry in whole.entries():
        if entry.table != TABLE.encode() or not wanted.is_near(entry.timestamp_ms) or not event.is_one(entry.after):
            continue
        try:
            event_id = entry.row_id.decode()
        except UnicodeDecodeError:  # it will be a dead letter
            continue
        if wanted.fits(entry.timestamp_ms, event_id, entry.after):
            yield Found(entry.timestamp_ms, event_id, entry.after)
