"""Columns of which each value is another one are written plain.

Parquet's writer begins a dictionary for every column: each value is hashed and kept, until the dictionary has 2 MiB and
the rest of the row group is plain after all. pyiceberg 0.12 has no property that says for which columns not to, and
what a document's columns hold is seen only here: of the first rows of a file, which is where the writer begins.

Measured (20 columns, 5 of them so, by turns): 0.23 us and 21 bytes a row, and with a dictionary for each 0.37 and 31.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.pyarrow import ParquetFormatWriter, parquet_path_to_id_mapping
from pyiceberg.schema import Schema

from lakehouse.catalog.made_once import MadeOnce

GLANCE_ROWS, LOOK_ROWS = 256, 8192
"""Most columns repeat themselves within a few rows; the others are looked at longer."""
DISTINCT_SHARE = 31 / 32
"""Of so many rows: values of which a row group of 100 000 rows would have every second one only once."""

original = ParquetFormatWriter.write

paths: MadeOnce[Schema, dict[str, int]] = MadeOnce(parquet_path_to_id_mapping)
"""The ids of the columns of a file, by where they lie in it."""


def mend() -> None:
    """For this process."""
    ParquetFormatWriter.write = _write  # type: ignore[method-assign]


def plain(rows: Any) -> set[str]:
    """The columns of this Arrow table in which nearly no value comes twice, and that are no lists or structs."""
    glance, look = rows.slice(0, GLANCE_ROWS), rows.slice(0, LOOK_ROWS)
    return {
        name
        for number, name in enumerate(rows.column_names)
        if _is_distinct(glance[number]) and _is_distinct(look[number])
    }


def _is_distinct(column: Any) -> bool:
    try:
        return bool(pc.count_distinct(column).as_py() > len(column) * DISTINCT_SHARE)
    except pa.ArrowNotImplementedError:  # a list, a struct, a type of which Arrow has no sets
        return False


def _write(self: ParquetFormatWriter, table: Any) -> None:
    if self._writer is None:
        apart = plain(table)
        self._parquet_writer_kwargs["use_dictionary"] = [one for one in paths(self._file_schema) if one not in apart]
    original(self, table)
