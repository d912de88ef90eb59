"""The rows of a file of an earlier partitioning, as files of the one its table has by now.

They may lie in many partitions, so they are written some at a time and not in the order of rows; merging sorts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def rewrite(metadata: TableMetadata, file: DataFile, io: FileIO, *, change: ChangeRows) -> Iterator[DataFile]:
    """Gives each new file. `change` gives the rows to write in place of those of a batch, or fewer."""
    schema = metadata.schema()
    with closing(rewriting.opened(io, [file])) as sources:
        batches = (change(batch) for source in sources for batch in rewriting.read(source, metadata, schema))
        for rows in _some(batches):
            yield from parts.write(metadata, evolution.align(schema, rows), io, {})


def _some(batches: Iterable[Any]) -> Iterator[Any]:
    waiting: list[Any] = []
    for batch in batches:
        waiting += [batch] if len(batch) else []
        if sum(one.nbytes for one in waiting) >= AT_ONCE_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)
