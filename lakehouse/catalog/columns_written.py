"""How the columns of a schema are written: what every Parquet file of it needs is made once, and not for each file.

pyiceberg 0.12 walks through all columns some ten times a file: to give them their ids, to know where each lies, of
which to keep bounds. Here the library is asked once for each schema, with no rows, what it makes of them; where that is
the same columns under the names and ids of the file, rows are written as they are. Where it is not, such as with names
within structs that Avro does not take, it is asked each time.

Of a file of 20 rows and 32 columns, Parquet takes 3.7 ms of CPU where it took 6.7 (medians of 60 flushes, by turns).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyiceberg.io import OutputFile
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import (
    DataFileStatistics,
    ParquetFormatWriter,
    StatisticsCollector,
    _to_requested_schema,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    pyarrow_to_schema,
)
from pyiceberg.manifest import FileFormat
from pyiceberg.schema import Schema, sanitize_column_names

from lakehouse.catalog import evolution, plain_columns
from lakehouse.catalog.made_once import MadeOnce

METRICS = "write.metadata.metrics."
Plan = dict[int, StatisticsCollector]


@dataclass(slots=True)
class Columns:
    """What is known of a schema. It holds what it was made of nowhere."""

    sanitized: Schema | None
    """With the names its files have; None: they are its own."""
    written: pa.Schema | None
    """Rows of the table, as they are, under the names and ids of a file. None: the library makes others of them."""
    plan: tuple[dict[str, str], Plan] | None = None
    """Which bounds are kept, by these properties."""


def rows_written(schema: Schema, rows: pa.Table) -> pa.Table:
    """Rows that have the table's columns, as a file of it has them."""
    known = columns(schema)
    if known.written is not None:
        return pa.Table.from_arrays(rows.columns, schema=known.written)
    found = pyarrow_to_schema(rows.schema, name_mapping=schema.name_mapping)
    return pa.Table.from_batches([_requested(known.sanitized or schema, found, one) for one in rows.to_batches()])


def file_schema(schema: Schema) -> Schema:
    return columns(schema).sanitized or schema


class Writer(ParquetFormatWriter):
    """The library's, by what is known of the schema."""

    def __init__(self, output: OutputFile, schema: Schema, properties: dict[str, str]) -> None:
        super().__init__(output, file_schema(schema), properties)
        self._known = columns(schema)

    def close(self) -> DataFileStatistics:
        if self._result is not None:
            return self._result
        if self._writer is None or self._fos is None:
            raise ValueError("found a file without rows, wanted some")
        with self._fos:
            self._writer.close()
            found: Any = self._writer.writer
            self._result = data_file_statistics_from_parquet_metadata(
                found.metadata,
                _plan(self._known, self._file_schema, self._properties),
                plain_columns.paths(self._file_schema),
            )
        return self._result


def _plan(known: Columns, schema: Schema, properties: Mapping[str, str]) -> Plan:
    asked = {name: value for name, value in properties.items() if name.startswith(METRICS)}
    if known.plan is None or known.plan[0] != asked:
        known.plan = asked, compute_statistics_plan(schema, asked)
    return known.plan[1]


def _made(schema: Schema) -> Columns:
    arrow, sanitized = evolution.arrow_schema(schema), sanitize_column_names(schema)
    wanted = schema if sanitized == schema else sanitized
    none = pa.record_batch([pa.nulls(0, one.type) for one in arrow], schema=arrow)
    written = _requested(wanted, pyarrow_to_schema(arrow, name_mapping=schema.name_mapping), none).schema
    is_same = written.types == arrow.types
    return Columns(None if wanted is schema else wanted, written if is_same else None)


columns: MadeOnce[Schema, Columns] = MadeOnce(_made)


def _requested(wanted: Schema, found: Schema, batch: Any) -> Any:
    model = FileFormatFactory.get(FileFormat.PARQUET)
    return _to_requested_schema(wanted, found, batch, include_field_ids=True, format_model=model)
