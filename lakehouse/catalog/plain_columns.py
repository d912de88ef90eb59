"""Columns of which each value is another one are written plain.

Parquet's writer begins a dictionary for every column: each value is hashed and kept, until the dictionary has 2 MiB and
the rest of the row group is plain after all. pyiceberg 0.12 has no property that says for which columns not to.
"""

from __future__ import annotations

from typing import Any

from pyiceberg.io.pyarrow import ParquetFormatWriter, parquet_path_to_id_mapping

PLAIN = {"_row_id", "_seq", "_before", "_after"}

original = ParquetFormatWriter.__init__


def mend() -> None:
    """For this process."""
    ParquetFormatWriter.__init__ = _init  # type: ignore[method-assign]


def _init(self: ParquetFormatWriter, output_file: Any, file_schema: Any, properties: Any) -> None:
    original(self, output_file, file_schema, properties)
    paths = parquet_path_to_id_mapping(file_schema)
    if not PLAIN.isdisjoint(paths):
        self._parquet_writer_kwargs["use_dictionary"] = [path for path in paths if path not in PLAIN]
