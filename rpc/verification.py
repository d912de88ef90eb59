"""Whether a parent counted what a child had acknowledged: the sums of both, epoch by epoch and table by table. Pure.

In the epoch a child is in both have to agree. Of earlier ones the parent may have more, for an epoch ends when a file
came back from a backup. Where the sums cannot agree by construction, it is said why.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from rpc.entry_digest import NOTHING, Sum, Sums, merged

WHY_COUNTED = (
    "they travel as typed columns (Arrow), of which no digest is made: these are the same entries, by sequence, time, "
    "operation and row id; what their columns hold was not compared"
)


class Verdict(StrEnum):
    GREEN = "green"
    COUNTED = "counted"
    """The same entries at both sides; what is in them was not looked at."""
    EXPLAINED = "explained"
    """The sums need not agree now, and it is known why."""
    RED = "red"


class Delivered(NamedTuple):
    """What a child knows to be durable at its parent."""

    epoch: int
    last_sequence: int
    sums: dict[int, Sums]
    """Of acknowledged entries, by epoch and table."""
    unacked: dict[int, Sums]
    """Of the batches that were cut and not acknowledged; empty for one that was cut before there were sums."""
    uncut: int
    dead_letters: int
    """Entries the parent refused."""
    summed_after: int | None
    """The entry behind which the sums of `summed_epoch` begin; None when they are whole."""
    summed_epoch: int
    typed: frozenset[tuple[int, str]] = frozenset()
    """Epochs and tables with typed documents, which are in no digest."""


class Told(NamedTuple):
    """What the parent says: `sums` of all that is durable there, dead letters included, by epoch and table."""

    epoch: int
    sequence: int
    islands: list[list[int]]
    sums: dict[int, Sums]
    unsummed: int
    """Entries that wait there and are in no sum yet."""

    def has(self, sequence: int) -> bool:
        return sequence <= self.sequence or any(first <= sequence <= last for first, last in self.islands)


class Line(NamedTuple):
    """One table in one epoch, or with an empty table something about all."""

    verdict: Verdict
    epoch: int
    table: str
    child: Sum
    parent: Sum
    why: str = ""


def is_settled(child: Delivered, told: Told) -> bool:
    """Whether nothing was on its way between the two looks. Else look again."""
    if told.epoch != child.epoch:
        return True
    highest = max([told.sequence, *(last for _, last in told.islands)])
    return highest <= child.last_sequence and not any(map(told.has, child.unacked))


def compare(child: Delivered, told: Told) -> list[Line]:
    """The newest epoch last."""
    older = sorted((child.sums.keys() | told.sums.keys()) - {child.epoch})
    found = [line for epoch in older for line in _former(child, told, epoch)]
    found += _current(child, told)
    return [_counted(line) if (line.epoch, line.table) in child.typed else line for line in found]


def _counted(line: Line) -> Line:
    """Nobody is told that all is well with what nobody compared."""
    return line._replace(verdict=Verdict.COUNTED, why=WHY_COUNTED) if line.verdict is Verdict.GREEN else line


def _former(child: Delivered, told: Told, epoch: int) -> Iterator[Line]:
    """An epoch the child is not in any more, or never was in."""
    mine, theirs = child.sums.get(epoch, {}), told.sums.get(epoch, {})
    for table in sorted(mine.keys() | theirs.keys()):
        ours, there = mine.get(table, NOTHING), theirs.get(table, NOTHING)
        line = Line(Verdict.GREEN, epoch, table, ours, there)
        if ours.is_as(there):
            yield line
        elif there.entries > ours.entries:
            yield line._replace(verdict=Verdict.EXPLAINED, why=_why_more(child, epoch, there.entries - ours.entries))
        elif told.unsummed:
            yield line._replace(verdict=Verdict.EXPLAINED, why=_why_unsummed(told))
        else:
            yield line._replace(verdict=Verdict.RED, why=_why_red(ours, there))


def _current(child: Delivered, told: Told) -> Iterator[Line]:
    reason = _why_not(child, told)
    on_their_way = [
        sums for sequence, sums in child.unacked.items() if told.epoch == child.epoch and told.has(sequence)
    ]
    mine = merged(child.sums.get(child.epoch, {}), *on_their_way)
    theirs = told.sums.get(child.epoch, {})
    for table in sorted(mine.keys() | theirs.keys()):
        ours, there = mine.get(table, NOTHING), theirs.get(table, NOTHING)
        line = Line(Verdict.GREEN, child.epoch, table, ours, there)
        if ours.is_as(there):
            yield line
        elif reason:
            yield line._replace(verdict=Verdict.EXPLAINED, why=reason)
        else:
            yield line._replace(verdict=Verdict.RED, why=_why_red(ours, there))


def _why_not(child: Delivered, told: Told) -> str:
    """Why the sums of the current epoch need not agree; empty when they have to."""
    if told.epoch > child.epoch:
        return (
            f"the parent knows epoch {told.epoch} of this child, which is newer than the file's: it came back from a "
            "backup, or another file sends under this name. It begins a new epoch when it connects"
        )
    if told.epoch == child.epoch and not is_settled(child, told):
        return (
            f"batches are on their way, or the file came back from a backup (it cut {child.last_sequence}, the parent "
            f"has {told.sequence} and more); let it connect and become idle, then verify again"
        )
    if told.unsummed:
        return _why_unsummed(told)
    if child.summed_after is not None and child.summed_epoch == child.epoch:
        return f"the file counts only since entry {child.summed_after}; what was acknowledged before it cannot be told"
    return ""


def _why_unsummed(told: Told) -> str:
    return (
        f"{told.unsummed} entries wait at the parent for a flush or for its object store; verify again when they are "
        "in their tables"
    )


def _why_more(child: Delivered, epoch: int, more: int) -> str:
    if not epoch:
        return f"{more} entries came under this name without an epoch, over HTTP or from another client"
    if epoch > child.epoch:
        return f"{more} entries of an epoch that is newer than the file, which came back from a backup"
    if epoch == child.summed_epoch and child.summed_after is not None:
        return f"the file counts only since entry {child.summed_after} of this epoch"
    return (
        f"the parent has {more} entries more than the file had acknowledged when this epoch ended; what the file still "
        "held it has sent again in the next"
    )


def _why_red(ours: Sum, there: Sum) -> str:
    if there.entries < ours.entries:
        return f"{ours.entries - there.entries} entries were acknowledged and the parent has not counted them"
    if there.entries > ours.entries:
        return f"the parent counted {there.entries - ours.entries} entries more than were acknowledged"
    return "as many entries, and not the same ones"
