"""The events of a parent in the order of their commits, read from a place on.

The order is: commit, batch, sequence of the entry. A batch belongs to the commit that made its last rows, and that one
does not change any more, so a place means the same whenever and however it is read: from the payloads of the journal,
or from the lake where those are gone. A letter that was no row is no event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.db.models.functions import Coalesce

from lakehouse.models import Batch, BatchPayload, BatchState, DeadLetter, DeadLetterState, Flush, FlushState, Parent
from lakehouse.subscriptions.events import Entry, Event, Found, event_of

BATCHES_AT_ONCE = 200
BYTES_AT_ONCE = 8 * 1024 * 1024
"""Or a single batch."""


class Forgotten(Exception):
    """The commits behind a place are not remembered any more."""


class Place(NamedTuple):
    """All of the commits up to `commit_number`, and of the next one the batches before `batch_id` and so many of it."""

    commit_number: int
    batch_id: int = 0
    batch_entries: int = 0


class Told(NamedTuple):
    event: Event
    commit_number: int
    received_ms: int


class Chunk(NamedTuple):
    """Some events behind a place, and the place behind them; nothing more is there when the two are the same."""

    events: list[Told]
    place: Place


ReadLake = Callable[[int, Sequence[Found]], dict[int, list[Entry]]]
"""The entries of these batches of this flush, as the tables have them."""


class Reader:
    """Keeps the batches it read last, since a large one is told in several chunks, and to many."""

    def __init__(self, read_lake: ReadLake) -> None:
        self._read_lake = read_lake
        self._known: dict[int, list[Entry]] = {}

    def read(self, parent: Parent, place: Place, *, events_max: int) -> Chunk:
        """At most so many events of what is committed. Raises Forgotten."""
        told: list[Told] = []
        while len(told) < events_max:
            flush = _next_commit(parent.pk, place)
            if flush is None:
                break
            batches = _batches(flush, place)
            if not batches:
                place = Place(place.commit_number + 1)
                continue
            entries = self._entries(flush, batches)
            for batch in batches:
                found = entries[batch.batch_id]
                start = place.batch_entries if batch.batch_id == place.batch_id else 0
                end = min(len(found), start + events_max - len(told))
                number = place.commit_number + 1
                told += [Told(event_of(parent.name, one), number, batch.received_ms) for one in found[start:end]]
                if end < len(found):
                    return Chunk(told, place._replace(batch_id=batch.batch_id, batch_entries=end))
                place = Place(place.commit_number, batch.batch_id + 1)
        return Chunk(told, place)

    def _entries(self, flush: int, batches: Sequence[Found]) -> dict[int, list[Entry]]:
        if any(one.batch_id not in self._known for one in batches):
            self._known = self._load(flush, batches)
        return self._known

    def _load(self, flush: int, batches: Sequence[Found]) -> dict[int, list[Entry]]:
        from lakehouse.subscriptions.payloads import unpack  # loads Arrow, which nobody needs who has nothing to tell

        ids = [one.batch_id for one in batches]
        stored = BatchPayload.objects.filter(pk__in=ids).values_list("pk", "payload")
        payloads = {pk: bytes(data) for pk, data in stored}
        here = [one for one in batches if one.batch_id in payloads]
        entries = unpack(here, payloads, _letters(here))
        if gone := [one for one in batches if one.batch_id not in payloads]:
            entries |= self._read_lake(flush, gone)
        return {one: sorted(entries.get(one, []), key=_order) for one in ids}


def end_of(parent_id: int) -> int:
    """The number of the newest commit."""
    number: int = Parent.objects.values_list("commit_number", flat=True).get(pk=parent_id)
    return number


def _order(entry: Entry) -> tuple[int, str, str, int]:
    return entry.sequence, entry.table, entry.row_id, entry.operation


def _next_commit(parent_id: int, place: Place) -> int | None:
    later = Flush.objects.filter(parent_id=parent_id, state=FlushState.COMMITTED, commit_number__gt=place.commit_number)
    found = later.order_by("commit_number").values_list("pk", "commit_number").first()
    if found is None:
        return None
    pk, number = found
    if number != place.commit_number + 1:
        gone = f"commits {place.commit_number + 1} to {(number or 0) - 1}"
        raise Forgotten(f"{gone} are not remembered any more; their rows are in the tables")
    return pk


def _batches(flush: int, place: Place) -> list[Found]:
    """The next ones of this commit, with their sizes within bounds."""
    names = ("epoch", "sequence", "received_ms")
    original: list[Any] = [Coalesce(f"replayed_letter__batch__{name}", name) for name in names]
    rows = (
        Batch.objects.filter(flush_id=flush, state=BatchState.PERSISTED, pk__gte=place.batch_id)
        .order_by("pk")
        .values_list("pk", "child__name", "child__shard", *original, "encoding", "size_bytes", "epoch", "sequence")
    )
    found: list[Found] = []
    size_bytes = 0
    for *said, epoch, sequence in rows[:BATCHES_AT_ONCE]:
        one = Found._make([*said, sequence if epoch < 0 else None])
        size_bytes += one.size_bytes
        if found and size_bytes > BYTES_AT_ONCE:
            break
        found.append(one)
    return found


def _letters(batches: Sequence[Found]) -> dict[int, set[int | None]]:
    """The entries of these batches that are no rows; None is all of one, as of a replay that failed again."""
    found: dict[int, set[int | None]] = {}
    letters = DeadLetter.objects.filter(batch__in=[one.batch_id for one in batches])
    for batch_id, index in letters.values_list("batch_id", "entry_index"):
        found.setdefault(batch_id, set()).add(index)
    replays = {one.letter_id: one.batch_id for one in batches if one.letter_id is not None}
    if replays:
        for pk, replay, state in DeadLetter.objects.filter(pk__in=replays).values_list("pk", "replay_id", "state"):
            if replay != replays[pk] or state == DeadLetterState.WAITING:
                found.setdefault(replays[pk], set()).add(None)
    return found
