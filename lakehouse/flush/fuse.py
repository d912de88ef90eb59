"""When so much of a flush is unreadable that it must be our mistake: a bad deploy makes a queue, not a graveyard. Pure.

Between shred and stage, before anything of the flush is recorded. Counted are the entries that children sent; what an
operator replays is a dead letter already and blows nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lakehouse.conf import Settings
from lakehouse.errors import LakehouseError
from rpc import entries
from rpc.errors import ProtocolError

if TYPE_CHECKING:
    from lakehouse.flush.entries import StoredBatch
    from lakehouse.flush.unreadable import Unreadable


class FuseBlown(LakehouseError):
    """The fuse of a parent is blown: its batches wait until somebody has looked."""

    code = "FUSE_BLOWN"


class Counted(NamedTuple):
    """A batch and how many entries it counts for."""

    batch_id: int
    entries: int


def counted(batches: Iterable[StoredBatch]) -> list[Counted]:
    """What is needed of batches whose payloads are gone by the time they are judged."""
    return [Counted(batch.batch_id, entries_of(batch.payload)) for batch in batches]


def complaint(
    batches: Sequence[Counted], unreadable: Sequence[Unreadable], settings: Settings, *, replays: Collection[int]
) -> str | None:
    """Why this flush should not be recorded, or None. `replays` are the ids of batches that were dead letters."""
    fresh = [batch for batch in batches if batch.batch_id not in replays]
    letters = [letter for letter in unreadable if letter.batch_id not in replays]
    if not letters:
        return None
    return _complaint(*_count(fresh, letters), settings)


def complaint_of_rows(rows: int, unreadable: Collection[int], settings: Settings) -> str | None:
    """The same for so many rows that were kept; `unreadable` are the places of those that are no rows after all."""
    longest = max((end - start for start, end in _runs(unreadable)), default=0)
    return _complaint(rows, len(unreadable), longest, settings)


def _complaint(total: int, bad: int, in_row: int, settings: Settings) -> str | None:
    if in_row > settings.fuse_letters_in_row:
        return f"{in_row} entries in a row cannot become rows, at most {settings.fuse_letters_in_row} may"
    if total >= settings.fuse_window_entries and bad > total * settings.fuse_share:
        return f"{bad} of {total} entries cannot become rows, at most {settings.fuse_share:.0%} may"
    return None


def remedy(parent: str) -> str:
    """What an operator types."""
    return (
        f"look with `manage.py fuse --parent {parent}`; mend what is wrong and type `manage.py fuse --parent {parent} "
        f"--reset`, or make them dead letters with `manage.py fuse --parent {parent} --accept`"
    )


def notice(parent: str) -> str:
    """What a child hears, and whoever reads its log."""
    return f"the fuse of parent {parent} is blown and nothing leaves its buffer; an operator has to {remedy(parent)}"


def why_shed(blown: str) -> str:
    """Why a parent that has too much sends a batch away; `blown` is its name when that is for its fuse."""
    return notice(blown) if blown else "this parent has more to do than it can"


def entries_of(payload: bytes) -> int:
    """How many entries a payload counts for; one that announces nonsense counts as one."""
    try:
        return max(1, entries.count_of(payload))
    except ProtocolError:
        return 1


def _count(batches: Sequence[Counted], letters: Sequence[Unreadable]) -> tuple[int, int, int]:
    """All entries, the unreadable ones, and how many of those stand in a row at most."""
    indexes: dict[int, list[int]] = {}
    whole: set[int] = set()
    for letter in letters:
        if letter.entry_index is None:
            whole.add(letter.batch_id)
        else:
            indexes.setdefault(letter.batch_id, []).append(letter.entry_index)
    total = bad = row = longest = 0
    for batch_id, count in batches:
        runs = [(0, count)] if batch_id in whole else list(_runs(indexes.get(batch_id, ())))
        for start, end in runs:
            row = (row if start == 0 else 0) + end - start
            longest = max(longest, row)
            bad += end - start
        if not runs or runs[-1][1] != count:
            row = 0
        total += count
    return total, bad, longest


def _runs(indexes: Collection[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as [start, end)."""
    start = end = -1
    for index in sorted(indexes):
        if index != end:
            if end > start:
                yield start, end
            start = index
        end = index + 1
    if end > start:
        yield start, end
