"""Dead letters: what a flush could not make rows of, put into the journal again, or deleted.

A replay is a batch of the journal like any other, so an ordinary flush shreds it with the code as it is now, and it is
in its table in the transaction that marks it. One letter is one batch, which one transaction inserts, counts in the
buffer and marks on the letter. That is exactly once for these reasons:

- The letter's row is locked and has to be `waiting`, so of two operators one finds nothing to do.
- The batch has epoch -1, -2, ... (which attempt it is) and the letter's id as its sequence: no child's number is ever
  below 0, so no watermark and no dedup sees it, and the journal's own key (child, epoch, sequence) refuses a second.
- Its rows are those of the original: the claim reads epoch, sequence and moment of arrival from the batch the letter
  came from, which is not forgotten while there is the letter. Journal age and freshness tell of the replay's own.
- The commit that makes it rows makes the letter `committed`, or `waiting` again with the new reason. A whole batch that
  can be cut by now leaves new letters for what is unreadable in it.

A letter in the journal is not deleted. Never loads the lake's libraries: the admin's process does without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Length

from lakehouse.flush.fuse import entries_of
from lakehouse.flush.history import DAY_MS
from lakehouse.journal import store
from lakehouse.journal.store import Buffer
from lakehouse.models import Batch, BatchPayload, BatchState, DeadLetter, DeadLetterState

if TYPE_CHECKING:
    from lakehouse.flush.unreadable import Unreadable

    Letters = QuerySet[DeadLetter]

GROUP_LETTERS = 500
GROUP_BYTES = 8 * 1024 * 1024
"""One transaction replays so much, or a single letter: the most that is in memory, and what others wait for. And of the
letters that a commit records no more are in memory at once."""
NEVER_OVERLAPS = {"entry_sequence_first": 0, "entry_sequence_last": -1}


@dataclass(slots=True)
class Replayed:
    letters: int = 0
    full: set[int] = field(default_factory=set)
    """Parents whose buffer had no room for all."""


def replay(letters: Letters, *, now_ms: int, limit: int | None = None) -> Replayed:
    """Put those of these letters that wait into the journal again, the oldest first."""
    done = Replayed()
    for parent_id in sorted(set(_waiting(letters).order_by().values_list("parent_id", flat=True).distinct())):
        of_parent = DeadLetter.objects.filter(parent_id=parent_id, pk__in=letters.order_by().values("pk"))
        for group in _groups(of_parent, None if limit is None else limit - done.letters):
            count = _put(parent_id, group, now_ms=now_ms)
            done.letters += count.letters
            done.full |= count.full
            if count.full:
                break
    return done


def settle(parent_id: int, unreadable: Sequence[Unreadable], *, now_ms: int) -> None:
    """Record what could not be read, and what became of replays, in the transaction that marks their batches.

    A replay whose batch waits elsewhere (the store is away) stays one.
    """
    of_parent = DeadLetter.objects.filter(parent_id=parent_id, state=DeadLetterState.REPLAYED)
    replayed = {
        batch_id: (pk, entry_index, original)
        for batch_id, *(pk, entry_index, original) in of_parent.values_list("replay", "pk", "entry_index", "batch")
    }
    if replayed:
        of_parent.filter(replay__state=BatchState.PERSISTED).update(state=DeadLetterState.COMMITTED)
    again: dict[str, list[int]] = {}
    new: list[tuple[int, Unreadable]] = []
    for letter in unreadable:
        pk, entry_index, original = replayed.get(letter.batch_id, (0, None, letter.batch_id))
        if pk and (entry_index is not None or letter.entry_index is None):
            again.setdefault(letter.reason, []).append(pk)
        else:
            new.append((original, letter))
    for reason, ids in again.items():
        for some in _chunks(ids):
            DeadLetter.objects.filter(pk__in=some).update(state=DeadLetterState.WAITING, reason=reason)
    _record(parent_id, new, now_ms=now_ms)


def purge(letters: Letters) -> int:
    """Delete these letters for ever, but for those in the journal; returns how many."""
    chosen = DeadLetter.objects.filter(pk__in=letters.order_by().values("pk"))
    purged = 0
    while True:
        with transaction.atomic():
            gone = chosen.exclude(state=DeadLetterState.REPLAYED).select_for_update().order_by("pk")
            ids = list(gone.values_list("pk", flat=True)[:GROUP_LETTERS])
            purged += DeadLetter.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < GROUP_LETTERS:
            return purged


def forget(days: int, *, now_ms: int) -> int:
    """Delete letters that are older; 0 days is never."""
    return purge(DeadLetter.objects.filter(created_ms__lt=now_ms - days * DAY_MS)) if days else 0


def _waiting(letters: Letters) -> Letters:
    return letters.filter(state=DeadLetterState.WAITING)


def _groups(letters: Letters, limit: int | None) -> Iterator[list[int]]:
    """Ids of letters that wait, as many as one transaction takes."""
    after, left = 0, limit
    while left is None or left > 0:
        page = _waiting(letters).filter(pk__gt=after).order_by("pk").annotate(size=Length("payload"))
        found = list(page.values_list("pk", "size")[: min(GROUP_LETTERS, left or GROUP_LETTERS)])
        group: list[int] = []
        size_bytes = 0
        for pk, size in found:
            if group and size_bytes + size > GROUP_BYTES:
                break
            group.append(pk)
            size_bytes += size
        if not group:
            return
        yield group
        after = group[-1]
        left = None if left is None else left - len(group)


def _put(parent_id: int, ids: list[int], *, now_ms: int) -> Replayed:
    """One group, as far as the buffer has room. The parent first, as everybody locks it before all else."""
    done = Replayed()
    with transaction.atomic():
        buffer = store.buffers([parent_id])[parent_id]
        locked = _waiting(DeadLetter.objects.filter(pk__in=ids)).select_for_update().order_by("pk")
        taken = []
        for letter in locked:
            if not _has_taken(buffer, letter):
                done.full.add(parent_id)
                break
            taken.append(letter)
        made = Batch.objects.bulk_create([_batch(letter, now_ms) for letter in taken])
        BatchPayload.objects.bulk_create(
            BatchPayload(batch_id=batch.pk, payload=letter.payload) for batch, letter in zip(made, taken, strict=True)
        )
        batch = Batch.objects.filter(child=OuterRef("child"), epoch=-1 - OuterRef("replays"), sequence=OuterRef("pk"))
        done.letters = DeadLetter.objects.filter(pk__in=[letter.pk for letter in taken]).update(
            state=DeadLetterState.REPLAYED,
            replays=F("replays") + 1,
            replayed_ms=now_ms,
            replay=Subquery(batch.values("pk")),
        )
        assert done.letters == len(made), f"marked {done.letters} letters of {len(made)} that were replayed"
        store.update_buffers([buffer])
    return done


def _has_taken(buffer: Buffer, letter: DeadLetter) -> bool:
    """Count a letter in the buffer, if it fits; alone one always does, for it did once."""
    count, size_bytes = entries_of(bytes(letter.payload)), len(letter.payload)
    if buffer.batches and not buffer.has_room(entries=count, size_bytes=size_bytes):
        return False
    buffer.batches += 1
    buffer.entries += count
    buffer.size_bytes += size_bytes
    return True


def _batch(letter: DeadLetter, now_ms: int) -> Batch:
    return Batch(
        parent_id=letter.parent_id,
        child_id=letter.child_id,
        epoch=-1 - letter.replays,
        sequence=letter.pk,
        digest=b"",  # nobody offers it again
        entries=entries_of(bytes(letter.payload)),
        size_bytes=len(letter.payload),
        encoding=letter.encoding,
        received_ms=now_ms,
        **NEVER_OVERLAPS,
    )


def _record(parent_id: int, found: Sequence[tuple[int, Unreadable]], *, now_ms: int) -> None:
    children: dict[int, int] = {}
    ids = sorted({original for original, _ in found})
    for some in _chunks(ids):
        children.update(Batch.objects.filter(pk__in=some).values_list("pk", "child_id"))
    made = (_letter(parent_id, children[original], original, one, now_ms=now_ms) for original, one in found)
    for group in _by_size(made):
        DeadLetter.objects.bulk_create(group)


def _letter(parent_id: int, child_id: int, batch_id: int, found: Unreadable, *, now_ms: int) -> DeadLetter:
    return DeadLetter(
        parent_id=parent_id,
        child_id=child_id,
        batch_id=batch_id,
        entry_index=found.entry_index,
        table=found.table.replace("\0", "\ufffd")[:500],  # PostgreSQL takes no NUL
        encoding=found.encoding.value,
        payload=found.payload,
        reason=found.reason,
        created_ms=now_ms,
    )


def _by_size(made: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """As many as one query inserts, and as may be in memory; of thousands with wide documents these are few."""
    group: list[DeadLetter] = []
    size_bytes = 0
    for letter in made:
        group.append(letter)
        size_bytes += len(letter.payload)
        if len(group) == GROUP_LETTERS or size_bytes >= GROUP_BYTES:
            yield group
            group, size_bytes = [], 0
    yield group


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """As many as one query may name."""
    return (ids[start : start + GROUP_LETTERS] for start in range(0, len(ids), GROUP_LETTERS))
