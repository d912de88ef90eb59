"""Which files of a table are merged with which: those of one partition, of about one size, when there are enough.

A large file is not written again for every small one that joins its partition: whatever is written again comes into a
file of several times its size. So each row is written again at most log3 of (the target by a flush) times. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

GROWTH = 3
"""A pile has so many times the size of its largest file."""
SMALL = 0.75
"""A file of so much of the target is large enough."""
FILES_MAX = 500
"""Of one rewrite, and of one commit."""


class Small(NamedTuple):
    """A data file as far as is needed to choose it."""

    path: str
    manifest: str
    partition: tuple[Any, ...]
    """The number of its partitioning, and its values."""
    size_bytes: int
    rows: int


def piles(files: Iterable[Small], *, target_bytes: int, files_min: int, is_tiered: bool = True) -> list[list[Small]]:
    """What to write anew together, the smallest first. Each pile is of one partition and of a bounded size."""
    partitions: dict[tuple[Any, ...], list[Small]] = defaultdict(list)
    for file in files:
        if file.size_bytes < SMALL * target_bytes:
            partitions[file.partition].append(file)
    found = [
        part
        for some in partitions.values()
        for pile in _of_partition(sorted(some, key=lambda one: one.size_bytes), files_min, is_tiered)
        for part in _cut(pile, target_bytes)
        if len(part) > 1
    ]
    return sorted(found, key=lambda pile: sum(file.size_bytes for file in pile))


def together(found: Iterable[list[Small]], target_bytes: int) -> Iterator[list[list[Small]]]:
    """Piles for one commit: it reads and writes whatever names their files, which takes longer than a small pile."""
    some: list[list[Small]] = []
    files = size_bytes = 0
    for pile in found:
        more_bytes = sum(file.size_bytes for file in pile)
        if some and (size_bytes + more_bytes > target_bytes or files + len(pile) > FILES_MAX):
            yield some
            some, files, size_bytes = [], 0, 0
        some.append(pile)
        files, size_bytes = files + len(pile), size_bytes + more_bytes
    if some:
        yield some


def _of_partition(files: list[Small], files_min: int, is_tiered: bool) -> Iterator[list[Small]]:
    """Of files by size, the longest beginning that is worth it, as long as there is one."""
    while files:
        size_bytes = worth = 0
        for count, file in enumerate(files, start=1):
            size_bytes += file.size_bytes
            if count >= files_min and (not is_tiered or size_bytes >= GROWTH * file.size_bytes):
                worth = count
        if not worth:
            break
        yield files[:worth]
        files = files[worth:]


def _cut(pile: list[Small], target_bytes: int) -> Iterator[list[Small]]:
    part: list[Small] = []
    size_bytes = 0
    for file in pile:
        if part and (size_bytes + file.size_bytes > target_bytes or len(part) == FILES_MAX):
            yield part
            part, size_bytes = [], 0
        part.append(file)
        size_bytes += file.size_bytes
    yield part
