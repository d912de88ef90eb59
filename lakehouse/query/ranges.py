"""Which entries are missing or double, as ranges of sequences: what the lake has against what the journal took.

Both come as batches in the order of epoch and sequence and are walked side by side, so nothing is held but the batch at
hand and what was found. Where the journal no longer remembers batches, holes between those of the lake are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from lakehouse.query.lake_sums import LakeBatch

Sequences = Callable[[int, int], list[tuple[int, int]]]
"""Each entry sequence of a batch (epoch, sequence) in the lake, and how many rows have it."""


class Kind(StrEnum):
    MISSING = "missing"
    DOUBLE = "double"
    GAP = "gap"
    """Sequences between batches that the journal has forgotten; a child may have used none of them."""


class JournalBatch(NamedTuple):
    epoch: int
    sequence: int
    entries: int
    first: int
    last: int


class Range(NamedTuple):
    """Entry sequences `first` to `last` of an epoch. Of a range with holes only `entries` are meant."""

    kind: Kind
    epoch: int
    first: int
    last: int
    entries: int

    def __str__(self) -> str:
        many = f"sequences {self.first} to {self.last}" if self.last > self.first else f"sequence {self.first}"
        whole = self.entries == self.last - self.first + 1
        return f"{self.kind}: epoch {self.epoch}, {many} ({'' if whole else 'among them '}{self.entries})"


def compare(journal: Iterable[JournalBatch], lake: Iterable[LakeBatch], sequences: Sequences) -> Iterator[Range]:
    """What is wrong, in the order of epoch and sequence. Both have to be in that order."""
    there = iter(lake)
    have = next(there, None)
    before: LakeBatch | None = None
    for batch in journal:
        while have is not None and (have.epoch, have.sequence) < (batch.epoch, batch.sequence):
            yield from _forgotten(before, have, sequences)
            before, have = have, next(there, None)
        if have is None or (have.epoch, have.sequence) != (batch.epoch, batch.sequence):
            yield Range(Kind.MISSING, batch.epoch, batch.first, batch.last, batch.entries)
            continue
        if (have.rows, have.distinct) != (batch.entries, batch.entries):
            yield from _within(batch, sequences(batch.epoch, batch.sequence))
        before, have = None, next(there, None)
    while have is not None:
        yield from _forgotten(before, have, sequences)
        before, have = have, next(there, None)


def joined(found: Iterable[Range]) -> list[Range]:
    """Neighbours of one kind as one range."""
    whole: list[Range] = []
    for one in sorted(found, key=lambda one: (one.kind, one.epoch, one.first)):
        last = whole[-1] if whole else None
        is_next = last is not None and (last.kind, last.epoch, last.last + 1) == (one.kind, one.epoch, one.first)
        if last is not None and is_next and _is_whole(last) and _is_whole(one):
            whole[-1] = last._replace(last=one.last, entries=last.entries + one.entries)
        else:
            whole.append(one)
    return whole


def _within(batch: JournalBatch, there: list[tuple[int, int]]) -> Iterator[Range]:
    """What a batch lacks or has too much of."""
    for first, last in _runs(sequence for sequence, rows in there if rows > 1):
        yield Range(Kind.DOUBLE, batch.epoch, first, last, last - first + 1)
    lacking = batch.entries - len(there)
    holes = list(_holes(batch.first, batch.last, [sequence for sequence, _ in there]))
    if lacking > 0 and sum(last - first + 1 for first, last in holes) == lacking:
        for first, last in holes:
            yield Range(Kind.MISSING, batch.epoch, first, last, last - first + 1)
    elif lacking > 0:
        yield Range(Kind.MISSING, batch.epoch, batch.first, batch.last, lacking)


def _forgotten(before: LakeBatch | None, have: LakeBatch, sequences: Sequences) -> Iterator[Range]:
    """What can be told of a batch the journal has forgotten."""
    if have.distinct != have.rows:
        there = sequences(have.epoch, have.sequence)
        for first, last in _runs(sequence for sequence, rows in there if rows > 1):
            yield Range(Kind.DOUBLE, have.epoch, first, last, last - first + 1)
    if have.distinct < have.last - have.first + 1:
        there = sequences(have.epoch, have.sequence)
        for first, last in _holes(have.first, have.last, [sequence for sequence, _ in there]):
            yield Range(Kind.GAP, have.epoch, first, last, last - first + 1)
    if before is not None and before.epoch == have.epoch and before.last + 1 < have.first:
        yield Range(Kind.GAP, have.epoch, before.last + 1, have.first - 1, have.first - before.last - 1)


def _runs(sequences: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as first and last of those that follow one another."""
    first = last = None
    for sequence in sequences:
        if first is None or last is None:
            first = last = sequence
        elif sequence == last + 1:
            last = sequence
        else:
            yield first, last
            first = last = sequence
    if first is not None and last is not None:
        yield first, last


def _holes(first: int, last: int, there: Iterable[int]) -> Iterator[tuple[int, int]]:
    """What is not there of `first` to `last`; `there` is ascending."""
    for sequence in there:
        if sequence > first:
            yield first, sequence - 1
        first = max(first, sequence + 1)
    if first <= last:
        yield first, last


def _is_whole(one: Range) -> bool:
    return one.entries == one.last - one.first + 1
