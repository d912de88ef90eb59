"""Sorting more rows than fit into memory: sorted runs on the disk, merged a piece of each at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from lakehouse import memory

RUN_BYTES = 16 * 2**20
"""Of rows in memory, which are there twice for a moment."""
PIECE_BYTES = 2**19
LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def in_order(batches: Iterable[Any], keys: Sequence[str], folder: Path, *, run_bytes: int = RUN_BYTES) -> Iterator[Any]:
    """The rows as tables, ordered by these columns, nulls last; without keys as they come. Files go into the folder."""
    if not keys:
        yield from (pa.Table.from_batches([batch]) for batch in batches)
        return
    runs: list[Path] = []
    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if sum(one.nbytes for one in waiting) >= run_bytes:
            runs.append(_spill(_sorted(waiting, keys), folder / f"run-{len(runs)}.arrow"))
            memory.give_back()
    last = _sorted(waiting, keys) if waiting else iter(())
    yield from _merged([*(_pieces(run) for run in runs), last], keys) if runs else last


def _sorted(batches: list[Any], keys: Sequence[str]) -> Iterator[Any]:
    """These rows in order, piece by piece; they are taken out of the list, for they are in memory once more by then."""
    rows = pa.Table.from_batches(batches).combine_chunks()
    batches.clear()
    order = pc.sort_indices(rows, sort_keys=_ascending(keys))
    at_once = max(1, len(rows) * PIECE_BYTES // max(1, rows.nbytes))
    for start in range(0, len(rows), at_once):
        yield rows.take(order.slice(start, at_once))


def _ascending(keys: Sequence[str]) -> list[tuple[str, Any]]:
    return [(key, "ascending") for key in keys]


def _spill(pieces: Iterator[Any], path: Path) -> Path:
    first = next(pieces)
    with pa.ipc.new_file(str(path), first.schema, options=LZ4) as writer:
        writer.write_table(first)
        for piece in pieces:
            writer.write_table(piece)
    return path


def _pieces(path: Path) -> Iterator[Any]:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])
    path.unlink()


class _Run:
    """A sorted run, looked at from its first row that was not taken yet."""

    def __init__(self, pieces: Iterator[Any], keys: Sequence[str]) -> None:
        self._pieces = pieces
        self._keys = keys
        self.piece: Any = next(pieces, None)

    def key(self, row: int) -> tuple[tuple[bool, Any], ...]:
        values = (self.piece[key][row].as_py() for key in self._keys)
        return tuple((value is None, value if value is not None else 0) for value in values)

    def take(self, bound: tuple[Any, ...]) -> Any:
        """Its rows up to the bound, of the piece at hand."""
        count = bisect_right(range(len(self.piece)), bound, key=self.key)
        taken = self.piece.slice(0, count)
        self.piece = self.piece.slice(count) if count < len(self.piece) else next(self._pieces, None)
        return taken


def _merged(runs: Iterable[Iterator[Any]], keys: Sequence[str]) -> Iterator[Any]:
    """What lies below the smallest last row of all pieces can be followed by nothing smaller."""
    left = [run for run in (_Run(pieces, keys) for pieces in runs) if run.piece is not None]
    while left:
        bound = min(run.key(len(run.piece) - 1) for run in left)
        taken = pa.concat_tables([run.take(bound) for run in left])
        left = [run for run in left if run.piece is not None]
        if len(taken):
            yield taken.combine_chunks().sort_by(_ascending(keys))
