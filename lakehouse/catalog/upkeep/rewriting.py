"""The rows of some data files as new files of the target size, sorted by row, in bounded memory.

Files are read a few rows at a time, as the table's schema has them by now; a row group is all that is held to write.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO, InputFile
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import _to_requested_schema, pyarrow_to_schema, schema_to_pyarrow
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.schema import Schema, sanitize_column_names
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata

from lakehouse import memory
from lakehouse.catalog import evolution, fetching, parts, strange_properties
from lakehouse.catalog.evolution import ALIASES
from lakehouse.catalog.parts import ROW_GROUP
from lakehouse.catalog.table_properties import number
from lakehouse.catalog.upkeep import runs

ORDER = ("_row_id", "_source", "_epoch", "_seq")
ChangeRows = Callable[[Any], Any]
"""From a record batch to one with the same columns, of as many rows or fewer."""
READ_BYTES = 4 * 2**20
BUFFER_BYTES = 2**20
"""Of each column; without it a row group is in memory as a whole."""
ROW_GROUP_BYTES = 16 * 2**20
"""Of the rows in memory, half of what a flush holds: there is the sorting beside it."""


def rewrite(
    metadata: TableMetadata,
    files: Sequence[DataFile],
    io: FileIO,
    *,
    target_bytes: int,
    change: ChangeRows = lambda batch: batch,
) -> Iterator[DataFile]:
    """Write the rows of these files, all of one partition, where the new ones stay; gives each new file.

    `change` gives the rows to write in place of those of a batch, or fewer.
    """
    schema = sanitize_column_names(metadata.schema())
    with tempfile.TemporaryDirectory(prefix="evodb-compaction-") as folder, closing(opened(io, files)) as sources:
        found = (batch for source in sources for batch in read(source, metadata, schema))
        batches = (left for batch in found if len(left := change(batch)))
        rows = runs.in_order(batches, order(metadata), Path(folder))
        yield from Writer(metadata, schema, files[0], io, target_bytes).write(rows)


def opened(io: FileIO, files: Sequence[DataFile]) -> Generator[InputFile]:
    """One after the other, while the next ones are fetched."""
    for _, fetched in fetching.each(io, files, lambda one: one.file_path, lambda one: one.file_size_in_bytes):
        yield fetched()


def order(metadata: TableMetadata) -> list[str]:
    """The columns by which rows are sorted, as far as the table has them."""
    return [name for name in ORDER if name in metadata.schema().column_names]


def columns(schema: Schema) -> Any:
    """What is read has these columns: texts as flushes write them; of a missing column pyiceberg makes large ones."""
    return pa.schema([field.with_type(ALIASES.get(field.type, field.type)) for field in schema_to_pyarrow(schema)])


def read(source: InputFile, metadata: TableMetadata, schema: Schema) -> Iterator[Any]:
    model = FileFormatFactory.get(FileFormat.PARQUET)
    wanted = columns(schema)
    with source.open() as stream, pq.ParquetFile(cast(Any, stream), buffer_size=BUFFER_BYTES) as file:
        written = pyarrow_to_schema(file.schema_arrow, name_mapping=metadata.name_mapping())
        size = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
        rows = max(1, min(20_000, file.metadata.num_rows * READ_BYTES // max(1, size)))
        for batch in file.iter_batches(batch_size=rows, use_threads=False):
            found = _to_requested_schema(schema, written, batch, include_field_ids=True, format_model=model)
            arrays = [evolution.cast(found.column(at), field.type) for at, field in enumerate(wanted)]
            yield pa.record_batch(arrays, schema=wanted)


def _row_groups(tables: Iterable[Any], rows_max: int) -> Iterator[Any]:
    """Tables of at most so many rows and ROW_GROUP_BYTES."""
    waiting: list[Any] = []
    rows = size = 0
    for table in tables:
        step = max(1, min(rows_max, len(table) * ROW_GROUP_BYTES // max(1, table.nbytes)))
        for start in range(0, len(table), step):
            piece = table.slice(start, step)
            if waiting and (rows + len(piece) > rows_max or size + piece.nbytes > ROW_GROUP_BYTES):
                yield pa.concat_tables(waiting)
                waiting, rows, size = [], 0, 0
            waiting.append(piece)
            rows, size = rows + len(piece), size + piece.nbytes
    if waiting:
        yield pa.concat_tables(waiting)


class Writer:
    """Row groups into files; a new one begins where the last has reached the target."""

    def __init__(
        self, metadata: TableMetadata, schema: Schema, example: DataFile, io: FileIO, target_bytes: int
    ) -> None:
        self._metadata, self._schema, self._example = metadata, schema, example
        self._io, self._target_bytes = io, target_bytes
        self._model = FileFormatFactory.get(FileFormat.PARQUET)
        self._names = (f"{number:05d}-compacted-{uuid.uuid4()}.parquet" for number in count())

    def write(self, tables: Iterable[Any]) -> Iterator[DataFile]:
        rows_max = number(self._metadata.properties, ROW_GROUP, 1) or 100_000
        groups = _row_groups(tables, rows_max)
        for first in groups:
            yield self._file(first, groups)

    def _file(self, first: Any, others: Iterator[Any]) -> DataFile:
        output = self._io.new_output(self._place())
        properties = strange_properties.meant(self._metadata.properties)
        properties |= parts.paged(properties, first)
        writer: Any = self._model.create_writer(output, self._schema, properties)
        with writer:
            writer.write(first)
            while writer._fos.tell() < self._target_bytes and (group := next(others, None)) is not None:
                writer.write(group)
                memory.give_back()
        example = self._example
        return parts.described(output, writer.result(), partition=example.partition, spec_id=example.spec_id)

    def _place(self) -> str:
        """Beside the file it replaces, whose folder tells its partition."""
        places = load_location_provider(self._metadata.location, self._metadata.properties)
        folder = self._example.file_path.rpartition("/")[0]
        if folder.startswith(self._metadata.location):
            return f"{folder}/{next(self._names)}"
        return places.new_data_location(next(self._names))
