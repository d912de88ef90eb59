"""The rows of files of an earlier partitioning, as files of the one its table has by now.

They may lie in many partitions, so they are written some at a time and not in the order of rows; merging sorts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog import evolution, parts
from lakehouse.catalog.upkeep import rewriting
from lakehouse.catalog.upkeep.rewriting import ChangeRows

AT_ONCE_BYTES = 32 * 2**20
"""Of the rows in memory; fewer would be more files."""


def rewrite(
    metadata: TableMetadata, files: Sequence[DataFile], io: FileIO, *, target_bytes: int, change: ChangeRows
) -> Iterator[DataFile]:
    """Gives each new file, of AT_ONCE_BYTES of rows or `target_bytes` if that is less; `change` as in `rewriting`."""
    schema, most = metadata.schema(), min(AT_ONCE_BYTES, target_bytes)
    with closing(rewriting.opened(io, files)) as sources:
        batches = (change(batch) for source in sources for batch in rewriting.read(source, metadata, schema))
        for rows in _some(batches, most):
            yield from parts.write(metadata, evolution.align(schema, rows), io, {})


def _some(batches: Iterable[Any], most_bytes: int) -> Iterator[Any]:
    waiting: list[Any] = []
    for batch in batches:
        waiting += [batch] if len(batch) else []
        if sum(one.nbytes for one in waiting) >= most_bytes:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)
